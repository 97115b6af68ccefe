//! Writing and reading the index of a stream of 10,000 chunks (10 GiB of data) and 10,000 files.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::format::codec::Encoding;
use penstock::format::index::{self, Chunk, ChunkId, FileEntry, FileKind, FileTime, Totals, Writer};
use penstock::format::key::ObjectKey;
use penstock::format::manifest::{DataObject, IndexObject, NotEntered, Stream};

const CHUNKS: u32 = 10_000;
const CHUNK: u32 = 1 << 20;

fn write() -> (Vec<u8>, Totals) {
    let mut writer = Writer::new(Vec::new()).expect("a vector takes everything");
    for number in 0..CHUNKS {
        let start = u64::from(number) * u64::from(CHUNK);
        let time = FileTime { seconds: 1_700_000_000 + i64::from(number), nanoseconds: 123_456_789 };
        let file = FileEntry {
            path: format!("pods/0f3c/volumes/data/segment-{number:08}.log").into_bytes(),
            kind: FileKind::Regular,
            size: 1 << 19,
            mode: 0o640,
            uid: 999,
            gid: 999,
            mtime: time,
            ctime: time,
            inode: u64::from(number),
            device: 2049,
            link: Vec::new(),
            member_start: start,
            content_start: start + 512,
            content_len: 1 << 19,
        };
        writer.file(file).expect("a vector takes everything");
        let mut id = [0; 32];
        // Digests do not compress; neither may these.
        let mut state = u64::from(number) + 1;
        for byte in &mut id {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = state.to_be_bytes()[0];
        }
        let chunk = Chunk {
            id: ChunkId(id),
            plain_len: CHUNK,
            encoding: Encoding::Raw,
            object: 0,
            offset: start,
            stored_len: CHUNK,
        };
        writer.chunk(&chunk).expect("a vector takes everything");
    }
    writer.finish().expect("a vector takes everything")
}

fn stream(totals: &Totals) -> Stream {
    let object = DataObject {
        key: ObjectKey::new("object"),
        size: totals.plain_bytes,
        crc64nvme: [0; 8],
        payload: None,
        live_bytes: totals.plain_bytes,
        version: None,
    };
    Stream {
        plain_bytes: totals.plain_bytes,
        stored_bytes: totals.plain_bytes,
        new_bytes: totals.plain_bytes,
        chunks: totals.chunks,
        files: totals.files,
        digest: totals.digest,
        index: IndexObject { key: ObjectKey::new("index"), size: 0, sha256: [0; 32], version: None },
        objects: vec![object],
        not_entered: NotEntered::default(),
    }
}

fn benches(c: &mut Criterion) {
    let (index, totals) = write();
    let stream = stream(&totals);
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(totals.chunks + totals.files)).sample_size(20);
    group.bench_function("write", |b| b.iter(write));
    group.bench_function("read", |b| {
        b.iter(|| {
            let mut reader = index::open(black_box(index.as_slice()), &stream).expect("it was just written");
            let mut records = 0;
            while reader.next_record().expect("it was just written").is_some() {
                records += 1;
            }
            records
        });
    });
    group.finish();
}

criterion_group!(index_benches, benches);
criterion_main!(index_benches);
