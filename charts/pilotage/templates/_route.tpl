{{/*
What an HTTPRoute says: (dict "root" $ "paths" (list "/") "weights" (dict …) "arms" (list …) "cookie" true "own" "").
`kept` are the arms whose users a cookie keeps there, all by default.
`own` ends the value of the cookies that the gateway sets; where it sets none they are somebody else's, and their value is the arm alone.

Rules are tried by how exactly they match: a header or cookie that names an arm goes before the weights. Of two that match alike the
first counts, so that the header goes before the cookie.
*/}}
{{- define "pilotage.routeSpec" -}}
{{- $root := .root -}}
{{- $traffic := $root.Values.traffic -}}
{{- $paths := .paths -}}
{{- $weights := .weights -}}
{{- $cookie := and .cookie $traffic.cookie.enabled -}}
{{- $own := ternary .own "" $traffic.cookie.set -}}
parentRefs:
  {{- toYaml $traffic.httpRoute.parentRefs | nindent 2 }}
{{- with $traffic.httpRoute.hostnames }}
hostnames:
  {{- toYaml . | nindent 2 }}
{{- end }}
rules:
  {{- if $traffic.forceHeader.enabled }}
  {{- range $arm := .arms }}
  {{- $header := dict "name" $traffic.forceHeader.name "type" "Exact" "value" $arm }}
  - {{- include "pilotage.routeMatches" (dict "paths" $paths "header" $header) | nindent 4 }}
    {{- include "pilotage.routeTimes" $root | nindent 4 }}
    backendRefs:
      - {{- include "pilotage.backendRef" (dict "root" $root "arm" $arm) | nindent 8 }}
  {{- end }}
  {{- end }}
  {{- if $cookie }}
  {{- range $arm := .kept | default .arms }}
  {{- $header := dict "name" "Cookie" "type" "RegularExpression" "value" (printf "^(.*;\\s*)?%s=%s%s(;.*)?$" $traffic.cookie.name $arm $own) }}
  - {{- include "pilotage.routeMatches" (dict "paths" $paths "header" $header) | nindent 4 }}
    {{- include "pilotage.routeTimes" $root | nindent 4 }}
    backendRefs:
      - {{- include "pilotage.backendRef" (dict "root" $root "arm" $arm) | nindent 8 }}
  {{- end }}
  {{- end }}
  - {{- include "pilotage.routeMatches" (dict "paths" $paths) | nindent 4 }}
    {{- include "pilotage.routeTimes" $root | nindent 4 }}
    {{- if $traffic.mirror.enabled }}
    filters:
      - type: RequestMirror
        requestMirror:
          backendRef:
            {{- if $traffic.mirror.serviceName }}
            name: {{ $traffic.mirror.serviceName }}
            port: {{ include "pilotage.text" $traffic.mirror.servicePort }}
            {{- else }}
            {{- include "pilotage.backendRef" (dict "root" $root "arm" "canary") | nindent 12 }}
            {{- end }}
          {{- /* All of them is what a gateway does that knows no shares. */}}
          {{- if ne (int $traffic.mirror.pct) 100 }}
          percent: {{ include "pilotage.text" $traffic.mirror.pct }}
          {{- end }}
    {{- end }}
    backendRefs:
      {{- range $arm := .arms }}
      - {{- include "pilotage.backendRef" (dict "root" $root "arm" $arm) | nindent 8 }}
        weight: {{ include "pilotage.text" (index $weights $arm | default 0) }}
        {{- if and $cookie $traffic.cookie.set }}
        filters:
          - type: ResponseHeaderModifier
            responseHeaderModifier:
              add:
                - name: Set-Cookie
                  value: {{ printf "%s=%s%s; Path=/; Max-Age=%s; SameSite=Lax" $traffic.cookie.name $arm $own (include "pilotage.text" $traffic.cookie.maxAgeSeconds) | quote }}
        {{- end }}
      {{- end }}
{{- end -}}

{{- define "pilotage.routeMatches" -}}
matches:
  {{- range .paths }}
  - path:
      type: PathPrefix
      value: {{ . }}
    {{- with $.header }}
    headers:
      - {{- toYaml . | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end -}}

{{- define "pilotage.routeTimes" -}}
timeouts:
  request: {{ .Values.traffic.timeout }}
  {{- with .Values.traffic.backendTimeout }}
  backendRequest: {{ . }}
  {{- end }}
{{- with .Values.traffic.retry }}
{{- if .enabled }}
retry:
  codes:
    {{- range .codes }}
    - {{ include "pilotage.text" . }}
    {{- end }}
  attempts: {{ include "pilotage.text" .attempts }}
  backoff: {{ .backoff }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "pilotage.backendRef" -}}
group: ""
kind: Service
name: {{ include "pilotage.fullname" .root }}-{{ .arm }}
port: {{ include "pilotage.text" .root.Values.service.port }}
{{- end -}}
