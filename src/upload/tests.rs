use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::checksum::Algorithm;
use crate::config::Concurrency;
use crate::error::{Class, Classify as _};
use crate::location::memory;
use crate::store::memory::{Fault, MemoryStore};

const PART: usize = 64 << 10;

/// With parts of [`PART`], three at a time.
fn location(store: Arc<dyn Store>, memory: usize) -> Location {
    let mut config = memory::config("");
    (config.upload.part_size, config.upload.concurrency) = (PART as u64, Concurrency::AtMost(3));
    memory::Memory::new(store).open(&config, memory as u64)
}

fn uploader(location: &Location) -> Uploader {
    let budget = &location.process.budget;
    let reservation = futures_util::FutureExt::now_or_never(budget.reserve(PART as u64)).unwrap().unwrap();
    let own = OwnBuffers::new(budget.clone(), Arc::new(reservation), 1, PART);
    let journal = Journal::open(&location.process.state_dir, "test", "b").unwrap();
    Uploader::new(location.clone(), journal, own)
}

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index * 31 % 251).unwrap()).collect()
}

async fn stored(store: &MemoryStore, key: &ObjectKey) -> Vec<u8> {
    use futures_util::TryStreamExt as _;
    let download = store.get(key, None).await.unwrap();
    let pieces: Vec<Bytes> = download.body.try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn every_size_arrives_whole_and_nothing_is_left() {
    let key = ObjectKey::new("a/b");
    // With memory for one part only, and for many.
    for memory in [PART, 20 * PART] {
        for algorithm in [Algorithm::Crc64nvme, Algorithm::Crc32c, Algorithm::Sha256, Algorithm::None] {
            let store = Arc::new(MemoryStore::with_limits(0, 100).with_algorithm(algorithm));
            let location = location(store.clone(), memory);
            for length in [0, 1, PART - 1, PART, PART + 1, 5 * PART, 7 * PART + 13] {
                let data = data(length);
                let mut writer = ObjectWriter::new(uploader(&location), key.clone()).unwrap();
                for piece in data.chunks(10_000) {
                    writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
                }
                let written = writer.finish().await.unwrap();
                assert_eq!((written.size, written.crc64nvme), (length as u64, crate::checksum::crc64nvme(&data)));
                assert_eq!(stored(&store, &key).await, data, "{length} bytes with {algorithm:?}");
                let checksum = store.head(&key).await.unwrap().checksum;
                assert!(checksum.is_none_or(|checksum| checksum.algorithm() == algorithm), "{checksum:?}");
            }
            assert_eq!(location.process.budget.in_use(), 0);
            assert_eq!(store.uploads_in_progress(), []);
        }
    }
}

#[tokio::test]
async fn abort_leaves_nothing() {
    let store = Arc::new(MemoryStore::with_limits(0, 100));
    let location = location(store.clone(), 4 * PART);
    let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k")).unwrap();
    writer.write(data(3 * PART + 5).into()).await.unwrap();
    assert_eq!(store.uploads_in_progress().len(), 1);
    writer.abort(AbortReason::Failure).await;
    assert_eq!(store.uploads_in_progress(), []);
    assert!(store.keys().is_empty());
    assert_eq!(location.process.budget.in_use(), 0);
}

/// The faults, each at the next request of its operation.
type Faults<'a> = &'a [(&'static str, Fault)];

const CREATE: &str = "CreateMultipartUpload";
const COMPLETE: &str = "CompleteMultipartUpload";

fn odd(faults: Faults<'_>) -> (Arc<MemoryStore>, Location) {
    let store = Arc::new(MemoryStore::with_limits(0, 100));
    let mut faults = faults.to_vec();
    store.script(move |operation, _, _| {
        let next = faults.iter().position(|(of, _)| *of == operation)?;
        Some(faults.remove(next).1)
    });
    (store.clone(), location(store, 20 * PART))
}

fn unanswered(operation: &'static str) -> store::Error {
    store::Error::local(operation, "k", Class::Transient, "the connection was reset")
}

fn refused(operation: &'static str) -> store::Error {
    store::Error::local(operation, "k", Class::AccessDenied, "refused")
}

/// The journal's entries once there are some: a thread that notes the last part may hold them a moment longer than the writer did.
async fn interrupted(location: &Location) -> Vec<journal::Interrupted> {
    let found = async {
        loop {
            let found = journal::interrupted(&location.process.state_dir).unwrap();
            if !found.is_empty() {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.unwrap()
}

#[tokio::test]
async fn odd_answers_do_not_change_what_is_stored() {
    let twice = || ("UploadPart", Fault::Repeat);
    let lost = || (COMPLETE, Fault::Refuse(unanswered(COMPLETE)));
    let done = || (COMPLETE, Fault::LoseReply(unanswered(COMPLETE)));
    // The second Complete of the last one refuses the part list, as its parts were taken twice.
    for faults in [vec![twice()], vec![done()], vec![lost()], vec![twice(), twice(), lost(), done(), done()]] {
        let (store, location) = odd(&faults);
        let (key, data) = (ObjectKey::new("k"), data(3 * PART + 7));
        let mut writer = ObjectWriter::new(uploader(&location), key.clone()).unwrap();
        writer.write(data.clone().into()).await.unwrap();
        let written = writer.finish().await.unwrap();
        assert_eq!((written.size, stored(&store, &key).await), (data.len() as u64, data), "{faults:?}");
        assert_eq!(store.uploads_in_progress(), [], "{faults:?}");
    }
}

/// Not "no such upload", which would send the user to look for who aborted it.
#[tokio::test]
async fn where_the_object_is_in_doubt_that_is_the_failure() {
    let denied = Fault::Refuse(refused("HeadObject"));
    for (head, class) in [(denied, Class::AccessDenied), (Fault::Spoil, Class::Integrity)] {
        let done = (COMPLETE, Fault::LoseReply(unanswered(COMPLETE)));
        let (_store, location) = odd(&[done, ("HeadObject", head)]);
        let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k")).unwrap();
        writer.write(data(2 * PART).into()).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().report().class, class);
    }
}

/// The upload of unknown ID outlives the object; its entry stays until a listing has found it.
#[tokio::test]
async fn a_create_without_an_answer_is_remembered() {
    for finish in [true, false] {
        let (store, location) = odd(&[(CREATE, Fault::LoseReply(unanswered(CREATE)))]);
        let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k")).unwrap();
        writer.write(data(2 * PART).into()).await.unwrap();
        if finish {
            writer.finish().await.unwrap();
        } else {
            writer.abort(AbortReason::Cancelled).await;
        }
        assert_eq!(store.uploads_in_progress().len(), 1);
        let found = interrupted(&location).await;
        assert_eq!(found.iter().map(|one| (one.id.clone(), one.in_doubt)).collect::<Vec<_>>(), [(None, true)]);
    }
}

/// The chunks of a finished part are those that end in it.
#[tokio::test]
async fn the_journal_knows_which_chunks_a_part_completes() {
    let (_store, location) = odd(&[(COMPLETE, Fault::Refuse(refused(COMPLETE)))]);
    let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k")).unwrap();
    let length = PART * 2 / 5;
    let mut offset = 0;
    for _ in 0..8 {
        let chunk = Chunk {
            id: crate::format::index::ChunkId([1; 32]),
            plain_len: 1,
            encoding: crate::format::codec::Encoding::Raw,
            object: 0,
            offset,
            stored_len: u32::try_from(length).unwrap(),
        };
        writer.chunk(chunk);
        writer.write(data(length).into()).await.unwrap();
        offset += length as u64;
    }
    // Eight chunks are 3.2 parts.
    writer.finish().await.unwrap_err();
    drop(writer);
    let mut parts = interrupted(&location).await.remove(0).parts().unwrap();
    parts.sort_by_key(|part| part.uploaded.number);
    let chunks: Vec<Vec<u64>> =
        parts.iter().map(|part| part.chunks.iter().map(|chunk| chunk.offset / length as u64).collect()).collect();
    assert_eq!(chunks, [vec![0, 1], vec![2, 3, 4], vec![5, 6], vec![7]]);
}
