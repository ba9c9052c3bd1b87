{{/* Where the gate answers. */}}
{{- define "pilotage.gatePort" -}}8089{{- end -}}

{{/* The two addresses that it compares, as a JSON object: the values', else those of Argo Rollouts' Services, else of the arms that stand. */}}
{{- define "pilotage.gateArms" -}}
{{- $arms := include "pilotage.arms" . | fromJsonArray -}}
{{- $beside := ternary "baseline" "stable" (has "baseline" $arms) -}}
{{- $canary := ternary (include "pilotage.address" (dict "root" $ "arm" "canary")) "" (has "canary" $arms) -}}
{{- $baseline := include "pilotage.address" (dict "root" $ "arm" $beside) -}}
{{- dict "canary" (.Values.gate.canary | default $canary) "baseline" (.Values.gate.baseline | default $baseline) | toJson -}}
{{- end -}}
