use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::checksum::{Algorithm, Checksum};
use crate::config::Concurrency;
use crate::location::memory;
use crate::store::Payload;
use crate::store::memory::MemoryStore;

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
                let mut writer = ObjectWriter::new(uploader(&location), key.clone());
                for piece in data.chunks(10_000) {
                    writer.write(piece).await.unwrap();
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
    let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k"));
    writer.write(&data(3 * PART + 5)).await.unwrap();
    assert_eq!(store.uploads_in_progress().len(), 1);
    writer.abort(AbortReason::Failure).await;
    assert_eq!(store.uploads_in_progress(), []);
    assert!(store.keys().is_empty());
    assert_eq!(location.process.budget.in_use(), 0);
}

/// A store whose answers are odd: what it says instead, once for each operation.
struct Odd {
    inner: Arc<MemoryStore>,
    /// Taken by the first request of its operation.
    says: Mutex<Vec<Say>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Say {
    /// An upload is created, but nobody hears of it.
    CreateUnanswered,
    /// The part is taken twice, and the second time under another ETag.
    PartTwice,
    /// The object is there, but nobody hears of it.
    CompleteUnanswered,
    /// Nothing was done, and nobody hears of it.
    CompleteLost,
    HeadRefused,
    /// What is there has another checksum.
    HeadOther,
}

impl Odd {
    fn location(says: &[Say]) -> (Arc<MemoryStore>, Location) {
        let store = Arc::new(MemoryStore::with_limits(0, 100));
        let odd = Self { inner: Arc::clone(&store), says: Mutex::new(says.to_vec()) };
        (store, location(Arc::new(odd), 20 * PART))
    }

    fn take(&self, say: Say) -> bool {
        let mut says = self.says.lock().unwrap();
        let found = says.iter().position(|one| *one == say);
        found.map(|index| says.remove(index)).is_some()
    }
}

fn unanswered(operation: &'static str, key: &ObjectKey) -> store::Error {
    store::Error::local(operation, key, Class::Transient, "the connection was reset")
}

#[async_trait::async_trait]
impl Store for Odd {
    fn algorithm(&self) -> crate::checksum::Algorithm {
        self.inner.algorithm()
    }
    async fn put(&self, key: &ObjectKey, payload: Payload, overwrite: Overwrite) -> Result<(), store::Error> {
        self.inner.put(key, payload, overwrite).await
    }
    async fn get(&self, key: &ObjectKey, range: Option<std::ops::Range<u64>>) -> Result<store::Download, store::Error> {
        self.inner.get(key, range).await
    }
    async fn head(&self, key: &ObjectKey) -> Result<store::ObjectInfo, store::Error> {
        if self.take(Say::HeadRefused) {
            return Err(store::Error::local("HeadObject", key, Class::AccessDenied, "refused"));
        }
        let found = self.inner.head(key).await?;
        let other = Some(Checksum::Crc64nvme(0));
        Ok(if self.take(Say::HeadOther) { store::ObjectInfo { checksum: other, ..found } } else { found })
    }
    async fn delete(&self, key: &ObjectKey) -> Result<store::Deleted, store::Error> {
        self.inner.delete(key).await
    }
    async fn list(&self, prefix: &str, from: Option<&str>) -> Result<store::Page, store::Error> {
        self.inner.list(prefix, from).await
    }
    async fn create_upload(&self, key: &ObjectKey) -> Result<UploadId, store::Error> {
        let id = self.inner.create_upload(key).await?;
        if self.take(Say::CreateUnanswered) { Err(unanswered("CreateMultipartUpload", key)) } else { Ok(id) }
    }
    async fn upload_part(
        &self,
        to: &UploadHandle,
        n: PartNumber,
        payload: Payload,
    ) -> Result<UploadedPart, store::Error> {
        let told = self.inner.upload_part(to, n, payload.clone()).await?;
        if self.take(Say::PartTwice) {
            self.inner.upload_part(to, n, payload).await?;
        }
        Ok(told)
    }
    async fn complete_upload(
        &self,
        upload: &UploadHandle,
        parts: &[UploadedPart],
        size: u64,
        checksum: Option<Checksum>,
    ) -> Result<(), store::Error> {
        if self.take(Say::CompleteLost) {
            return Err(unanswered("CompleteMultipartUpload", &upload.key));
        }
        self.inner.complete_upload(upload, parts, size, checksum).await?;
        if self.take(Say::CompleteUnanswered) {
            Err(unanswered("CompleteMultipartUpload", &upload.key))
        } else {
            Ok(())
        }
    }
    async fn abort_upload(&self, upload: &UploadHandle) -> Result<(), store::Error> {
        self.inner.abort_upload(upload).await
    }
    async fn list_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, store::Error> {
        self.inner.list_parts(upload).await
    }
    async fn list_uploads(&self, prefix: &str) -> Result<Vec<store::ListedUpload>, store::Error> {
        self.inner.list_uploads(prefix).await
    }
}

#[tokio::test]
async fn odd_answers_do_not_change_what_is_stored() {
    for says in [
        &[Say::PartTwice][..],
        &[Say::CompleteUnanswered],
        &[Say::CompleteLost],
        &[Say::PartTwice, Say::PartTwice, Say::CompleteLost, Say::CompleteUnanswered],
    ] {
        let (store, location) = Odd::location(says);
        let (key, data) = (ObjectKey::new("k"), data(3 * PART + 7));
        let mut writer = ObjectWriter::new(uploader(&location), key.clone());
        writer.write(&data).await.unwrap();
        let written = writer.finish().await.unwrap();
        assert_eq!((written.size, stored(&store, &key).await), (data.len() as u64, data), "{says:?}");
        assert_eq!(store.uploads_in_progress(), [], "{says:?}");
    }
}

/// Not "no such upload", which would send the user to look for who aborted it.
#[tokio::test]
async fn where_the_object_is_in_doubt_that_is_the_failure() {
    for (says, class) in [(Say::HeadRefused, Class::AccessDenied), (Say::HeadOther, Class::Integrity)] {
        let (_store, location) = Odd::location(&[Say::CompleteUnanswered, says]);
        let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k"));
        writer.write(&data(2 * PART)).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().report().class, class);
    }
}

