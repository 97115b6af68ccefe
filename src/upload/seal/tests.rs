//! The invariant of `crate::age` over processes that die: whatever left one, under one key each byte of an object has one value.

mod watched;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::{FutureExt as _, TryStreamExt as _};
use proptest::prelude::*;
use tokio::sync::Notify;

use self::watched::Watched;
use super::super::journal::{self, Journal};
use super::super::{ObjectWriter, Uploader, resume};
use super::*;
use crate::age::{Decryptor, Identity, Opened};
use crate::budget::OwnBuffers;
use crate::config::Concurrency;
use crate::format::codec::Encoding;
use crate::format::index::{Chunk, ChunkId};
use crate::location::{Location, memory};
use crate::metrics::AbortReason;
use crate::store::Store as _;
use crate::store::memory::MemoryStore;

/// Small, and no multiple of a chunk: chunks straddle parts.
const PART: usize = 100_000;

/// One machine, its store, and the key of whoever may read.
struct World {
    store: Arc<Watched>,
    location: Location,
    identity: [Identity; 1],
}

/// How one process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stored,
    Died,
    GivenUp,
}

impl World {
    fn new() -> Self {
        let (inner, seen) = (MemoryStore::with_limits(0, 100), Mutex::default());
        let store =
            Arc::new(Watched { inner, seen, lives: Mutex::default(), died: Notify::new(), uploads: OnceLock::new() });
        let mut config = memory::config("");
        (config.upload.part_size, config.upload.concurrency) = (PART as u64, Concurrency::AtMost(3));
        let location = memory::Memory::new(store.clone()).open(&config, 10 * PART as u64);
        store.uploads.set(location.process.state_dir.join("uploads")).unwrap();
        Self { store, location, identity: [Identity::generate().unwrap()] }
    }

    fn uploader(&self) -> Uploader {
        let budget = &self.location.process.budget;
        let reservation = budget.reserve(PART as u64).now_or_never().unwrap().unwrap();
        let own = OwnBuffers::new(budget.clone(), Arc::new(reservation), 1, PART);
        let journal = Journal::open(&self.location.process.state_dir, "test", "b").unwrap();
        Uploader::new(self.location.clone(), journal, own).encrypting(Some([self.identity[0].recipient()].into()))
    }

