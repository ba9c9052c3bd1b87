{{/* Alerts on the service's own metrics; docs/runbook.md has a section for each. */}}
{{- define "pilotage.alerts" -}}
{{- $series := include "pilotage.series" . -}}
{{- $rules := .Values.monitoring.rules -}}
- alert: PilotageDown
  expr: sum by (namespace, job) (up{ {{- $series }}}) == 0 or absent(up{ {{- $series }}})
  for: 5m
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "page") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageDown"
      "summary" "no pod answers Prometheus"
      "description" "Prometheus has reached no pod of the release for five minutes."
    ) | nindent 4 }}
- alert: PilotageShedding
  expr: |-
    sum by (namespace, job, model) (rate(pilotage_shed_total{ {{- $series }}, reason="overload"}[5m]))
    / sum by (namespace, job, model) (rate(pilotage_request_seconds_count{ {{- $series }}}[5m])) > {{ $rules.shedPct }} / 100
  for: 10m
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "page") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageShedding"
      "summary" "{{ $labels.model }} is saturated and refuses requests"
      "description" "{{ $value | humanizePercentage }} of the requests are refused because their answers would come too late."
    ) | nindent 4 }}
- alert: PilotageQueueing
  expr: |-
    sum by (namespace, job, model) (rate(pilotage_stage_seconds_sum{ {{- $series }}, stage="queue"}[5m]))
    / sum by (namespace, job, model) (rate(pilotage_request_seconds_sum{ {{- $series }}, status="200"}[5m])) > {{ $rules.queuePct }} / 100
  for: 15m
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageQueueing"
      "summary" "requests to {{ $labels.model }} wait for most of their time"
      "description" "{{ $value | humanizePercentage }} of the time of a request is spent in the queue: saturation is near."
    ) | nindent 4 }}
- alert: PilotageInputsRefused
  expr: |-
    sum by (namespace, job, model) (rate(pilotage_request_seconds_count{ {{- $series }}, status=~"4.."}[15m]))
    / sum by (namespace, job, model) (rate(pilotage_request_seconds_count{ {{- $series }}}[15m])) > {{ $rules.refusedInputsPct }} / 100
  for: 15m
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageInputsRefused"
      "summary" "callers of {{ $labels.model }} send what it does not take"
      "description" "{{ $value | humanizePercentage }} of the requests are answered with 4xx: callers and bundle have drifted apart."
    ) | nindent 4 }}
- alert: PilotageInputDrift
  {{- /* The logarithm makes twice as many and half as many the same distance. */}}
  expr: |-
    exp(abs(ln(
      (sum by (namespace, job, model) (rate(pilotage_request_candidates_sum{ {{- $series }}}[6h]))
        / sum by (namespace, job, model) (rate(pilotage_request_candidates_count{ {{- $series }}}[6h])))
      / (sum by (namespace, job, model) (rate(pilotage_request_candidates_sum{ {{- $series }}}[6h] offset 1w))
        / sum by (namespace, job, model) (rate(pilotage_request_candidates_count{ {{- $series }}}[6h] offset 1w)))
    ))) > {{ $rules.driftFactor }}
  for: 1h
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageInputDrift"
      "summary" "requests to {{ $labels.model }} are of another size than a week ago"
      "description" (printf "The mean number of candidates a request has changed by more than a factor of %v against the same hours a week ago." $rules.driftFactor)
    ) | nindent 4 }}
- alert: PilotageBundleRefused
  {{- /* A pod has the series from the first refusal on: there is no 0 before it that an increase could be seen against. */}}
  expr: |-
    sum by (namespace, job, model) (pilotage_model_loads_total{ {{- $series }}, outcome="refused"})
    > (sum by (namespace, job, model) (pilotage_model_loads_total{ {{- $series }}, outcome="refused"} offset 15m)
      or 0 * sum by (namespace, job, model) (pilotage_model_loads_total{ {{- $series }}, outcome="refused"}))
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageBundleRefused"
      "summary" "a bundle of {{ $labels.model }} could not be loaded"
      "description" "The old version goes on answering; the log of the pods has the reason."
    ) | nindent 4 }}
