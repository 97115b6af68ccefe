#!/usr/bin/env bash
# kube-apiserver 1.20.2 (Debian 12's source package kubernetes 1.20.5+really1.20.2-1.1+deb12u1), etcd 3.4.23-4+b4.
# A POST of an object whose name is taken is answered 409 AlreadyExists, and is charged to the namespace's ResourceQuota all the same: quotas
# are checked, and used up, before the name is. With 3 ConfigMaps under a quota of 5, sending the same three once more uses it up, and a
# new one is refused although three exist. So whatever restores or applies by POST and takes AlreadyExists for "done" locks itself out.
# Output seen:
#   create a b c: 201 201 201
#   again a b c: 409 409 403
#   new d: 403
#   there: 3
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
export CM=0
code() { api "$@" | python3 -c 'import json,sys; answer=json.load(sys.stdin); print(answer["code"] if answer["kind"]=="Status" else 201)'; }
map() { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"%s"}}' "$1"; }
api POST /api/v1/namespaces '{"metadata":{"name":"q"}}' >/dev/null
api POST /api/v1/namespaces/q/resourcequotas '{"metadata":{"name":"q"},"spec":{"hard":{"configmaps":"5"}}}' >/dev/null
# What the quota controller writes first: hard and used.
api PUT /api/v1/namespaces/q/resourcequotas/q/status '{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"q"},"status":{"hard":{"configmaps":"5"},"used":{"configmaps":"0"}}}' >/dev/null
run() { printf '%s:' "$1"; shift; for name; do printf ' %s' "$(code POST /api/v1/namespaces/q/configmaps "$(map "$name")")"; done; echo; }
seen=$(
  run "create a b c" a b c
  run "again a b c" a b c
  run "new d" d
  echo "there: $(api GET /api/v1/namespaces/q/configmaps | python3 -c 'import json,sys; print(len(json.load(sys.stdin)["items"]))')"
)
diff <(sed -n 's/^#   //p' "$0") <(echo "$seen")
echo seen
