{{/* What the restricted Pod Security Standard asks for, and no more than that is left open. */}}
{{- define "pilotage.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: {{ include "pilotage.text" .Values.security.user }}
runAsGroup: {{ include "pilotage.text" .Values.security.group }}
fsGroup: {{ include "pilotage.text" .Values.security.group }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "pilotage.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
