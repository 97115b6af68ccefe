//! Decides when a backup was taken, for everything that needs a newest, an oldest or a period.
//!
//! A backup is dated by its node's clock, which may be wrong. The store's clock bounds it: a manifest cannot be stored before its
//! backup began. So a backup is no younger than its manifest in the store, and one from a clock that was ahead is dated by the store. There
//! is no bound the other way: a copied manifest (another bucket, an undone deletion) is younger than its backup, so a later date in the
//! store proves nothing, and a backup from a clock that was behind looks too old. For that reason retention keeps the backup that was
//! stored last ([`crate::retention`]).

use jiff::{SignedDuration, Timestamp};

/// Stores list times rounded down to whole seconds: a backup of less than a second may seem to begin after its end.
const PRECISION: SignedDuration = SignedDuration::from_secs(1);

/// A clock that is ahead by less is normal, and not reported.
const NOTICEABLE: SignedDuration = SignedDuration::from_mins(1);

/// The time of a backup that began at `started` by its node's clock, and whose manifest was stored at `stored`.
#[must_use]
pub fn taken(started: Timestamp, stored: Timestamp) -> Timestamp {
    if started.duration_since(stored) < PRECISION { started } else { stored }
}

/// Whether the node's clock was so far ahead of the store's that it is reported.
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
