{{- /* The least verbs: each is used by the code, and a test holds this list. A Role where namespaces are named, else a ClusterRole. */ -}}
{{- define "modelmora.rules.operator" -}}
- apiGroups: [modelmora.io]
  resources: [modeldeployments, modelroutes]
  verbs: [list, watch]
- apiGroups: [modelmora.io]
  resources: [modeldeployments/status, modelroutes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}

{{- define "modelmora.rules.router" -}}
- apiGroups: [modelmora.io]
  resources: [modeldeployments, modelroutes]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}

{{- define "modelmora.rules.uninstall" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, delete]
{{- end }}

{{- /* In the namespace of the release alone. */ -}}
{{- define "modelmora.rules.home.operator" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [list, watch]
{{- end }}

{{- define "modelmora.rules.home.router" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create, patch, delete]
{{- end }}

{{- define "modelmora.rules.home.uninstall" -}}
- apiGroups: [apps]
  resources: [deployments]
  resourceNames: [{{ include "modelmora.name" (dict "root" .root "component" "operator") }}]
  verbs: [get, delete]
{{- end }}

{{- /* All rights of one part: its ServiceAccount, the rules where models are, the rules at home. */ -}}
{{- define "modelmora.account" -}}
{{- $name := include "modelmora.name" . -}}
{{- $labels := include "modelmora.labels" . -}}
{{- $rules := include (printf "modelmora.rules.%s" .component) . -}}
{{- $annotations := .annotations | default dict -}}
{{- $accountAnnotations := merge (dict) $annotations ((index .root.Values .component).serviceAccountAnnotations | default dict) -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- $labels | nindent 4 }}
  {{- with $accountAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- range $namespace := .root.Values.watchNamespaces | default (list "") }}
{{- $scope := ternary "" "Cluster" (ne $namespace "") }}
{{- $binding := dict "name" $name "kind" (printf "%sRole" $scope) "root" $.root "labels" $labels "annotations" $annotations "namespace" $namespace }}
{{- include "modelmora.role" (merge (dict "rules" $rules) $binding) }}
{{- end }}
{{- $home := include (printf "modelmora.rules.home.%s" .component) . }}
{{- include "modelmora.role" (dict "name" (printf "%s-home" $name) "account" $name "kind" "Role" "rules" $home "root" .root "labels" $labels "annotations" $annotations "namespace" .root.Release.Namespace) }}
{{- end }}

{{- define "modelmora.role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata: {{- include "modelmora.role.metadata" . | nindent 2 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata: {{- include "modelmora.role.metadata" . | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .account | default .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}

{{- define "modelmora.role.metadata" -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels: {{- .labels | nindent 2 }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
