//! The one owner of retries above the SDK's: a [`Store`](crate::store::Store) and [`Disks`](crate::disks::Disks) that make a failed
//! request again. Whoever opens a location wraps its store and its block service once; everybody else just calls them.
//!
//! - **When**: as the class of the failure says, with full jitter, until the [`Policy`] ends it: by count for whoever waits at a
//!   terminal; an upload rides out an outage, and ends when [`PATIENCE`] has gone by without success.
//! - **How often**: all the work at one location shares its [`Endpoint`]: a budget of retries, so that a store that is ill is not
//!   hammered by every job at once, and the [`window`] of parts in flight. Each retry is counted there, and logged.
//! - **Bodies**: a download that breaks off is resumed where it broke, within the same policy.
//! - **Not repeated**: CreateSnapshot, which only its caller can repeat (see [`crate::disks`]).
//! - **Cancellation**: a request that is in flight, and a pause, end with [`Class::Cancelled`].

mod budget;
mod disks;
pub mod pace;
mod store;
pub mod window;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use self::budget::RetryBudget;
use self::window::{Launch, Window};
use crate::backoff::{Backoff, random};
use crate::clock::Clock;
use crate::error::{Class, Retry, ServiceError};
use crate::metrics;

/// Before a request is made again. The SDK has made up to three attempts by then.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10), (0, 100));

/// How long a piece of an upload is tried before its job fails: longer than a load balancer's failover or a store's restart, shorter
/// than any schedule.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// When a request is not made again, whatever its class says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// After so many attempts, the first included.
    Count(u32),
    /// So long after its first failure.
    Patience(Duration),
}

impl Policy {
    /// For work that somebody waits for.
    pub const COUNTED: Self = Self::Count(5);
}

/// The failures of one request so far.
#[derive(Debug)]
pub struct Attempts {
    policy: Policy,
    failed: u32,
    first_failure: Option<Instant>,
    at_once: bool,
}

impl Attempts {
    const fn new(policy: Policy) -> Self {
        Self { policy, failed: 0, first_failure: None, at_once: false }
    }

    /// For work that is tried again until `patience` has gone by since its first failure.
    #[must_use]
    pub const fn within(patience: Duration) -> Self {
        Self::new(Policy::Patience(patience))
    }

    /// Waits as the class says; `false` when there is no further attempt. For a port without a decorator: `cluster`.
    pub async fn wait(&mut self, class: Class) -> bool {
        let Some(pause) = self.after(class, Instant::now(), random()) else { return false };
        tracing::debug!(%class, failed = self.failed, pause_ms = pause.as_millis(), "trying again");
        tokio::time::sleep(pause).await;
        true
    }

    /// How long to wait before the next attempt after a failure of `class`; `None` when there is none. `random` is uniform.
    fn after(&mut self, class: Class, now: Instant, random: u64) -> Option<Duration> {
        self.failed += 1;
        let since = *self.first_failure.get_or_insert(now);
        let over = match self.policy {
            Policy::Count(most) => self.failed >= most,
            Policy::Patience(patience) => now.duration_since(since) >= patience,
        };
        match class.retry() {
            Retry::No => None,
            Retry::Once if self.at_once => None,
            Retry::Once => {
                self.at_once = true;
                Some(Duration::ZERO)
            }
            Retry::BackOff if over => None,
            Retry::BackOff => Some(PAUSES.pause(self.failed - 1, random)),
        }
    }
}

/// What all the work at one location shares. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    metrics: metrics::Location,
    clock: Arc<dyn Clock>,
    health: Arc<Mutex<Health>>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("health", &self.health).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Health {
    budget: RetryBudget,
    window: Window,
}

impl Endpoint {
    #[must_use]
    pub fn new(metrics: metrics::Location, window: Window, clock: Arc<dyn Clock>) -> Self {
        let health = Health { budget: RetryBudget::full(clock.now()), window };
        Self { metrics, clock, health: Arc::new(Mutex::new(health)) }
    }

