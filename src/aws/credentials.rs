//! Obtains the credentials of one location and keeps them fresh; its S3 and EC2 clients share them.
//!
//! The SDK's own cache refreshes seconds before expiry, on demand, and fails the request when the refresh fails, although
//! the old credentials are still valid. This one promises:
//!
//! - **A refresh in the background**, with a third of the lifetime left (at most [`REFRESH_MARGIN`]) and up to half of that
//!   earlier, at random, so that a fleet does not ask STS in one second. It runs from the first request on, until the
//!   provider is dropped.
//! - **One refresh at a time.** A request waits for it only while there are no valid credentials.
//! - **The last good credentials until they expire**, also when a refresh fails. A failed refresh is repeated with growing
//!   pauses ([`PAUSES`]) for as long as the process lives; within a pause every request gets that failure, so
//!   that a dozen parts do not ask a refusing STS a dozen times.
//! - **Credentials that a service calls expired are dropped** ([`Provider::refused`]); newer ones stay.
//!
//! Costs one request for each hop and refresh, and no thread. Requests in flight keep what they were signed with.

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use crate::backoff::{Backoff, between, random};
use crate::error::Class;
use crate::metrics::{self, Outcome};
use crate::store;

/// A refresh begins at the latest when this much of the lifetime is left (botocore's advisory refresh): so long may STS be
/// unavailable before a request fails.
pub const REFRESH_MARGIN: Duration = Duration::from_mins(15);

/// For short sessions (a role chain's, an emulator's): this share of the lifetime instead.
const REFRESH_SHARE: u32 = 3;

/// How often credentials that do not expire (files, a profile) are read again, to find a rotated key.
pub const REREAD: Duration = Duration::from_mins(1);

/// Even the shortest session is not replaced sooner than this.
const SHORTEST: Duration = Duration::from_secs(1);

/// Pauses after a failed refresh.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), (50, 100));

/// Credentials are not used in this last part of their lifetime: the request still has to arrive. A sixteenth, for a short session.
const LAST_MOMENT: Duration = Duration::from_secs(10);

/// The background task looks at the clock at least this often: the host may have been suspended, or its clock set.
const LOOK: Duration = Duration::from_secs(30);

/// Credentials younger than this cannot be why a service calls a request expired.
const FRESH: Duration = Duration::from_mins(2);

/// Where credentials come from.
#[async_trait]
pub(crate) trait Fetch: fmt::Debug + Send + Sync {
    async fn fetch(&self) -> Result<Credentials, store::Error>;
}

/// The time by the clock of the service that set the expiry.
pub(super) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Cheap to clone; all clones are one cache.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    location: String,
    source: Box<dyn Fetch>,
    clock: Clock,
    metrics: metrics::Location,
    state: Mutex<State>,
    /// Locked during a refresh, so that there is one at a time.
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    kept: Option<Session>,
    failure: Option<Failure>,
    /// Whether the background task was started.
    kept_fresh: bool,
}

struct Session {
    credentials: Credentials,
    obtained: SystemTime,
    refresh_at: SystemTime,
    /// `None`: they do not expire.
    usable_until: Option<SystemTime>,
}

impl Session {
    fn is_valid(&self, now: SystemTime) -> bool {
        self.usable_until.is_none_or(|until| now < until)
    }
}

struct Failure {
    error: store::Error,
    /// Consecutive failures.
    count: u32,
    at: SystemTime,
    pause: Duration,
}

impl Failure {
    /// Until the next refresh may begin. A clock that was set back does not make it longer.
    fn left(&self, now: SystemTime) -> Duration {
        now.duration_since(self.at).map_or(Duration::ZERO, |since| self.pause.saturating_sub(since))
    }
}

/// Whether there are valid credentials now, as `/readyz` and `status` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No request has needed any yet.
    Unasked,
    Valid,
    /// There are none, or they have expired, and the last refresh failed or is running.
    Missing,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub standing: Standing,
    /// When the current credentials expire; `None` without any, or if they do not expire.
    pub expiry: Option<SystemTime>,
    /// Why the last refresh failed; `None` after one that succeeded.
    pub last_error: Option<store::Error>,
}

