//! The engine's retries around a request, after the SDK's own: by class, with full jitter.
//!
//! Full jitter (a uniformly random pause up to a limit that doubles) spreads a fleet's retries best:
//! "Exponential Backoff And Jitter", AWS Architecture Blog.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use crate::error::{Class, Retry};
use crate::store;

/// Attempts of one request by the engine, the first included; each of them is up to three of the SDK's.
const ATTEMPTS: u32 = 5;
/// Bound of the first pause; it doubles with each failure.
const FIRST_BOUND: Duration = Duration::from_millis(200);
/// Bound of every pause.
const LAST_BOUND: Duration = Duration::from_secs(10);

/// The failures of one piece of work so far.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
    at_once: bool,
}

impl Attempts {
    /// How long to wait before the next attempt after a failure of `class`; `None` when there is none. `random` is uniform.
    pub fn after(&mut self, class: Class, random: u64) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= ATTEMPTS {
            return None;
        }
        match class.retry() {
            Retry::No => None,
            Retry::Once if self.at_once => None,
            Retry::Once => {
                self.at_once = true;
                Some(Duration::ZERO)
            }
            Retry::BackOff => Some(jitter(self.failed - 1, random)),
        }
    }

    /// Waits as [`Attempts::after`] says; `false` when there is no further attempt.
    pub async fn wait(&mut self, class: Class) -> bool {
        // Without randomness the pause is the longest one: nothing breaks.
        let random = getrandom::u64().unwrap_or(u64::MAX);
        let Some(pause) = self.after(class, random) else { return false };
        tracing::debug!(%class, failed = self.failed, pause_ms = pause.as_millis(), "trying again");
        tokio::time::sleep(pause).await;
        true
    }
}

/// Full jitter: evenly between nothing and the exponential bound.
fn jitter(doublings: u32, random: u64) -> Duration {
    let bound = FIRST_BOUND.saturating_mul(1 << doublings.min(16)).min(LAST_BOUND);
    let micros = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random % (micros + 1))
}

/// Runs `request` until it succeeds or its class says to stop.
///
/// # Errors
/// The last attempt's.
pub async fn with_retries<T, F, Fut>(
    operation: &'static str,
    key: &impl Display,
    mut request: F,
) -> Result<T, store::Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, store::Error>>,
{
    let mut attempts = Attempts::default();
    loop {
        let error = match request().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !attempts.wait(error.class).await {
            return Err(error);
        }
        tracing::warn!(operation, %key, class = %error.class, %error, "trying again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        for (doublings, bound) in [(0, 200), (1, 400), (5, 6400), (6, 10_000), (60, 10_000)] {
            let bound = Duration::from_millis(bound);
            assert!((0..10_000_u64).map(|n| jitter(doublings, n * 7919)).all(|pause| pause <= bound));
            let most = u64::try_from(bound.as_micros()).unwrap();
            assert_eq!(jitter(doublings, most), bound);
        }
        let mut attempts = Attempts::default();
        let tried = (0..10).filter(|_| attempts.after(Class::Transient, 1).is_some()).count();
        assert_eq!(tried, 4);
    }

    #[test]
    fn some_failures_are_tried_once_more_or_never() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(Class::Integrity, 1), Some(Duration::ZERO));
        assert_eq!(attempts.after(Class::Integrity, 1), None);
        assert_eq!(Attempts::default().after(Class::NotFound, 1), None);
        assert_eq!(Attempts::default().after(Class::AccessDenied, 1), None);
    }
}
