#!/usr/bin/env bash
# zeroizing-alloc 0.1.1, zstd 0.14.4 (zstd-safe 8.3.0), Rust 1.95.0, Linux on x86_64 with 4 KiB pages, glibc 2.36.
#
# zstd's `bulk::compress` allocates the longest possible frame (compress_bound, a bit more than the input) and returns a Vec of the frame's length
# with that capacity. A small frame leaves nearly all of it untouched, so it costs no memory. With zeroizing-alloc as the global allocator,
# freeing that Vec zeroes its whole capacity: pages that nobody had used become resident at the moment at which they are freed. A frame of 1 MiB
# of zeros touches 257 pages more; into one buffer that is used again it touches none. The same holds for every `Vec::with_capacity` that is
# filled in part.
#
# Output seen, in page faults a frame:
#   system allocator, bulk::compress: 1
#   zeroizing-alloc, bulk::compress: 258
#   zeroizing-alloc, one buffer that is kept: 0
set -euo pipefail

self=$(realpath "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "untouched"
version = "0.0.0"
edition = "2021"
[features]
zeroing = []
[dependencies]
zeroizing-alloc = "=0.1.1"
zstd = { version = "=0.14.4", default-features = false }
zstd-safe = { version = "=8.3.0", default-features = false }
TOML
cat > src/main.rs <<'RUST'
#[cfg(feature = "zeroing")]
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn faults() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(7).unwrap().parse().unwrap()
}

fn main() {
    let keep = std::env::args().nth(1).as_deref() == Some("keep");
    let plain = vec![0_u8; 1 << 20];
    let mut kept: Vec<u8> = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    let mut compressor = zstd::bulk::Compressor::new(1).unwrap();
    compressor.compress_to_buffer(&plain, &mut kept).unwrap();
    let before = faults();
    for _ in 0..200 {
        if keep {
            kept.clear();
            compressor.compress_to_buffer(&plain, &mut kept).unwrap();
        } else {
            drop(compressor.compress(&plain).unwrap());
        }
    }
    println!("{}", (faults() - before) / 200);
}
RUST
cargo build --quiet --release --target-dir plain
cargo build --quiet --release --features zeroing --target-dir zeroing
# Memory goes back to the system each time, as that of large and of concurrent allocations does.
export GLIBC_TUNABLES=glibc.malloc.mmap_threshold=131072
{
  echo "system allocator, bulk::compress: $(plain/release/untouched)"
  echo "zeroizing-alloc, bulk::compress: $(zeroing/release/untouched)"
  echo "zeroizing-alloc, one buffer that is kept: $(zeroing/release/untouched keep)"
} | diff <(sed -n 's/^#   //p' "$self") -
echo seen
