#!/bin/bash
# A real kubelet (v1.20.2) and its containers, beside the API server of kube-apiserver.sh, for `make kubernetes`.
#
#   kubelet.sh start DIR                        # containerd, kubelet and scheduler; the node `node-a` is Ready
#   kubelet.sh image DIR NAME FILE=PATH... -- ARGV...   # an image of these files, without a registry
#   kubelet.sh program DIR NAME PROGRAM         # an image of a program and the libraries that it links to
#   kubelet.sh stop DIR                         # ends what start began, containers included, and unmounts their volumes
#
# DIR has bin/kubelet and bin/kube-scheduler (ALL=1 kube-apiserver.sh build DIR), and a running API server with its controller manager.
# Containers are Debian's containerd and runc (CRI v1alpha2). Pods need `hostNetwork: true` (there is no network plugin) and
# `imagePullPolicy: Never`. Images: docker.io/penstock/pause:1, made here; docker.io/penstock/box:1, of busybox-static.
# Runs on Debian 12 as root, with cgroup v1 or v2 mounted. Apt packages: containerd runc conntrack iptables busybox-static gcc.
# The node's address is one of the documentation's (RFC 5737) on the loopback interface: a kubelet refuses 127.0.0.0/8.
set -euo pipefail
usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cmd=${1:-}; [ -n "${2:-}" ] || usage
mkdir -p "$2/node"; D=$(cd "$2" && pwd); N=$D/node; shift 2
ADDRESS=${NODE_ADDRESS:-198.51.100.7} PORT=${KUBELET_PORT:-17250}
say() { echo "[kubelet.sh +${SECONDS}s] $*" >&2; }
ctr() { command ctr --address "$N/containerd.sock" --namespace k8s.io "$@"; }

