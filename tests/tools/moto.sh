#!/usr/bin/env bash
# Installs moto (a stand-in for AWS: S3, EC2, STS, IAM, KMS) into .tools/ once, and prints the path of its server.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=5.2.5
venv=$PWD/.tools/moto-$version
mkdir -p .tools
exec 9>.tools/moto.lock
flock 9
if [[ ! -e $venv/.complete ]]; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "moto[server,s3,ec2,sts,iam,kms]==$version" >&2
  touch "$venv/.complete"
fi
echo "$venv/bin/moto_server"
