{{/* aixgo's configuration as JSON: what `config` says, else the values. Takes the root. */}}
{{- define "aixgo.config" -}}
{{- if .Values.config -}}
{{- $parsed := fromYaml .Values.config -}}
{{- with $parsed.Error -}}{{- fail (printf "config is not YAML: %s" .) -}}{{- end -}}
{{- $parsed | toJson -}}
{{- else -}}
{{- $keys := list "version" "pricing" "tools" "agents" "orchestration" "orchestrations" "sessions" "mailbox" "deployment" "observability" -}}
{{- $picked := dict -}}
{{- range $keys -}}{{- if hasKey $.Values . -}}{{- $_ := set $picked . (get $.Values .) -}}{{- end -}}{{- end -}}
{{- $picked | toJson -}}
{{- end -}}
{{- end -}}

{{/* The text of the YAML that pods read. Takes the root. */}}
{{- define "aixgo.configText" -}}
{{- if .Values.config -}}{{- .Values.config -}}{{- else -}}{{- include "aixgo.config" . | fromJson | toYaml -}}{{- end -}}
{{- end -}}

{{/* Says which configuration a pod has, so that a new one rolls the pods. Takes the root. */}}
{{- define "aixgo.digest" -}}
{{- $parts := list "fleet.yaml" (include "aixgo.configText" .) -}}
{{- range $name, $text := .Values.modules -}}{{- $parts = concat $parts (list $name $text) -}}{{- end -}}
{{- join "\x00" $parts | sha256sum | trunc 16 -}}
{{- end -}}

{{/* "true" where there is a model server. Takes the root. */}}
{{- define "aixgo.hasModelServer" -}}
{{- if eq (toString .Values.modelServer) "auto" -}}
{{- range (include "aixgo.config" . | fromJson).agents -}}
{{- range (kindIs "slice" .model | ternary .model (list .model)) -}}
{{- if regexMatch "(^|:-)local/" (toString .) -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- else if eq (toString .Values.modelServer) "true" -}}true
{{- end -}}
{{- end -}}

{{/* "true" where a second replica would do harm: it would send everything twice, or could not open its folder. Takes an
     agent. */}}
{{- define "aixgo.alone" -}}
{{- $store := dig "config" "store" "memory" . | toString -}}
{{- $embedded := and (eq .role "retriever") (not (regexMatch "^(memory$|https?://|\\$)" $store)) -}}
{{- if or (eq .role "producer") $embedded -}}true{{- end -}}
{{- end -}}

{{/* "true" where the model of embeddings is in the agent's process. Takes an agent. */}}
{{- define "aixgo.embeds" -}}
{{- $method := and (eq .role "classifier") (eq (dig "config" "method" "" .) "embeddings") -}}
{{- $clusters := and (eq .role "aggregator") (eq (dig "config" "strategy" "" .) "clustering") -}}
{{- $here := dig "config" "embeddings" "local/minilm" . | hasPrefix "local/" -}}
{{- if and $here (or (eq .role "retriever") $method $clusters) -}}true{{- end -}}
{{- end -}}

{{/* "true" where every process but the model server has a metrics page. Takes the root. */}}
{{- define "aixgo.hasMetrics" -}}
{{- if dig "observability" "prometheus" "" (include "aixgo.config" . | fromJson) -}}true{{- end -}}
{{- end -}}

{{/* Every workload as JSON: {"workloads": [{name, component, args, port, image, replicas, agent, alone,
     embeds, metrics, env}]}. Takes the root. */}}
{{- define "aixgo.workloads" -}}
{{- $config := include "aixgo.config" . | fromJson -}}
{{- $deployed := dig "deployment" "agents" dict $config -}}
{{- $insecure := dict "AIXGO_ALLOW_INSECURE" "1" -}}
{{- $mesh := merge (dict "AIXGO_LISTEN" "0.0.0.0:50051" "AIXGO_CONTROL_PLANE" "control-plane:50050") $insecure -}}
{{- $own := merge (dict "AIXGO_LISTEN" "0.0.0.0:50050") $insecure -}}
{{- $all := list (dict "name" "control-plane" "component" "control-plane" "args" (list "controlplane") "port" 50050 "image" .Values.image "replicas" 1 "env" $own) -}}
{{- $model := dict -}}
{{- if include "aixgo.hasModelServer" . -}}
{{- $model = dict "AIXGO_LOCAL_MODEL_URL" "http://model-server:8080/v1" -}}
{{- $all = append $all (dict "name" "model-server" "component" "model-server" "args" (list "model" "serve" "--listen=0.0.0.0:8080") "port" 8080 "image" .Values.modelImage "replicas" 1 "env" $insecure) -}}
{{- end -}}
{{- $named := list -}}
{{- range $config.agents -}}{{- $named = append $named (dict "agent" .name "component" "agent" "alone" (include "aixgo.alone" . | eq "true") "embeds" (include "aixgo.embeds" . | eq "true")) -}}{{- end -}}
{{- with $config.orchestration -}}{{- $named = append $named (dict "agent" (default "main" .name) "component" "orchestration") -}}{{- end -}}
{{- range $config.orchestrations -}}{{- $named = append $named (dict "agent" (default "main" .name) "component" "orchestration") -}}{{- end -}}
{{- range $named -}}
{{- $placed := default dict (get $deployed .agent) -}}
{{- $args := list "serve" "/etc/aixgo/fleet.yaml" (printf "--agent=%s" .agent) -}}
{{- $workload := dict "name" (include "aixgo.dnsName" .agent) "args" $args "port" 50051 "env" (merge dict $mesh $model) -}}
{{- $_ := set $workload "image" (default $.Values.image $placed.image) -}}
{{- $_ := set $workload "replicas" (default 1 $placed.replicas) -}}
{{- $all = append $all (merge $workload .) -}}
{{- end -}}
{{- $mail := dig "mailbox" "url" "memory" $config | toString -}}
{{- $told := dict -}}
{{- if and (regexMatch "^(nats|tls)://" $mail) (not (contains "@" $mail)) (not (contains "${" $mail)) -}}
{{- $told = dict "AIXGO_MAILBOX" $mail -}}
{{- end -}}
{{- $all = append $all (dict "name" "gateway" "component" "gateway" "args" (list "gateway") "port" 50051 "image" .Values.image "replicas" .Values.gateway.replicas "env" (merge dict $mesh $told)) -}}
{{- if include "aixgo.hasMetrics" . -}}
{{- range $all -}}
{{- if ne .component "model-server" -}}
{{- $_ := set . "metrics" true -}}
{{- $_ := set . "env" (merge (dict "AIXGO_METRICS_ADDRESS" "0.0.0.0:9464") .env) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- dict "workloads" $all | toJson -}}
{{- end -}}

