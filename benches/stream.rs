//! The stages of a stream alone, one thread: cutting, naming (SHA-256) and framing (zstd) of chunks.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::format::codec::{self, Codec, Compression};
use penstock::stream::cut::{self, More};

/// Bytes without a pattern, the same in every run (xorshift64*).
fn noise(length: usize) -> Vec<u8> {
    let mut seed: u64 = 42;
    let words = std::iter::repeat_with(|| {
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        seed.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    });
    words.take(length.div_ceil(8)).flatten().take(length).collect()
}

/// Text-like bytes, which compress about as well as a log: words out of a short list.
fn text(length: usize) -> Vec<u8> {
    let words = ["GET ", "/healthz ", "200 ", "POST ", "/api/v1/pods ", "503 ", "node-17 ", "2026-11-24T21:04:13Z\n"];
    noise(length).iter().flat_map(|byte| words[usize::from(byte % 8)].bytes()).take(length).collect()
}

fn cut(c: &mut Criterion) {
    let data = noise(64 << 20);
    let mut group = c.benchmark_group("cut");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(20);
    group.bench_function("random", |b| {
        b.iter(|| {
            let (mut at, mut chunks) = (0, 0);
            while let Some(length) = cut::first_chunk(black_box(&data[at..]), More::No) {
                at += length;
                chunks += 1;
            }
            chunks
        });
    });
    group.finish();
}

fn frames(c: &mut Criterion) {
    const CHUNK: usize = 1 << 20;
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Bytes(CHUNK as u64)).sample_size(20);
    for (name, plain) in [("random", noise(CHUNK)), ("text", text(CHUNK))] {
        group.bench_function(format!("sha256/{name}"), |b| b.iter(|| codec::digest(black_box(&plain))));
        group.throughput(Throughput::Bytes(2 * CHUNK as u64));
        group.bench_function(format!("sha256 of two/{name}"), |b| {
            b.iter(|| codec::digests([&plain[..], &plain[..]].into_iter().map(black_box)));
        });
        group.throughput(Throughput::Bytes(CHUNK as u64));
        for level in [1, 3] {
            let codec = Codec { compression: Compression::Zstd { level } };
            let id = format!("zstd-{level}/{name}");
            group.bench_function(id, |b| {
                b.iter(|| codec.encode(Cow::Borrowed(black_box(&plain[..]))).expect("it compresses"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, cut, frames);
criterion_main!(benches);
