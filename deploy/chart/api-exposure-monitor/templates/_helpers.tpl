{{- define "monitor.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "monitor.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "monitor.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "monitor.selectorLabels" -}}
app.kubernetes.io/name: {{ include "monitor.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "monitor.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "monitor.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: monitor
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "monitor.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "monitor.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "monitor.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Whether the pods are found by their annotations. */}}
{{- define "monitor.annotated" -}}
{{- if kindIs "invalid" .Values.prometheus.annotations -}}
{{- if not (or .Values.podMonitor.enabled .Values.serviceMonitor.enabled) -}}true{{- end -}}
{{- else if .Values.prometheus.annotations -}}true{{- end -}}
{{- end -}}

{{- define "monitor.hostPID" -}}
{{- if kindIs "invalid" .Values.hostPID -}}{{ .Values.probe.enabled }}{{- else -}}{{ .Values.hostPID }}{{- end -}}
{{- end -}}

{{/* Exactly what the chosen features need. */}}
{{- define "monitor.capabilities" -}}
- BPF
- NET_ADMIN
- PERFMON
{{- if .Values.probe.enabled }}
- SYS_PTRACE
{{- end }}
{{- if .Values.probe.sysAdmin }}
- SYS_ADMIN
{{- end }}
{{- end -}}

{{/* The arguments of `run`: lists only where they say something. */}}
{{- define "monitor.arguments" -}}
- run
{{- range $flag, $values := dict "secure-port" .Values.monitor.securePort "insecure-port" .Values.monitor.insecurePort }}
- {{ printf "--%s=%s" $flag (join "," $values) | quote }}
{{- end }}
{{- range $flag, $values := dict "node-port" .Values.monitor.nodePort "interface" .Values.monitor.interface "node-address" .Values.monitor.nodeAddress "cluster-node-cidr" .Values.monitor.clusterNodeCidr "pod-cidr" .Values.monitor.podCidr "service-cidr" .Values.monitor.serviceCidr "trusted-cidr" .Values.monitor.trustedCidr "expected-sni" .Values.monitor.expectedSni }}
{{- if $values }}
- {{ printf "--%s=%s" $flag (join "," $values) | quote }}
{{- end }}
{{- end }}
- {{ printf "--private-is-external=%t" .Values.monitor.privateIsExternal | quote }}
- {{ printf "--unauthenticated-goaway=%s" .Values.monitor.unauthenticatedGoaway | quote }}
- {{ printf "--discover-plaintext=%s" .Values.monitor.discoverPlaintext | quote }}
- {{ printf "--xdp-generic=%t" .Values.monitor.xdpGeneric | quote }}
- {{ printf "--tcx=%t" .Values.monitor.tcx | quote }}
- {{ printf "--listen=%s:%d" (ternary "[$(HOST_IP)]" "$(HOST_IP)" .Values.monitor.ipv6 | default .Values.monitor.listenAddress) (int .Values.monitor.port) | quote }}
- {{ printf "--discovery=%s" .Values.monitor.discovery | quote }}
{{- if .Values.probe.enabled }}
- "--probe=on"
{{- end }}
{{- if .Values.auditLog.enabled }}
- {{ printf "--audit-log=%s" .Values.auditLog.path | quote }}
{{- with .Values.auditLog.statePath }}
- {{ printf "--audit-state=%s/audit-position" . | quote }}
{{- end }}
{{- end }}
{{- with .Values.monitor.extraArgs }}
{{ toYaml . }}
{{- end }}
{{- end -}}
