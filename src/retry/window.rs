//! Limits how many parts one stream has in flight at a location: slow start, then additive increase, multiplicative decrease.
//!
//! As in TCP (Jacobson 1988), only parts that were sent while the window was full widen it when they arrive: by one for a whole window of
//! them. Until the first part is throttled or lost it is by one each, if half of the window was in use (as in Linux), so that the window
//! doubles in the time of a part. A throttled or lost part halves
//! it, once for all the parts that were in flight together. A configured `concurrency` is its start and its maximum; `0` starts at
//! [`FIRST`], with a maximum of [`crate::config::MOST_CONCURRENCY`]. Memory is another bound, and usually the lower one.

use std::time::Instant;

use crate::config::Concurrency;
use crate::error::Class;

/// Saturates most links at 16 MiB a part, and doubles twice for the longest.
const FIRST: f64 = 16.0;

#[derive(Debug, Clone)]
pub struct Window {
    size: f64,
    most: f64,
    /// Failures of parts launched before this belong to the same congestion, and do not halve the window again.
    halved: Option<Instant>,
}

/// When a part was sent, and whether the window was full then.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    at: Instant,
    full: bool,
}

impl From<Concurrency> for Window {
    fn from(concurrency: Concurrency) -> Self {
        let most = f64::from(concurrency.most());
        let size = match concurrency {
            Concurrency::Auto => FIRST,
            Concurrency::AtMost(_) => most,
        };
        Self { size, most, halved: None }
    }
}

impl Window {
    pub(super) fn size(&self) -> usize {
        // At most a thousand; the fraction is progress towards the next whole part.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 1000")]
        let whole = self.size as usize;
        whole.max(1)
    }

    pub(super) fn launch(&self, in_flight: usize, now: Instant) -> Launch {
        // While it doubles, parts are sent no faster than it grows.
        let share = if self.halved.is_none() { 2 } else { 1 };
        Launch { at: now, full: (in_flight + 1) * share >= self.size() }
    }

    pub(super) fn arrived(&mut self, launch: Launch) {
        if launch.full {
            let more = if self.halved.is_none() { 1.0 } else { 1.0 / self.size };
            self.size = (self.size + more).min(self.most);
        }
    }

    /// `launch` is the failed attempt; this turns it into the next one.
    pub(super) fn failed(&mut self, launch: &mut Launch, class: Class, now: Instant) {
        let congested = matches!(class, Class::Throttled | Class::KmsThrottled | Class::Transient);
        if congested && self.halved.is_none_or(|halved| launch.at > halved) {
            self.size = (self.size / 2.0).max(1.0);
            self.halved = Some(now);
        }
        launch.at = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn auto() -> Window {
        Window::from(Concurrency::Auto)
    }

    #[test]
    fn parts_that_fail_together_halve_it_once() {
        let mut window = auto();
        let start = Instant::now();
        let mut launches: Vec<_> = (0..8).map(|n| window.launch(n, start)).collect();
        let mut now = start;
        for launch in &mut launches {
            now += Duration::from_millis(10);
            window.failed(launch, Class::Throttled, now);
        }
        assert_eq!(window.size(), 8);
        // The same parts fail again after their pause: the store is still slow.
        now += Duration::from_secs(1);
        for launch in &mut launches {
            window.failed(launch, Class::Throttled, now);
        }
        assert_eq!(window.size(), 4);
        for _ in 0..10 {
            now += Duration::from_secs(1);
            let mut launch = window.launch(0, now);
            window.failed(&mut launch, Class::Transient, now + Duration::from_millis(1));
        }
        assert_eq!(window.size(), 1, "never less than one");
    }

    #[test]
    fn it_doubles_until_the_first_failure() {
        let now = Instant::now();
        let mut window = auto();
        for expected in [16, 32, 64, 64] {
            let size = window.size();
            assert_eq!(size, expected);
            let together = window.launch(size - 1, now);
            (0..size).for_each(|_| window.arrived(together));
        }
        let mut launch = window.launch(63, now);
        window.failed(&mut launch, Class::Throttled, now);
        assert_eq!(window.size(), 32);
        (0..32).for_each(|_| window.arrived(window.launch(31, now)));
        assert_eq!(window.size(), 32, "no longer one for each part");
    }

    #[test]
    fn after_a_failure_success_widens_it_by_one_a_window_up_to_the_maximum() {
        let now = Instant::now();
        let mut window = auto();
        window.failed(&mut Launch { at: now, full: true }, Class::Throttled, now);
        for expected in [8, 9, 10, 11] {
            assert_eq!(window.size(), expected);
            let size = window.size();
            // One more than a window, since 1/size shrinks on the way.
            (0..=size).for_each(|_| window.arrived(window.launch(size - 1, now)));
        }
        (0..100_000).for_each(|_| window.arrived(window.launch(1000, now)));
        assert_eq!(window.size(), usize::from(crate::config::MOST_CONCURRENCY));
        let mut fixed = Window::from(Concurrency::AtMost(3));
        (0..100).for_each(|_| fixed.arrived(fixed.launch(2, now)));
        assert_eq!(fixed.size(), 3);
    }

    #[test]
    fn no_growth_when_source_or_memory_is_the_bottleneck() {
        let mut window = auto();
        let launch = window.launch(2, Instant::now());
        (0..1000).for_each(|_| window.arrived(launch));
        assert_eq!(window.size(), 16);
        let launch = window.launch(11, Instant::now());
        (0..1000).for_each(|_| window.arrived(launch));
        let most = window.size();
        let grows = |window: &Window| window.launch(11, Instant::now()).full;
        assert!(most > 16 && grows(&auto()), "12 of 16 are in use");
        let mut window = auto();
        while grows(&window) {
            let launch = window.launch(11, Instant::now());
            window.arrived(launch);
        }
        assert_eq!(window.size(), 25, "twice as many as are in use, and no more");
        let mut window = auto();
        let mut launch = window.launch(0, Instant::now());
        for class in [Class::Integrity, Class::CredentialsExpired, Class::AccessDenied] {
            window.failed(&mut launch, class, Instant::now());
        }
        assert_eq!(window.size(), 16, "neither does a failure that is not congestion");
    }
}
