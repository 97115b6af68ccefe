//! When a CreateSnapshot that failed is tried again: the decision alone. [`crate::retry::pace`] says when one may be sent at all.

use std::time::Duration;

use crate::backoff::{Backoff, between};
use crate::disks;
use crate::error::{Class, Retry};

/// EC2 API Reference, SnapshotCreationPerVolumeRateExceeded: "at least 15 seconds between concurrent snapshots on a single volume".
const PER_VOLUME: Duration = Duration::from_secs(15);
/// A limit on pending snapshots gives way when one of them completes, which takes minutes.
const PENDING_LIMIT: Duration = Duration::from_secs(30);
/// After throttling and after failures of the network.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), (50, 100));
/// A new snapshot may be listed a moment after its creation; a look for one waits that long.
const LISTED_AFTER: Duration = Duration::from_secs(3);

/// What to do about a CreateSnapshot that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing was created: wait, and create.
    Again(Duration),
    /// Nobody knows whether one was created: wait, look for it, and create only if there is none.
    Look(Duration),
    GiveUp,
}

/// `failed` counts the failures so far, this one included; `random` is uniform.
pub(super) fn next(error: &disks::Error, failed: u32, random: u64) -> Next {
    match (error.class, error.class.retry()) {
        (Class::Busy, _) if error.code.as_deref() == Some("SnapshotCreationPerVolumeRateExceeded") => {
            Next::Again(between(PER_VOLUME, 2 * PER_VOLUME, random))
        }
        (Class::Busy, _) => Next::Again(between(PENDING_LIMIT, 2 * PENDING_LIMIT, random)),
        // Refused, or not even sent.
        (Class::Throttled | Class::CredentialsUnavailable, _) => Next::Again(PAUSES.pause(failed - 1, random)),
        (_, Retry::BackOff) => Next::Look(LISTED_AFTER + PAUSES.pause(failed - 1, random)),
        (_, Retry::Once) if failed <= 1 => Next::Again(Duration::ZERO),
        (_, Retry::Once | Retry::No) => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::memory::error;

    fn after(class: Class, code: &str, failed: u32, random: u64) -> Next {
        next(&error("CreateSnapshot", class, 400, code), failed, random)
    }

    #[test]
    fn who_waits_how_long() {
        let seconds = Duration::from_secs;
        for random in [0, 1, 7_777_777, u64::MAX] {
            let Next::Again(pause) = after(Class::Busy, "SnapshotCreationPerVolumeRateExceeded", 1, random) else {
                panic!()
            };
            assert!(pause >= seconds(15) && pause <= seconds(30), "{pause:?}");
            for code in ["ConcurrentSnapshotLimitExceeded", "PendingSnapshotLimitExceeded", "IncorrectState"] {
                let Next::Again(pause) = after(Class::Busy, code, 9, random) else { panic!() };
                assert!(pause >= seconds(30) && pause <= seconds(60), "{pause:?}");
            }
            for (failed, bound) in [(1, 1), (2, 2), (5, 16), (7, 60), (40, 60)] {
                let Next::Again(pause) = after(Class::Throttled, "RequestLimitExceeded", failed, random) else {
                    panic!()
                };
                assert!(pause * 2 >= seconds(bound) && pause <= seconds(bound), "{failed}: {pause:?}");
            }
            let Next::Look(pause) = after(Class::Transient, "InternalError", 1, random) else { panic!() };
            assert!(pause >= seconds(3) && pause <= seconds(4), "{pause:?}");
        }
    }

    #[test]
    fn what_is_not_tried_again() {
        for class in [Class::AccessDenied, Class::Quota, Class::KmsDenied, Class::NotFound, Class::Config] {
            assert_eq!(after(class, "X", 1, 1), Next::GiveUp, "{class}");
        }
        assert_eq!(after(Class::CredentialsExpired, "RequestExpired", 1, 1), Next::Again(Duration::ZERO));
        assert_eq!(after(Class::CredentialsExpired, "RequestExpired", 2, 1), Next::GiveUp);
    }
}
