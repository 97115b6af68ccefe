//! Limits how fast all uploads together send (`limits.bandwidth`).
//!
//! A token bucket, stored as the time at which it will be full again (the GCRA of ATM, "virtual scheduling"): a sender takes
//! the next free stretch of time and waits until it begins. First come, first served; no debt, no timer. A sender takes
//! little at once ([`Bandwidth::slice`]), so the traffic is smooth, and all senders get the same share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After an idle time a sender may be this much ahead of the rate, so that a late timer does not cost throughput.
const BURST: Duration = Duration::from_millis(50);

/// The largest slice of a body; also its size without a limit.
pub const LARGEST_SLICE: usize = 64 << 10;

/// A smaller slice costs more than it smooths.
const SMALLEST_SLICE: usize = 4 << 10;

/// Cheap to clone; all clones share one limit.
#[derive(Debug, Clone)]
pub struct Bandwidth {
    bytes_per_second: f64,
    /// When all bytes taken so far will have been sent.
    busy_until: Arc<Mutex<Instant>>,
}

impl Bandwidth {
    /// `bytes_per_second` is at least 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact to the byte")]
        let bytes_per_second = bytes_per_second.max(1) as f64;
        Self { bytes_per_second, busy_until: Arc::new(Mutex::new(Instant::now())) }
    }

    /// How much to take at once: the bytes of a tenth of a second.
    #[must_use]
    pub fn slice(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped, and never negative")]
        let tenth = (self.bytes_per_second / 10.0) as usize;
        tenth.clamp(SMALLEST_SLICE, LARGEST_SLICE)
    }

    /// Takes the time for `bytes`, and returns how long to wait before sending them.
    #[must_use]
    pub fn take(&self, bytes: usize, now: Instant) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a slice is small")]
        let stretch = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        // One number, which is valid even after a panic under the lock.
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*busy_until).max(now.checked_sub(BURST).unwrap_or(now));
        *busy_until = start + stretch;
        start.saturating_duration_since(now)
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "bytes of a test are far below 2^52")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// For all sizes and times of requests, no window of time has more than the rate allows, and no time is wasted.
        #[test]
        fn the_line_is_full_and_never_more(
            rate in 10_000_u64..10_000_000,
            asks in proptest::collection::vec((1_usize..65_536, 0_u64..20), 2..200),
        ) {
            let bandwidth = Bandwidth::new(rate);
            let start = Instant::now() + Duration::from_secs(1);
            let mut now = start;
            let mut sent = Vec::new();
            for (bytes, pause) in asks {
                now += Duration::from_millis(pause);
                sent.push((now + bandwidth.take(bytes, now), bytes));
            }
            for first in 0..sent.len() {
                let mut total = 0.0;
                for (at, bytes) in &sent[first..] {
                    let allowed = (*at - sent[first].0 + BURST).as_secs_f64() * rate as f64;
                    // The bytes sent before this one began.
                    prop_assert!(total <= allowed + 1.0, "{total} bytes, {allowed} allowed");
                    total += *bytes as f64;
                }
            }
        }
    }

    #[test]
    fn two_senders_get_the_same_share() {
        let bandwidth = Bandwidth::new(1_000_000);
        let start = Instant::now() + Duration::from_secs(1);
        let (mut at, mut sent) = ([start; 2], [0_usize; 2]);
        for _ in 0..1000 {
            let next = usize::from(at[1] < at[0]);
            at[next] += bandwidth.take(10_000, at[next]);
            sent[next] += 1;
        }
        assert!(sent[0].abs_diff(sent[1]) <= 10, "{sent:?}");
        let took = (at[0].max(at[1]) - start).as_secs_f64();
        assert!((9.8..10.1).contains(&took), "{took} s for ten million bytes");
    }

    #[test]
    fn slices_follow_the_rate() {
        for (rate, slice) in [(1, 4 << 10), (100_000, 10_000), (1 << 30, 64 << 10)] {
            assert_eq!(Bandwidth::new(rate).slice(), slice);
        }
    }
}
