{{/*
What one arm runs, as JSON: (dict "root" $ "arm" "canary"). The stable arm's values stand at the top level of values.yaml; the others
have their own below their name, further canaries in `rollout.variants`, and where they say nothing they are as stable.
*/}}
{{- define "pilotage.arm" -}}
{{- $values := .root.Values -}}
{{- $own := dict -}}
{{- if hasPrefix "canary-" .arm -}}
{{- $number := sub (trimPrefix "canary-" .arm | int) 2 | int -}}
{{- $own = merge (dict "replicas" $values.canary.replicas) (index $values.rollout.variants $number) -}}
{{- else if ne .arm "stable" -}}
{{- $own = index $values .arm | default dict -}}
{{- end -}}
{{- $image := deepCopy $values.image -}}
{{- with $own.image -}}
{{- if .repository -}}{{- $_ := set $image "repository" .repository -}}{{- end -}}
{{- if or .digest .tag -}}{{- $_ := set $image "digest" .digest -}}{{- $_ := set $image "tag" .tag -}}{{- end -}}
{{- end -}}
{{- $settings := dict -}}
{{- range $layer := list $values.settings ($own.settings | default dict) -}}
{{- range $key, $value := $layer -}}
{{- if not (kindIs "invalid" $value) -}}{{- $_ := set $settings $key $value -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $ownEnv := $own.env | default list -}}
{{- $named := list -}}
{{- range $ownEnv -}}{{- $named = append $named .name -}}{{- end -}}
{{- $env := list -}}
{{- range $values.env -}}
{{- if not (has .name $named) -}}{{- $env = append $env . -}}{{- end -}}
{{- end -}}
{{- $arm := dict
  "image" $image
  "settings" $settings
  "replicas" (hasKey $own "replicas" | ternary $own.replicas $values.replicas)
  "bundles" ($own.bundles | default $values.bundles)
  "resources" ($own.resources | default $values.resources)
  "env" (concat $env $ownEnv)
-}}
{{- toJson $arm -}}
{{- end -}}

{{/* repository@digest, or repository:tag where there is no digest. */}}
{{- define "pilotage.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{/* Whole cores of a quantity, rounded up: 1500m is 2. */}}
{{- define "pilotage.cores" -}}
{{- $text := include "pilotage.text" . -}}
{{- if hasSuffix "m" $text -}}{{ divf (trimSuffix "m" $text | float64) 1000.0 | ceil | int }}{{- else -}}{{ float64 $text | ceil | int }}{{- end -}}
{{- end -}}

{{/*
Threads of a run. With a CPU limit the service reads its quota itself, and nothing is set. Without one it would take the whole node for
its own, so that the request is shared among the workers instead.
*/}}
{{- define "pilotage.threads" -}}
{{- $limits := .resources.limits | default dict -}}
{{- $requests := .resources.requests | default dict -}}
{{- if and (not (hasKey .settings "threads")) (not $limits.cpu) $requests.cpu -}}
{{- max 1 (div (include "pilotage.cores" $requests.cpu | int) (.settings.workers | default 1 | int)) -}}
{{- end -}}
{{- end -}}

{{/* From the pod's deletion to its end: the sleep before SIGTERM, the drain, the answers under way, and 5 s for the process to go. */}}
{{- define "pilotage.gracePeriodSeconds" -}}
{{- with .Values.drain -}}
{{- add (addf .preStopSeconds .drainSeconds .graceSeconds | ceil | int) 5 -}}
{{- end -}}
{{- end -}}
