{{- define "penstock.base" -}}
{{- if contains "penstock" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-penstock{{ end }}
{{- end }}

{{- define "penstock.suffix" -}}
{{- if .Values.etcd.enabled }}-etcd{{ end }}
{{- end }}

{{- define "penstock.name" -}}
{{ include "penstock.base" . }}{{ include "penstock.suffix" . }}
{{- end }}

{{- define "penstock.priorityClass" -}}
{{ .Values.priorityClass.name | default (include "penstock.name" .) }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/component: {{ ternary "etcd" "node" .Values.etcd.enabled }}
app.kubernetes.io/name: penstock
{{- end }}

{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The configuration file. */}}
{{- define "penstock.config" -}}
{{- if .Values.config }}{{ .Values.config }}
{{- else if .Values.claims.enabled }}{{ .Files.Get "files/penstock-claims.toml" | replace "hooks = false" (printf "hooks = %t" .Values.claims.hooks) }}
{{- else }}{{ .Files.Get (ternary "files/penstock-etcd.toml" "files/penstock.toml" .Values.etcd.enabled) }}
{{- end }}
{{- end }}

{{/* The agent that saves the cluster's API objects. */}}
{{- define "penstock.clusterName" -}}
{{ include "penstock.base" . }}-cluster
{{- end }}

{{- define "penstock.clusterSelector" -}}
app.kubernetes.io/component: cluster
app.kubernetes.io/name: penstock
{{- end }}

{{- define "penstock.clusterConfig" -}}
{{- .Values.clusterAgent.config | default (.Files.Get "files/penstock-cluster.toml") }}
{{- end }}

{{/* Its variables. An empty value is left out: the file has the default. */}}
{{- define "penstock.settings" -}}
{{- $static := eq .Values.credentials.kind "static" }}
{{- $secret := "/etc/penstock-credentials" }}
{{- $schedule := ternary "PENSTOCK_ETCD_SCHEDULE" "PENSTOCK_VOLUMES_SCHEDULE" .Values.etcd.enabled }}
{{- $settings := dict
  "PENSTOCK_CLUSTER" .Values.cluster
  "PENSTOCK_BUCKET" .Values.location.bucket
  "PENSTOCK_REGION" .Values.location.region
  "PENSTOCK_ROLE_ARN" .Values.location.roleArn
  "PENSTOCK_EXTERNAL_ID" .Values.location.externalId
  "PENSTOCK_PREFIX" .Values.location.prefix
  "PENSTOCK_S3_URL" .Values.location.s3Url
  "PENSTOCK_STS_URL" .Values.location.stsUrl
  "PENSTOCK_EC2_URL" .Values.location.ec2Url
  "PENSTOCK_ENCRYPTION" .Values.location.encryption.mode
  "PENSTOCK_KMS_KEY_ID" .Values.location.encryption.kmsKeyId
  "PENSTOCK_MEMORY" (ternary "" .Values.memory (eq .Values.memory "256MiB"))
  $schedule .Values.schedule
  "PENSTOCK_CLUSTER_SCHEDULE" (ternary .Values.clusterAgent.schedule "" .Values.clusterAgent.enabled)
  "PENSTOCK_CREDENTIALS" (ternary "static" "" $static)
  "PENSTOCK_ACCESS_KEY_ID_FILE" (ternary (printf "%s/access-key-id" $secret) "" $static)
  "PENSTOCK_SECRET_ACCESS_KEY_FILE" (ternary (printf "%s/secret-access-key" $secret) "" $static)
  "PENSTOCK_EXTERNAL_ID_FILE" (ternary (printf "%s/external-id" $secret) "" (and $static .Values.credentials.externalIdInSecret))
  "PENSTOCK_CERTIFICATE" (ternary "/etc/penstock-ca/ca.pem" "" (eq (include "penstock.hasCa" .) "true"))
  "PENSTOCK_RECIPIENTS_FILE" (ternary "/etc/penstock-recipients/recipients.txt" "" (eq (include "penstock.hasRecipients" .) "true"))
  "PENSTOCK_CERTIFICATE_MODE" (ternary "" .Values.certificate.mode (eq .Values.certificate.mode "add"))
}}
{{- range $name, $value := $settings }}
{{- if $value }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "penstock.hasCa" -}}
{{- or (ne .Values.certificate.bundle "") (ne .Values.certificate.configMap "") }}
{{- end }}

{{- define "penstock.caName" -}}
{{ .Values.certificate.configMap | default (printf "%s-ca%s" (include "penstock.base" .) (include "penstock.suffix" .)) }}
{{- end }}

{{- define "penstock.hasRecipients" -}}
{{- or (gt (len .Values.clientEncryption.recipients) 0) (ne .Values.clientEncryption.configMap "") }}
{{- end }}

{{- define "penstock.recipientsName" -}}
{{ .Values.clientEncryption.configMap | default (printf "%s-public-keys%s" (include "penstock.base" .) (include "penstock.suffix" .)) }}
{{- end }}

{{/* MiB of "512Mi", "1Gi", "256MiB", "1GiB". */}}
{{- define "penstock.mib" -}}
{{- $number := regexFind "^[0-9]+" . | int64 }}
{{- if contains "G" . }}{{ mul $number 1024 }}{{ else }}{{ $number }}{{ end }}
{{- end }}

{{/* What a schema cannot say: values that do not go together. */}}
{{- define "penstock.check" -}}
{{- $limit := include "penstock.mib" .Values.resources.limits.memory | int64 }}
{{- $budget := include "penstock.mib" .Values.memory | int64 }}
{{- if lt $limit (add $budget 128) }}
{{- fail (printf "resources.limits.memory is %s; expected memory (%s) and at least 128Mi besides" .Values.resources.limits.memory .Values.memory) }}
{{- end }}
{{- range $index, $path := .Values.hostPaths }}
{{- if has (trimSuffix "/" $path) (list "/etc" "/lib" "/run" "/tmp" "/usr" "/usr/bin" "/var" "/var/lib" "/var/lib/penstock") }}
{{- fail (printf "hostPaths[%d] is %s, where the agent has files of its own; expected folders below, or save it with the host's package" $index $path) }}
{{- end }}
{{- end }}
{{- if and .Values.clusterAgent.enabled .Values.etcd.enabled }}
{{- fail "clusterAgent.enabled stands beside etcd.enabled; expected in the release that saves pod volumes, of which a cluster has one" }}
{{- end }}
{{- if and .Values.claims.enabled .Values.etcd.enabled }}
{{- fail "claims.enabled stands beside etcd.enabled; expected in the release that saves pod volumes, of which a cluster has one" }}
{{- end }}
{{- if and .Values.claims.hooks (not .Values.claims.enabled) }}
{{- fail "claims.hooks applies only with claims.enabled" }}
{{- end }}
{{- if and .Values.certificate.bundle .Values.certificate.configMap }}
{{- fail "certificate.configMap stands beside certificate.bundle; expected one of the two" }}
{{- end }}
{{- if and .Values.clientEncryption.recipients .Values.clientEncryption.configMap }}
{{- fail "clientEncryption.configMap stands beside clientEncryption.recipients; expected one of the two" }}
{{- end }}
{{- if and .Values.credentials.externalIdInSecret .Values.location.externalId }}
{{- fail "location.externalId stands beside credentials.externalIdInSecret; expected one of the two" }}
{{- end }}
{{- if and .Values.credentials.externalIdInSecret (ne .Values.credentials.kind "static") }}
{{- fail "credentials.externalIdInSecret applies only with credentials.kind \"static\"" }}
{{- end }}
{{- if and .Values.location.encryption.kmsKeyId (not (has .Values.location.encryption.mode (list "sse-kms" "dsse-kms"))) }}
{{- fail "location.encryption.kmsKeyId applies only with location.encryption.mode \"sse-kms\" or \"dsse-kms\"" }}
{{- end }}
{{- end }}
