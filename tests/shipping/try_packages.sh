#!/usr/bin/env bash
# usage: try_packages.sh DIST    installs, starts, reloads, breaks and removes the package in throwaway roots, each with a systemd
# of its own as PID 1 of private namespaces: Debian 12 (systemd 252) and Debian 13 (257, Type=notify-reload). Root only.
# The network stays the host's: the daemon talks to a stand-in for AWS and an etcd on loopback.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
cd "$here/../.."
dist=$(realpath "$1")
work=$PWD/.tools/roots
mkdir -p "$work"
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
mirror=${mirror:-$(sed -n 's/^deb *\([^ ]*\).*/\1/p' /etc/apt/sources.list | head -1)}
moto=$(tests/tools/moto.sh)
python=$(dirname "$moto")/python
cli=$PWD/.tools/drill/venv/bin

for suite in bookworm trixie; do
  if [[ ! -e $work/$suite.ready ]]; then
    rm -rf "${work:?}/$suite"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,ca-certificates,man-db "$suite" "$work/$suite" "$mirror" >"$work/$suite.log" ||
      { tail -5 "$work/$suite.log" >&2; exit 1; }
    touch "$work/$suite.ready"
  fi
done

deb=$(ls "$dist"/*.deb) rpm=$(ls "$dist"/*.rpm)
echo '== both packages hold the same files'
paths() { sed -e 's|^\./|/|' -e 's|zsh/vendor-completions|zsh/site-functions|' | grep -vE '/(doc|licenses)/|/$' | sort; }
diff <(dpkg-deb --fsys-tarfile "$deb" | tar --list | paths | sed 's/\.gz$//') <(rpm -qpl "$rpm" 2>/dev/null | paths | sed 's/\.gz$//')
rpm -qp --scripts "$rpm" 2>/dev/null | grep -q 'systemd-sysusers penstock.conf'

echo '== the .rpm'
"$here/try_rpm.sh" "$work/bookworm" "$rpm"

echo '== the newest C library symbol is one that RHEL 9 and Amazon Linux 2023 have (2.34)'
newest=$(objdump -T "$dist/penstock" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
echo "  $newest"
[[ $(printf '%s\n' "$newest" GLIBC_2.34 | sort -V | tail -1) == GLIBC_2.34 ]]

scratch=$(mktemp -d)
servers=()
cleanup() {
  kill "${servers[@]}" 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT
"$python" tests/demo/ca.py "$scratch"
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
env -u AWS_CA_BUNDLE "$python" "$moto" -H 127.0.0.1 -p "$port" -s -c "$scratch/server.pem" -k "$scratch/server.key" \
  >"$scratch/moto.log" 2>&1 </dev/null &
servers+=($!)
# As kubeadm's: who has no certificate of its CA learns nothing.
etcd --data-dir "$scratch/etcd" --listen-peer-urls http://127.0.0.1:23800 --listen-client-urls https://127.0.0.1:2379 \
  --advertise-client-urls https://127.0.0.1:2379 --client-cert-auth --trusted-ca-file "$scratch/ca.pem" \
  --cert-file "$scratch/server.pem" --key-file "$scratch/server.key" >"$scratch/etcd.log" 2>&1 </dev/null &
servers+=($!)
aws() {
  env AWS_CA_BUNDLE="$scratch/ca.pem" AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x AWS_DEFAULT_REGION=eu-west-1 \
    "$cli/python" "$cli/aws" --endpoint-url "https://127.0.0.1:$port" "$@"
}
for _ in $(seq 60); do if aws s3 ls >/dev/null 2>&1; then break; fi; sleep 0.5; done
aws s3api create-bucket --bucket acme-cluster-backups --create-bucket-configuration LocationConstraint=eu-west-1 >/dev/null
for suite in bookworm trixie; do
  echo "== $suite"
  : >"$scratch/output"
  code=0
  unshare --mount --pid --ipc --uts --cgroup --fork --kill-child \
    bash "$here/boot.sh" "$work/$suite" "$deb" "$scratch" "$port" "$here/in_root.sh" "$scratch/output" </dev/null || code=$?
  cat "$scratch/output"
  [[ $code == 0 ]] || { echo "try_packages: FAILED on $suite ($code)" >&2; exit 1; }
done
echo "2 passed, 0 failed"
