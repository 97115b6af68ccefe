//! Limits how many requests are in flight at an API server, and pauses all of them when it asks to wait.
//!
//! Starts with [`MOST`] at once. A 429 halves the number, once for all requests that were in flight together, and each [`GROW`] answers
//! add one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::cluster::Failure;
use crate::error::Class;
use crate::resources::patience::Patience;

/// Requests in flight. An API server of 2 cores creates 1,400 objects a second with so many, and not more with twice as many
/// (docs/benchmarks.md).
pub(super) const MOST: usize = 16;

/// Answers after which one more request may be in flight.
const GROW: u32 = 32;

/// How long the server asks to wait at least, if it does not say.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pace {
    free: Semaphore,
    state: Mutex<State>,
    patience: Patience,
}

#[derive(Debug)]
struct State {
    size: usize,
    answers: u32,
    /// No request starts before.
    until: Instant,
    /// Requests that started before this belong to the same congestion.
    halved: Instant,
}

impl Pace {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        let state = State { size: MOST, answers: 0, until: now, halved: now };
        Self { free: Semaphore::new(MOST), state: Mutex::new(state), patience }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `request` when the server can take it, and repeats it as long as that may help.
    ///
    /// # Errors
    /// The last attempt's.
    pub(super) async fn request<T, F, Fut>(&self, what: &'static str, mut request: F) -> Result<T, Failure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        self.patience
            .retried(what, || {
                let attempt = request();
                async move {
                    let (permit, started) = self.turn().await;
                    let result = attempt.await;
                    self.learn(result.as_ref().err(), started, permit);
                    result
                }
            })
            .await
    }

    async fn turn(&self) -> (Option<SemaphorePermit<'_>>, Instant) {
        // The semaphore is never closed.
        let permit = self.free.acquire().await.ok();
        loop {
            let until = self.state().until;
            if until <= Instant::now() {
                return (permit, Instant::now());
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn learn(&self, failure: Option<&Failure>, started: Instant, permit: Option<SemaphorePermit<'_>>) {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(failure) = failure.filter(|failure| failure.error.class == Class::Throttled) {
            state.until = state.until.max(now + failure.retry_after.unwrap_or(PAUSE));
            state.answers = 0;
            let keep = state.size.div_ceil(2);
            if started >= state.halved && keep < state.size {
                tracing::info!(in_flight = keep, "the API server asks to wait: fewer requests at once");
                let mut excess = state.size - keep;
                if let Some(permit) = permit {
                    permit.forget();
                    excess -= 1;
                }
                self.free.forget_permits(excess);
                (state.size, state.halved) = (keep, now);
            }
            return;
        }
        state.answers += 1;
        if state.answers >= GROW && state.size < MOST {
            (state.size, state.answers) = (state.size + 1, 0);
            self.free.add_permits(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::ServiceError;

    fn throttled() -> Failure {
        let mut failure = Failure::from(ServiceError::local("create", "x", Class::Throttled, "busy"));
        failure.retry_after = Some(Duration::from_secs(2));
        failure
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_to_wait_gets_a_pause_and_fewer_requests() {
        let pace = Pace::new(Patience::default());
        let (made, started) = (AtomicUsize::new(0), Instant::now());
        pace.request("test", || async {
            if made.fetch_add(1, Ordering::Relaxed) == 0 { Err(throttled()) } else { Ok(()) }
        })
        .await
        .unwrap();
        assert!(started.elapsed() >= Duration::from_secs(2));
        assert_eq!((pace.state().size, made.load(Ordering::Relaxed)), (MOST / 2, 2));
        for _ in 0..GROW * MOST as u32 {
            pace.request("test", || async { Ok(()) }).await.unwrap();
        }
        assert_eq!((pace.state().size, pace.free.available_permits()), (MOST, MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_together_halve_the_number_once() {
        let pace = Pace::new(Patience { answered: Duration::ZERO, silent: Duration::ZERO });
        let request = || pace.request("test", || async { tokio::time::sleep(Duration::from_secs(1)).await; Err::<(), _>(throttled()) });
        futures_util::future::join_all((0..MOST).map(|_| request())).await;
        assert_eq!((pace.state().size, pace.free.available_permits()), (MOST / 2, MOST / 2));
    }
}
