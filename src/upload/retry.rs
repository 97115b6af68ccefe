//! The engine's retries around a request, after the SDK's own: by class, with full jitter.
//!
//! Full jitter (a uniformly random pause up to a limit that doubles) spreads a fleet's retries best:
//! "Exponential Backoff And Jitter", AWS Architecture Blog.

use std::future::Future;
use std::time::Duration;

use crate::error::Retry;
use crate::format::key::ObjectKey;
use crate::store;

/// Attempts of one request by the engine, each of which is up to three of the SDK's.
const ATTEMPTS: u32 = 5;
const FIRST_LIMIT: Duration = Duration::from_millis(200);
const LAST_LIMIT: Duration = Duration::from_secs(10);

/// What follows the `failures`th failure of a request: a pause to wait out, or `None` to give up. `random` is uniform in 0..=u32::MAX.
#[must_use]
pub fn pause(failures: u32, verdict: Retry, random: u32) -> Option<Duration> {
    match verdict {
        Retry::No => None,
        Retry::Once => (failures <= 1).then_some(Duration::ZERO),
        Retry::BackOff => {
            let limit = FIRST_LIMIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LAST_LIMIT);
            (failures < ATTEMPTS).then(|| limit.mul_f64(f64::from(random) / f64::from(u32::MAX)))
        }
    }
}

/// Runs `request` until it succeeds or its class says to stop.
///
/// # Errors
/// The last attempt's.
pub async fn with_retries<T, F, Fut>(
    operation: &'static str,
    key: &ObjectKey,
    mut request: F,
) -> Result<T, store::Error>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, store::Error>>,
{
    let mut failures = 0;
    loop {
        let error = match request().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        failures += 1;
        let random = getrandom::u32().unwrap_or(u32::MAX);
        let Some(pause) = pause(failures, error.class.retry(), random) else { return Err(error) };
        tracing::warn!(operation, %key, class = %error.class, failures, pause_ms = pause.as_millis(), %error, "trying again");
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_by_verdict() {
        assert_eq!(pause(1, Retry::No, 0), None);
        assert_eq!(pause(1, Retry::Once, u32::MAX), Some(Duration::ZERO));
        assert_eq!(pause(2, Retry::Once, 0), None);
        assert_eq!(pause(1, Retry::BackOff, u32::MAX), Some(FIRST_LIMIT));
        assert_eq!(pause(3, Retry::BackOff, u32::MAX), Some(FIRST_LIMIT * 4));
        assert_eq!(pause(3, Retry::BackOff, 0), Some(Duration::ZERO));
        assert_eq!(pause(ATTEMPTS, Retry::BackOff, 0), None);
    }
}