/// The upload nobody heard of outlives the object; its entry stays until a listing has found it.
#[tokio::test]
async fn a_create_without_an_answer_is_remembered() {
    for finish in [true, false] {
        let (store, location) = Odd::location(&[Say::CreateUnanswered]);
        let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k"));
        writer.write(&data(2 * PART)).await.unwrap();
        if finish {
            writer.finish().await.unwrap();
        } else {
            writer.abort(AbortReason::Cancelled).await;
        }
        assert_eq!(store.uploads_in_progress().len(), 1);
        // A thread that notes the last part may hold the entry a moment longer than the writer did.
        let found = async {
            loop {
                let found = journal::interrupted(&location.process.state_dir).unwrap();
                if !found.is_empty() {
                    return found;
                }
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), found).await.unwrap();
        assert_eq!(found.iter().map(|one| (one.id.clone(), one.in_doubt)).collect::<Vec<_>>(), [(None, true)]);
    }
}

/// The chunks of a finished part are those that end in it.
#[tokio::test]
async fn the_journal_knows_which_chunks_a_part_completes() {
    let (_store, location) = Odd::location(&[]);
    let mut writer = ObjectWriter::new(uploader(&location), ObjectKey::new("k"));
    let length = PART * 2 / 5;
    let mut offset = 0;
    for _ in 0..8 {
        let chunk = Chunk {
            id: crate::format::index::ChunkId([1; 32]),
            plain_len: 1,
            encoding: crate::format::index::Encoding::Raw,
            object: 0,
            offset,
            stored_len: u32::try_from(length).unwrap(),
        };
        writer.chunk(chunk);
        writer.write(&data(length)).await.unwrap();
        offset += length as u64;
    }
    // Three parts are full: 7.5 chunks.
    while !writer.in_flight.is_empty() {
        writer.part_finished().await.unwrap();
    }
    drop(writer);
    let interrupted = loop {
        // The journal is written by a thread of its own, which holds the lock until it is done.
        if let Some(one) = journal::interrupted(&location.process.state_dir).unwrap().pop() {
            break one;
        }
        tokio::task::yield_now().await;
    };
    let mut parts = interrupted.parts().unwrap();
    parts.sort_by_key(|part| part.uploaded.number);
    let chunks: Vec<Vec<u64>> =
        parts.iter().map(|part| part.chunks.iter().map(|chunk| chunk.offset / length as u64).collect()).collect();
    assert_eq!(chunks, [vec![0, 1], vec![2, 3, 4], vec![5, 6]]);
}
