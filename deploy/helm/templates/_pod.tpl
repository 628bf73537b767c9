{{- define "lorahub.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "lorahub.labels" -}}
app: {{ include "lorahub.name" .root }}
part: {{ .part }}
{{- end }}

{{- define "lorahub.secret" -}}
{{ .Values.existingSecret | default (include "lorahub.name" .) }}
{{- end }}

{{- /* A pod without its container: what all of them have. */ -}}
{{- define "lorahub.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false # its variables would begin with LORAHUB_ too
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  fsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- /* Of a container, what all of them have. */ -}}
{{- define "lorahub.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
envFrom:
  - configMapRef: { name: {{ include "lorahub.name" . }} }
  - secretRef: { name: {{ include "lorahub.secret" . }} }
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
volumeMounts:
  - { name: home, mountPath: /var/lib/lorahub }
  - { name: tmp, mountPath: /tmp }
{{- end }}

{{- define "lorahub.volumes" -}}
- { name: home, emptyDir: { sizeLimit: {{ .Values.temporary }} } }
- { name: tmp, emptyDir: { sizeLimit: {{ .Values.temporary }} } }
{{- end }}

{{- /* Pods that read their settings at the start are started anew when these change. */ -}}
{{- define "lorahub.checksum" -}}
{{ include (print $.Template.BasePath "/settings.yaml") . | sha256sum }}
{{- end }}
