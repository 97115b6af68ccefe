//! What may go, and when. No I/O.
//!
//! An object is garbage when no manifest of its chain names it. When it goes, depends on why nothing names it:
//! - A backup that named it was deleted: the grace period after the last such deletion. A restore that had begun ends well.
//! - Nothing ever named it, as far as can be seen: the backup it was made for is being written, or died. The grace period, but
//!   [`UNFINISHED`] at least, after the last object that came for that backup, or its start.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::catalog::Found;
use crate::format::key::{BackupId, Kind, ObjectKey};

/// How long after its last object a backup without a manifest counts as being written. One object of 64 GiB takes a day at
/// 6 Mbit/s.
const UNFINISHED: Duration = super::GRACE;

/// What the deleted backups of a chain named, and when it may go as far as they are concerned.
pub(super) type Graves = HashMap<ObjectKey, Timestamp>;

/// When `grace` after `event` has passed. None at all has passed already, whatever the two clocks say.
pub(super) fn release(event: Timestamp, grace: Duration) -> Timestamp {
    if grace.is_zero() {
        return Timestamp::MIN;
    }
    let grace = SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX);
    event.checked_add(grace).unwrap_or(Timestamp::MAX)
}

/// Objects of a chain that no manifest names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Garbage {
    /// Past their grace period.
    pub due: Vec<Found>,
    pub waiting: Vec<Found>,
    /// When the last of those that wait may go.
    pub until: Option<Timestamp>,
}

impl Garbage {
    /// Of what waits.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.waiting.iter().map(|object| object.size).sum()
    }
}

/// Sorts out a chain's data and index objects. `named` is what its manifests name. Manifests, deleted or not, are never garbage
/// here.
pub(super) fn sort_out(
    found: &[Found],
    named: &HashSet<ObjectKey>,
    graves: &Graves,
    grace: Duration,
    now: Timestamp,
) -> Garbage {
    let active = activity(found);
    let mut garbage = Garbage::default();
    for object in found {
        match object.kind {
            Kind::Manifest | Kind::Deleted => continue,
            Kind::Index | Kind::Data if named.contains(&object.key) => continue,
            Kind::Index | Kind::Data => {}
        }
        let release = match graves.get(&object.key) {
            Some(release) => *release,
            None => release(active[&object.id], grace.max(UNFINISHED)),
        };
        if now >= release {
            garbage.due.push(object.clone());
        } else {
            garbage.waiting.push(object.clone());
            garbage.until = garbage.until.max(Some(release));
        }
    }
    garbage
}

/// When something was last written for each backup; not before it started.
fn activity(found: &[Found]) -> HashMap<BackupId, Timestamp> {
    let mut active = HashMap::new();
    for object in found {
        let started = object.id.started().unwrap_or(Timestamp::MIN);
        let last = active.entry(object.id.clone()).or_insert(started);
        *last = (*last).max(object.modified);
    }
    active
}
