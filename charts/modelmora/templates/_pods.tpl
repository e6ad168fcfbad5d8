{{- /* What every pod of this chart has in common; `component` names a part of the values too, but for the uninstall job. */ -}}
{{- define "modelmora.pod.security" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "modelmora.container.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "modelmora.pod.placement" -}}
{{- $values := index .root.Values .component -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
tolerations:
  - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 15}
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 15}
  {{- with $values.tolerations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "modelmora.pod.metadata" -}}
{{- $values := index .root.Values .component -}}
labels: {{- merge (include "modelmora.labels" . | fromYaml) $values.podLabels | toYaml | nindent 2 }}
{{- with $values.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Which namespaces a program looks at: all, without this variable. */ -}}
{{- define "modelmora.env.namespaces" -}}
- name: {{ .prefix }}NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .root.Values.watchNamespaces }}
- name: {{ $.prefix }}NAMESPACES
  value: {{ toJson . | quote }}
{{- end }}
{{- end }}
