#!/usr/bin/env bash
# bsdtar of libarchive-tools 3.6.2-1+deb12u4, acl 2.3.1-3, GNU tar 1.34 (Debian 12).
# User and group IDs of Linux have 32 bits, and an ACL goes into an archive as text, in a SCHILY.acl.access record. From an archive of GNU tar
# bsdtar reads an ID from 2147483648 on as 2147483647; into its own archives it writes such an ID as 0, which is root's. So the access is
# given to another user, and the exit code is 0. GNU tar alone brings the ID back. (Such IDs are common where containers have user namespaces.)
# Output seen:
#   gnu to gnu: user:54321:r-- user:3000000000:rw-
#   gnu to bsd: user:54321:r-- user:2147483647:rw-
#   bsd to gnu: user:0:rw- user:54321:r--
#   bsd to bsd: user:0:rw- user:54321:r--
set -euo pipefail
dir=$(mktemp -d "$PWD/finding.XXXXXX"); trap 'rm -rf "$dir"' EXIT # not in /tmp: a tmpfs may have no ACLs
(cd "$dir"
 apt-get -qq download libarchive-tools=3.6.2-1+deb12u4 libarchive13=3.6.2-1+deb12u4 acl=2.3.1-3 2>/dev/null
 for package in *.deb; do dpkg-deb -x "$package" root; done)
export LD_LIBRARY_PATH=$dir/root/usr/lib/$(uname -m)-linux-gnu
gnu() { tar --acls "$@" 2>/dev/null; }
bsd() { "$dir/root/usr/bin/bsdtar" --acls "$@"; }
tar --version | grep -qF '(GNU tar) 1.34'
mkdir "$dir/in"
touch "$dir/in/f"
"$dir/root/bin/setfacl" --modify user:3000000000:rw,user:54321:r "$dir/in/f"
for writer in gnu bsd; do
  "$writer" -cf "$dir/$writer.tar" -C "$dir/in" f
  for reader in gnu bsd; do
    mkdir "$dir/$writer-$reader"
    "$reader" -xpf "$dir/$writer.tar" -C "$dir/$writer-$reader"
    echo "$writer to $reader: $("$dir/root/bin/getfacl" --numeric --absolute-names "$dir/$writer-$reader/f" | grep '^user:[0-9]' | sort -t: -k2n | paste -sd' ')"
  done
done | diff <(sed -n 's/^#   //p' "$0") -
echo seen
