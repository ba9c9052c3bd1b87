{{/* Where the pod of the rollout's Job takes copies of live requests, for plans that compare answers on them. */}}
{{- define "pilotage.copiesPort" -}}8090{{- end -}}

{{- define "pilotage.collectAt" -}}
{{- $host := .Values.pod.listen -}}
{{- printf "%s:%s" (contains ":" $host | ternary (printf "[%s]" $host) $host) (include "pilotage.copiesPort" .) -}}
{{- end -}}
