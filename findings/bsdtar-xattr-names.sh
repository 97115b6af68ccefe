#!/usr/bin/env bash
# bsdtar of libarchive-tools 3.6.2-1+deb12u4, GNU tar 1.34 (Debian 12).
# Both write the name of an extended attribute into the keyword of a SCHILY.xattr record with '%' as %25 and '=' as %3D. GNU tar decodes it,
# bsdtar does not: it restores user.k=v from an archive of GNU tar as user.k%3Dv, and says nothing. Its own archives hold the attribute a second
# time, as LIBARCHIVE.xattr, where it does decode: restored by bsdtar, such a file has both attributes.
# Output seen:
#   gnu to gnu: user.k=v
#   gnu to bsd: user.k%3Dv
#   bsd to gnu: user.k=v
#   bsd to bsd: user.k%3Dv user.k=v
set -euo pipefail
dir=$(mktemp -d "$PWD/finding.XXXXXX"); trap 'rm -rf "$dir"' EXIT # not in /tmp: a tmpfs may have no user attributes
(cd "$dir"
 apt-get -qq download libarchive-tools=3.6.2-1+deb12u4 libarchive13=3.6.2-1+deb12u4 2>/dev/null
 for package in *.deb; do dpkg-deb -x "$package" root; done)
export LD_LIBRARY_PATH=$dir/root/usr/lib/$(uname -m)-linux-gnu
gnu() { tar --xattrs "$@" 2>/dev/null; }
bsd() { "$dir/root/usr/bin/bsdtar" "$@"; }
tar --version | grep -qF '(GNU tar) 1.34'
mkdir "$dir/in"
python3 -c 'import os, sys; open(sys.argv[1], "w").close(); os.setxattr(sys.argv[1], "user.k=v", b"two")' "$dir/in/f"
for writer in gnu bsd; do
  "$writer" -cf "$dir/$writer.tar" -C "$dir/in" f
  for reader in gnu bsd; do
    mkdir "$dir/$writer-$reader"
    "$reader" -xf "$dir/$writer.tar" -C "$dir/$writer-$reader"
    echo "$writer to $reader: $(python3 -c 'import os, sys; print(*sorted(os.listxattr(sys.argv[1])))' "$dir/$writer-$reader/f")"
  done
done | diff <(sed -n 's/^#   //p' "$0") -
echo seen