    /// A process that uploads the object `number` of `data`, in frames of these lengths, and dies with its part number `lives`.
    async fn process(&self, backup: u32, data: &[u8], frames: &[usize], lives: usize) -> End {
        *self.store.lives.lock().unwrap() = lives;
        // Two parts of the last process may have told.
        let _ = self.store.died.notified().now_or_never();
        let key = key(backup);
        let found = resume::find(&self.uploader(), &key).await.unwrap();
        let mut writer = match found {
            Some(found) => ObjectWriter::resume(self.uploader(), found),
            None => ObjectWriter::new(self.uploader(), key).unwrap(),
        };
        let work = async {
            let (mut at, mut frame) = (0, 0);
            while at < data.len() {
                let length = frames[frame % frames.len()].min(data.len() - at);
                let stored = Bytes::copy_from_slice(&data[at..at + length]);
                writer.chunk(chunk(&stored, writer.offset()));
                writer.write(stored).await?;
                (at, frame) = (at + length, frame + 1);
            }
            writer.finish().await.map(drop)
        };
        let end = tokio::select! {
            result = work => result,
            () = self.store.died.notified() => {
                drop(writer);
                self.unlocked().await;
                return End::Died;
            }
        };
        match end {
            Ok(()) => End::Stored,
            Err(Error::Diverged { .. }) => {
                writer.abort(AbortReason::Failure).await;
                End::GivenUp
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until the thread that writes the journal has let go of it, as the kernel makes it when a process dies.
    async fn unlocked(&self) {
        while journal::interrupted(&self.location.process.state_dir).unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    fn entries(&self) -> Vec<PathBuf> {
        let folder = self.location.process.state_dir.join("uploads");
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// The only object, decrypted.
    async fn stored(&self) -> Vec<u8> {
        let keys = self.store.inner.keys();
        let [key] = keys.as_slice() else { panic!("{keys:?}") };
        let download = self.store.get(key, None).await.unwrap();
        let sealed = download.body.try_collect::<Vec<Bytes>>().await.unwrap().concat();
        let opened = Opened::read(&sealed, &self.identity).unwrap();
        let prefix = usize::try_from(opened.layout().prefix()).unwrap();
        let (mut decryptor, mut plain) = (Decryptor::new(opened), Vec::new());
        decryptor.write(&sealed[prefix..], &mut plain).unwrap();
        decryptor.finish(&mut plain).unwrap();
        plain
    }
}

fn key(backup: u32) -> ObjectKey {
    ObjectKey::new(format!("c/j/n/20261123T2213{backup:02}Z-4f9a2c/item.0001.zst.age"))
}

fn chunk(stored: &[u8], offset: u64) -> Chunk {
    let length = u32::try_from(stored.len()).unwrap();
    let id = ChunkId(<sha2::Sha256 as sha2::Digest>::digest(stored).into());
    Chunk { id, plain_len: length, encoding: Encoding::Raw, object: 0, offset, stored_len: length }
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// What happens to the source while no process reads it.
#[derive(Debug, Clone)]
enum Change {
    None,
    Byte(prop::sample::Index),
    Length(usize),
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => Just(Change::None),
        2 => any::<prop::sample::Index>().prop_map(Change::Byte),
        1 => (1..6 * PART).prop_map(Change::Length),
    ]
}

fn changed(mut data: Vec<u8>, change: &Change) -> Vec<u8> {
    match change {
        Change::None => {}
        Change::Byte(at) => {
            let at = at.index(data.len());
            data[at] ^= 1;
        }
        Change::Length(length) => {
            let seed = *length as u64;
            let longer = noise(length.saturating_sub(data.len()), seed);
            data.truncate(*length);
            data.extend(longer);
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The assertion is [`Watched::see`]: however often the process dies and whatever becomes of the source, a byte of an upload is sent
    /// with one value. And in the end the object is the source.
    #[test]
    fn a_key_and_a_counter_never_meet_two_plaintexts(
        length in 2 * PART..6 * PART,
        frames in proptest::collection::vec(1..2 * PART, 1..5),
        deaths in proptest::collection::vec((0_usize..5, changes(), any::<bool>()), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let (mut data, mut backup) = (noise(length, 1), 0);
            for (lives, change, torn) in &deaths {
                backup += 1;
                if world.process(backup, &data, &frames, *lives).await == End::Stored {
                    break;
                }
                if *torn {
                    tear(&world.entries());
                }
                data = changed(data, change);
            }
            if world.store.inner.keys().is_empty() {
                // It may have to give up what it finds, once.
                let mut end = world.process(backup + 1, &data, &frames, usize::MAX).await;
                if end == End::GivenUp {
                    end = world.process(backup + 1, &data, &frames, usize::MAX).await;
                }
                assert_eq!(end, End::Stored);
            }
            let (read, left) = (world.stored().await, world.store.inner.uploads_in_progress());
            assert!(read == data, "{} bytes of {}", read.len(), data.len());
            assert_eq!((left, world.entries()), (Vec::new(), Vec::new()), "no upload, no entry and no key is left");
        });
    }
}

/// Leaves half a record at the end, as a machine does that loses power while it appends one.
fn tear(entries: &[PathBuf]) {
    for path in entries {
        use std::io::Write as _;
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"03b1f2c4 {\"tags\":{\"fr").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_same_is_resumed_and_sent_once() {
    let (world, data) = (World::new(), noise(5 * PART, 7));
    assert_eq!(world.process(1, &data, &[70_000], 3).await, End::Died);
    let sent = world.store.inner.requests("UploadPart");
    assert_eq!(world.process(2, &data, &[70_000], usize::MAX).await, End::Stored);
    let parts = world.store.inner.requests("UploadPart");
    assert!(sent >= 1 && parts <= 6 + 2, "{sent}, then {parts}: those that the journal has are not sent again");
    assert_eq!(world.store.inner.requests("CreateMultipartUpload"), 1);
    assert!(world.stored().await == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_the_tags_of_what_is_stored_is_not_resumed() {
    let (world, data) = (World::new(), noise(5 * PART, 7));
    assert_eq!(world.process(1, &data, &[70_000], 3).await, End::Died);
    let [path] = world.entries().try_into().unwrap();
    let lines = std::fs::read_to_string(&path).unwrap();
    assert!(lines.contains("\"tags\""));
    let without: String = lines.split_inclusive('\n').filter(|line| !line.contains("\"tags\"")).collect();
    std::fs::write(&path, without).unwrap();
    assert!(resume::find(&world.uploader(), &key(2)).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_recipients_begin_another_object() {
    let (mut world, data) = (World::new(), noise(3 * PART, 7));
    assert_eq!(world.process(1, &data, &[70_000], 1).await, End::Died);
    world.identity = [Identity::generate().unwrap()];
    assert_eq!(world.process(2, &data, &[70_000], usize::MAX).await, End::Stored);
    assert!(world.stored().await == data);
    assert_eq!(world.entries().len(), 1, "the other is left to the sweeper");
}

/// The entry is this user's alone, and a name is all that is left of it when it is closed.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_overwritten_with_the_entry() {
    use std::os::unix::fs::PermissionsExt as _;
    let (world, data) = (World::new(), noise(3 * PART, 7));
    assert_eq!(world.process(1, &data, &[70_000], 1).await, End::Died);
    let [path] = world.entries().try_into().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let other = path.with_extension("link");
    std::fs::hard_link(&path, &other).unwrap();
    assert!(std::fs::read_to_string(&other).unwrap().contains("\"record\""));
    assert_eq!(world.process(2, &data, &[70_000], usize::MAX).await, End::Stored);
    // A record of the last part may come later.
    let left = std::fs::read(&other).unwrap();
    assert!(!path.exists() && left[..200].iter().all(|byte| *byte == 0), "{}", left.escape_ascii());
    assert!(!left.windows(8).any(|window| window == b"\"record\""));
}
