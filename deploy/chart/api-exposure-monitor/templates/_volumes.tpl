{{- define "monitor.volumeMounts" -}}
{{- if .Values.manifests.enabled }}
- name: manifests
  mountPath: {{ .Values.manifests.path }}
  readOnly: true
{{- end }}
{{- if .Values.auditLog.enabled }}
- name: audit-log
  mountPath: {{ dir .Values.auditLog.path }}
  readOnly: true
{{- with .Values.auditLog.statePath }}
- name: audit-state
  mountPath: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "monitor.volumes" -}}
{{- if .Values.manifests.enabled }}
- name: manifests
  hostPath:
    path: {{ .Values.manifests.path }}
    # Made where it is missing: a control plane that runs otherwise has none.
    type: DirectoryOrCreate
{{- end }}
{{- if .Values.auditLog.enabled }}
- name: audit-log
  hostPath:
    # The folder, since rotation puts a new file in the place of the old one.
    path: {{ dir .Values.auditLog.path }}
    type: DirectoryOrCreate
{{- with .Values.auditLog.statePath }}
- name: audit-state
  hostPath:
    path: {{ . }}
    type: DirectoryOrCreate
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