- alert: PilotageRolloutStuck
  expr: |-
    count by (namespace, job, model) (
      sum by (namespace, job, model, version) (rate(pilotage_request_seconds_count{ {{- $series }}}[10m])) > 0
    ) > 1
  for: {{ $rules.rolloutLimit }}
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageRolloutStuck"
      "summary" "several versions of {{ $labels.model }} have been answering for long"
      "description" (printf "{{ $value }} versions have answered side by side for %s: a rollout has neither promoted nor rolled back." $rules.rolloutLimit)
    ) | nindent 4 }}
{{- end -}}

{{/* Alerts on what kube-state-metrics tells of the release's Deployments, pods and scalers. */}}
{{- define "pilotage.workloadAlerts" -}}
{{- $name := include "pilotage.fullname" . -}}
{{- $deployments := printf "namespace=%q, deployment=~%q" .Release.Namespace (printf "%s-(stable|baseline|canary(-[2-5])?)" $name) -}}
{{- $pods := printf "namespace=%q, pod=~%q" .Release.Namespace (printf "%s-.+" $name) -}}
{{- $scalers := printf "namespace=%q, horizontalpodautoscaler=~%q" .Release.Namespace (printf "(keda-hpa-)?%s" $name) -}}
- alert: PilotageUpdateStuck
  expr: kube_deployment_status_condition{ {{- $deployments }}, condition="Progressing", status="false"} == 1
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "page") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageUpdateStuck"
      "summary" "an update of {{ $labels.deployment }} does not get on"
      "description" "No new pod became ready within the progress deadline; the old ones go on answering."
    ) | nindent 4 }}
- alert: PilotagePodsMissing
  expr: kube_deployment_status_replicas_available{ {{- $deployments }}} < kube_deployment_spec_replicas{ {{- $deployments }}}
  for: 15m
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotagePodsMissing"
      "summary" "{{ $labels.deployment }} has fewer pods than it should"
      "description" "{{ $value }} pods are available: full nodes, images that cannot be pulled, or bundles that do not load."
    ) | nindent 4 }}
- alert: PilotagePodsRestart
  expr: sum by (namespace, pod) (increase(kube_pod_container_status_restarts_total{ {{- $pods }}, container="service"}[1h])) > 2
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotagePodsRestart"
      "summary" "{{ $labels.pod }} restarts again and again"
      "description" "{{ $value | humanize }} restarts within an hour: memory over its limit, or a liveness probe that fails."
    ) | nindent 4 }}
- alert: PilotageScaledOut
  expr: |-
    kube_horizontalpodautoscaler_status_current_replicas{ {{- $scalers }}}
    >= kube_horizontalpodautoscaler_spec_max_replicas{ {{- $scalers }}}
  for: 30m
  labels:
    {{- include "pilotage.alertLabels" (dict "root" $ "severity" "ticket") | nindent 4 }}
  annotations:
    {{- include "pilotage.alertAnnotations" (dict "root" $ "alert" "PilotageScaledOut"
      "summary" "the scaler has no pods left to add"
      "description" "{{ $value }} pods, as many as it may have, for half an hour."
    ) | nindent 4 }}
{{- end -}}

{{- define "pilotage.alertLabels" -}}
severity: {{ .severity }}
{{- with .root.Values.monitoring.rules.alertLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an alert: (dict "root" $ "alert" "PilotageDown" "summary" … "description" …). */}}
{{- define "pilotage.alertAnnotations" -}}
summary: {{ .summary | quote }}
description: {{ .description | quote }}
{{- with .root.Values.monitoring.rules.runbookUrl }}
runbook_url: {{ printf "%s#%s" . (lower $.alert) | quote }}
{{- end }}
{{- end -}}
