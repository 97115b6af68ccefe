#!/usr/bin/env bash
# kube-apiserver 1.20.2 (Debian 12's source package kubernetes 1.20.5+really1.20.2-1.1+deb12u1), etcd 3.4.23-4+b4.
# metadata.managedFields that a POST carries are lost: the creator becomes the manager of every field, with the operation Update, whatever the
# list says. The same list is taken as it is, to the byte, by a merge patch of nothing else, which does not even name its own manager.
# Output seen:
#   after POST: ['curl Update']
#   after PATCH: ['helm Update', 'kubectl Apply']
set -euo pipefail
dir=$(mktemp -d)
# Builds the server from Debian's source (4 minutes of CPU, root); KUBE_BIN=FOLDER uses one that is built.
server=$(cd "$(dirname "$0")/../tests" && pwd)/kube-apiserver.sh
export API_PORT=${API_PORT:-17443} ETCD_PORT=${ETCD_PORT:-24799}
trap 'WIPE=1 "$server" stop "$dir" 2>/dev/null; rm -rf "$dir"' EXIT
if [ -n "${KUBE_BIN:-}" ]; then ln -s "$KUBE_BIN" "$dir/bin"; else "$server" build "$dir" >/dev/null 2>&1; fi
CM=${CM:-0} "$server" start "$dir" >/dev/null 2>&1
api() { # api METHOD PATH [BODY [CONTENT-TYPE]]
  curl -s --cacert "$dir/run/ca.crt" --cert "$dir/run/admin.crt" --key "$dir/run/admin.key" -X "$1" -H "Content-Type: ${4:-application/json}" \
    ${3:+-d "$3"} "https://127.0.0.1:$API_PORT$2"
}
fields='[{"manager":"kubectl","operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}},{"manager":"helm","operation":"Update","apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:b":{}}}}]'
say() { printf '%s: ' "$1"; python3 -c 'import json,sys; print(sorted(f["manager"].split("/")[0]+" "+f["operation"] for f in json.load(sys.stdin)["metadata"]["managedFields"]))'; }
maps=/api/v1/namespaces/default/configmaps
seen=$(
  api POST $maps "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"m\",\"managedFields\":$fields},\"data\":{\"a\":\"1\",\"b\":\"2\"}}" | say "after POST"
  api PATCH $maps/m "{\"metadata\":{\"managedFields\":$fields}}" application/merge-patch+json | say "after PATCH"
)
diff <(sed -n 's/^#   //p' "$0") <(echo "$seen")
echo seen
