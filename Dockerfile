# syntax=docker/dockerfile:1
# Penstock's image: the program, what it links to, the CA roots. No shell, no package manager.
#
#   docker build --tag penstock .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag registry.example.com/penstock --push .
#
# The compiler always runs on the builder's own architecture; for the other one it cross-compiles. No emulation is needed.
#
#   BUILD_IMAGE  Debian with Rust at the version of Cargo.toml's rust-version, or newer
#   RUN_AS       who runs it, in the group of the same number; 0 where it must read other users' files without a runAsUser
#   PROFILE      cargo's
#   REVISION     the commit, for the label
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm

# hadolint ignore=DL3006
FROM --platform=${BUILDPLATFORM} ${BUILD_IMAGE} AS toolchain
ARG TARGETARCH
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The triple's GNU form is Debian's cross compiler, its Rust form the target. cmake is for aws-lc where it cross-compiles.
# hadolint ignore=DL3008
RUN case "${TARGETARCH:=$(dpkg --print-architecture)}" in \
      amd64) gnu=x86_64-linux-gnu rust=x86_64-unknown-linux-gnu ;; \
      arm64) gnu=aarch64-linux-gnu rust=aarch64-unknown-linux-gnu ;; \
      *) echo "TARGETARCH is \"$TARGETARCH\"; expected amd64 or arm64" >&2; exit 1 ;; \
    esac; \
    if [ "$gnu" != "$(gcc -dumpmachine)" ]; then \
      apt-get update; \
      apt-get install --yes --no-install-recommends "gcc-${gnu//_/-}" "g++-${gnu//_/-}" cmake; \
      rm -rf /var/lib/apt/lists/*; \
      rustup target add "$rust"; \
    fi; \
    upper=$(tr 'a-z-' 'A-Z_' <<<"$rust"); \
    printf 'export RUST_TARGET=%s GNU=%s CC_%s=%s-gcc CXX_%s=%s-g++ CARGO_TARGET_%s_LINKER=%s-gcc\n' \
      "$rust" "$gnu" "${rust//-/_}" "$gnu" "${rust//-/_}" "$gnu" "$upper" "$gnu" >/toolchain.env

FROM toolchain AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG PROFILE=release
# The same source gives the same bytes, wherever the builder keeps it (docs/release.md).
ENV RUSTFLAGS="--remap-path-prefix=/src=/penstock --remap-path-prefix=/usr/local/cargo=/cargo" \
    CARGO_INCREMENTAL=0
WORKDIR /src
# The dependencies alone, over an empty crate: this layer is built again only when Cargo.toml or Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches; \
    echo 'fn main() {}' >src/main.rs; \
    touch src/lib.rs; \
    sed -n '/^\[\[bench\]\]/,/^$/s/^name = "\(.*\)"$/\1/p' Cargo.toml | while read -r bench; do echo 'fn main() {}' >"benches/$bench.rs"; done; \
    . /toolchain.env; \
    cargo build --locked --profile "$PROFILE" --target "$RUST_TARGET"
COPY src src
COPY config/penstock.example.toml config/
COPY config/rescue config/rescue
RUN . /toolchain.env; \
    touch src/lib.rs src/main.rs; \
    cargo build --locked --profile "$PROFILE" --target "$RUST_TARGET"; \
    profile=$PROFILE; [ "$PROFILE" != dev ] || profile=debug; \
    install -D "target/$RUST_TARGET/$profile/penstock" /out/usr/bin/penstock

# What the final image holds, gathered where there is a shell.
FROM build AS root
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG RUN_AS=65532
WORKDIR /out
RUN install -D -m 0644 /src/config/rescue/penstock-cat.py usr/share/penstock/penstock-cat.py
# The libraries that the program names, and theirs; the C library's name services, for DNS.
RUN . /toolchain.env; \
    loader=$("$GNU-readelf" --program-headers usr/bin/penstock | sed -n 's/.*interpreter: \(.*\)\]/\1/p'); \
    copy() { \
      found=$("$GNU-gcc" -print-file-name="$1"); \
      [ -f "$found" ] || found=/lib/$GNU/$1; \
      install -D "$(realpath "$found")" "$2"; \
    }; \
    missing() { \
      "$GNU-readelf" --dynamic usr/bin/penstock "lib/$GNU/"* | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u | \
        while read -r name; do [ -e "lib/$GNU/$name" ] || [ "$name" = "${loader##*/}" ] || echo "$name"; done; \
    }; \
    copy "${loader##*/}" "${loader#/}"; \
    for name in libnss_dns.so.2 libnss_files.so.2; do copy "$name" "lib/$GNU/$name"; done; \
    while names=$(missing); [ -n "$names" ]; do for name in $names; do copy "$name" "lib/$GNU/$name"; done; done; \
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ca-certificates.crt; \
    printf 'hosts: files dns\n' >etc/nsswitch.conf; \
    printf 'root:x:0:0:root:/:/sbin/nologin\npenstock:x:%s:%s:Penstock:/var/lib/penstock:/sbin/nologin\n' "$RUN_AS" "$RUN_AS" >etc/passwd; \
    printf 'root:x:0:\npenstock:x:%s:\n' "$RUN_AS" >etc/group; \
    install -d -m 0755 etc/penstock; \
    install -d -m 0700 -o "$RUN_AS" -g "$RUN_AS" var/lib/penstock; \
    install -d -m 0755 -o "$RUN_AS" -g "$RUN_AS" run/penstock; \
    install -d -m 1777 tmp

FROM scratch
ARG RUN_AS=65532
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="The backup data path for Kubernetes clusters on AWS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=root /out /
ENV PATH=/usr/bin
USER ${RUN_AS}:${RUN_AS}
EXPOSE 9632/tcp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/penstock"]
CMD ["run"]
