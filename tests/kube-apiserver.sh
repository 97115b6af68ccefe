#!/bin/bash
# A real Kubernetes API server (v1.20.2) for `make kubernetes`, from Debian packages only.
#
#   kube-apiserver.sh build DIR        # -> DIR/bin/kube-apiserver; does nothing where it is there
#   ALL=1 kube-apiserver.sh build DIR  # also kube-controller-manager, kube-scheduler, kubelet
#   kube-apiserver.sh start DIR        # etcd + apiserver; DIR/admin.kubeconfig when it is ready
#   kube-apiserver.sh token DIR NS SA  # prints a service-account token (makes NS and SA if absent)
#   kube-apiserver.sh stop DIR         # ends what start began, by pid; WIPE=1 also drops the data
#
# Why v1.20.2: Debian 12's source package `kubernetes` is the newest in Debian that is whole
# (server code and vendor/). Debian 13 (1.32.3+ds) and sid (1.36.4+ds) hold kubectl only.
# Cost with no build cache, Go 1.19 and etcd installed: kube-apiserver alone 2 min 14 s on two nearly
# free cores (3 m 45 s of CPU; 11.5 min at nice 12 beside a load of 16), 44 MB downloaded, 0.9 GB in
# DIR/build while building, 59 MB left in DIR/bin. ALL=1: 2.5 min of CPU more, 1.3 GB, 203 MB.
# start: 4-6 s, 300 MB RSS.
# Runs on Debian 12 as root (apt-get).
#   KEEP=1        keep source and build cache (a later ALL=1 then takes less)
#   API_PORT=16443 ETCD_PORT=23799 (and ETCD_PORT+1)   loopback ports
#   CM=0          do not start kube-controller-manager even where it was built
#   APISERVER_ARGS=...   more flags for the apiserver
# Without kube-controller-manager nothing makes `default` service accounts, binds claims, collects
# garbage, ends a Terminating namespace, or fills the ClusterRoles admin, edit and view (they grant
# nothing: write your own); the ServiceAccount admission plugin is then off, so that Pods can be made.
set -euo pipefail
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cmd=${1:-}; [ -n "${2:-}" ] || usage
mkdir -p "$2"; D=$(cd "$2" && pwd)
API_PORT=${API_PORT:-16443}; ETCD_PORT=${ETCD_PORT:-23799}; PEER=$((ETCD_PORT + 1))
SRCVER=1.20.5+really1.20.2-1.1+deb12u1     # Debian's version of upstream v1.20.2
SUDO=; [ "$(id -u)" = 0 ] || SUDO=sudo
say() { echo "[kube-apiserver.sh +${SECONDS}s] $*" >&2; }

