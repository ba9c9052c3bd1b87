{{/*
PromQL that several rules share. Every series of this release: namespace and job, as the PodMonitor sets them.
*/}}
{{- define "pilotage.series" -}}
namespace={{ .Release.Namespace | quote }}, job={{ include "pilotage.fullname" . | quote }}
{{- end -}}

{{/*
The share of bad events of an objective within a window: (dict "root" $ "objective" … "sli" "availability" "window" "5m").

Of availability: answers 5xx, what was shed included. Answers 4xx are the caller's and count on neither side. Of latency: answers 200 that took
longer than the objective, a bound of the histogram.
*/}}
{{- define "pilotage.badRatio" -}}
{{- $series := printf "%s, model=~%s" (include "pilotage.series" .root) (quote .objective.models) -}}
{{- if eq .sli "availability" -}}
(sum(rate(pilotage_request_seconds_count{ {{- $series }}, status=~"5.."}[{{ .window }}])) or vector(0))
/ sum(rate(pilotage_request_seconds_count{ {{- $series }}, status!~"4.."}[{{ .window }}]))
{{- else -}}
1 - sum(rate(pilotage_request_seconds_bucket{ {{- $series }}, status="200", le={{ .objective.latencySeconds | quote }}}[{{ .window }}]))
/ sum(rate(pilotage_request_seconds_count{ {{- $series }}, status="200"}[{{ .window }}]))
{{- end -}}
{{- end -}}
