#!/usr/bin/env bash
# usage: in_root.sh PORT    run by the systemd of a throwaway root: the life of the package there.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_PAGER='' SYSTEMD_COLORS=0 DEBIAN_FRONTEND=noninteractive
port=$1
fail() { echo "  FAILED: $*"; systemctl status --no-pager --full penstock.service penstock.socket || true; journalctl --no-pager -n 40 -u penstock.service || true; exit 1; }
trap 'fail "line $LINENO"' ERR
say() { printf '  %s\n' "$*"; }
equals() { [[ $(systemctl show --value --property "$1" penstock.service) == "$2" ]]; }
is() { equals "$1" "$2" || fail "$1 is $(systemctl show --value --property "$1" penstock.service) and not $2"; }
eventually() { for _ in $(seq 60); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.5; done; fail "never: $*"; }
get() { exec 3<>/dev/tcp/127.0.0.1/9632; printf 'GET %s HTTP/1.0\r\n\r\n' "$1" >&3; timeout 10 cat <&3; exec 3>&-; }
refused() { get /metrics | grep -q '^penstock_config_last_reload_successful 0'; }
version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
say "systemd $version"

say 'installed: nothing runs, nothing failed, the user and the folders are there'
dpkg --install /root/penstock.deb >/root/dpkg.log 2>&1 || fail "$(cat /root/dpkg.log)"
getent passwd penstock >/dev/null
[[ $(stat --format '%U %a' /var/lib/penstock) == 'penstock 700' ]]
[[ $(systemctl is-enabled penstock.service) == enabled && $(systemctl is-enabled penstock.socket) == enabled ]]
systemctl start penstock.service
is ActiveState inactive
is ConditionResult no
complaints=$(systemd-analyze verify --man=yes penstock.service 2>&1 | grep -v 'notify-reload$' || true)
[[ -z $complaints ]] || fail "$complaints"
systemd-analyze security --threshold=20 penstock.service >/root/security.log || fail "$(tail -1 /root/security.log)"
say "$(tail -1 /root/security.log)"
man --where penstock >/dev/null
bash -c 'source /usr/share/bash-completion/completions/penstock && complete -p penstock' >/dev/null

say 'configured, with secrets as systemd credentials: started, ready, as its own user with one capability'
install -m 0644 /root/pki/ca.pem /etc/penstock/ca.pem
for secret in access-key-id secret-access-key external-id; do (umask 077 && printf 'secret-%s' "$secret" >"/etc/credstore/penstock.$secret"); done
mkdir -p /srv/data && echo kept >/srv/data/file && chmod 600 /srv/data/file
cat >/etc/penstock/penstock.toml <<T
cluster = "prod-hosts"
node = "node-1"
[locations.primary]
provider = "aws"
bucket = "acme-cluster-backups"
region = "eu-west-1"
s3_url = "https://127.0.0.1:$port"
sts_url = "https://127.0.0.1:$port"
ec2_url = "https://127.0.0.1:$port"
force_path_style = true
certificate = "/etc/penstock/ca.pem"
certificate_mode = "only"
[locations.primary.credentials]
source = "static"
access_key_id_file = "\${CREDENTIALS_DIRECTORY:-/etc/credstore}/penstock.access-key-id"
secret_access_key_file = "\${CREDENTIALS_DIRECTORY:-/etc/credstore}/penstock.secret-access-key"
[[locations.primary.assume_role]]
role_arn = "arn:aws:iam::222222222222:role/BackupWriter"
external_id_file = "\${CREDENTIALS_DIRECTORY:-/etc/credstore}/penstock.external-id"
[jobs.srv]
location = "primary"
[[jobs.srv.sources]]
type = "tree"
name = "srv"
path = "/srv"
T
timeout 60 systemctl start penstock.socket penstock.service || fail 'it did not start'
is ActiveState active
pid=$(systemctl show --value --property MainPID penstock.service)
[[ $(stat --format %U "/proc/$pid") == penstock ]]
[[ $(sed -n 's/^CapEff:\t//p' "/proc/$pid/status") == 0000000000000004 ]] || fail "capabilities: $(grep ^Cap "/proc/$pid/status")"
get /healthz | grep -q '200 OK'
get /readyz | grep -q '200 OK'
get /metrics | grep -q '^penstock_build_info'
say "status: $(systemctl show --value --property StatusText penstock.service)"

say 'a backup of files that only root may read, by the daemon, through the hardened unit'
penstock trigger srv --wait || fail 'trigger'
penstock list --job srv | grep -q srv
penstock restore srv@latest --to /root/restored >/dev/null
[[ $(cat /root/restored/data/file) == kept ]]

