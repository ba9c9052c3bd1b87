{{/* Where the pod of the rollout's Job takes copies of live requests, for plans that compare answers on them. */}}
{{- define "pilotage.copiesPort" -}}8090{{- end -}}

{{- define "pilotage.collectAt" -}}
{{- $host := .Values.pod.listen -}}
{{- printf "%s:%s" (contains ":" $host | ternary (printf "[%s]" $host) $host) (include "pilotage.copiesPort" .) -}}
{{- end -}}

{{- define "pilotage.rolloutSelector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: rollout
{{- end -}}
