{{/*
A pod with the image `tools`: (dict "root" $ "component" "test" "command" (list …) "token" whether it speaks to the API server "mounts" further
ConfigMaps, name → folder).
*/}}
{{- define "pilotage.toolsPod" -}}
{{- $root := .root -}}
{{- $tools := $root.Values.tools -}}
{{- $tokens := $root.Values.tests.tokenSecretName | default $root.Values.auth.secretName -}}
{{- $name := include "pilotage.fullname" $root -}}
restartPolicy: Never
{{- if .token }}
serviceAccountName: {{ $name }}-rollout
{{- end }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "pilotage.podSecurityContext" $root | nindent 2 }}
containers:
  - name: tools
    image: {{ include "pilotage.image" $tools.image }}
    imagePullPolicy: {{ $tools.image.pullPolicy }}
    command:
      {{- toYaml .command | nindent 6 }}
    env:
      - name: HOME
        value: /tmp
      {{- if $tokens }}
      - name: PILOTAGE_TOKEN_FILE
        value: /etc/pilotage/tokens/{{ $root.Values.auth.secretKey }}
      {{- end }}
    resources:
      {{- toYaml $tools.resources | nindent 6 }}
    securityContext:
      {{- include "pilotage.containerSecurityContext" $root | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if $root.Values.profiles }}
      - name: profiles
        mountPath: /profiles
        readOnly: true
      {{- end }}
      {{- range $configmap, $folder := .mounts }}
      - name: {{ $configmap }}
        mountPath: {{ $folder }}
        readOnly: true
      {{- end }}
      {{- if $tokens }}
      - name: tokens
        mountPath: /etc/pilotage/tokens
        readOnly: true
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 1Gi
  {{- if $root.Values.profiles }}
  - name: profiles
    configMap:
      name: {{ $name }}-profiles
  {{- end }}
  {{- range $configmap, $folder := .mounts }}
  - name: {{ $configmap }}
    configMap:
      name: {{ $configmap }}
  {{- end }}
  {{- with $tokens }}
  - name: tokens
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
{{- end -}}

{{/* What the load is put on. */}}
{{- define "pilotage.address" -}}
http://{{ include "pilotage.fullname" .root }}-{{ .arm }}:{{ include "pilotage.text" .root.Values.service.port }}
{{- end -}}
