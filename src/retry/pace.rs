//! When a snapshot may be created: the pace that all creations at a location share.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::{between, random};
use crate::clock::Clock;

/// Between two creations once the service has asked to slow down.
const FIRST_GAP: Duration = Duration::from_millis(250);
const LAST_GAP: Duration = Duration::from_secs(10);
/// Below it, no gap at all.
const NO_GAP: Duration = Duration::from_millis(50);

/// The gap between two creations: none until the service throttles, then it doubles with each throttling and shrinks with each
/// success, as TCP does.
#[derive(Debug, Default)]
pub struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gap: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// Waits for this creation's turn.
    pub async fn turn(&self, clock: &dyn Clock) {
        let now = clock.now();
        let at = {
            let mut state = self.state();
            let at = state.next.map_or(now, |next| next.max(now));
            // A fleet that was throttled together must not come back together.
            state.next = Some(at + between(state.gap / 2, state.gap * 3 / 2, random()));
            at
        };
        clock.sleep(at - now).await;
    }

    pub fn throttled(&self) {
        let mut state = self.state();
        state.gap = (state.gap * 2).clamp(FIRST_GAP, LAST_GAP);
    }

    pub fn accepted(&self) {
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
