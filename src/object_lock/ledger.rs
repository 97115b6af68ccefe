//! What is known of the ends of a chain's locks: a file of fixed records in the state directory.
//!
//! It is a cache. A lost or damaged record costs one more extension of its object; a wrong one would leave an object without a lock,
//! so each has a checksum. Records are appended; the file is written anew, with what is still of use, after the chain was read as a
//! whole. Memory: about 40 bytes for each object, at most a sixteenth of `limits.memory`; what does not fit is not remembered.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::checksum::{crc32c, sha256};
use crate::format::key::ObjectKey;
use crate::location::Share;
use crate::state;
use crate::store::VersionId;

/// A name, an end and a checksum.
const RECORD: usize = ID + 8 + 4;
const ID: usize = 12;

/// The memory of an entry, with the table's free places.
const ENTRY: u64 = 40;

/// In the end of a record: nothing needs the object, but a deletion must wait for its lock.
const NOT_NEEDED: u64 = 1 << 63;

/// In the end of a record: it is about a backup and not about a version, named by its manifest's key. While it is needed, the chain must
/// show the manifest or its tombstone.
const BACKUP: u64 = 1 << 62;

/// The name of the record that says when the chain was last read as a whole.
const WALKED: Id = Id([0; ID]);

/// A short name of an object's version in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Id([u8; ID]);

impl Id {
    pub(super) fn of(bucket: &str, key: &ObjectKey, version: Option<&VersionId>) -> Self {
        let version = version.map_or("", VersionId::as_str);
        let digest = sha256([bucket.as_bytes(), b"\0", key.as_str().as_bytes(), b"\0", version.as_bytes()]);
        let mut id = [0; ID];
        id.copy_from_slice(&digest[..ID]);
        Self(id)
    }

    /// A short name of a backup.
    pub(super) fn of_backup(bucket: &str, manifest: &ObjectKey) -> Self {
        // No key of an object that Penstock writes has a line feed.
        Self::of(bucket, &ObjectKey::new(format!("{manifest}\nbackup")), None)
    }

    /// How much earlier than the last it is due.
    pub(super) const fn share(self) -> Share {
        Share::from_be_bytes([self.0[0], self.0[1]])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    until: u64,
    needed: bool,
    /// Needed by what was read since [`Ledger::begin`].
    seen: bool,
    backup: bool,
}

impl Known {
    /// An end without flags.
    fn new(until: Timestamp) -> Self {
        Self { until: seconds(until), needed: true, seen: true, backup: false }
    }
}

#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    known: HashMap<Id, Known>,
    /// When the chain was last read as a whole.
    walked: Option<Timestamp>,
    most: usize,
    unwritten: Vec<u8>,
}

fn record(id: Id, known: Known) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..ID].copy_from_slice(&id.0);
    let flags = if known.needed { 0 } else { NOT_NEEDED } | if known.backup { BACKUP } else { 0 };
    let until = known.until | flags;
    record[ID..ID + 8].copy_from_slice(&until.to_be_bytes());
    let checksum = crc32c([&record[..ID + 8]]);
    record[ID + 8..].copy_from_slice(&checksum.to_be_bytes());
    record
}

/// `None` for a damaged record.
fn parse(record: &[u8]) -> Option<(Id, Known)> {
    let (body, checksum) = record.split_at_checked(ID + 8)?;
    if crc32c([body]).to_be_bytes() != *checksum {
        return None;
    }
    let (id, until) = body.split_at(ID);
    let until = u64::from_be_bytes(until.try_into().ok()?);
    let known = Known {
        until: until & !(NOT_NEEDED | BACKUP),
        needed: until & NOT_NEEDED == 0,
        seen: false,
        backup: until & BACKUP != 0,
    };
    Some((Id(id.try_into().ok()?), known))
}

fn time(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MIN)
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_second()).unwrap_or(0)
}

