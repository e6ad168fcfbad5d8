{{- define "modelmora.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- /* Of one of operator, router, uninstall. */ -}}
{{- define "modelmora.name" -}}
{{ include "modelmora.fullname" .root }}-{{ .component }}
{{- end }}

{{- define "modelmora.selector" -}}
app.kubernetes.io/name: modelmora-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "modelmora.labels" -}}
{{ include "modelmora.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: modelmora
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "modelmora.image" -}}
{{- $name := (index .root.Values .component).image -}}
{{- if regexMatch "(@|:[^/]+$)" $name }}{{ $name }}
{{- else }}
{{- with .root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ $name }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "modelmora.defaultNamespace" -}}
{{ .Values.router.defaultNamespace | default (first .Values.watchNamespaces) | default "default" }}
{{- end }}
