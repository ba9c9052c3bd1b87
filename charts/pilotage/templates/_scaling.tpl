{{/* What a scaler scales. */}}
{{- define "pilotage.scaleTarget" -}}
{{- if .Values.argoRollouts.enabled -}}
apiVersion: argoproj.io/v1alpha1
kind: Rollout
name: {{ include "pilotage.fullname" . }}
{{- else -}}
apiVersion: apps/v1
kind: Deployment
name: {{ include "pilotage.fullname" . }}-stable
{{- end -}}
{{- end -}}

{{/* How fast it may go up and down. */}}
{{- define "pilotage.scaleBehavior" -}}
{{- range $direction, $key := dict "scaleUp" "up" "scaleDown" "down" }}
{{- $rule := index $.Values.autoscaling $key }}
{{ $direction }}:
  stabilizationWindowSeconds: {{ include "pilotage.text" $rule.stabilizationSeconds }}
  {{- if not (kindIs "invalid" $rule.tolerancePct) }}
  tolerance: {{ printf "%.3f" (divf $rule.tolerancePct 100.0) | quote }}
  {{- end }}
  selectPolicy: Max
  policies:
    - type: Percent
      value: {{ include "pilotage.text" $rule.pct }}
      periodSeconds: {{ include "pilotage.text" $rule.periodSeconds }}
    - type: Pods
      value: {{ include "pilotage.text" $rule.pods }}
      periodSeconds: {{ include "pilotage.text" $rule.periodSeconds }}
{{- end }}
{{- end -}}

{{/*
Requests under way, or waiting for their run, as means over a minute. By Little's law that is what a histogram's sum grows in a second: seconds
spent by all requests together, a second. No gauge would say more: it would be read between two bursts.
*/}}
{{- define "pilotage.inFlightQuery" -}}
sum(rate(pilotage_request_seconds_sum{namespace="{{ .Release.Namespace }}",pod=~"{{ include "pilotage.fullname" . }}-.+"}[1m]))
{{- end -}}
{{- define "pilotage.queueQuery" -}}
sum(rate(pilotage_stage_seconds_sum{namespace="{{ .Release.Namespace }}",pod=~"{{ include "pilotage.fullname" . }}-.+",stage="queue"}[1m]))
{{- end -}}
