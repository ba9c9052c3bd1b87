{{/*
Where an arm's bundles come from. Each is checked by the service itself, file by file, before it says that it is ready; `sha256` pins the
manifest that the checksums stand in.
*/}}

{{/* PILOTAGE_BUNDLE: the folders, parted by commas. */}}
{{- define "pilotage.bundlePaths" -}}
{{- $paths := list -}}
{{- range . -}}
{{- if eq .source "image" -}}
{{- $paths = append $paths .path -}}
{{- else if eq .source "download" -}}
{{- $paths = append $paths (printf "/bundles/%s/bundle" .name) -}}
{{- else -}}
{{- $paths = append $paths (printf "/bundles/%s/%s" .name (.path | default "" | trimAll "/") | trimSuffix "/") -}}
{{- end -}}
{{- end -}}
{{- join "," $paths -}}
{{- end -}}

{{/* PILOTAGE_BUNDLE_SHA256: the manifests' checksums in the same order, nothing where one is not pinned. */}}
{{- define "pilotage.bundleChecksums" -}}
{{- $sums := list -}}
{{- $pinned := false -}}
{{- range . -}}
{{- $sums = append $sums (.sha256 | default "") -}}
{{- if .sha256 -}}{{- $pinned = true -}}{{- end -}}
{{- end -}}
{{- if $pinned -}}{{- join "," $sums -}}{{- end -}}
{{- end -}}

{{- define "pilotage.bundleVolumes" -}}
{{- range . }}
{{- if eq .source "oci" }}
- name: bundle-{{ .name }}
  image:
    reference: {{ .reference }}
    pullPolicy: {{ .pullPolicy | default "IfNotPresent" }}
{{- else if eq .source "claim" }}
- name: bundle-{{ .name }}
  persistentVolumeClaim:
    claimName: {{ .claimName }}
    readOnly: true
{{- else if eq .source "download" }}
- name: bundle-{{ .name }}
  emptyDir:
    sizeLimit: {{ .sizeLimit | default "2Gi" }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "pilotage.bundleMounts" -}}
{{- range . }}
{{- if ne .source "image" }}
- name: bundle-{{ .name }}
  mountPath: /bundles/{{ .name }}
  readOnly: true
{{- end }}
{{- end }}
{{- end -}}

{{/* One init container a download, with the service's own image: (dict "root" $ "arm" …the arm's values). */}}
{{- define "pilotage.bundleDownloads" -}}
{{- $root := .root }}
{{- $download := $root.Values.bundleDownload }}
{{- $image := .values.image }}
{{- range .values.bundles }}
{{- if eq .source "download" }}
- name: bundle-{{ .name }}
  image: {{ include "pilotage.image" $image }}
  imagePullPolicy: {{ $image.pullPolicy }}
  command: [python, -m, serving.fetch]
  args:
    - {{ .url | quote }}
    - /bundles/{{ .name }}/bundle
    - --sha256
    - {{ .sha256 | quote }}
  env:
    - name: HOME
      value: /tmp
    {{- if $download.ca.configMapName }}
    - name: SSL_CERT_FILE
      value: /etc/pilotage/ca/{{ $download.ca.key }}
    - name: AWS_CA_BUNDLE
      value: /etc/pilotage/ca/{{ $download.ca.key }}
    {{- end }}
    {{- with $download.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $download.secretName }}
  envFrom:
    - secretRef:
        name: {{ . }}
  {{- end }}
  resources:
    {{- toYaml $download.resources | nindent 4 }}
  securityContext:
    {{- include "pilotage.containerSecurityContext" $root | nindent 4 }}
  volumeMounts:
    - name: bundle-{{ .name }}
      mountPath: /bundles/{{ .name }}
    - name: tmp
      mountPath: /tmp
    {{- if $download.ca.configMapName }}
    - name: download-ca
      mountPath: /etc/pilotage/ca
      readOnly: true
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}
