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

    /// How much earlier than the last it is due.
    pub(super) const fn share(self) -> Share {
        Share::from_be_bytes([self.0[0], self.0[1]])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    until: u64,
    needed: bool,
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
    let until = known.until | if known.needed { 0 } else { NOT_NEEDED };
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
    Some((Id(id.try_into().ok()?), Known { until: until & !NOT_NEEDED, needed: until & NOT_NEEDED == 0 }))
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
        self.add(id, Known { until: seconds(until), needed: true });
    }

    /// Notes that nothing needs an object, which is locked until then.
    pub(super) fn note_garbage(&mut self, id: Id, until: Timestamp) {
        self.add(id, Known { until: seconds(until), needed: false });
    }

    fn add(&mut self, id: Id, known: Known) {
        if self.insert(id, known) {
            self.unwritten.extend_from_slice(&record(id, known));
        }
    }

    /// The objects that are needed, with the ends of their locks.
    pub(super) fn needed(&self) -> impl Iterator<Item = (Id, Timestamp)> {
        self.known.iter().filter(|(_, known)| known.needed).map(|(id, known)| (*id, time(known.until)))
    }

    pub(super) const fn walked(&self) -> Option<Timestamp> {
        self.walked
    }

    /// Begins to read the chain as a whole: what is not noted again is not needed.
    pub(super) fn begin(&mut self) {
        self.known.values_mut().for_each(|known| known.needed = false);
    }

    /// Notes that an object whose end is known is needed.
    pub(super) fn still_needed(&mut self, id: Id) {
        if let Some(known) = self.known.get_mut(&id) {
            known.needed = true;
        }
    }

    /// The chain has been read as a whole: writes the file anew, without what is neither needed nor locked.
    pub(super) fn end(&mut self, now: Timestamp) -> Result<(), state::Error> {
        let over = seconds(now);
        self.known.retain(|_, known| known.needed || known.until > over);
        self.walked = Some(now);
        self.unwritten.clear();
        let walked = record(WALKED, Known { until: over, needed: true });
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
