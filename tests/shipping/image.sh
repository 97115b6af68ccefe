#!/usr/bin/env bash
# usage: image.sh build DIST [ARGUMENT…]    builds the Dockerfile with buildah (and its arguments); DIST/penstock-image.tar, and the
#                                           program out of it, DIST/penstock
#        image.sh try DIST                  looks into the image and runs it
#        image.sh cross DIST                builds the Dockerfile for the other architecture, a C program standing in for Penstock
# BUILD_IMAGE names a base with Rust; without it, one is made of debootstrap's packages and this machine's toolchain.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."
command=$1
dist=$(realpath "$2")
shift 2
mkdir -p .tools/image
# As /proc/mounts has it, also where .tools is a link.
work=$(realpath .tools/image)
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver overlay)
mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -1)
mirror=${mirror:-$(sed -n 's/^deb *\([^ ]*\).*/\1/p' /etc/apt/sources.list | head -1)}
tag=localhost/penstock:test

# podman leaves its storage mounted, and a build that was interrupted its containers: nobody could remove the folder.
unmount() { awk -v under="$work/" 'index($2, under) == 1 { print $2 }' /proc/mounts | sort --reverse | xargs --no-run-if-empty umount; }
trap unmount EXIT

# Debian 12 with a C compiler. Rust and the crates come from this machine: a container may not reach, or not trust, what this
# machine's cargo does.
base() {
  if ! podman "${storage[@]}" image exists localhost/penstock-base:3; then
    rm -rf "$work/root"
    debootstrap --variant=minbase --include=gcc,g++,libc6-dev,ca-certificates bookworm "$work/root" "$mirror" >"$work/debootstrap.log"
    tar -C "$work/root" -c . | podman "${storage[@]}" import --quiet \
      --change ENV=PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin --change ENV=CARGO_HOME=/usr/local/cargo \
      --change ENV=CARGO_NET_OFFLINE=true \
      - localhost/penstock-base:3 >/dev/null
    rm -rf "$work/root"
  fi
  echo localhost/penstock-base:3
}

build() { # ARGUMENTS…: more of them for buildah
  buildah "${storage[@]}" rm --all >/dev/null
  local arguments=("$@" --isolation chroot --format docker --layers --network host --build-arg "REVISION=$(git rev-parse HEAD)")
  if [[ -n ${BUILD_IMAGE:-} ]]; then
    arguments+=(--build-arg "BUILD_IMAGE=$BUILD_IMAGE")
  else
    cargo fetch --locked --quiet
    local made
    made=$(base)
    arguments+=(--build-arg "BUILD_IMAGE=$made" --volume "$(rustc --print sysroot):/usr/local/rust:ro")
    arguments+=(--volume "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry")
  fi
  [[ -z ${PROFILE:-} ]] || arguments+=(--build-arg "PROFILE=$PROFILE")
  buildah "${storage[@]}" bud "${arguments[@]}" --tag "$tag" . >"$work/build.log" 2>&1 || { tail -40 "$work/build.log" >&2; exit 1; }
  rm -f "$dist/penstock-image.tar"
  podman "${storage[@]}" save --quiet --output "$dist/penstock-image.tar" "$tag"
  local container
  container=$(podman "${storage[@]}" create "$tag")
  podman "${storage[@]}" cp "$container:/usr/bin/penstock" "$dist/penstock"
  podman "${storage[@]}" rm "$container" >/dev/null
}

fail() { echo "image: $*" >&2; exit 1; }
inside() { # ARGUMENTS…: of the program, in the image, as Kubernetes would: nothing writable, nothing allowed
  podman "${storage[@]}" --runtime /usr/sbin/runc --cgroup-manager=cgroupfs run --rm --network=host --read-only --cap-drop=ALL \
    --ulimit nofile=20000:20000 --ulimit nproc=20000:20000 "${options[@]}" "$tag" "$@"
}

