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
    /// Permits that are in use and do not come back.
    owed: usize,
    answers: u32,
    /// No request starts before.
    until: Instant,
    /// Requests that started before this belong to the same congestion.
    halved: Instant,
}

impl Pace {
    pub(super) fn new(patience: Patience) -> Self {
        let now = Instant::now();
        let state = State { size: MOST, owed: 0, answers: 0, until: now, halved: now };
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
                self.once(|| attempt)
            })
            .await
    }

    /// Makes `request` when the server can take it, and does not repeat it.
    ///
    /// # Errors
    /// Its failure.
    pub(super) fn once<T, Fut>(&self, request: impl FnOnce() -> Fut) -> impl Future<Output = Result<T, Failure>>
    where
        Fut: Future<Output = Result<T, Failure>>,
    {
        let attempt = request();
        async move {
            let (permit, started) = self.turn().await;
            let result = attempt.await;
            self.learn(result.as_ref().err(), started, permit);
            result
        }
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
                let excess = state.size - keep;
                state.owed += excess - self.free.forget_permits(excess);
                (state.size, state.halved) = (keep, now);
            }
        } else {
            state.answers += 1;
            if state.answers >= GROW && state.size < MOST {
                (state.size, state.answers) = (state.size + 1, 0);
                self.free.add_permits(1);
            }
        }
        if let Some(permit) = permit.filter(|_| state.owed > 0) {
            permit.forget();
            state.owed -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ServiceError;

    fn throttled() -> Failure {
        let mut failure = Failure::from(ServiceError::local("create", "x", Class::Throttled, "busy"));
        failure.retry_after = Some(Duration::from_secs(3600));
        failure
    }

    #[tokio::test]
    async fn requests_in_flight_together_halve_the_number_once_and_answers_restore_it() {
        let pace = Pace::new(Patience::default());
        let mut turns = Vec::new();
        for _ in 0..MOST {
            turns.push(pace.turn().await);
        }
        for (permit, started) in turns {
            pace.learn(Some(&throttled()), started, permit);
        }
        assert_eq!((pace.state().size, pace.free.available_permits()), (MOST / 2, MOST / 2));
        assert!(pace.state().until > Instant::now() + Duration::from_secs(3000), "the server asks to wait");

        pace.state().until = Instant::now();
        for _ in 0..GROW as usize * MOST {
            let (permit, started) = pace.turn().await;
            pace.learn(None, started, permit);
        }
        assert_eq!((pace.state().size, pace.free.available_permits()), (MOST, MOST));
    }

    #[tokio::test]
    async fn one_request_is_always_left() {
        let pace = Pace::new(Patience::default());
        for _ in 0..10 {
            pace.state().until = Instant::now();
            let (permit, started) = pace.turn().await;
            pace.learn(Some(&throttled()), started, permit);
        }
        assert_eq!((pace.state().size, pace.free.available_permits()), (1, 1));
    }
}
