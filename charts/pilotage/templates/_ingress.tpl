{{/* The Ingress to one arm: (dict "root" $ "arm" "stable" "name" … "annotations" (dict …)). */}}
{{- define "pilotage.ingress" -}}
{{- $root := .root -}}
{{- $arm := .arm -}}
{{- $ingress := $root.Values.traffic.ingress -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "pilotage.labels" (dict "root" $root) | nindent 4 }}
    pilotage.dev/arm: {{ $arm }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with $ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with $ingress.tls }}
  tls:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    {{- range $host := $ingress.hosts }}
    - host: {{ $host }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ include "pilotage.fullname" $root }}-{{ $arm }}
                port:
                  name: http
    {{- end }}
{{- end -}}
