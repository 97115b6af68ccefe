//! When a backup was taken: the one answer that everything uses that asks for a newest, an oldest or a period.
//!
//! A backup is dated by its node's clock, and nothing proves that clock right. The store's clock bounds it: a manifest cannot be
//! stored before its backup began. So a backup is no younger than its manifest in the store, and one whose clock ran ahead counts as
//! what it is. The other way there is no bound: a manifest that was copied (another bucket, a deletion undone) is younger
//! than its backup, so a later date in the store says nothing, and a backup taken with a clock that was behind looks as old as
//! it says. Retention keeps the last one that was stored for that reason ([`crate::retention`]).

use jiff::{SignedDuration, Timestamp};

/// Stores list times in whole seconds, rounded down: a backup that takes less than a second may seem to begin after its end.
const PRECISION: SignedDuration = SignedDuration::from_secs(1);

/// A clock that is ahead by less is what clocks are. Nobody is told.
const NOTICEABLE: SignedDuration = SignedDuration::from_mins(1);

/// When a backup was taken that began at `started` by its node's clock, and whose manifest the store took at `stored`.
#[must_use]
pub fn taken(started: Timestamp, stored: Timestamp) -> Timestamp {
    if started.duration_since(stored) < PRECISION { started } else { stored }
}

/// Whether the node's clock was ahead of the store's so far that it is worth a word.
pub(super) fn is_ahead(started: Timestamp, stored: Timestamp) -> bool {
    started.duration_since(stored) >= NOTICEABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_no_younger_than_its_manifest() {
        for (why, started, stored, expected, ahead) in [
            ("as it should be", "2026-11-23T02:00:00.7Z", "2026-11-23T02:10:00Z", "2026-11-23T02:00:00.7Z", false),
            ("in one second", "2026-11-23T02:00:00.7Z", "2026-11-23T02:00:00Z", "2026-11-23T02:00:00.7Z", false),
            ("ten years ahead", "2036-11-23T02:00:00Z", "2026-11-23T02:00:00Z", "2026-11-23T02:00:00Z", true),
            ("a little ahead", "2026-11-23T02:00:05Z", "2026-11-23T02:00:00Z", "2026-11-23T02:00:00Z", false),
            ("copied years later", "2026-11-23T02:00:00Z", "2030-01-01T00:00:00Z", "2026-11-23T02:00:00Z", false),
            (
                "the store's clock was never set",
                "2026-11-23T02:00:00Z",
                "1970-01-01T00:00:00Z",
                "1970-01-01T00:00:00Z",
                true,
            ),
        ] {
            let [started, stored, expected] = [started, stored, expected].map(|time| time.parse().unwrap());
            assert_eq!((taken(started, stored), is_ahead(started, stored)), (expected, ahead), "{why}");
        }
    }
}