need() {  # need PKG...: install what is missing
  local miss=() p
  for p; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || miss+=("$p"); done
  [ ${#miss[@]} = 0 ] && return
  say "apt-get install ${miss[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "${miss[@]}" >/dev/null
}

alive() {  # alive NAME: the pid of the one that `start` began (its command line names DIR)
  local p; p=$(cat "$N/$1.pid" 2>/dev/null) && { tr "\0" " " <"/proc/$p/cmdline"; } 2>/dev/null | grep -qF "$D" && echo "$p"
}
spawn() {  # spawn NAME COMMAND...
  alive "$1" >/dev/null && return
  setsid "${@:2}" >"$N/$1.log" 2>&1 </dev/null & echo $! >"$N/$1.pid"
}
wait_for() {  # wait_for SECONDS WHAT COMMAND...
  local i
  for i in $(seq $(($1 * 4))); do "${@:3}" >/dev/null 2>&1 && return; sleep 0.25; done
  tail -n 5 "$N"/*.log >&2; say "$2 is not ready after $1 s"; exit 1
}

image() {
  local name=$1; shift
  python3 - "$name" "$N/image.tar" "$@" <<'PY'
import hashlib, io, json, os, platform, sys, tarfile
name, out, *rest = sys.argv[1:]
split = rest.index("--")
files, argv = rest[:split], rest[split + 1:]
blobs = {}
def blob(data, kind):
    digest = hashlib.sha256(data).hexdigest()
    blobs[digest] = data
    return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}
def add(tar, path, data, mode=0o755):
    info = tarfile.TarInfo(path)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    folders = {"tmp"} | {os.path.dirname(file.split("=")[0]).lstrip("/") for file in files}
    for folder in sorted(folders | {"/".join(f.split("/")[:n]) for f in folders for n in range(1, f.count("/") + 1)}):
        if folder:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
    for file in files:
        path, source = file.split("=", 1)
        if source.startswith("->"):
            info = tarfile.TarInfo(path.lstrip("/"))
            info.type, info.linkname = tarfile.SYMTYPE, source[2:]
            tar.addfile(info)
        else:
            add(tar, path.lstrip("/"), open(source, "rb").read())
layer = blob(layer.getvalue(), "layer.v1.tar")
config = {"architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()], "os": "linux",
          "config": {"Entrypoint": argv, "Env": ["PATH=/usr/bin:/bin"]}, "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
config = blob(json.dumps(config).encode(), "config.v1+json")
manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode(), "manifest.v1+json")
manifest["annotations"] = {"io.containerd.image.name": name}
with tarfile.open(out, "w") as tar:
    add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
    for digest, data in blobs.items():
        add(tar, "blobs/sha256/" + digest, data)
PY
  ctr images import "$N/image.tar" >/dev/null; rm "$N/image.tar"
  say "image $name"
}

program() {
  local name=$1 path=$2 lib args=("usr/bin/$(basename "$2")=$2")
  while read -r lib; do args+=("$lib=$(realpath "$lib")"); done < <(ldd "$path" | sed -n 's/^[^/]*\(\/[^ ]*\) (0x.*/\1/p' | sort -u)
  for lib in /lib/*-linux-gnu/libnss_{dns,files}.so.2; do args+=("$lib=$(realpath "$lib")"); done
  args+=(etc/ssl/certs/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt)
  image "$name" "${args[@]}" -- "/usr/bin/$(basename "$path")"
}

start() {
  [ -x "$D/bin/kubelet" ] && [ -s "$D/admin.kubeconfig" ] || { say "ALL=1 kube-apiserver.sh build, and start, come first"; exit 1; }
  need containerd runc conntrack iptables busybox-static gcc libc6-dev
  mkdir -p "$N"/{cni,kubelet,containerd}
  # A file is enough for a network to count as ready; no pod here has one of its own.
  echo '{"cniVersion":"0.3.1","name":"none","plugins":[{"type":"loopback"}]}' >"$N/cni/10-none.conflist"
  cat >"$N/containerd.toml" <<T
version = 2
root = "$N/containerd/root"
state = "$N/containerd/state"
[grpc]
address = "$N/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/penstock/pause:1"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "$N/cni"
bin_dir = "$N/cni"
T
  cat >"$N/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
port: $PORT
readOnlyPort: 0
healthzPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: $D/run/ca.crt}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
hairpinMode: none
volumePluginDir: $N/plugins
# The machine is shared: nothing is evicted for what others do.
evictionHard: {memory.available: 50Mi, nodefs.available: 0%, imagefs.available: 0%, nodefs.inodesFree: 0%}
imageGCHighThresholdPercent: 100
syncFrequency: 2s
Y
  ip address add "$ADDRESS/32" dev lo 2>/dev/null || true
  spawn containerd containerd --config "$N/containerd.toml"
  wait_for 30 containerd ctr version
  if ! ctr images ls -q | grep -q penstock/pause; then
    gcc -x c -static -Os -s -o "$N/pause" - <<'C'
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
static void end(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
C
    image docker.io/penstock/pause:1 "pause=$N/pause" -- /pause
    local tools=("bin/busybox=$(command -v busybox)") t
    for t in $(busybox --list); do [ "$t" = busybox ] || tools+=("bin/$t=->busybox"); done
    image docker.io/penstock/box:1 "${tools[@]}" -- /bin/sh
  fi
  spawn scheduler "$D/bin/kube-scheduler" --kubeconfig="$D/admin.kubeconfig" --authentication-kubeconfig="$D/admin.kubeconfig" \
    --authorization-kubeconfig="$D/admin.kubeconfig" --port=0 --secure-port=0 --leader-elect=false
  spawn kubelet "$D/bin/kubelet" --config="$N/kubelet.yaml" --kubeconfig="$D/admin.kubeconfig" --root-dir="$N/kubelet" --cert-dir="$N/pki" \
    --hostname-override=node-a --node-ip="$ADDRESS" --container-runtime=remote --container-runtime-endpoint="unix://$N/containerd.sock" \
    --runtime-cgroups=/ --kubelet-cgroups=/
  wait_for 60 node-a kubectl --kubeconfig "$D/admin.kubeconfig" wait --for=condition=Ready node/node-a --timeout=1s
  say "node-a is ready: its kubelet's folder is $N/kubelet"
}

stop() {
  local n p i t
  for n in kubelet scheduler; do
    p=$(alive $n) || { rm -f "$N/$n.pid"; continue; }
    kill "$p"; for i in $(seq 60); do kill -0 "$p" 2>/dev/null || break; sleep 0.25; done; rm -f "$N/$n.pid"
  done
  if alive containerd >/dev/null; then
    for t in $(ctr tasks ls -q); do ctr tasks kill --signal SIGKILL "$t" 2>/dev/null || true; done
    for i in $(seq 40); do ctr tasks ls | grep -q RUNNING || break; sleep 0.25; done
    for t in $(ctr containers ls -q); do ctr tasks delete --force "$t" >/dev/null 2>&1 || true; ctr containers delete "$t" 2>/dev/null || true; done
    p=$(alive containerd); kill "$p"; for i in $(seq 60); do kill -0 "$p" 2>/dev/null || break; sleep 0.25; done; rm -f "$N/containerd.pid"
  fi
  # The innermost first.
  awk -v root="$N/" 'index($2, root) == 1 { print length($2), $2 }' /proc/self/mounts | sort -rn | cut -d' ' -f2 | while read -r p; do umount "$p" || umount -l "$p"; done
  ip address del "$ADDRESS/32" dev lo 2>/dev/null || true
  if grep -qF " $N/" /proc/self/mounts; then say "still mounted below $N: not removed"; exit 1; fi
  rm -rf "$N"
  say stopped
}

case $cmd in
  start | stop) $cmd ;;
  image | program) [ -n "${2:-}" ] || usage; $cmd "$@" ;;
  *) usage ;;
esac
