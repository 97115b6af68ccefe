//! What must hold for any bytes. The fuzz targets and `tests/suite/corpus.rs` share this file.

use std::io::Write as _;

use super::format::codec::Encoding;
use super::format::ebs::MAX_TAGS;
use super::format::index::{self, Record};
use super::format::key::{BackupId, Chain, Name, ObjectKey};
use super::format::manifest::{DataObject, IndexObject, Manifest, NotEntered, Stream};

/// Sizes of the data objects an index under test refers to.
pub const OBJECTS: [u64; 2] = [1 << 20, 1 << 32];

/// Mode, chunks, files, plain bytes, digest.
pub const HEADER: usize = 1 + 8 + 8 + 8 + 32;

/// The modes an input may start with (by parity).
pub const COMPRESSED: u8 = 0;
/// The rest is the records; they are compressed here, so that a fuzzer need not learn zstd.
pub const PLAIN: u8 = 1;

/// Where a manifest under test claims to lie.
pub const PREFIX: &str = "fleet/prod/";
pub const ID: &str = "20261123T221300Z-4f9a2c";

/// How reading an input ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Too short to be an input.
    NoInput,
    Refused,
    Accepted,
}

/// The manifest's side of an index under test.
pub fn stream(chunks: u64, files: u64, plain_bytes: u64, digest: [u8; 32]) -> Stream {
    let object = |(position, size): (usize, &u64)| DataObject {
        key: ObjectKey::new(format!("{PREFIX}etcd/n1/{ID}/tree.{:04}.tar.zst", position + 1)),
        size: *size,
        crc64nvme: [0; 8],
        payload: None,
        live_bytes: 0,
        version: None,
    };
    Stream {
        plain_bytes,
        stored_bytes: 0,
        new_bytes: 0,
        chunks,
        files,
        digest,
        index: IndexObject {
            key: ObjectKey::new(format!("{PREFIX}etcd/n1/{ID}/tree.index.zst")),
            size: 0,
            sha256: [0; 32],
            version: None,
        },
        objects: OBJECTS.iter().enumerate().map(object).collect(),
        not_entered: NotEntered::default(),
    }
}

/// An input for [`index`]: what the manifest says, then the index (`COMPRESSED`) or its records (`PLAIN`).
pub fn index_input(mode: u8, stream: &Stream, body: &[u8]) -> Vec<u8> {
    let mut input = vec![mode];
    for number in [stream.chunks, stream.files, stream.plain_bytes] {
        input.extend(number.to_le_bytes());
    }
    input.extend(stream.digest);
    input.extend(body);
    input
}

/// Reads an index to its end or its first fault. Whatever is yielded before that must already be safe to act on.
///
/// # Panics
/// When a record is yielded that does not fit the objects or the stream.
pub fn index(input: &[u8]) -> Verdict {
    let Some((header, body)) = input.split_at_checked(HEADER) else { return Verdict::NoInput };
    let number = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let stream = stream(number(1), number(9), number(17), header[25..].try_into().expect("32 bytes"));
    let compressed;
    let body = if header[0] % 2 == PLAIN {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("level 1 exists");
        encoder.write_all(body).expect("a vector takes everything");
        compressed = encoder.finish().expect("a vector takes everything");
        compressed.as_slice()
    } else {
        body
    };
    let Ok(mut reader) = index::open(body, &stream) else { return Verdict::Refused };
    let (mut chunks, mut files, mut plain) = (0, 0, 0);
    loop {
        match reader.next_record() {
            Ok(Some(Record::Chunk(chunk))) => {
                chunks += 1;
                plain += u64::from(chunk.plain_len);
                let size = OBJECTS[chunk.object as usize];
                assert!(
                    chunk.offset.checked_add(u64::from(chunk.stored_len)).is_some_and(|end| end <= size),
                    "{chunk:?}"
                );
                assert!(
                    chunk.plain_len > 0 && chunk.plain_len <= index::MAX_CHUNK && chunk.stored_len > 0,
                    "{chunk:?}"
                );
                assert!(chunk.encoding == Encoding::Zstd || chunk.plain_len == chunk.stored_len, "{chunk:?}");
                assert!(plain <= stream.plain_bytes, "{plain}");
            }
            Ok(Some(Record::File(file))) => {
                files += 1;
                assert!(file.path.len() <= index::MAX_PATH && file.link.len() <= index::MAX_PATH);
                let member = file.member();
                assert!(member.start < member.end && member.end <= stream.plain_bytes, "{file:?}");
                assert!(files <= stream.files, "{files}");
            }
            Ok(Some(Record::End { .. })) => panic!("the end is not a record to a caller"),
            Ok(None) => break,
            Err(_) => return Verdict::Refused,
        }
    }
    assert_eq!((chunks, files, plain), (stream.chunks, stream.files, stream.plain_bytes));
    assert!(matches!(reader.next_record(), Ok(None)), "the end stays the end");
    Verdict::Accepted
}

/// Parses a manifest; what is accepted must be written as it was read, and name nothing outside its chain.
///
/// # Panics
/// When that does not hold.
pub fn manifest(input: &[u8]) -> Verdict {
    let name = |name: &str| Name::new(name).expect("a valid name");
    let chain = Chain { cluster: name("prod"), job: name("etcd"), node: name("n1") };
    let id: BackupId = ID.parse().expect("a valid id");
    let Ok(manifest) = Manifest::parse(input, &chain, &id, PREFIX) else { return Verdict::Refused };
    for (_, stream) in manifest.streams() {
        for key in stream.objects.iter().map(|object| &object.key).chain([&stream.index.key]) {
            let inside = key.as_str().strip_prefix("fleet/prod/etcd/n1/");
            let safe = |rest: &str| rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
            assert!(inside.is_some_and(safe), "{key}");
        }
        let live: u64 = stream.objects.iter().map(|object| object.live_bytes).sum();
        assert!(live == stream.stored_bytes && stream.new_bytes <= live);
    }
    for (_, snapshot) in manifest.snapshots() {
        assert!(snapshot.size_gib > 0 && snapshot.tags.len() <= MAX_TAGS);
        assert!(snapshot.snapshot_id.as_str().starts_with("snap-") && snapshot.volume_id.as_str().starts_with("vol-"));
    }
    let again = Manifest::parse(&manifest.to_json(), &chain, &id, PREFIX);
    assert_eq!(again.as_ref(), Ok(&manifest));
    Verdict::Accepted
}
