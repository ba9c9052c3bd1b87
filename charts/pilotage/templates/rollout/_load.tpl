{{/*
The Job that loads the arms in a step: Locust, where index 0 is the master, or all there is. A rollout gives it a name, the number of its pods, a deadline,
the arguments and an owner. README: "Objects that the rollout changes".
*/}}
{{- define "pilotage.loadJob" -}}
{{- $name := include "pilotage.fullname" . -}}
{{- $load := .Values.rollout.load -}}
{{- $labels := include "pilotage.jobPodLabels" (dict "root" . "component" "load") -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ $name }}-load
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "pilotage.labels" (dict "root" . "component" "load" "manager" "pilotage-rollout") | nindent 4 }}
spec:
  completionMode: Indexed
  completions: 1
  parallelism: 1
  # A generator that lost a process has no result: nothing is tried again, and the rollout is told.
  backoffLimit: 0
  ttlSecondsAfterFinished: 600
  template:
    metadata:
      labels:
        {{- $labels | nindent 8 }}
      annotations:
        # A scaler of nodes must not take a generator away in the midst of a step.
        cluster-autoscaler.kubernetes.io/safe-to-evict: "false"
    spec:
      subdomain: {{ $name }}-rollout-load
      {{- include "pilotage.toolsPod" (dict "root" . "command" (list "pilotage" "load-node") "resources" $load.resources "mounts" (dict (printf "%s-rollout-requests" $name) "/requests") "optional" true) | nindent 6 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "pilotage.selectorLabels" (dict "root" $ "component" "load") | nindent 14 }}
      {{- with $load.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $load.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $load.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}

{{/* Whether a rollout can make that Job: there is an image with Locust. Else its own pod sends (`workers = 0` in the plan). */}}
{{- define "pilotage.loads" -}}
{{- if and .Values.rollout.enabled .Values.tools.image.repository (or .Values.tools.image.digest .Values.tools.image.tag) -}}
true
{{- end -}}
{{- end -}}
