use super::*;
use crate::config::Concurrency;
use crate::metrics::Metrics;
use crate::store::memory::MemoryStore;

const PART: usize = 64 << 10;

async fn uploader(store: &Arc<MemoryStore>, budget: &Budget, algorithm: Algorithm) -> Uploader {
    let reservation = Arc::new(budget.reserve(PART as u64).await.unwrap());
    Uploader {
        store: Arc::clone(store) as Arc<dyn Store>,
        budget: budget.clone(),
        own: OwnBuffers::new(budget.clone(), reservation, 1, PART),
        endpoint: Endpoint::new(Metrics::new().location("test"), Concurrency::AtMost(3).into()),
        journal: None,
        part_size: PART,
        checksum: algorithm,
    }
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
    let store = Arc::new(MemoryStore::with_limits(0, 100));
    let key = ObjectKey::new("a/b");
    // With memory for one part only, and for many.
    for memory in [PART, 20 * PART] {
        let budget = Budget::new(memory as u64);
        for algorithm in [Algorithm::Crc64nvme, Algorithm::Crc32c, Algorithm::Sha256, Algorithm::None] {
            for length in [0, 1, PART - 1, PART, PART + 1, 5 * PART, 7 * PART + 13] {
                let data = data(length);
                let mut writer = ObjectWriter::new(uploader(&store, &budget, algorithm).await, key.clone());
                for piece in data.chunks(10_000) {
                    writer.write(piece).await.unwrap();
                }
                let written = writer.finish().await.unwrap();
                assert_eq!((written.size, written.crc64nvme), (length as u64, checksum::crc64nvme(&data)));
                assert_eq!(stored(&store, &key).await, data, "{length} bytes with {algorithm:?}");
            }
        }
        assert_eq!(budget.in_use(), 0);
    }
    assert_eq!(store.uploads_in_progress(), []);
}

#[tokio::test]
async fn abort_leaves_nothing() {
    let store = Arc::new(MemoryStore::with_limits(0, 100));
    let budget = Budget::new(4 * PART as u64);
    let key = ObjectKey::new("k");
    let mut writer = ObjectWriter::new(uploader(&store, &budget, Algorithm::Crc64nvme).await, key);
    writer.write(&data(3 * PART + 5)).await.unwrap();
    assert_eq!(store.uploads_in_progress().len(), 1);
    writer.abort(AbortReason::Failure).await;
    assert_eq!(store.uploads_in_progress(), []);
    assert!(store.keys().is_empty());
    assert_eq!(budget.in_use(), 0);
}
