{{/* The Deployment of one arm: (dict "root" $ "arm" "stable" "manager" who owns it, Helm by default). */}}
{{- define "pilotage.deployment" -}}
{{- $root := .root -}}
{{- $arm := .arm -}}
{{- $values := include "pilotage.arm" . | fromJson -}}
{{- $isScaled := and (eq $arm "stable") (or $root.Values.autoscaling.hpa.enabled $root.Values.autoscaling.keda.enabled $root.Values.argoRollouts.enabled) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "pilotage.fullname" $root }}-{{ $arm }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "pilotage.labels" (dict "root" $root "manager" .manager) | nindent 4 }}
    pilotage.dev/arm: {{ $arm }}
spec:
  {{- if not $isScaled }}
  replicas: {{ include "pilotage.text" $values.replicas }}
  {{- end }}
  revisionHistoryLimit: 10
  minReadySeconds: {{ include "pilotage.text" $root.Values.rolling.minReadySeconds }}
  progressDeadlineSeconds: {{ include "pilotage.text" $root.Values.rolling.progressDeadlineSeconds }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: {{ include "pilotage.text" $root.Values.rolling.maxUnavailable }}
      maxSurge: {{ include "pilotage.text" $root.Values.rolling.maxSurge }}
  selector:
    matchLabels:
      {{- include "pilotage.armSelectorLabels" . | nindent 6 }}
  template:
    {{- include "pilotage.podTemplate" (dict "root" $root "arm" $arm "values" $values) | nindent 4 }}
{{- end -}}