impl Provider {
    pub(super) fn new(location: &str, source: Box<dyn Fetch>, clock: Clock, metrics: metrics::Location) -> Self {
        let inner = Inner {
            location: location.to_owned(),
            source,
            clock,
            metrics,
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Makes no request; takes a lock.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = (self.inner.clock)();
        let state = self.inner.state();
        let standing = match &state.kept {
            Some(kept) if kept.is_valid(now) => Standing::Valid,
            None if !state.kept_fresh => Standing::Unasked,
            Some(_) | None => Standing::Missing,
        };
        Status {
            standing,
            expiry: state.kept.as_ref().and_then(|kept| kept.credentials.expiry()),
            last_error: state.failure.as_ref().map(|failure| failure.error.clone()),
        }
    }

    /// When the current credentials expire; `None` without any, or if they do not expire.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.status().expiry
    }

    /// Returns credentials that are valid now.
    ///
    /// # Errors
    /// The error of the failing hop or provider, when there are no valid ones and none can be obtained. A temporary one is
    /// [`Class::CredentialsUnavailable`].
    pub async fn get(&self) -> Result<Credentials, store::Error> {
        self.keep_fresh();
        if let Some(answer) = self.inner.cached() {
            return answer;
        }
        let _one = self.inner.refreshing.lock().await;
        // The refresh that we waited for may have brought an answer.
        match self.inner.cached() {
            Some(answer) => answer,
            None => self.inner.obtain().await,
        }
    }

    /// Drops the credentials with this access key ID, which the service refused as expired, whatever their expiry says; the next
    /// request obtains new ones.
    pub(super) fn refused(&self, access_key_id: &str) {
        let mut state = self.inner.state();
        if state.kept.as_ref().is_some_and(|kept| kept.credentials.access_key_id() == access_key_id) {
            tracing::warn!(
                location = self.inner.location,
                "the service refused the credentials as expired: obtaining new ones"
            );
            state.kept = None;
        }
    }

    /// Whether the current credentials were obtained moments ago.
    pub(super) fn is_fresh(&self) -> bool {
        let now = (self.inner.clock)();
        let age = self.inner.state().kept.as_ref().map(|kept| now.duration_since(kept.obtained).unwrap_or_default());
        age.is_some_and(|age| age < FRESH)
    }

    /// Starts the background task once. Outside a runtime there is none, and requests refresh expired credentials.
    fn keep_fresh(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut state = self.inner.state();
        if !state.kept_fresh {
            state.kept_fresh = true;
            runtime.spawn(keep_fresh(Arc::downgrade(&self.inner)));
        }
    }
}

