//! The checksums S3 verifies, over one part of 16 MiB, and the combination of two parts' values.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::checksum::Algorithm;

const PART: usize = 16 << 20;

fn compute(c: &mut Criterion) {
    let part: Vec<u8> = (0..PART).map(|i| u8::try_from(i * 31 % 251).expect("below 251")).collect();
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(PART as u64)).sample_size(20);
    for (name, algorithm) in
        [("crc64nvme", Algorithm::Crc64nvme), ("crc32c", Algorithm::Crc32c), ("sha256", Algorithm::Sha256)]
    {
        group.bench_function(name, |b| b.iter(|| algorithm.compute(black_box(&part))));
    }
    group.finish();
}

fn combine(c: &mut Criterion) {
    let checksum = Algorithm::Crc64nvme.compute(b"a part").expect("crc64nvme computes");
    c.bench_function("checksum/combine", |b| b.iter(|| black_box(checksum).combine(black_box(checksum), PART as u64)));
}

criterion_group!(benches, compute, combine);
criterion_main!(benches);