try() {
  local options=() files container inspected code=0
  container=$(podman "${storage[@]}" create "$tag")
  files=$(podman "${storage[@]}" export "$container" | tar --list)
  podman "${storage[@]}" rm "$container" >/dev/null
  for name in etc/ssl/certs/ca-certificates.crt etc/passwd usr/bin/penstock; do
    grep -qx "$name" <<<"$files" || fail "there is no /$name"
  done
  if grep -E '(^|/)(sh|bash|dash|busybox|apt|dpkg|ldd)$' <<<"$files"; then fail 'it holds a shell or a package manager'; fi
  [[ $(grep -c '/penstock$' <<<"$files") == 1 ]] || fail 'it holds another program'
  inspected=$(podman "${storage[@]}" inspect --format '{{.Config.User}} {{index .Config.Labels "org.opencontainers.image.revision"}}' "$tag")
  [[ $inspected == "65532:65532 $(git rev-parse HEAD)" ]] || fail "user and revision are $inspected"
  [[ $(inside --version) == "penstock "* ]] || fail 'it does not say its version'
  inside config example | grep '^cluster = ' >/dev/null || fail 'it does not print the example'
  # DNS and the CA roots are there: what fails is the name, not the lookup of it, nor the trust.
  cat >"$work/penstock.toml" <<'T'
cluster = "x"
node = "x"
[locations.x]
provider = "aws"
bucket = "some-bucket"
region = "eu-west-1"
s3_url = "https://localhost:9"
force_path_style = true
[locations.x.credentials]
source = "static"
access_key_id = "x"
secret_access_key = "x"
T
  options=(--volume "$work/penstock.toml:/etc/penstock/penstock.toml:ro")
  inside list >"$work/list.log" 2>&1 || code=$?
  [[ $code == 75 ]] || fail "list ended with $code: $(cat "$work/list.log")"
  grep -qi 'refused' "$work/list.log" || fail "localhost was not resolved: $(cat "$work/list.log")"
  options=(--user 0:0)
  inside --version >/dev/null || fail 'it does not run as root'
  echo "image: $(wc -l <<<"$files") files, $(stat --format %s "$dist/penstock-image.tar") bytes; runs without a writable file or a capability"
}

# Rust's standard library for the other architecture is downloaded by rustup, which not every machine may. All else of the cross
# build is the real one: arguments, compiler, linker, the libraries that are gathered.
cross() {
  local own other machine made files container
  own=$(dpkg --print-architecture)
  case $own in
    amd64) other=arm64 machine=AArch64 ;;
    *) other=amd64 machine='Advanced Micro Devices X86-64' ;;
  esac
  made=$(base)
  buildah "${storage[@]}" bud --isolation chroot --format docker --layers --network host --platform "linux/$other" \
    --build-arg "BUILDPLATFORM=linux/$own" --build-arg "BUILD_IMAGE=$made" --volume "$PWD/tests/shipping/stand-in:/usr/local/rust:ro" \
    --tag "localhost/penstock:$other" . >"$work/cross.log" 2>&1 || { tail -40 "$work/cross.log" >&2; exit 1; }
  container=$(podman "${storage[@]}" create --arch "$other" "localhost/penstock:$other")
  files=$(mktemp -d)
  podman "${storage[@]}" export "$container" | tar --extract --directory "$files"
  podman "${storage[@]}" rm "$container" >/dev/null
  local program=$files/usr/bin/penstock loader file count=0
  loader=$(readelf --program-headers "$program" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
  [[ -f $files$loader ]] || fail "$other: there is no $loader"
  while read -r file; do
    readelf --file-header "$file" | grep -q "Machine: *$machine" || fail "$other: ${file#"$files"} is of another machine"
    count=$((count + 1))
  done < <(find "$files/usr" "$files"/lib* -type f)
  [[ $count -ge 5 ]] || fail "$other: it holds $count programs and libraries"
  rm -rf "$files"
  echo "image: linux/$other holds $count programs and libraries, each of that machine"
}

"$command" "$@"
