{{/*
A sidecar of the controller: (dict "root" $ "name" "provisioner" "port" 8091 "args" (list …)).
It reaches the driver's socket in the pod's folder /csi.
*/}}
{{- define "lockstep.sidecar" -}}
{{- $sidecar := index .root.Values.sidecars .name -}}
- name: {{ .name }}
  image: {{ include "lockstep.imageOf" (dict "image" $sidecar.image) }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  {{- with $sidecar.command }}
  command: {{ toJson . }}
  {{- end }}
  args:
    - --csi-address=/csi/csi.sock
    - --timeout={{ $sidecar.timeout }}
    - --v={{ .root.Values.sidecars.logVerbosity }}
    {{- if .root.Values.metrics.enabled }}
    - --http-endpoint=:{{ .port }}
    {{- end }}
    {{- range .args }}
    - {{ . }}
    {{- end }}
    {{- range $sidecar.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  {{- with .env }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .root.Values.metrics.enabled }}
  ports:
    - {name: {{ .name }}, containerPort: {{ .port }}}
  {{- end }}
  securityContext:
    {{- include "lockstep.unprivileged" . | nindent 4 }}
  resources:
    {{- toYaml $sidecar.resources | nindent 4 }}
  volumeMounts:
    - {name: csi, mountPath: /csi}
{{- end }}