    #[must_use]
    pub fn metrics(&self) -> &metrics::Location {
        &self.metrics
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // Plain numbers, each valid on its own.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parts that one stream may have in flight now, at least 1.
    #[must_use]
    pub fn window(&self) -> usize {
        self.health().window.size()
    }

    /// A part is about to be sent, while its stream has `in_flight` others on their way.
    #[must_use]
    pub fn launch(&self, in_flight: usize) -> Launch {
        self.health().window.launch(in_flight, self.clock.now())
    }

    /// An attempt to send the part failed.
    fn lost(&self, launch: &mut Launch, class: Class) {
        let now = self.clock.now();
        self.health().window.failed(launch, class, now);
    }

    /// As much of the budget as so many retries take: whoever comes next waits for them.
    #[cfg(test)]
    pub(crate) fn use_up(&self, retries: u32) {
        (0..retries).for_each(|_| _ = self.health().budget.spend(self.clock.now()));
    }

    /// Waits until the budget allows one more request, and counts it. For whoever finds that what came is not what was stored: that
    /// is known only after the request has succeeded.
    pub async fn once_more(&self, service: &'static str, class: Class) {
        self.metrics.retried(service, class);
        let pause = self.health().budget.spend(self.clock.now());
        self.clock.sleep(pause).await;
    }
}

/// A store, or a block service, whose failed requests are made again. Cheap to clone.
pub struct Retrying<T: ?Sized> {
    inner: Arc<T>,
    endpoint: Endpoint,
    policy: Policy,
    stop: CancellationToken,
}

impl<T: ?Sized> Clone for Retrying<T> {
    fn clone(&self) -> Self {
        let Self { inner, endpoint, policy, stop } = self;
        Self { inner: Arc::clone(inner), endpoint: endpoint.clone(), policy: *policy, stop: stop.clone() }
    }
}

impl<T: ?Sized> fmt::Debug for Retrying<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying").field("policy", &self.policy).finish_non_exhaustive()
    }
}

/// What is asked for, for the log and for the error of a request that was cancelled.
#[derive(Clone, Copy)]
struct Asked<'a> {
    service: &'static str,
    operation: &'static str,
    resource: &'a (dyn fmt::Display + Sync),
}

impl<'a> Asked<'a> {
    fn error(&self, class: Class, message: impl Into<String>) -> ServiceError {
        ServiceError::at(self.service, self.operation, self.resource, class, message)
    }

    const fn s3(operation: &'static str, resource: &'a (dyn fmt::Display + Sync)) -> Self {
        Self { service: "s3", operation, resource }
    }

    const fn ec2(operation: &'static str, resource: &'a (dyn fmt::Display + Sync)) -> Self {
        Self { service: "ec2", operation, resource }
    }
}

impl<T: ?Sized> Retrying<T> {
    #[must_use]
    pub const fn new(inner: Arc<T>, endpoint: Endpoint, policy: Policy, stop: CancellationToken) -> Self {
        Self { inner, endpoint, policy, stop }
    }

    /// Makes `request` until it succeeds, its class says to stop, or the policy does.
    async fn request<R, F>(&self, asked: Asked<'_>, request: impl FnMut() -> F) -> Result<R, ServiceError>
    where
        F: Future<Output = Result<R, ServiceError>>,
    {
        self.watched(asked, request, |_| {}).await
    }

    /// The same; `failed` sees each attempt's failure.
    async fn watched<R, F>(
        &self,
        asked: Asked<'_>,
        mut request: impl FnMut() -> F,
        mut failed: impl FnMut(&ServiceError),
    ) -> Result<R, ServiceError>
    where
        F: Future<Output = Result<R, ServiceError>>,
    {
        let mut attempts = Attempts::new(self.policy);
        loop {
            let result = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(asked.error(Class::Cancelled, "cancelled")),
                result = request() => result,
            };
            let error = match result {
                Ok(value) => {
                    self.endpoint.health().budget.earn();
                    return Ok(value);
                }
                Err(error) => error,
            };
            failed(&error);
            self.again(asked, &mut attempts, error).await?;
        }
    }

    /// Waits for the next attempt's turn.
    ///
    /// # Errors
    /// `error`, when there is no further attempt.
    async fn again(&self, asked: Asked<'_>, attempts: &mut Attempts, error: ServiceError) -> Result<(), ServiceError> {
        let clock = &self.endpoint.clock;
        let now = clock.now();
        let Some(pause) = attempts.after(error.class, now, random()) else { return Err(error) };
        let pause = pause.max(self.endpoint.health().budget.spend(now));
        self.endpoint.metrics.retried(error.service, error.class);
        let Asked { operation, resource, .. } = asked;
        tracing::warn!(operation, key = %resource, class = %error.class, pause_ms = pause.as_millis(), %error, "trying again");
        tokio::select! {
            () = self.stop.cancelled() => Err(asked.error(Class::Cancelled, format!("cancelled after a failure: {error}"))),
            () = clock.sleep(pause) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
