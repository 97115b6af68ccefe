#!/usr/bin/env bash
# usage: try_rpm.sh ROOT RPM    installs, installs again and removes the .rpm in a copy of ROOT in memory, with this machine's rpm;
# its scripts run inside. No systemd runs there (try_packages.sh starts the same files from the .deb), and ROOT is Debian's, so
# what the package requires is not looked up (--nodeps): a Fedora or RHEL root cannot be had from Debian's mirror. Root only.
set -euo pipefail
[[ ${3:-} == inside ]] || exec unshare --mount --pid --fork --kill-child "$0" "$1" "$2" inside
fail() { echo "try_rpm: $*" >&2; exit 1; }
mount --make-rprivate /
memory=$(mktemp -d)
trap 'umount -R "$memory" && rmdir "$memory"' EXIT
mount -t tmpfs -o size=1G tmpfs "$memory"
mkdir "$memory"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$1,upperdir=$memory/upper,workdir=$memory/work" "$memory/root"
root=$memory/root
mount -t proc proc "$root/proc"
cp "$2" "$memory/penstock.rpm"
in_root() { chroot "$root" /usr/bin/env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
# Warnings are of the scripts too: rpm goes on when one of them fails.
package() { rpm --root "$root" --nodeps "$@" >"$memory/rpm.log" 2>&1 && ! grep -qi 'scriptlet failed\|error' "$memory/rpm.log" || fail "$*: $(cat "$memory/rpm.log")"; }

rpm --root "$root" --initdb
for _ in first again; do package --install --replacepkgs "$memory/penstock.rpm"; done
# Sizes, digests, modes and owners of all files.
package --verify penstock
[[ $(in_root penstock --version) == "penstock "* ]] || fail 'it does not say its version'
in_root getent passwd penstock >/dev/null || fail 'there is no user'
[[ $(in_root stat --format '%U %a' /var/lib/penstock) == 'penstock 700' ]] || fail 'the folder for the state'
for unit in penstock.service penstock.socket; do [[ -e $root/usr/lib/systemd/system/$unit ]] || fail "there is no $unit"; done
in_root man --where penstock >/dev/null || fail 'there is no man page'
files=$(rpm --root "$root" --query --list penstock)
echo "  $(wc -l <<<"$files") files, all as packed; the user and its folder are there"
package --erase penstock
while read -r file; do [[ -d $root$file || ! -e $root$file ]] || fail "$file is left"; done <<<"$files"
[[ ! -e $root/etc/systemd/system/penstock.service.d ]] || fail 'the drop-in is left'
[[ -d $root/var/lib/penstock ]] || fail 'the state is gone'
echo '  removed: no file is left, the state is'
