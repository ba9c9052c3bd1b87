{{/*
The names and labels of everything. Names leave 18 characters for suffixes, since a Service may have 63.
*/}}
{{- define "pilotage.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels that pods are selected by: (dict "root" $ "component" "gate"), those of the service by default. They never change in an upgrade, for selectors must not. */}}
{{- define "pilotage.selectorLabels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ default "service" .component }}
{{- end -}}

{{/* The same for one arm: (dict "root" $ "arm" "canary"). */}}
{{- define "pilotage.armSelectorLabels" -}}
{{ include "pilotage.selectorLabels" . }}
pilotage.dev/arm: {{ .arm }}
{{- end -}}

{{/* Labels of objects that are not selected by the Services: (dict "root" $ "component" "rollout"). */}}
{{- define "pilotage.labels" -}}
{{ include "pilotage.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ default .root.Release.Service .manager }}
app.kubernetes.io/part-of: pilotage
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a Job's pods: (dict "root" $ "component" "rollout"). Nothing of the chart's version, for a Job's template cannot be changed. */}}
{{- define "pilotage.jobPodLabels" -}}
{{ include "pilotage.selectorLabels" . }}
app.kubernetes.io/part-of: pilotage
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pilotage.serviceAccountName" -}}
{{- default (ternary (include "pilotage.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The arms that have a Service: a route must not name one that is missing, the gateway would answer 500. JSON list. */}}
{{- define "pilotage.arms" -}}
{{- $arms := list "stable" -}}
{{- range list "baseline" "canary" -}}
{{- if or $.Values.rollout.enabled (index $.Values .).enabled (and $.Values.argoRollouts.enabled (eq . "canary")) -}}
{{- $arms = append $arms . -}}
{{- end -}}
{{- end -}}
{{- if .Values.rollout.enabled -}}
{{- $arms = concat $arms (include "pilotage.variants" . | fromJsonArray) -}}
{{- end -}}
{{- toJson $arms -}}
{{- end -}}

{{/* Whether a rollout changes values, and nothing in the cluster. */}}
{{- define "pilotage.byValues" -}}
{{- if and .Values.rollout.enabled (eq .Values.rollout.writesTo "values") -}}
true
{{- end -}}
{{- end -}}

{{/* Arms that run, of those that the chart runs itself. JSON list. */}}
{{- define "pilotage.standingArms" -}}
{{- $arms := list "stable" -}}
{{- range list "baseline" "canary" -}}
{{- if (index $.Values .).enabled -}}
{{- $arms = append $arms . -}}
{{- end -}}
{{- end -}}
{{- toJson $arms -}}
{{- end -}}

{{/* Arms of `rollout.variants`: the first is the second canary. JSON list. */}}
{{- define "pilotage.variants" -}}
{{- $arms := list -}}
{{- range $number, $_ := .Values.rollout.variants -}}
{{- $arms = append $arms (printf "canary-%d" (add $number 2)) -}}
{{- end -}}
{{- toJson $arms -}}
{{- end -}}

{{/* A number as people write it: Helm reads all numbers as floats, and would print 4194304 as 4.194304e+06. */}}
{{- define "pilotage.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ printf "%.0f" . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}
