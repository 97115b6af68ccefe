#!/usr/bin/env bash
# tar 7.5.2 (npm) on Node.js 20, GNU tar 1.34 (Debian 12).
# GNU tar writes a sparse file into a POSIX archive (its sparse format 1.0) as a member with a made-up name, whose data is a map of the holes
# and then the bytes between them; GNU.sparse.* records hold the real name and size. The npm reader knows none of these records. It extracts
# the map with the condensed bytes under the made-up name, and neither fails nor warns, not even with `strict: true`.
# Output seen (the 1 MiB hole and three bytes, as Python's tarfile and npm's tar read them; PID stands for a number):
#   tarfile: f 1048579
#   npm: GNUSparseFile.PID/f 515
set -euo pipefail
script=$(realpath "$0") dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm install --silent --no-save --prefix . tar@7.5.2 >/dev/null
tar --version | grep -qF '(GNU tar) 1.34'
mkdir in out
truncate -s 1M in/f
printf end >>in/f
tar --sparse --format=posix -C in -cf sparse.tar f
{
  python3 -c 'import tarfile
for member in tarfile.open("sparse.tar"): print("tarfile:", member.name, member.size)'
  node -e 'require("tar").x({ file: "sparse.tar", cwd: "out", strict: true })'
  find out -type f -printf 'npm: %P %s\n' | sed 's/File\.[0-9]*/File.PID/'
} | diff <(sed -n 's/^#   //p' "$script") -
echo seen
