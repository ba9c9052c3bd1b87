{{/* A pod of `helm test` that asks for one capability: (dict "root" $ "test" "rank"). */}}
{{- define "pilotage.askingTest" -}}
{{- $root := .root -}}
{{- $image := (include "pilotage.arm" (dict "root" $root "arm" "stable") | fromJson).image -}}
{{- $tokens := $root.Values.tests.tokenSecretName | default $root.Values.auth.secretName -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "pilotage.fullname" $root }}-test-{{ .test }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "pilotage.labels" (dict "root" $root "component" "test") | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "pilotage.podSecurityContext" $root | nindent 4 }}
  containers:
    - name: ask
      image: {{ include "pilotage.image" $image }}
      imagePullPolicy: {{ $image.pullPolicy }}
      command: [python, /tests/ask.py, "http://{{ include "pilotage.fullname" $root }}-stable:{{ include "pilotage.text" $root.Values.service.port }}", {{ .test }}]
      {{- if $tokens }}
      env:
        - name: TOKEN_FILE
          value: /etc/pilotage/tokens/{{ $root.Values.auth.secretKey }}
      {{- end }}
      resources:
        requests: {cpu: 100m, memory: 128Mi}
        limits: {memory: 128Mi}
      securityContext:
        {{- include "pilotage.containerSecurityContext" $root | nindent 8 }}
      volumeMounts:
        - name: tests
          mountPath: /tests
          readOnly: true
        {{- if $tokens }}
        - name: tokens
          mountPath: /etc/pilotage/tokens
          readOnly: true
        {{- end }}
  volumes:
    - name: tests
      configMap:
        name: {{ include "pilotage.fullname" $root }}-tests
    {{- with $tokens }}
    - name: tokens
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
{{- end -}}
