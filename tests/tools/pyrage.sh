#!/usr/bin/env bash
# Installs pyrage (another implementation of age) into .tools/ once, and prints the path of the Python that has it.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=1.4.0
venv=$PWD/.tools/pyrage-$version
mkdir -p .tools
exec 9>.tools/pyrage.lock
flock 9
if [[ ! -e $venv/.complete ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "pyrage==$version" >&2
  touch "$venv/.complete"
fi
echo "$venv/bin/python"
