#!/usr/bin/env bash
# kube-apiserver 1.20.2 (Debian 12's source package kubernetes 1.20.5+really1.20.2-1.1+deb12u1), etcd 3.4.23-4+b4.
# An object that a ReplicaSet or a Job made carries its name and the generateName that it was made from. A POST of it where the name is taken
# is no 409 AlreadyExists, as it is without generateName, but a 500 with the reason ServerTimeout: the server takes the collision for one of
# its own random names. Whoever retries 5xx repeats a request that can never succeed.
# Output seen:
#   name: 409 AlreadyExists
#   name and generateName: 500 ServerTimeout
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
post() { api POST /api/v1/namespaces/default/configmaps "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":$1}"; }
post '{"name":"web-x7k2p","generateName":"web-"}' >/dev/null
say() { printf '%s: ' "$1"; post "$2" | python3 -c 'import json,sys; a=json.load(sys.stdin); print(a["code"], a["reason"])'; }
seen=$(say name '{"name":"web-x7k2p"}'; say "name and generateName" '{"name":"web-x7k2p","generateName":"web-"}')
diff <(sed -n 's/^#   //p' "$0") <(echo "$seen")
echo seen
