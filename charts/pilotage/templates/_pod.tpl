{{/* The pods of one arm: (dict "root" $ "arm" "stable" "values" what `pilotage.arm` says). */}}
{{- define "pilotage.podTemplate" -}}
{{- $root := .root -}}
{{- $pod := $root.Values.pod -}}
{{- $values := .values -}}
metadata:
  labels:
    {{- include "pilotage.armSelectorLabels" . | nindent 4 }}
    app.kubernetes.io/part-of: pilotage
    {{- with $root.Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with $pod.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: service
    {{- with $pod.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "pilotage.serviceAccountName" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "pilotage.gracePeriodSeconds" $root }}
  {{- with $pod.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $pod.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "pilotage.podSecurityContext" $root | nindent 4 }}
  {{- with include "pilotage.bundleDownloads" (dict "root" $root "values" $values) | trim }}
  initContainers:
    {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: service
      image: {{ include "pilotage.image" $values.image }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- with $pod.command }}
      command:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pod.args }}
      args:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: {{ include "pilotage.text" $pod.port }}
          protocol: TCP
      env:
        {{- include "pilotage.env" . | nindent 8 }}
      resources:
        {{- toYaml $values.resources | nindent 8 }}
      resizePolicy:
        - resourceName: cpu
          restartPolicy: {{ $pod.resizePolicy.cpu }}
        - resourceName: memory
          restartPolicy: {{ $pod.resizePolicy.memory }}
      {{- if $root.Values.drain.preStopSeconds }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ include "pilotage.text" $root.Values.drain.preStopSeconds }}
      {{- end }}
      startupProbe:
        httpGet:
          path: /livez
          port: http
        {{- toYaml $root.Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet:
          path: /livez
          port: http
        {{- toYaml $root.Values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        {{- toYaml $root.Values.probes.readiness | nindent 8 }}
      securityContext:
        {{- include "pilotage.containerSecurityContext" $root | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        - name: state
          mountPath: /var/lib/pilotage
        {{- if $root.Values.auth.secretName }}
        - name: tokens
          mountPath: /etc/pilotage/tokens
          readOnly: true
        {{- end }}
        {{- with include "pilotage.bundleMounts" $values.bundles | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with $pod.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ $pod.tmpSizeLimit }}
    - name: state
      {{- if $pod.stateClaimName }}
      persistentVolumeClaim:
        claimName: {{ $pod.stateClaimName }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ $pod.stateSizeLimit }}
      {{- end }}
    {{- with $root.Values.auth.secretName }}
    - name: tokens
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with $root.Values.bundleDownload.ca.configMapName }}
    - name: download-ca
      configMap:
        name: {{ . }}
    {{- end }}
    {{- with include "pilotage.bundleVolumes" $values.bundles | trim }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $pod.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $pod.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $pod.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $pod.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- range $key := $pod.topologySpread.topologyKeys }}
    - topologyKey: {{ $key }}
      maxSkew: 1
      whenUnsatisfiable: {{ $pod.topologySpread.whenUnsatisfiable }}
      nodeTaintsPolicy: Honor
      labelSelector:
        matchLabels:
          {{- include "pilotage.armSelectorLabels" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
{{- end -}}

{{/* The environment of the service's container. */}}
{{- define "pilotage.env" -}}
{{- $root := .root -}}
{{- $values := .values -}}
- name: BENTOML_HOST
  value: {{ $root.Values.pod.listen | quote }}
- name: BENTOML_PORT
  value: {{ include "pilotage.text" $root.Values.pod.port | quote }}
- name: BENTOML_HOME
  value: /tmp/bentoml
- name: BENTOML_DO_NOT_TRACK
  value: "True"
- name: HOME
  value: /tmp
- name: PILOTAGE_BUNDLE
  value: {{ include "pilotage.bundlePaths" $values.bundles | quote }}
{{- with include "pilotage.bundleChecksums" $values.bundles }}
- name: PILOTAGE_BUNDLE_SHA256
  value: {{ . | quote }}
{{- end }}
- name: PILOTAGE_STATE_DIR
  value: /var/lib/pilotage
- name: PILOTAGE_DRAIN_S
  value: {{ include "pilotage.text" $root.Values.drain.drainSeconds | quote }}
- name: PILOTAGE_GRACE_S
  value: {{ include "pilotage.text" $root.Values.drain.graceSeconds | quote }}
{{- if $root.Values.auth.secretName }}
- name: PILOTAGE_TOKEN_FILE
  value: /etc/pilotage/tokens/{{ $root.Values.auth.secretKey }}
{{- end }}
{{- with include "pilotage.threads" $values }}
- name: PILOTAGE_THREADS
  value: {{ . | quote }}
{{- end }}
{{- range $key, $value := $values.settings }}
- name: PILOTAGE_{{ snakecase $key | upper }}
  value: {{ include "pilotage.text" $value | quote }}
{{- end }}
{{- with $root.Values.tracing.endpoint }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: OTEL_SERVICE_NAME
  value: {{ include "pilotage.fullname" $root }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name={{ $root.Release.Namespace }},k8s.pod.name=$(POD_NAME),pilotage.arm={{ $.arm }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with $values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}
