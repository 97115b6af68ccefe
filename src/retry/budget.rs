//! How many retries a location is asked to bear.
//!
//! A token bucket as in the AWS SDK's standard mode, but one that makes its users wait rather than fail: a burst of retries is free, more
//! come at a fixed rate whatever the number of jobs, and each success earns a share of a retry, so that a busy location with few
//! failures is never slowed down. Who is given up is decided by patience, not here.

use std::time::{Duration, Instant};

/// Retries that need not wait: every part of a default stream twice.
const BURST: f64 = 16.0;

/// Retries a second of all jobs together, while nothing succeeds.
const RATE: f64 = 2.0;

/// What a success earns: with fewer failures than one in four, nobody waits.
const EARNED: f64 = 0.25;

#[derive(Debug, Clone)]
pub(super) struct RetryBudget {
    /// Negative: so many retries are already waiting for their turn.
    tokens: f64,
    at: Instant,
}

impl RetryBudget {
    pub(super) const fn full(now: Instant) -> Self {
        Self { tokens: BURST, at: now }
    }

    pub(super) fn earn(&mut self) {
        self.tokens = (self.tokens + EARNED).min(BURST);
    }

    /// Takes one retry; it may be made after so long.
    pub(super) fn spend(&mut self, now: Instant) -> Duration {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * RATE).min(BURST) - 1.0;
        Duration::from_secs_f64((-self.tokens / RATE).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_come_at_the_rate() {
        let start = Instant::now();
        let mut budget = RetryBudget::full(start);
        let waits: Vec<_> = (0..100).map(|_| budget.spend(start).as_secs_f64()).collect();
        assert!(waits[..16].iter().all(|wait| *wait == 0.0), "{waits:?}");
        for pair in waits[16..].windows(2) {
            assert!((pair[1] - pair[0] - 1.0 / RATE).abs() < 1e-6, "{waits:?}");
        }
        // Whoever comes after the last has waited starts from there, not from a full bucket.
        let later = start + Duration::from_secs_f64(waits[99]);
        assert_eq!(budget.spend(later), Duration::from_millis(500));
        assert_eq!(budget.spend(later + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn few_failures_among_many_successes_never_wait() {
        let now = Instant::now();
        let mut budget = RetryBudget::full(now);
        for _ in 0..10_000 {
            (0..4).for_each(|_| budget.earn());
            assert_eq!(budget.spend(now), Duration::ZERO);
        }
    }
}