/// The background task: refreshes the credentials when due, and ends with the provider.
async fn keep_fresh(provider: Weak<Inner>) {
    while let Some(inner) = provider.upgrade() {
        let due = inner.tick().await;
        drop(inner);
        tokio::time::sleep(due.min(LOOK)).await;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The valid credentials, or the error of a moment ago; `None` when a refresh is needed.
    fn cached(&self) -> Option<Result<Credentials, store::Error>> {
        let now = (self.clock)();
        let state = self.state();
        if let Some(kept) = state.kept.as_ref().filter(|kept| kept.is_valid(now)) {
            return Some(Ok(kept.credentials.clone()));
        }
        let paused = state.failure.as_ref().filter(|failure| !failure.left(now).is_zero());
        paused.map(|failure| Err(failure.error.clone()))
    }

    /// Refreshes if it is due. Returns the time until the next look.
    async fn tick(&self) -> Duration {
        if self.due_in().is_zero() {
            let _one = self.refreshing.lock().await;
            if self.due_in().is_zero() {
                // `obtain` logs, counts and remembers a failure.
                let _ = self.obtain().await;
            }
        }
        self.due_in()
    }

    fn due_in(&self) -> Duration {
        let now = (self.clock)();
        let state = self.state();
        let fresh_for = state.kept.as_ref().map(|kept| kept.refresh_at.duration_since(now).unwrap_or_default());
        let paused_for = state.failure.as_ref().map(|failure| failure.left(now));
        fresh_for.unwrap_or_default().max(paused_for.unwrap_or_default())
    }

    /// Makes one refresh. The caller holds the lock `refreshing`.
    async fn obtain(&self) -> Result<Credentials, store::Error> {
        let result = self.source.fetch().await;
        let now = (self.clock)();
        match result.and_then(|credentials| not_expired(credentials, now)) {
            Ok(credentials) => {
                self.keep(credentials.clone(), now);
                Ok(credentials)
            }
            Err(error) => Err(self.failed(unavailable(error), now)),
        }
    }

    fn keep(&self, credentials: Credentials, now: SystemTime) {
        let expiry = credentials.expiry();
        let kept = Session {
            obtained: now,
            refresh_at: refresh_at(now, expiry, random()),
            usable_until: expiry.map(|expiry| usable_until(now, expiry)),
            credentials,
        };
        let mut state = self.state();
        state.kept = Some(kept);
        if state.failure.take().is_some() {
            tracing::info!(location = self.location, "refreshed the credentials: the earlier failures are over");
        }
        self.metrics.credentials_refreshed(Outcome::Success);
        self.metrics.credentials_expiry(expiry.map(unix_seconds));
    }

    /// Remembers, logs and counts the failure, and returns it.
    fn failed(&self, error: store::Error, now: SystemTime) -> store::Error {
        let mut state = self.state();
        let count = state.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let failure = Failure { error: error.clone(), count, at: now, pause: PAUSES.pause(count - 1, random()) };
        state.failure = Some(failure);
        let next = match state.kept.as_ref().filter(|kept| kept.is_valid(now)) {
            Some(kept) => match kept.credentials.expiry().and_then(|expiry| jiff::Timestamp::try_from(expiry).ok()) {
                Some(expiry) => format!("the old ones are used until {expiry}"),
                None => "the old ones do not expire".to_owned(),
            },
            None => "requests fail until a refresh succeeds".to_owned(),
        };
        drop(state);
        tracing::warn!(
            location = self.location, class = %error.class, error = %error, remedy = error.remedy, failures = count,
            "could not refresh the credentials: {next}; trying again"
        );
        self.metrics.credentials_refreshed(Outcome::Failure);
        error
    }
}

/// When credentials obtained at `now` are due for a refresh. `random` is uniform.
fn refresh_at(now: SystemTime, expiry: Option<SystemTime>, random: u64) -> SystemTime {
    let Some(expiry) = expiry else { return now + REREAD };
    let lifetime = expiry.duration_since(now).unwrap_or_default();
    let margin = REFRESH_MARGIN.min(lifetime / REFRESH_SHARE);
    let jitter = between(Duration::ZERO, margin / 2, random);
    expiry.checked_sub(margin + jitter).unwrap_or(now).max(now + SHORTEST)
}

/// Until when credentials are used.
fn usable_until(now: SystemTime, expiry: SystemTime) -> SystemTime {
    let lifetime = expiry.duration_since(now).unwrap_or_default();
    expiry.checked_sub(LAST_MOMENT.min(lifetime / 16)).unwrap_or(expiry)
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Refuses credentials that are expired already: every request would obtain them again.
fn not_expired(credentials: Credentials, now: SystemTime) -> Result<Credentials, store::Error> {
    match credentials.expiry().filter(|expiry| *expiry <= now) {
        None => Ok(credentials),
        Some(expiry) => {
            let shown = |time| jiff::Timestamp::try_from(time).map_or_else(|_| "?".to_owned(), |time| time.to_string());
            let message = format!("the new credentials expired at {}; the time here is {}", shown(expiry), shown(now));
            let error = store::Error::at("sts", "credentials", "(obtained just now)", Class::ClockSkew, message);
            Err(store::Error { remedy: Some("fix NTP on this host".to_owned()), ..error })
        }
    }
}

/// Gives every temporary failure the class of missing credentials, whatever its cause.
fn unavailable(error: store::Error) -> store::Error {
    match error.class {
        Class::Transient | Class::Throttled | Class::Timeout => {
            store::Error { class: Class::CredentialsUnavailable, ..error }
        }
        _ => error,
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(provide(self.get()))
    }
}

async fn provide(
    get: impl Future<Output = Result<Credentials, store::Error>>,
) -> Result<Credentials, CredentialsError> {
    get.await.map_err(CredentialsError::provider_error)
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("location", &self.inner.location)
            .field("expiry", &self.expiry())
            .finish_non_exhaustive()
    }
}
