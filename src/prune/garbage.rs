//! Decides which objects are deleted, and when. No I/O.
//!
//! An object is garbage if no manifest of its chain names it. When it is deleted depends on why:
//! - A deleted backup named it: the grace period after the last such deletion, so that a restore in progress can finish.
//! - No backup is known to have named it: its backup is still being written, or its run died. Then the grace period, but [`UNFINISHED`] at
//!   least, after that backup's newest object, or its start. If the backup had no object when the chain was read, it has begun
//!   since.

use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::read::Keys;
use crate::catalog::Found;
use crate::format::key::{BackupId, Kind};

/// How long after its newest object a backup without a manifest counts as being written. One object of 64 GiB takes a day at 6 Mbit/s.
const UNFINISHED: Duration = super::GRACE;

/// The time `grace` after `event`. A grace period of zero is always over, whatever the two clocks say.
pub(super) fn release(event: Timestamp, grace: Duration) -> Timestamp {
    if grace.is_zero() {
        return Timestamp::MIN;
    }
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    event.checked_add(grace).unwrap_or(Timestamp::MAX)
}

/// A number of objects, and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub objects: u64,
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, object: &Found) {
        self.add_bytes(object.size);
    }

    pub(super) fn remove(&mut self, object: &Found) {
        self.objects -= 1;
        self.bytes = self.bytes.saturating_sub(object.size);
    }

    /// Adds one object of this size.
    pub(super) fn add_bytes(&mut self, size: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(size);
    }
}

/// Objects of a chain that no manifest names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Past their grace period.
    pub due: Count,
    pub waiting: Count,
    /// When the last waiting object may be deleted.
    pub until: Option<Timestamp>,
}

/// The decision on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Stays,
    Waits(Timestamp),
    Goes,
}

/// Decides about the objects of one chain.
pub(super) struct Judge<'a> {
    pub(super) keys: &'a Keys,
    /// The numbers of the keys that manifests name, ascending.
    pub(super) named: Vec<u64>,
    /// The numbers of the keys that deleted backups named, ascending, each with the time at which its grace period is over.
    pub(super) tombstones: Vec<(u64, Timestamp)>,
    /// When the newest object of each backup was stored.
    pub(super) active: &'a HashMap<BackupId, Timestamp>,
    pub(super) grace: Duration,
    pub(super) now: Timestamp,
}

impl Judge<'_> {
    /// Manifests and tombstones always stay here.
    pub(super) fn verdict(&self, object: &Found) -> Verdict {
        let key = match object.kind {
            Kind::Manifest | Kind::Deleted => return Verdict::Stays,
            Kind::Damaged | Kind::Index | Kind::Data => self.keys.number(&object.key),
        };
        if self.named.binary_search(&key).is_ok() {
            return Verdict::Stays;
        }
        let release = match self.tombstones.binary_search_by_key(&key, |(key, _)| *key) {
            Ok(at) => self.tombstones[at].1,
            Err(_) => release(self.activity(object), self.grace.max(UNFINISHED)),
        };
        if self.now >= release { Verdict::Goes } else { Verdict::Waits(release) }
    }

    /// When the object's backup was last active.
    fn activity(&self, object: &Found) -> Timestamp {
        let stored = self.active.get(&object.id).map_or(self.now, |last| object.modified.max(*last));
        // A start in the future comes from a clock that was ahead: then only the store's times count.
        object.id.started().filter(|started| *started <= self.now).map_or(stored, |started| stored.max(started))
    }

    /// Counts the garbage of a listing, and returns the objects to delete.
    pub(super) fn sort_out(&self, found: Vec<Found>, garbage: &mut Garbage) -> Vec<Found> {
        let goes = |object: &Found| match self.verdict(object) {
            Verdict::Stays => false,
            Verdict::Waits(release) => {
                garbage.waiting.add(object);
                garbage.until = garbage.until.max(Some(release));
                false
            }
            Verdict::Goes => {
                garbage.due.add(object);
                true
            }
        };
        found.into_iter().filter(goes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::key::{Chain, Name, ObjectKey};

    const HOUR: i64 = 3600;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hours * HOUR).unwrap()
    }

    /// `started` and `stored` in hours, and how much of a day of grace is left at hour 0.
    #[test]
    fn an_object_never_named_waits_from_its_backups_last_activity() {
        const YEARS: i64 = 87_600;
        for (why, started, stored, listed, left) in [
            ("is being written", -2, -1, true, Some(23)),
            ("died", -50, -24, true, None),
            ("nothing came for long, but it has begun", -2, -48, true, Some(22)),
            ("its clock was ten years ahead", YEARS, -24, true, None),
            ("its clock was ten years ahead, and it is being written", YEARS, -1, true, Some(23)),
            ("began when the chain had been read", -30, -30, false, Some(24)),
        ] {
            let name = |name| Name::new(name).unwrap();
            let chain = Chain { cluster: name("c"), job: name("j"), node: name("n") };
            let id = BackupId::new(at(started), 0);
            let active = if listed { HashMap::from([(id.clone(), at(stored))]) } else { HashMap::new() };
            let key = ObjectKey::new("x");
            let found = Found { key, chain, id, kind: Kind::Data, size: 1, modified: at(stored), etag: None };
            let (keys, grace) = (Keys::default(), Duration::from_hours(24));
            let judge =
                Judge { keys: &keys, named: Vec::new(), tombstones: Vec::new(), active: &active, grace, now: at(0) };
            assert_eq!(judge.verdict(&found), left.map_or(Verdict::Goes, |left| Verdict::Waits(at(left))), "{why}");
        }
    }
}
