{{/* The DNS label for an agent's name: the rule of services/aixgo_services/render/names.py, which explains it. */}}
{{- define "aixgo.dnsName" -}}
{{- $label := and (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .) (le (len .) 50) -}}
{{- $taken := or (regexMatch "-[0-9a-f]{10}$" .) (has . (list "control-plane" "gateway" "model-server")) -}}
{{- if and $label (not $taken) -}}
{{- . -}}
{{- else -}}
{{- $plain := regexReplaceAll "[^a-z0-9]+" (lower .) "-" | trimAll "-" -}}
{{- if not (regexMatch "^[a-z]" $plain) -}}{{- $plain = printf "a-%s" $plain -}}{{- end -}}
{{- printf "%s-%s" ($plain | trunc 39 | trimSuffix "-") (sha256sum . | trunc 10) -}}
{{- end -}}
{{- end -}}

{{/* The labels that only one workload's pods have. Takes {name, root}. */}}
{{- define "aixgo.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: {{ .root.Release.Name }}
{{- end -}}

{{/* What every object of the chart is labelled with. Takes the root. */}}
{{- define "aixgo.chartLabels" -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What an object of a workload is labelled with. Takes {workload, root}. */}}
{{- define "aixgo.labels" -}}
{{ include "aixgo.selector" (dict "name" .workload.name "root" .root) }}
app.kubernetes.io/component: {{ .workload.component }}
{{ include "aixgo.chartLabels" .root }}
{{- end -}}
