{{/* Names and labels. */}}

{{- define "lockstep.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The prefix of what the chart makes: the release's name where that says what it is. */}}
{{- define "lockstep.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "lockstep.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Labels that a role's pods are selected by: (list $ "controller"). They never change. */}}
{{- define "lockstep.selector" -}}
app.kubernetes.io/name: {{ include "lockstep.name" (first .) }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Labels of everything: (list $ "controller"). */}}
{{- define "lockstep.labels" -}}
{{ include "lockstep.selector" . }}
app.kubernetes.io/part-of: lockstep
app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
{{- end }}

{{/* repository@digest or repository:tag: (dict "image" … "default" tag). */}}
{{- define "lockstep.imageOf" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .default }}
{{- end -}}
{{- end }}

{{- define "lockstep.image" -}}
{{ include "lockstep.imageOf" (dict "image" .Values.image "default" .Chart.AppVersion) }}
{{- end }}

{{- define "lockstep.priorityClass.data" -}}
{{ .Values.priorityClasses.data | default (printf "%s-data" (include "lockstep.fullname" .)) }}
{{- end }}

{{- define "lockstep.priorityClass.control" -}}
{{ .Values.priorityClasses.control | default (printf "%s-control" (include "lockstep.fullname" .)) }}
{{- end }}

{{/* The node plugin's folder on the host: CSI socket, holder's socket, devices. */}}
{{- define "lockstep.pluginDir" -}}
{{ .Values.kubeletDir }}/plugins/{{ .Values.driverName }}
{{- end }}

{{/* Arguments that every role has. */}}
{{- define "lockstep.commonArgs" -}}
- --log-format={{ .Values.log.format }}
- --log-level={{ .Values.log.level }}
- --health-addr=:8080
{{- if .Values.metrics.enabled }}
- --metrics-addr=:9090
{{- end }}
{{- end }}

{{/* Ports that every role has. */}}
{{- define "lockstep.commonPorts" -}}
- {name: health, containerPort: 8080}
{{- if .Values.metrics.enabled }}
- {name: metrics, containerPort: 9090}
{{- end }}
{{- end }}

{{/* Probes of a role. A role is alive while it answers, whatever it waits for; ready says whether it does its work. */}}
{{- define "lockstep.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end }}

{{/* A container without any privilege. */}}
{{- define "lockstep.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* A pod that is nobody in particular. */}}
{{- define "lockstep.nobody" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Metadata of pods: (list $ "controller"). No version, so that only what makes a difference replaces a pod. */}}
{{- define "lockstep.podMetadata" -}}
{{- $role := index (first .).Values (last .) -}}
labels:
  {{- include "lockstep.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: lockstep
  {{- with $role.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $role.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a role's pods may run: (list $ "controller"). */}}
{{- define "lockstep.placement" -}}
{{- $role := index (first .).Values (last .) -}}
nodeSelector:
  kubernetes.io/os: linux
  {{- with $role.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $role.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $role.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (first .).Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