impl Ledger {
    /// Reads the file; one that is missing or damaged is an empty ledger.
    pub(super) fn open(path: &Path, memory: u64) -> Self {
        let most = usize::try_from(memory / 16 / ENTRY).unwrap_or(usize::MAX);
        let mut ledger =
            Self { path: path.to_owned(), known: HashMap::new(), walked: None, most, unwritten: Vec::new() };
        let bytes = match ledger.read() {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "could not read when locks end: every object is extended once more");
                }
                return ledger;
            }
        };
        for (id, known) in bytes.chunks_exact(RECORD).filter_map(parse) {
            if id == WALKED {
                ledger.walked = Some(time(known.until));
            } else {
                ledger.insert(id, known);
            }
        }
        ledger
    }

    /// Reads no more than fits into the memory, twice over: records may be repeated.
    fn read(&self) -> io::Result<Vec<u8>> {
        use std::io::Read as _;
        let most = (self.most as u64).saturating_mul(2 * RECORD as u64);
        let mut bytes = Vec::new();
        File::open(&self.path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn insert(&mut self, id: Id, known: Known) -> bool {
        if self.known.len() >= self.most && !self.known.contains_key(&id) {
            return false;
        }
        self.known.insert(id, known);
        true
    }

    /// When the lock of something needed ends, as far as is known.
    pub(super) fn until(&self, id: Id) -> Option<Timestamp> {
        self.known.get(&id).map(|known| time(known.until))
    }

    /// Notes that an object is needed, and locked until then.
    pub(super) fn note(&mut self, id: Id, until: Timestamp) {
        self.add(id, Known::new(until));
    }

    /// Notes that a backup exists, whose manifest is locked until then.
    pub(super) fn note_backup(&mut self, id: Id, until: Timestamp) {
        let known = Known { backup: true, ..Known::new(until) };
        let same = |known: &Known| known.backup && known.needed && known.until == seconds(until);
        if self.known.get(&id).is_some_and(same) {
            self.still_needed(id);
        } else {
            self.add(id, known);
        }
    }

    /// Notes that nothing needs an object, which is locked until then.
    pub(super) fn note_garbage(&mut self, id: Id, until: Timestamp) {
        self.add(id, Known { needed: false, seen: false, ..Known::new(until) });
    }

    fn add(&mut self, id: Id, known: Known) {
        if self.insert(id, known) {
            self.unwritten.extend_from_slice(&record(id, known));
        }
    }

    /// The objects that are needed, with the ends of their locks.
    pub(super) fn needed(&self) -> impl Iterator<Item = (Id, Timestamp)> {
        let objects = self.known.iter().filter(|(_, known)| known.needed && !known.backup);
        objects.map(|(id, known)| (*id, time(known.until)))
    }

    /// Whether it is a backup, or a version, that was needed when the chain was last read.
    pub(super) fn is_needed(&self, id: Id) -> bool {
        self.known.get(&id).is_some_and(|known| known.needed)
    }

    /// The backups whose manifests are still locked, and that were not seen since [`Ledger::begin`].
    pub(super) fn unseen(&self, now: Timestamp) -> impl Iterator<Item = Id> {
        let over = seconds(now);
        let unseen = move |known: &Known| known.backup && known.needed && !known.seen && known.until > over;
        self.known.iter().filter(move |(_, known)| unseen(known)).map(|(id, _)| *id)
    }

    /// Whether nothing is known that is of use.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) const fn walked(&self) -> Option<Timestamp> {
        self.walked
    }

    /// Begins to read the chain as a whole.
    pub(super) fn begin(&mut self) {
        self.known.values_mut().for_each(|known| known.seen = false);
    }

    /// Notes that an object whose end is known is needed.
    pub(super) fn still_needed(&mut self, id: Id) {
        if let Some(known) = self.known.get_mut(&id) {
            (known.needed, known.seen) = (true, true);
        }
    }

    /// The chain has been read as a whole: what was not noted since [`Ledger::begin`] is not needed. Writes the file anew, without what is
    /// neither needed nor locked.
    pub(super) fn end(&mut self, now: Timestamp) -> Result<(), state::Error> {
        let over = seconds(now);
        self.known.values_mut().for_each(|known| known.needed = known.seen);
        self.known.retain(|_, known| known.needed || known.until > over);
        self.walked = Some(now);
        self.unwritten.clear();
        let walked = record(WALKED, Known::new(now));
        let mut bytes = Vec::with_capacity(RECORD * (self.known.len() + 1));
        bytes.extend_from_slice(&walked);
        self.known.iter().for_each(|(id, known)| bytes.extend_from_slice(&record(*id, *known)));
        self.make_folder()?;
        state::replace(&self.path, &bytes)
    }

    /// Appends what was noted since.
    pub(super) fn write(&mut self) -> Result<(), state::Error> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        self.make_folder()?;
        let append = || {
            let mut file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
            // A crash may have left a part of a record.
            let torn = file.metadata()?.len() % RECORD as u64;
            if torn != 0 {
                file.set_len(file.metadata()?.len() - torn)?;
            }
            file.write_all(&self.unwritten)
        };
        append().map_err(state::Error::io("append to", &self.path))?;
        self.unwritten.clear();
        Ok(())
    }

    /// Deletes the file.
    pub(super) fn remove(&mut self) -> Result<(), state::Error> {
        self.unwritten.clear();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(state::Error::io("remove", &self.path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn make_folder(&self) -> Result<(), state::Error> {
        self.path.parent().map_or(Ok(()), state::make_folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> Id {
        Id::of("bucket", &ObjectKey::new(format!("k/{number}")), None)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn what_was_noted_is_known_after_a_restart_and_damage_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/chain");
        let mut ledger = Ledger::open(&path, 1 << 20);
        assert_eq!((ledger.until(id(1)), ledger.walked()), (None, None));
        ledger.note(id(1), at(10));
        ledger.note(id(2), at(20));
        ledger.write().unwrap();
        ledger.note(id(1), at(30));
        ledger.note_garbage(id(3), at(40));
        ledger.write().unwrap();
        let mut again = Ledger::open(&path, 1 << 20);
        assert_eq!([1, 2, 3].map(|number| again.until(id(number))), [30, 20, 40].map(|second| Some(at(second))));
        assert_eq!(again.needed().count(), 2);

        // A torn end, and a changed byte in the second record.
        let mut bytes = fs::read(&path).unwrap();
        bytes[RECORD + ID] ^= 1;
        bytes.extend_from_slice(&[1, 2, 3]);
        fs::write(&path, &bytes).unwrap();
        let mut damaged = Ledger::open(&path, 1 << 20);
        assert_eq!((damaged.until(id(2)), damaged.until(id(1))), (None, Some(at(30))));
        damaged.note(id(4), at(50));
        damaged.write().unwrap();
        assert_eq!(Ledger::open(&path, 1 << 20).until(id(4)), Some(at(50)));

        again.begin();
        again.still_needed(id(2));
        again.end(at(35)).unwrap();
        let ended = Ledger::open(&path, 1 << 20);
        assert_eq!(ended.walked(), Some(at(35)));
        assert_eq!([1, 2, 3].map(|number| ended.until(id(number))), [None, Some(at(20)), Some(at(40))]);
        assert_eq!(ended.needed().collect::<Vec<_>>(), [(id(2), at(20))]);
    }

    #[test]
    fn its_memory_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain");
        let mut ledger = Ledger::open(&path, 16 * ENTRY * 100);
        (0..1000).for_each(|number| ledger.note(id(number), at(10)));
        assert_eq!(ledger.needed().count(), 100);
        ledger.write().unwrap();
        assert_eq!(Ledger::open(&path, 16 * ENTRY * 10).needed().count(), 10);
    }

    #[test]
    fn versions_and_buckets_have_ids_of_their_own() {
        let (key, version) = (ObjectKey::new("k"), VersionId::new("v").unwrap());
        let ids = [
            Id::of("a", &key, None),
            Id::of("b", &key, None),
            Id::of("a", &key, Some(&version)),
            Id::of("a", &ObjectKey::new("kv"), None),
        ];
        assert!(ids.iter().enumerate().all(|(at, id)| !ids[..at].contains(id)));
    }
}
