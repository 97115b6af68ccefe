#!/usr/bin/env bash
# usage: package.sh          make package: the image, the binary out of it, a .deb, an .rpm and an SBOM into dist/, each of them tried
#        package.sh again    make reproducible: all of it once more, from nothing, compared with what is in dist/
# Root; Debian 12.
#
# One compilation: the Dockerfile's. Everything else wraps that binary. On a machine that reaches no image registry the base
# image is made here, from Debian's packages and this machine's own Rust (BUILD_IMAGE=… takes another one).
set -euo pipefail
cd "$(dirname "$0")/../.."
needed=(buildah podman runc debootstrap rpm etcd-server etcd-client zstd age man-db systemd)
missing=()
for package in "${needed[@]}"; do dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package"); done
if ((${#missing[@]})); then
  echo "== apt-get install ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
export PATH=$PWD/.tools/packagers/bin:$PATH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
python=$PWD/.tools/shipping/venv/bin/python

make_all() { # ARGUMENTS…: of the image's build
  rm -rf dist
  mkdir -p dist/man dist/completions
  echo '== image'
  tests/shipping/image.sh build dist "$@"
  echo '== man pages and completions'
  dist/penstock man dist/man
  dist/penstock completions bash >dist/completions/penstock.bash
  dist/penstock completions zsh >dist/completions/_penstock
  dist/penstock completions fish >dist/completions/penstock.fish
  echo '== .deb, .rpm, SBOM'
  # cargo-generate-rpm takes over the times of files that are older than the commit: those of a checkout, which differ.
  find dist systemd config/penstock.example.toml LICENSE README.md CHANGELOG.md -type f -exec touch --date "@$SOURCE_DATE_EPOCH" {} +
  cargo deb --quiet --locked --no-build --no-strip --output dist/
  cargo generate-rpm --output dist/
  cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename penstock.cdx
  "$python" tests/shipping/sbom.py penstock.cdx.json dist/penstock.cdx.json
  rm penstock.cdx.json
  (cd dist && sha256sum penstock ./*.deb ./*.rpm ./*.json ./*.tar >SHA256SUMS)
}

try_all() {
  echo '== manifests, chart, units, documentation'
  (cd tests/shipping && PENSTOCK=../../dist/penstock "$python" -m unittest --quiet)
  tests/shipping/image.sh try dist
  tests/shipping/image.sh cross dist
  tests/shipping/try_packages.sh dist
  PENSTOCK=dist/penstock tests/shipping/run_docs.sh
  ls -l dist
}

again() {
  local first=.tools/first
  rm -rf "$first"
  mv dist "$first"
  make_all --no-cache
  # An image says when it was made; its files are the same.
  "$python" tests/shipping/same_image.py "$first/penstock-image.tar" dist/penstock-image.tar
  diff --recursive --brief --exclude=penstock-image.tar --exclude=SHA256SUMS "$first" dist
  echo "reproducible: the same $(find dist -type f ! -name SHA256SUMS ! -name '*.tar' | wc -l) files, and an image of the same files"
  rm -rf "$first"
}

case ${1:-} in
  '')
    make_all
    try_all
    ;;
  again) again ;;
  *) sed -n 's/^# usage: //p' "$0" >&2; exit 2 ;;
esac
