#!/usr/bin/env bash
# Executes the shell blocks of the documentation, each page in a world of its own: the machine's root file system under an overlay
# in memory, in private namespaces, with a stand-in for AWS (moto, HTTPS, a CA made on the spot), a real etcd, and a cluster's
# backups in a bucket. What a page does stays in there. Root only.
#
# usage: PENSTOCK=binary run_docs.sh [PAGE…]
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in age etcd etcdctl zstd unshare; do
  command -v "$program" >/dev/null || { echo "run_docs: there is no $program; make package installs it" >&2; exit 1; }
done
[[ -x .tools/drill/venv/bin/aws ]] || { echo 'run_docs: .tools/drill is missing; make package makes it' >&2; exit 1; }
PENSTOCK=$(realpath "$PENSTOCK")
python=$PWD/.tools/shipping/venv/bin/python
MOTO=$(tests/tools/moto.sh)
pages=("$@")
[[ ${#pages[@]} -gt 0 ]] || mapfile -t pages < <("$python" tests/shipping/run_docs.py pages)
for page in "${pages[@]}"; do
  echo "== $page"
  MOTO=$MOTO PENSTOCK=$PENSTOCK unshare --mount --pid --fork --kill-child bash -euc '
    memory=$(mktemp -d)
    mount -t tmpfs -o size=4G tmpfs "$memory"
    mkdir "$memory"/{upper,work,root,own,own-work}
    mount -t overlay overlay -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" "$memory/root"
    mount -t proc proc "$memory/root/proc"
    mount --rbind /dev "$memory/root/dev"
    mount --rbind /sys "$memory/root/sys"
    mount -t tmpfs tmpfs "$memory/root/tmp"
    # This folder, which may be below /tmp or on a file system of its own.
    mkdir -p "$memory/root$1"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$memory/own,workdir=$memory/own-work" "$memory/root$1"
    mkdir -p "$memory/root/usr/local/bin"
    cp "$PENSTOCK" "$memory/root/usr/bin/penstock"
    exec chroot "$memory/root" env --ignore-environment PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root \
      MOTO="$MOTO" PENSTOCK=/usr/bin/penstock "$0" "$1/tests/shipping/run_docs.py" run "$2"
  ' "$python" "$PWD" "$page"
done
echo "${#pages[@]} passed, 0 failed"