need() {  # need PKG...: install what is missing
  local miss=() p
  for p; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || miss+=("$p"); done
  [ ${#miss[@]} = 0 ] && return
  say "apt-get install ${miss[*]}"
  $SUDO apt-get -qq update
  $SUDO env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${miss[@]}" >/dev/null
}

build() {
  local want=(kube-apiserver) todo=() b
  [ "${ALL:-0}" = 1 ] && want+=(kube-controller-manager kube-scheduler kubelet)
  for b in "${want[@]}"; do [ -x "$D/bin/$b" ] || todo+=("$b"); done
  [ ${#todo[@]} = 0 ] && { say "already built: ${want[*]}"; return; }
  need dpkg-dev golang-1.19-go golang-github-modern-go-reflect2-dev etcd-server openssl curl ca-certificates
  local gp=$D/build/go k=$D/build/go/src/k8s.io/kubernetes a=$D/build/apt
  if [ ! -d "$k" ]; then
    # own apt lists: the system's sources stay as they are
    mkdir -p "$a"/{lists/partial,cache/archives/partial} "$gp/src/k8s.io"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main" >"$a/sources.list"
    local o=(-o "Dir::Etc::sourcelist=$a/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$a/lists" -o "Dir::Cache=$a/cache" -o APT::Sandbox::User=root)
    apt-get -qq "${o[@]}" update
    (cd "$a" && apt-get -qq "${o[@]}" source --download-only "kubernetes=$SRCVER")   # 34 MB; apt checks signature and hash
    rm -rf "$k.part"; mkdir "$k.part"
    tar xzf "$a"/kubernetes_*.orig.tar.gz -C "$k.part" --strip-components=1
    # the vendored reflect2 crashes under Go >= 1.18 ("fatal error: fault"): take Debian's newer one
    rm "$k.part"/vendor/github.com/modern-go/reflect2/*.{go,s}
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} "$k.part/vendor/github.com/modern-go/reflect2/"
    mv "$k.part" "$k"; rm -rf "$a"
    say "source unpacked"
  fi
  cd "$k"
  export GOPATH=$gp GOCACHE=$D/build/cache GO111MODULE=off GOFLAGS= GOPROXY=off CGO_ENABLED=0 PATH=/usr/lib/go-1.19/bin:$PATH
  if [ ! -s pkg/generated/openapi/zz_generated.openapi.go ]; then
    # the one generated file that the tarball lacks (upstream's make would remake all of them)
    go build -o "$D/build/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
    local dirs
    dirs=$(grep -rlE --include='*.go' '^// *\+k8s:openapi-gen=' pkg cmd staging/src/k8s.io |
      grep -vE '/(code-generator|sample-apiserver)/|_test\.go$' | xargs -n1 dirname | sort -u |
      sed 's,^staging/src/,vendor/,; s,^,k8s.io/kubernetes/,' | paste -sd,)
    "$D/build/openapi-gen" -h hack/boilerplate/boilerplate.generatego.txt -r "$D/build/openapi-violations" \
      -i "$dirs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi
    say "openapi generated"
  fi
  local x='' v
  for v in gitVersion=v1.20.2 gitMajor=1 gitMinor=20 gitTreeState=archive; do
    x+=" -X k8s.io/kubernetes/vendor/k8s.io/component-base/version.$v -X k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version.$v"
  done
  mkdir -p "$D/bin"
  for b in "${todo[@]}"; do
    # providerless/dockerless: upstream's own tags; without the cloud SDKs and dockershim it builds faster
    go build -tags providerless,dockerless -ldflags "-s -w$x" -o "$D/bin/$b.part" "./cmd/$b"
    mv "$D/bin/$b.part" "$D/bin/$b"; say "built $b ($(du -h "$D/bin/$b" | cut -f1))"
  done
  cd "$D"; say "build folder was $(du -sh "$D/build" | cut -f1)"
  [ "${KEEP:-0}" = 1 ] || rm -rf "$D/build"
}

certs() {  # a CA, the server's certificate, an admin (system:masters), the service-account key
  [ -s "$D/run/admin.crt" ] && return
  mkdir -p "$D/run"; chmod 700 "$D/run"; cd "$D/run"
  local n
  for n in ca server admin sa; do openssl ecparam -name prime256v1 -genkey -noout -out $n.key; done
  openssl req -x509 -new -key ca.key -days 3650 -subj /CN=test-ca -out ca.crt
  sign() { openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile <(printf '%s\n' "$3") -out "$1.crt" 2>/dev/null; }
  sign server /CN=kube-apiserver $'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:127.0.0.1,IP:10.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc'
  sign admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
  (umask 077; cat >"$D/admin.kubeconfig" <<K
apiVersion: v1
kind: Config
current-context: admin
clusters: [{name: test, cluster: {server: "https://127.0.0.1:$API_PORT", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: admin, user: {client-certificate-data: $(base64 -w0 admin.crt), client-key-data: $(base64 -w0 admin.key)}}]
contexts: [{name: admin, context: {cluster: test, user: admin}}]
K
  )
}

api() { curl -sS --noproxy '*' --cacert "$D/run/ca.crt" --cert "$D/run/admin.crt" --key "$D/run/admin.key" "https://127.0.0.1:$API_PORT$1" "${@:2}"; }
alive() {  # alive NAME: the pid of the one that `start` began (its command line names DIR)
  local p; p=$(cat "$D/run/$1.pid" 2>/dev/null) && { tr "\0" " " <"/proc/$p/cmdline"; } 2>/dev/null | grep -qF "$D" && echo "$p"
}
spawn() {  # spawn NAME COMMAND...
  alive "$1" >/dev/null && return
  setsid "${@:2}" >"$D/run/$1.log" 2>&1 </dev/null & echo $! >"$D/run/$1.pid"
}

start() {
  [ -x "$D/bin/kube-apiserver" ] || { say "run build first"; exit 1; }
  certs; cd "$D/run"
  spawn etcd etcd --name test --data-dir "$D/run/etcd" --listen-client-urls "http://127.0.0.1:$ETCD_PORT" --advertise-client-urls "http://127.0.0.1:$ETCD_PORT" \
    --listen-peer-urls "http://127.0.0.1:$PEER" --initial-advertise-peer-urls "http://127.0.0.1:$PEER" --initial-cluster "test=http://127.0.0.1:$PEER" \
    --quota-backend-bytes $((4 << 30))
  local cm=0; [ "${CM:-1}" = 1 ] && [ -x "$D/bin/kube-controller-manager" ] && cm=1
  local off=(); [ $cm = 1 ] || off=(--disable-admission-plugins=ServiceAccount)
  spawn apiserver "$D/bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$ETCD_PORT" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --secure-port="$API_PORT" \
    --endpoint-reconciler-type=none --authorization-mode=Node,RBAC --anonymous-auth=false --allow-privileged --service-cluster-ip-range=10.0.0.0/24 \
    --tls-cert-file="$D/run/server.crt" --tls-private-key-file="$D/run/server.key" --client-ca-file="$D/run/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc --api-audiences=https://kubernetes.default.svc \
    --service-account-signing-key-file="$D/run/sa.key" --service-account-key-file="$D/run/sa.key" \
    --kubelet-client-certificate="$D/run/admin.crt" --kubelet-client-key="$D/run/admin.key" --kubelet-preferred-address-types=InternalIP \
    ${off[@]+"${off[@]}"} ${APISERVER_ARGS:-}
  local i
  for i in $(seq 240); do
    [ "$(api /readyz 2>/dev/null || true)" = ok ] && break
    alive apiserver >/dev/null && alive etcd >/dev/null || { tail -n 5 etcd.log apiserver.log >&2; say "did not start"; exit 1; }
    [ "$i" = 240 ] && { tail -n 5 apiserver.log >&2; say "not ready in 60 s"; exit 1; }
    sleep 0.25
  done
  [ $cm = 0 ] || spawn controller-manager "$D/bin/kube-controller-manager" --kubeconfig="$D/admin.kubeconfig" --authentication-kubeconfig="$D/admin.kubeconfig" \
    --authorization-kubeconfig="$D/admin.kubeconfig" --service-account-private-key-file="$D/run/sa.key" --root-ca-file="$D/run/ca.crt" \
    --use-service-account-credentials --port=0 --secure-port=0 --leader-elect=false
  say "ready: KUBECONFIG=$D/admin.kubeconfig"
}

stop() {
  local n p i
  for n in controller-manager apiserver etcd; do
    p=$(alive $n) || { rm -f "$D/run/$n.pid"; continue; }
    kill "$p"; for i in $(seq 60); do kill -0 "$p" 2>/dev/null || break; sleep 0.25; done
    kill -9 "$p" 2>/dev/null || true; rm -f "$D/run/$n.pid"
  done
  [ "${WIPE:-0}" = 1 ] && rm -rf "$D/run" "$D/admin.kubeconfig"
  say stopped
}

token() {
  local ns=$1 sa=$2 j='Content-Type: application/json'
  api /api/v1/namespaces -o /dev/null -H "$j" -d '{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"'"$ns"'"}}'
  api "/api/v1/namespaces/$ns/serviceaccounts" -o /dev/null -H "$j" -d '{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"'"$sa"'"}}'
  api "/api/v1/namespaces/$ns/serviceaccounts/$sa/token" -H "$j" -d '{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":36000}}' |
    sed -n 's/^ *"token": "\([^"]*\)".*/\1/p' | grep .
}

case $cmd in
  build | start | stop) $cmd ;;
  token) [ -n "${4:-}" ] || usage; token "$3" "$4" ;;
  *) usage ;;
esac
