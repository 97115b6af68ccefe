//! The engine's retries around a request, after the SDK's own: by class, with full jitter.
//!
//! - One piece of work has [`Attempts`]. For whoever waits at a terminal they end by count; an upload rides out an outage, and
//!   ends when [`PATIENCE`] has gone by without success.
//! - All the work at one location shares its [`Endpoint`]: a budget of retries, so that a store that is ill is not hammered by
//!   every job at once, and the [`window`] of parts in flight.
//!
//! Full jitter (a uniformly random pause up to a limit that doubles) spreads a fleet's retries best:
//! "Exponential Backoff And Jitter", AWS Architecture Blog.

mod budget;
pub mod window;

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use self::budget::RetryBudget;
use self::window::{Launch, Window};
use crate::error::{Class, Retry};
use crate::{metrics, store};

/// Attempts of one request by the engine, the first included; each of them is up to three of the SDK's.
const ATTEMPTS: u32 = 5;
/// Bound of the first pause; it doubles with each failure.
const FIRST_BOUND: Duration = Duration::from_millis(200);
/// Bound of every pause.
const LAST_BOUND: Duration = Duration::from_secs(10);

/// How long a piece of an upload is tried before its job fails: longer than a load balancer's failover or a store's restart, shorter
/// than any schedule.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// When one piece of work is given up.
#[derive(Debug, Clone, Copy)]
enum Limit {
    Count(u32),
    /// So long after its first failure.
    Time(Duration),
}

/// The failures of one piece of work so far.
#[derive(Debug)]
pub struct Attempts {
    limit: Limit,
    failed: u32,
    first_failure: Option<Instant>,
    at_once: bool,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::with(Limit::Count(ATTEMPTS))
    }
}

impl Attempts {
    const fn with(limit: Limit) -> Self {
        Self { limit, failed: 0, first_failure: None, at_once: false }
    }

    /// For work that is tried again until `patience` has gone by since its first failure.
    #[must_use]
    pub const fn within(patience: Duration) -> Self {
        Self::with(Limit::Time(patience))
    }

    /// How long to wait before the next attempt after a failure of `class`; `None` when there is none. `random` is uniform.
    fn after(&mut self, class: Class, now: Instant, random: u64) -> Option<Duration> {
        self.failed += 1;
        let since = *self.first_failure.get_or_insert(now);
        let given_up = match self.limit {
            Limit::Count(most) => self.failed >= most,
            Limit::Time(patience) => now.duration_since(since) >= patience,
        };
        match class.retry() {
            Retry::No => None,
            Retry::Once if self.at_once => None,
            Retry::Once => {
                self.at_once = true;
                Some(Duration::ZERO)
            }
            Retry::BackOff if given_up => None,
            Retry::BackOff => Some(jitter(self.failed - 1, random)),
        }
    }

    fn pause(&mut self, class: Class) -> Option<Duration> {
        // Without randomness the pause is the longest one: nothing breaks.
        self.after(class, Instant::now(), getrandom::u64().unwrap_or(u64::MAX))
    }

    /// Waits as the class says; `false` when there is no further attempt.
    pub async fn wait(&mut self, class: Class) -> bool {
        let Some(pause) = self.pause(class) else { return false };
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

/// Runs `request` until it succeeds or its class says to stop: for work that somebody waits for.
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

/// What the engine knows of one location, shared by all its work there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    metrics: metrics::Location,
    patience: Duration,
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    budget: RetryBudget,
    window: Window,
}

impl Endpoint {
    #[must_use]
    pub fn new(metrics: metrics::Location, window: Window) -> Self {
        let health = Health { budget: RetryBudget::full(Instant::now()), window };
        Self { inner: Arc::new(Inner { metrics, patience: PATIENCE, health: Mutex::new(health) }) }
    }

    /// The same with another [`PATIENCE`].
    #[must_use]
    pub fn patient_for(self, patience: Duration) -> Self {
        let (metrics, window) = (self.inner.metrics.clone(), self.health().window.clone());
        let health = Health { budget: RetryBudget::full(Instant::now()), window };
        Self { inner: Arc::new(Inner { metrics, patience, health: Mutex::new(health) }) }
    }

    #[must_use]
    pub fn metrics(&self) -> &metrics::Location {
        &self.inner.metrics
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Plain numbers, each valid on its own.
        self.inner.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parts that one stream may have in flight now, at least 1.
    #[must_use]
    pub fn window(&self) -> usize {
        self.health().window.size()
    }

    /// A part is about to be sent, while its stream has `in_flight` others on their way.
    #[must_use]
    pub fn launch(&self, in_flight: usize) -> Launch {
        self.health().window.launch(in_flight, Instant::now())
    }

    /// Runs `request` until it succeeds, its class says to stop, or patience ends.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn retrying<T, F, Fut>(
        &self,
        operation: &'static str,
        key: &impl Display,
        request: F,
    ) -> Result<T, store::Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, store::Error>>,
    {
        self.attempt(operation, key, None, request).await
    }

    /// As [`Endpoint::retrying`], for a part: how it goes moves the window.
    ///
    /// # Errors
    /// The last attempt's.
    pub async fn retrying_part<T, F, Fut>(
        &self,
        operation: &'static str,
        key: &impl Display,
        launch: Launch,
        request: F,
    ) -> Result<T, store::Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, store::Error>>,
    {
        self.attempt(operation, key, Some(launch), request).await
    }

    async fn attempt<T, F, Fut>(
        &self,
        operation: &'static str,
        key: &impl Display,
        mut launch: Option<Launch>,
        mut request: F,
    ) -> Result<T, store::Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, store::Error>>,
    {
        let mut attempts = Attempts::with(Limit::Time(self.inner.patience));
        loop {
            let error = match request().await {
                Ok(value) => {
                    let mut health = self.health();
                    health.budget.earn();
                    if let Some(launch) = launch {
                        health.window.arrived(launch);
                    }
                    return Ok(value);
                }
                Err(error) => error,
            };
            let Some(pause) = attempts.pause(error.class) else { return Err(error) };
            let pause = {
                let now = Instant::now();
                let mut health = self.health();
                if let Some(launch) = &mut launch {
                    health.window.failed(launch, error.class, now);
                }
                pause.max(health.budget.spend(now))
            };
            self.inner.metrics.retried(error.service, error.class);
            tracing::warn!(operation, %key, class = %error.class, pause_ms = pause.as_millis(), %error, "trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests;
