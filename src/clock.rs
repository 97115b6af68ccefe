//! Time that is passed in, for work that waits for minutes: tests pass [`Virtual`] time and do not wait.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

pub trait Clock: Send + Sync {
    fn now(&self) -> Instant;
    fn sleep(&self, time: Duration) -> Sleep;
}

/// The host's monotonic clock, and tokio's timer.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Clock for System {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn sleep(&self, time: Duration) -> Sleep {
        Box::pin(tokio::time::sleep(time))
    }
}

/// Time that passes only when everything waits for it: see [`Virtual::run`]. All clones are one clock.
#[derive(Debug, Clone)]
pub struct Virtual {
    start: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    passed: Duration,
    /// By when they wake, and a number that keeps two of one moment apart.
    sleepers: BTreeMap<(Duration, u64), Waker>,
    slept: u64,
}

impl Default for Virtual {
    fn default() -> Self {
        Self { start: Instant::now(), state: Arc::default() }
    }
}

impl Virtual {
    #[must_use]
    pub fn passed(&self) -> Duration {
        self.state().passed
    }

    /// Runs `work`, and lets time jump to the next moment somebody waits for whenever it can do nothing else.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(value),
            Poll::Pending => {
                self.jump();
                Poll::Pending
            }
        })
        .await
    }

    fn jump(&self) {
        let mut state = self.state();
        if let Some(((at, _), waker)) = state.sleepers.pop_first() {
            state.passed = state.passed.max(at);
            drop(state);
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for Virtual {
    fn now(&self) -> Instant {
        self.start + self.passed()
    }

    fn sleep(&self, time: Duration) -> Sleep {
        let mut state = self.state();
        let (until, number) = (state.passed + time, state.slept);
        state.slept += 1;
        drop(state);
        let clock = self.clone();
        Box::pin(poll_fn(move |context: &mut Context<'_>| {
            let mut state = clock.state();
            if state.passed >= until {
                return Poll::Ready(());
            }
            state.sleepers.insert((until, number), context.waker().clone());
            Poll::Pending
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn virtual_time_passes_in_order_and_at_once() {
        let clock = Virtual::default();
        let order = Mutex::new(Vec::new());
        let sleepers = [3600, 60, 60, 0].map(|seconds| {
            let (clock, order) = (&clock, &order);
            async move {
                clock.sleep(Duration::from_secs(seconds)).await;
                order.lock().unwrap().push((seconds, clock.passed().as_secs()));
            }
        });
        clock.run(join_all(sleepers)).await;
        assert_eq!(order.into_inner().unwrap(), [(0, 0), (60, 60), (60, 60), (3600, 3600)]);
        assert_eq!(clock.now() - clock.start, Duration::from_hours(1));
    }
}
