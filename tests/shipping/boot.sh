#!/usr/bin/env bash
# usage: boot.sh ROOT DEB PKI PORT SCRIPT OUTPUT    PID 1 of namespaces of its own: becomes the systemd of a copy of ROOT in memory,
# with SCRIPT as its one service, and this machine's etcdctl. What SCRIPT prints goes to OUTPUT; the exit code says whether it succeeded.
set -euo pipefail
root=$1 deb=$2 pki=$3 port=$4 script=$5 output=$6
mount --make-rprivate /
memory=$(mktemp -d)
mount -t tmpfs -o size=2G tmpfs "$memory"
mkdir "$memory"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$root,upperdir=$memory/upper,workdir=$memory/work" "$memory/root"
new=$memory/root
mount -t proc proc "$new/proc"
mount --rbind /dev "$new/dev"
mount --rbind /sys "$new/sys"
umount -R "$new/sys/fs/cgroup" 2>/dev/null || true
mount -t cgroup2 cgroup2 "$new/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$new/run"
install -D -m 0644 "$deb" "$new/root/penstock.deb"
install -D -m 0600 -t "$new/root/pki" "$pki"/{ca.pem,server.pem,server.key}
install -m 0755 "$(command -v etcdctl)" "$new/usr/bin/etcdctl"
install -m 0755 "$script" "$new/root/script"
touch "$new/root/output"
mount --bind "$output" "$new/root/output"
cat >"$new/etc/systemd/system/check.service" <<U
[Unit]
After=dbus.service
[Service]
Type=oneshot
ExecStart=/bin/bash /root/script $port
StandardOutput=append:/root/output
StandardError=inherit
TimeoutStartSec=300
# systemd in a container ends with the code that it is given.
ExecStopPost=/bin/sh -c '[ "\$SERVICE_RESULT" = success ] && systemctl exit 0 || systemctl exit 1'
U
cat >"$new/etc/systemd/system/check.target" <<'U'
[Unit]
Requires=basic.target dbus.service
Wants=check.service systemd-journald.service
After=basic.target
U
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-modules-load.service systemd-sysctl.service systemd-binfmt.service \
  systemd-remount-fs.service systemd-random-seed.service systemd-machine-id-commit.service systemd-tmpfiles-setup-dev.service \
  systemd-tmpfiles-setup-dev-early.service systemd-pstore.service systemd-firstboot.service systemd-journal-flush.service systemd-logind.service proc-sys-fs-binfmt_misc.automount dev-hugepages.mount \
  dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount; do
  ln -sf /dev/null "$new/etc/systemd/system/$unit"
done
# As systemd has it outside of containers; credentials and sandboxes are mounts that must propagate.
mount --make-rshared "$new"
exec env -i container=penstock PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$new" /lib/systemd/systemd --system --unit=check.target --show-status=no --log-target=journal