say 'etcd, with the drop-in of the examples: etcdctl in the hardened unit, with keys that only root may read'
pki=/etc/kubernetes/pki/etcd
install -D -m 0644 /root/pki/ca.pem $pki/ca.crt
install -m 0600 /root/pki/server.pem $pki/healthcheck-client.crt
install -m 0600 /root/pki/server.key $pki/healthcheck-client.key
install -D -m 0644 -t /etc/systemd/system/penstock.service.d /usr/share/doc/penstock/examples/etcd.conf
cat >>/etc/penstock/penstock.toml <<'T'
[jobs.etcd]
location = "primary"
before = [["etcdctl", "snapshot", "save", "/var/lib/penstock/etcd.db"]]
[[jobs.etcd.sources]]
type = "file"
name = "snapshot"
path = "/var/lib/penstock/etcd.db"
T
systemctl daemon-reload
timeout 60 systemctl restart penstock.service
penstock trigger etcd --wait || fail 'trigger'
penstock restore etcd@latest --to /root/etcd >/dev/null
ETCDCTL_API=3 etcdctl snapshot status /root/etcd/etcd.db >/dev/null
rm /etc/systemd/system/penstock.service.d/etcd.conf
systemctl daemon-reload
timeout 60 systemctl restart penstock.service
pid=$(systemctl show --value --property MainPID penstock.service)

say 'reload: a good file is in force when systemctl returns, a bad one is refused and the old one goes on'
printf '[jobs.etc]\nlocation = "primary"\n[[jobs.etc.sources]]\ntype = "tree"\nname = "etc"\npath = "/etc/penstock"\n' >>/etc/penstock/penstock.toml
systemctl reload penstock.service
penstock status | grep -q etc
cp /etc/penstock/penstock.toml /root/good.toml
echo 'clutser = "x"' >>/etc/penstock/penstock.toml
systemctl reload penstock.service || true
is ActiveState active
[[ $(systemctl show --value --property MainPID penstock.service) == "$pid" ]]
eventually refused
journalctl --no-pager --unit penstock.service | grep -q 'clutser: is not a known key'

say 'a wrong configuration at the start is not tried again; a crash is'
systemctl stop penstock.service
systemctl start penstock.service && fail 'it started with a wrong file'
eventually equals ExecMainStatus 78
sleep 6
is ActiveState failed
is NRestarts 0
# Somebody scrapes meanwhile: the socket would start it over and over, but for the limit.
get /healthz >/dev/null 2>&1 || true
eventually systemctl is-failed --quiet penstock.socket
cp /root/good.toml /etc/penstock/penstock.toml
systemctl reset-failed penstock.socket penstock.service
timeout 60 systemctl start penstock.socket penstock.service
systemctl kill --signal=KILL penstock.service
eventually equals NRestarts 1
eventually systemctl is-active --quiet penstock.service

say 'one that hangs is killed by the watchdog and started again'
mkdir -p /run/systemd/system/penstock.service.d
printf '[Service]\nWatchdogSec=3\nWatchdogSignal=SIGKILL\n' >/run/systemd/system/penstock.service.d/soon.conf
systemctl daemon-reload
timeout 60 systemctl restart penstock.service
pid=$(systemctl show --value --property MainPID penstock.service)
kill -STOP "$pid"
another() { [[ $(systemctl show --value --property MainPID penstock.service) != "$pid" ]] && systemctl is-active --quiet penstock.service; }
eventually another
journalctl --no-pager --unit penstock.service | grep -q 'Watchdog timeout'
rm -r /run/systemd/system/penstock.service.d
systemctl daemon-reload

say 'installed again: it is restarted; removed: stopped and gone; purged: its state too'
dpkg --install /root/penstock.deb >/root/dpkg.log 2>&1 || fail "$(cat /root/dpkg.log)"
eventually systemctl is-active --quiet penstock.service
dpkg --remove penstock >/root/dpkg.log 2>&1 || fail "$(cat /root/dpkg.log)"
[[ ! -e /usr/bin/penstock && ! -e /usr/lib/systemd/system/penstock.service ]]
if grep --quiet --line-regexp penstock /proc/[0-9]*/comm 2>/dev/null; then fail 'it still runs'; fi
[[ -d /var/lib/penstock ]]
dpkg --purge penstock >/root/dpkg.log 2>&1 || fail "$(cat /root/dpkg.log)"
[[ ! -e /var/lib/penstock && -e /etc/penstock/penstock.toml ]]
[[ ! -e /etc/systemd/system/penstock.service.d ]]
