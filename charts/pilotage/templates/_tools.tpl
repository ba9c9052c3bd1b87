{{/*
A pod with the image `tools`: (dict "root" $ "component" "test" "command" (list …) "token" whether it speaks to the API server "mounts" further
ConfigMaps, name → folder; "optional" whether they may be missing; "volumes" and "volumeMounts" further ones; "resources" others than those of all tools; "restartPolicy" where it is not a Job's;
"container" further fields of the container).
*/}}
{{- define "pilotage.toolsPod" -}}
{{- $root := .root -}}
{{- $tools := $root.Values.tools -}}
{{- $tokens := $root.Values.tests.tokenSecretName | default $root.Values.auth.secretName -}}
{{- $name := include "pilotage.fullname" $root -}}
restartPolicy: {{ .restartPolicy | default "Never" }}
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
    {{- with .container }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    env:
      - name: HOME
        value: /tmp
    resources:
      {{- toYaml (.resources | default $tools.resources) | nindent 6 }}
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
      {{- with .volumeMounts }}
      {{- toYaml . | nindent 6 }}
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
  {{- $optional := .optional }}
  {{- range $configmap, $folder := .mounts }}
  - name: {{ $configmap }}
    configMap:
      name: {{ $configmap }}
      {{- if $optional }}
      optional: true
      {{- end }}
  {{- end }}
  {{- with $tokens }}
  - name: tokens
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- with .volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
A load test as a JSON list of arguments: (dict "root" $ "profile" "smoke" "arms" (list "baseline" …)). Each arm's own Service is asked: whatever weights
are in force, the load goes where it is to be measured.
*/}}
{{- define "pilotage.loadCommand" -}}
{{- $root := .root -}}
{{- $profile := hasKey $root.Values.profiles .profile | ternary (printf "/profiles/%s.toml" .profile) .profile -}}
{{- $command := list "pilotage" "loadtest" "--host" (include "pilotage.address" (dict "root" $root "arm" "stable")) "--profile" $profile "--out" "/tmp/report" -}}
{{- range $name, $arm := .arms -}}
{{- $command = append $command (printf "--arm=%s=%s" $name (include "pilotage.address" (dict "root" $root "arm" $arm))) -}}
{{- end -}}
{{- if or $root.Values.tests.tokenSecretName $root.Values.auth.secretName -}}
{{- $command = append $command (printf "--token-file=/etc/pilotage/tokens/%s" $root.Values.auth.secretKey) -}}
{{- end -}}
{{- toJson $command -}}
{{- end -}}

{{/* What the load is put on. */}}
{{- define "pilotage.address" -}}
http://{{ include "pilotage.fullname" .root }}-{{ .arm }}:{{ include "pilotage.text" .root.Values.service.port }}
{{- end -}}
