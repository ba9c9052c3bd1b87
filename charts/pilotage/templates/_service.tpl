{{/* The Service of one arm: (dict "root" $ "arm" "stable"). */}}
{{- define "pilotage.armService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "pilotage.fullname" .root }}-{{ .arm }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "pilotage.labels" (dict "root" .root) | nindent 4 }}
    pilotage.dev/arm: {{ .arm }}
  {{- with .root.Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: ClusterIP
  {{- include "pilotage.servicePorts" .root | nindent 2 }}
  selector:
    {{- /* Argo Rollouts runs both versions from the stable Deployment's template and tells them apart by a hash that it adds here. */}}
    {{- include "pilotage.armSelectorLabels" (dict "root" .root "arm" (ternary "stable" .arm .root.Values.argoRollouts.enabled)) | nindent 4 }}
{{- end -}}

{{- define "pilotage.servicePorts" -}}
{{- with .Values.service.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.service.trafficDistribution }}
trafficDistribution: {{ . }}
{{- end }}
ports:
  - name: http
    port: {{ include "pilotage.text" .Values.service.port }}
    targetPort: http
    protocol: TCP
    appProtocol: http
{{- end -}}
