//! When a snapshot is created, and when it is tried again: the decisions, and the pace that all creations at a location share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::disks;
use crate::error::{Class, Retry};

/// EC2 API Reference, SnapshotCreationPerVolumeRateExceeded: "at least 15 seconds between concurrent snapshots on a single volume".
const PER_VOLUME: Duration = Duration::from_secs(15);
/// A limit on pending snapshots gives way when one of them completes, which takes minutes.
const PENDING_LIMIT: Duration = Duration::from_secs(30);
/// Bounds of the growing pause after throttling and after failures of the network.
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_mins(1);
/// A new snapshot may be listed a moment after its creation; a look for one waits that long.
const LISTED_AFTER: Duration = Duration::from_secs(3);

/// Between two creations once the service has asked to slow down.
const FIRST_GAP: Duration = Duration::from_millis(250);
const LAST_GAP: Duration = Duration::from_secs(10);
/// Below it, no gap at all.
const NO_GAP: Duration = Duration::from_millis(50);

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
            Next::Again(PER_VOLUME + share(PER_VOLUME, random))
        }
        (Class::Busy, _) => Next::Again(PENDING_LIMIT + share(PENDING_LIMIT, random)),
        // Refused, or not even sent.
        (Class::Throttled | Class::CredentialsUnavailable, _) => Next::Again(grown(failed, random)),
        (_, Retry::BackOff) => Next::Look(LISTED_AFTER + grown(failed, random)),
        (_, Retry::Once) if failed <= 1 => Next::Again(Duration::ZERO),
        (_, Retry::Once | Retry::No) => Next::GiveUp,
    }
}

/// Evenly between half of a bound that doubles and the whole of it.
fn grown(failed: u32, random: u64) -> Duration {
    let bound = FIRST.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(LAST);
    bound / 2 + share(bound / 2, random)
}

/// Evenly between nothing and `whole`.
pub(super) fn share(whole: Duration, random: u64) -> Duration {
    let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX - 1);
    Duration::from_micros(random % (micros + 1))
}

/// Without randomness pauses are the shortest: nothing breaks.
pub(super) fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

/// The gap between two creations: none until the service throttles, then it doubles with each throttling and shrinks with each
/// success, as TCP does.
#[derive(Debug, Default)]
pub(super) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gap: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// Waits for this creation's turn.
    pub(super) async fn turn(&self, clock: &dyn Clock) {
        let now = clock.now();
        let at = {
            let mut state = self.state();
            let at = state.next.map_or(now, |next| next.max(now));
            // A fleet that was throttled together must not come back together.
            state.next = Some(at + state.gap / 2 + share(state.gap, random()));
            at
        };
        clock.sleep(at - now).await;
    }

    pub(super) fn throttled(&self) {
        let mut state = self.state();
        state.gap = (state.gap * 2).clamp(FIRST_GAP, LAST_GAP);
    }

    pub(super) fn accepted(&self) {
        let mut state = self.state();
        state.gap = state.gap * 7 / 8;
        if state.gap < NO_GAP {
            state.gap = Duration::ZERO;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Virtual;
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

    #[tokio::test]
    async fn the_pace_slows_down_and_recovers() {
        let (pace, clock) = (Pace::default(), Virtual::default());
        let time = async || {
            let before = clock.passed();
            clock
                .run(async {
                    for _ in 0..20 {
                        pace.turn(&clock).await;
                    }
                })
                .await;
            clock.passed().saturating_sub(before)
        };
        assert_eq!(time().await, Duration::ZERO);
        for _ in 0..3 {
            pace.throttled();
        }
        // A gap of 1 s, between half and one and a half of it.
        let slow = time().await;
        assert!(slow >= Duration::from_secs(9) && slow <= Duration::from_secs(30), "{slow:?}");
        for _ in 0..40 {
            pace.accepted();
        }
        time().await;
        assert_eq!(time().await, Duration::ZERO);
        for _ in 0..40 {
            pace.throttled();
        }
        assert_eq!(pace.state().gap, LAST_GAP);
    }
}
