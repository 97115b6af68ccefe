//! Repeats failed requests, above the SDK's own retries: a [`Store`](crate::store::Store) and [`Disks`](crate::disks::Disks) that
//! [`crate::location`] wraps around its services once, so that no caller retries.
//!
//! - **When**: the class of the failure decides, with full jitter, until the [`Policy`] ends it: after a number of attempts where
//!   somebody waits; an upload survives an outage, and fails after [`PATIENCE`] without success.
//! - **How often**: all work at one location shares its [`Endpoint`]: a budget of retries, so that the jobs together do not overload
//!   a store in trouble, and the [`window`] of parts in flight. It counts each retry; each is logged.
//! - **Bodies**: an interrupted download continues where it broke off; its requests and its body share one count of attempts.
//! - **Not repeated**: CreateSnapshot, which only its caller can repeat (see [`crate::disks`]), and the request for a new volume, which
//!   its caller repeats until the volume is available.
//! - **Cancellation**: a request in flight and a pause end with [`Class::Cancelled`].

mod budget;
mod disks;
pub mod pace;
mod store;
mod versions;
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

/// Pauses before a request is repeated. The SDK has made up to three attempts by then.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10), (0, 100));

/// How long a request of an upload is repeated before its job fails: longer than a load balancer's failover or a store's restart,
/// shorter than any schedule.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// When a request fails for good, whatever its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// After so many attempts, the first included.
    Count(u32),
    /// This long after its first failure.
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

    /// For work that is repeated until `patience` has passed since its first failure.
    #[must_use]
    pub const fn within(patience: Duration) -> Self {
        Self::new(Policy::Patience(patience))
    }

    /// Waits as the class requires; `false` if there is no further attempt. For a port without a decorator: `cluster`.
    pub async fn wait(&mut self, class: Class) -> bool {
        let Some(pause) = self.after(class, Instant::now(), random()) else { return false };
        tracing::debug!(%class, failed = self.failed, pause_ms = pause.as_millis(), "the request is repeated after a pause");
        tokio::time::sleep(pause).await;
        true
    }

    /// How long to wait before the next attempt after a failure of `class`; `None` if there is no next one. `random` is uniform.
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

/// State that all work at one location shares. Cheap to clone.
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

    /// Notes that a part is about to be sent, while its stream has `in_flight` others in flight.
    #[must_use]
    pub fn launch(&self, in_flight: usize) -> Launch {
        self.health().window.launch(in_flight, self.clock.now())
    }

    /// Notes that an attempt to send the part failed.
    fn lost(&self, launch: &mut Launch, class: Class) {
        let now = self.clock.now();
        self.health().window.failed(launch, class, now);
    }

    /// Takes the tokens of so many retries, so that the next retry waits.
    #[cfg(test)]
    pub(crate) fn use_up(&self, retries: u32) {
        (0..retries).for_each(|_| _ = self.health().budget.spend(self.clock.now()));
    }

    /// Waits until the budget allows one more request, or `stop`, and counts it. For a caller that finds damage in the data of a request
    /// that succeeded.
    pub async fn once_more(&self, service: &'static str, class: Class, stop: &CancellationToken) {
        self.metrics.retried(service, class);
        self.turn(Duration::ZERO).wait(stop).await;
    }

    /// Takes one retry from the budget, to be made after `pause` at the earliest.
    fn turn(&self, pause: Duration) -> Turn<'_> {
        let after = pause.max(self.health().budget.spend(self.clock.now()));
        Turn { endpoint: self, after, made: false }
    }
}

/// A retry that the budget has been charged for. The budget gets it back unless its time comes.
struct Turn<'a> {
    endpoint: &'a Endpoint,
    after: Duration,
    made: bool,
}

impl Turn<'_> {
    /// Whether its time comes before `stop`.
    async fn wait(mut self, stop: &CancellationToken) -> bool {
        self.made = stop.run_until_cancelled(self.endpoint.clock.sleep(self.after)).await.is_some();
        self.made
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.made {
            self.endpoint.health().budget.give_back();
        }
    }
}

/// A store, or a block service, that repeats its failed requests. Cheap to clone.
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

/// Describes a request, for the log and for the error of a cancelled one.
#[derive(Clone, Copy)]
struct Call<'a> {
    service: &'static str,
    operation: &'static str,
    resource: &'a (dyn fmt::Display + Sync),
}

impl<'a> Call<'a> {
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

    const fn attempts(&self) -> Attempts {
        Attempts::new(self.policy)
    }

    /// Makes `request` until it succeeds, its class says to stop, or the policy does.
    async fn request<R, F>(&self, call: Call<'_>, request: impl FnMut() -> F) -> Result<R, ServiceError>
    where
        F: Future<Output = Result<R, ServiceError>>,
    {
        self.watched(call, &mut self.attempts(), request, |_| {}).await
    }

    /// The same after the `attempts` so far; `failed` sees each attempt's failure.
    async fn watched<R, F>(
        &self,
        call: Call<'_>,
        attempts: &mut Attempts,
        mut request: impl FnMut() -> F,
        mut failed: impl FnMut(&ServiceError),
    ) -> Result<R, ServiceError>
    where
        F: Future<Output = Result<R, ServiceError>>,
    {
        loop {
            let result = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(call.error(Class::Cancelled, "cancelled")),
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
            self.again(call, attempts, error).await?;
        }
    }

    /// Waits until the next attempt may start.
    ///
    /// # Errors
    /// `error`, when there is no further attempt.
    async fn again(&self, call: Call<'_>, attempts: &mut Attempts, error: ServiceError) -> Result<(), ServiceError> {
        let now = self.endpoint.clock.now();
        let Some(pause) = attempts.after(error.class, now, random()) else { return Err(error) };
        let turn = self.endpoint.turn(pause);
        self.endpoint.metrics.retried(error.service, error.class);
        let Call { operation, resource, .. } = call;
        tracing::warn!(operation, key = %resource, class = %error.class, pause_ms = turn.after.as_millis(), %error, "a request failed: trying again after a pause");
        if turn.wait(&self.stop).await {
            return Ok(());
        }
        Err(call.error(Class::Cancelled, format!("cancelled after a failure: {error}")))
    }
}

#[cfg(test)]
mod tests;
