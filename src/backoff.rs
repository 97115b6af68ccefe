//! How long to wait before something that failed is tried again: the one formula, with other numbers for each use.
//!
//! The bound doubles with each failure up to a limit; the pause is a random share of it, so that a fleet that failed together does
//! not come back together ("Exponential Backoff And Jitter", AWS Architecture Blog). Randomness is passed in.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    /// Of the bound, in percent.
    share: (u32, u32),
}

impl Backoff {
    /// Bounds from `first` to `last`; a pause lies evenly between the two shares of its bound, in percent.
    #[must_use]
    pub const fn new(first: Duration, last: Duration, share: (u32, u32)) -> Self {
        Self { first, last, share }
    }

    /// The pause after `doublings` failures before this one. `random` is uniform.
    #[must_use]
    pub fn pause(&self, doublings: u32, random: u64) -> Duration {
        let bound = self.first.saturating_mul(1 << doublings.min(16)).min(self.last);
        between(bound * self.share.0 / 100, bound * self.share.1 / 100, random)
    }
}

/// Evenly between `least` (for a `random` of 0) and `most`.
#[must_use]
pub fn between(least: Duration, most: Duration, random: u64) -> Duration {
    let span = most.saturating_sub(least).as_nanos();
    let share = (span * (u128::from(random) + 1)) >> 64;
    least + Duration::from_nanos(u64::try_from(share).unwrap_or(u64::MAX))
}

/// Without randomness a pause is as long as it may be: nothing breaks.
#[must_use]
pub fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_double_up_to_the_last_and_a_pause_is_a_share_of_its_bound() {
        let (first, last) = (Duration::from_millis(200), Duration::from_secs(10));
        for (least, most) in [(0, 100), (50, 100), (100, 100), (100, 125), (100, 150)] {
            let backoff = Backoff::new(first, last, (least, most));
            for (doublings, bound) in [(0, 200), (1, 400), (5, 6_400), (6, 10_000), (60, 10_000)] {
                let bound = Duration::from_millis(bound);
                let share = |percent| bound * percent / 100;
                assert_eq!(backoff.pause(doublings, 0), share(least));
                assert_eq!(backoff.pause(doublings, u64::MAX), share(most));
                let pauses = (0..1000_u64).map(|n| backoff.pause(doublings, n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                assert!(pauses.into_iter().all(|pause| share(least) <= pause && pause <= share(most)));
            }
        }
    }
}
