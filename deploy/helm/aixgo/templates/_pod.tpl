{{/* A pod's spec, which passes the restricted pod standard. Takes {workload, root}. */}}
{{- define "aixgo.pod" -}}
{{- $serves := has .workload.component (list "agent" "orchestration") -}}
{{- $selector := include "aixgo.selector" (dict "name" .workload.name "root" .root) -}}
serviceAccountName: {{ .workload.name }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
terminationGracePeriodSeconds: 30
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- $selector | nindent 8 }}
  {{- end }}
containers:
  - {{ include "aixgo.container" . | nindent 4 | trim }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  {{- if $serves }}
  - name: config
    configMap:
      name: aixgo-config
  {{- end }}
{{- end -}}

{{/* Its one container. Takes {workload, root}. */}}
{{- define "aixgo.container" -}}
{{- $serves := has .workload.component (list "agent" "orchestration") -}}
{{- $port := int .workload.port -}}
name: aixgo
image: {{ .workload.image | quote }}
imagePullPolicy: {{ .root.Values.imagePullPolicy }}
args: {{- toYaml .workload.args | nindent 2 }}
env:
  {{- range $name, $value := .workload.env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  - name: AIXGO_LOG_FORMAT
    value: json
  {{- if $serves }}
  - name: POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
  - name: AIXGO_ADVERTISE_ADDRESS
    value: $(POD_IP):{{ $port }}
envFrom:
  - secretRef:
      name: {{ .root.Values.keysSecret }}
      optional: true
{{- end }}
ports:
  - name: {{ include "aixgo.portName" .workload }}
    containerPort: {{ $port }}
  {{- if .workload.metrics }}
  - name: metrics
    containerPort: 9464
  {{- end }}
startupProbe: {{- include "aixgo.probe" .workload | nindent 2 }}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe: {{- include "aixgo.probe" .workload | nindent 2 }}
  {{- if $serves }}
    service: {{ .workload.agent | quote }}
  {{- end }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe: {{- include "aixgo.probe" .workload | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
lifecycle:
  preStop:
    sleep:
      seconds: 5
resources: {{- get .root.Values.resources (ternary "embedding" .workload.component (default false .workload.embeds)) | toYaml | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop:
      - ALL
  readOnlyRootFilesystem: true
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if $serves }}
  - name: config
    mountPath: /etc/aixgo
    readOnly: true
  {{- end }}
{{- end -}}

{{/* The model server speaks HTTP; everything else answers grpc.health.v1. Takes a workload. */}}
{{- define "aixgo.probe" -}}
{{- if eq .component "model-server" -}}
httpGet:
  path: /health
  port: {{ int .port }}
{{- else -}}
grpc:
  port: {{ int .port }}
{{- end -}}
{{- end -}}

{{- define "aixgo.portName" -}}
{{- eq .component "model-server" | ternary "http" "grpc" -}}
{{- end -}}