{{/* The TCP ports that agents must reach outside of the fleet, as JSON: {"ports": [...]}. Takes the root. */}}
{{- define "aixgo.outsidePorts" -}}
{{- $config := include "aixgo.config" . | fromJson -}}
{{- $ports := list "00443" -}}
{{- range $_, $address := dig "deployment" "connect" dict $config -}}
{{- $ports = append $ports (printf "%05d" (regexFind "[0-9]+$" $address | int)) -}}
{{- end -}}
{{- range $config.agents -}}
{{- range (kindIs "slice" .model | ternary .model (list .model)) -}}
{{- if hasPrefix "ollama/" (toString .) -}}{{- $ports = append $ports "11434" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $urls := list (dig "observability" "otlp" "" $config) -}}
{{- range $config.tools -}}{{- $urls = append $urls (dig "mcp" "url" "" .) -}}{{- end -}}
{{- range $config.agents -}}
{{- if eq .role "retriever" -}}{{- $urls = append $urls (dig "config" "store" "" . | toString) -}}{{- end -}}
{{- end -}}
{{- range $urls -}}
{{- if regexMatch "^https?://" . -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | int -}}
{{- $usual := eq $url.scheme "http" | ternary 80 443 -}}
{{- $ports = append $ports (printf "%05d" (default $usual $port)) -}}
{{- end -}}
{{- end -}}
{{- $sessions := dig "sessions" "store" "memory" $config | toString -}}
{{- if regexMatch "^postgres(ql)?://[^/]" $sessions -}}
{{- range regexReplaceAll "^[a-z]+://([^/@]*@)?([^/?]*).*" $sessions "${2}" | splitList "," -}}
{{- $ports = append $ports (printf "%05d" (regexFind ":[0-9]+$" . | trimPrefix ":" | int | default 5432)) -}}
{{- end -}}
{{- else if ne $sessions "memory" -}}
{{- $ports = append $ports "05432" -}}
{{- end -}}
{{- $ports = concat $ports (include "aixgo.mailPorts" . | fromJson).ports -}}
{{- dict "ports" (include "aixgo.portNumbers" $ports | fromJson).ports | toJson -}}
{{- end -}}

{{/* The TCP ports of the NATS servers that mailboxes are in, as JSON: {"ports": [five digits each]}; none where they are in
     memory. Takes the root. */}}
{{- define "aixgo.mailPorts" -}}
{{- $url := dig "mailbox" "url" "memory" (include "aixgo.config" . | fromJson) | toString -}}
{{- $ports := list -}}
{{- if regexMatch "^(nats|tls)://" $url -}}
{{- range splitList "," $url -}}
{{- $host := regexReplaceAll "^[a-z]+://([^/@]*@)?([^/?]*).*" (trim .) "${2}" -}}
{{- $ports = append $ports (printf "%05d" (regexFind ":[0-9]+$" $host | trimPrefix ":" | int | default 4222)) -}}
{{- end -}}
{{- else if ne $url "memory" -}}
{{- $ports = list "04222" -}}
{{- end -}}
{{- dict "ports" $ports | toJson -}}
{{- end -}}

{{/* Ports of five digits as sorted numbers, each once, as JSON: {"ports": [...]}. Takes the list. */}}
{{- define "aixgo.portNumbers" -}}
{{- $numbers := list -}}
{{- range . | uniq | sortAlpha -}}
{{- if ne . "00000" -}}{{- $numbers = append $numbers (trimPrefix "0" . | trimPrefix "0" | trimPrefix "0" | trimPrefix "0" | int) -}}{{- end -}}
{{- end -}}
{{- dict "ports" $numbers | toJson -}}
{{- end -}}
