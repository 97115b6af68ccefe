//! The credentials of one location: obtained, kept fresh, shared by its S3 and EC2 clients.
//!
//! The SDK's own cache refreshes seconds before expiry, on demand, and fails the request when the refresh fails, although
//! the old credentials still hold. This one promises:
//!
//! - **A refresh in the background**, with a third of the lifetime left (at most [`REFRESH_MARGIN`]) and up to half of that
//!   earlier, at random, so that a fleet does not ask STS in one second. It runs from the first request on, until the
//!   provider is dropped.
//! - **One refresh at a time.** Whoever has nothing that holds waits for it; whoever has does not.
//! - **The last good credentials until they expire**, whatever a refresh says. After a failure it is tried again with growing
//!   pauses ([`pause`]), for as long as the process lives; a failure is the answer to everyone who asks within the pause, so
//!   that a dozen parts do not ask a refusing STS a dozen times.
//! - **What a service calls expired is dropped** ([`Provider::refused`]), and only that: newer credentials stay.
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

/// The most that is left of the lifetime when a refresh begins (botocore's advisory refresh): how long STS may be away
/// before anything fails.
pub const REFRESH_MARGIN: Duration = Duration::from_mins(15);

/// Of short sessions (a chain's, an emulator's) this share instead.
const REFRESH_SHARE: u32 = 3;

/// Credentials that do not expire (files, a profile) are read again after this long: a rotated key is found.
pub const REREAD: Duration = Duration::from_mins(1);

/// However short a session is, it is not replaced sooner.
const SHORTEST: Duration = Duration::from_secs(1);

/// After a failed refresh.
const PAUSES: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1), (50, 100));

/// A request signed at the last moment still has to arrive. Of a short session, a sixteenth.
const LAST_MOMENT: Duration = Duration::from_secs(10);

/// The background looks at the clock at least this often: the host may have slept, or its clock been set.
const LOOK: Duration = Duration::from_secs(30);

/// Credentials younger than this are no reason for a service to call a request expired.
const FRESH: Duration = Duration::from_mins(2);

/// Where credentials come from.
#[async_trait]
pub(crate) trait Fetch: fmt::Debug + Send + Sync {
    async fn fetch(&self) -> Result<Credentials, store::Error>;
}

/// The time of whoever wrote the expiry.
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
    /// Held by the one refresh.
    refreshing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failure: Option<Failure>,
    /// The background task was started.
    kept_fresh: bool,
}

struct Held {
    credentials: Credentials,
    obtained: SystemTime,
    refresh_at: SystemTime,
    /// `None`: they do not expire.
    holds_until: Option<SystemTime>,
}

impl Held {
    fn holds(&self, now: SystemTime) -> bool {
        self.holds_until.is_none_or(|until| now < until)
    }
}

struct Failure {
    error: store::Error,
    /// In a row.
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

/// Whether there are credentials that hold now: what `/readyz` and `status` show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has asked for any yet.
    Unasked,
    Valid,
    /// None are held, or they have expired, and the last refresh failed or is under way.
    Missing,
}

#[derive(Debug, Clone)]
pub struct Status {
    pub standing: Standing,
    /// Of the credentials held now; `None` when none are held or they do not expire.
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

    /// Asks nobody, and costs a lock.
    #[must_use]
    pub fn status(&self) -> Status {
        let now = (self.inner.clock)();
        let state = self.inner.state();
        let standing = match &state.held {
            Some(held) if held.holds(now) => Standing::Valid,
            None if !state.kept_fresh => Standing::Unasked,
            Some(_) | None => Standing::Missing,
        };
        Status {
            standing,
            expiry: state.held.as_ref().and_then(|held| held.credentials.expiry()),
            last_error: state.failure.as_ref().map(|failure| failure.error.clone()),
        }
    }

    /// When the credentials held now expire; `None` when none are held or they do not expire.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.status().expiry
    }

    /// Credentials that hold now.
    ///
    /// # Errors
    /// When none are held that do and none can be obtained: what the failing hop or provider said. One that may pass is
    /// [`Class::CredentialsUnavailable`].
    pub async fn get(&self) -> Result<Credentials, store::Error> {
        self.keep_fresh();
        if let Some(answer) = self.inner.at_hand() {
            return answer;
        }
        let _one = self.inner.refreshing.lock().await;
        // Whoever was before us may have answered already.
        match self.inner.at_hand() {
            Some(answer) => answer,
            None => self.inner.obtain().await,
        }
    }

    /// The service refused the credentials with this access key ID as expired: they are dropped, whatever their expiry says,
    /// and the next request obtains others.
    pub(super) fn refused(&self, access_key_id: &str) {
        let mut state = self.inner.state();
        if state.held.as_ref().is_some_and(|held| held.credentials.access_key_id() == access_key_id) {
            tracing::warn!(
                location = self.inner.location,
                "the credentials were refused as expired: obtaining new ones"
            );
            state.held = None;
        }
    }

    /// Whether the credentials held were obtained moments ago.
    pub(super) fn is_fresh(&self) -> bool {
        let now = (self.inner.clock)();
        let age = self.inner.state().held.as_ref().map(|held| now.duration_since(held.obtained).unwrap_or_default());
        age.is_some_and(|age| age < FRESH)
    }

    /// Starts the background once. Outside a runtime there is none, and requests refresh what has expired.
    fn keep_fresh(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut state = self.inner.state();
        if !state.kept_fresh {
            state.kept_fresh = true;
            runtime.spawn(keep_fresh(Arc::downgrade(&self.inner)));
        }
    }
}

/// The background: refreshes what is due, and ends with the provider.
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

    /// What holds now, or the error of a moment ago; `None` when somebody has to ask.
    fn at_hand(&self) -> Option<Result<Credentials, store::Error>> {
        let now = (self.clock)();
        let state = self.state();
        if let Some(held) = state.held.as_ref().filter(|held| held.holds(now)) {
            return Some(Ok(held.credentials.clone()));
        }
        let paused = state.failure.as_ref().filter(|failure| !failure.left(now).is_zero());
        paused.map(|failure| Err(failure.error.clone()))
    }

    /// Refreshes if it is due; how long until it is the next time.
    async fn tick(&self) -> Duration {
        if self.due_in().is_zero() {
            let _one = self.refreshing.lock().await;
            if self.due_in().is_zero() {
                // A failure is logged, counted and remembered there.
                let _ = self.obtain().await;
            }
        }
        self.due_in()
    }

    fn due_in(&self) -> Duration {
        let now = (self.clock)();
        let state = self.state();
        let fresh_for = state.held.as_ref().map(|held| held.refresh_at.duration_since(now).unwrap_or_default());
        let paused_for = state.failure.as_ref().map(|failure| failure.left(now));
        fresh_for.unwrap_or_default().max(paused_for.unwrap_or_default())
    }

    /// One refresh. The caller holds `refreshing`.
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
        let held = Held {
            obtained: now,
            refresh_at: refresh_at(now, expiry, random()),
            holds_until: expiry.map(|expiry| holds_until(now, expiry)),
            credentials,
        };
        let mut state = self.state();
        state.held = Some(held);
        if state.failure.take().is_some() {
            tracing::info!(location = self.location, "the credentials were refreshed again");
        }
        self.metrics.credentials_refreshed(Outcome::Success);
        self.metrics.credentials_expiry(expiry.map(unix_seconds));
    }

    /// Remembers the failure, and hands it back.
    fn failed(&self, error: store::Error, now: SystemTime) -> store::Error {
        let mut state = self.state();
        let count = state.failure.as_ref().map_or(0, |failure| failure.count).saturating_add(1);
        let failure = Failure { error: error.clone(), count, at: now, pause: PAUSES.pause(count - 1, random()) };
        state.failure = Some(failure);
        let holds = match state.held.as_ref().filter(|held| held.holds(now)) {
            Some(held) => match held.credentials.expiry().and_then(|expiry| jiff::Timestamp::try_from(expiry).ok()) {
                Some(expiry) => format!("the old ones hold until {expiry}"),
                None => "the old ones do not expire".to_owned(),
            },
            None => "there are none that hold".to_owned(),
        };
        drop(state);
        tracing::warn!(
            location = self.location, class = %error.class, error = %error, remedy = error.remedy, failures = count,
            "the credentials could not be refreshed; {holds}"
        );
        self.metrics.credentials_refreshed(Outcome::Failure);
        error
    }
}

/// When credentials obtained at `now` are due. `random` is uniform.
fn refresh_at(now: SystemTime, expiry: Option<SystemTime>, random: u64) -> SystemTime {
    let Some(expiry) = expiry else { return now + REREAD };
    let lifetime = expiry.duration_since(now).unwrap_or_default();
    let margin = REFRESH_MARGIN.min(lifetime / REFRESH_SHARE);
    let jitter = between(Duration::ZERO, margin / 2, random);
    expiry.checked_sub(margin + jitter).unwrap_or(now).max(now + SHORTEST)
}

/// Until when credentials are handed out.
fn holds_until(now: SystemTime, expiry: SystemTime) -> SystemTime {
    let lifetime = expiry.duration_since(now).unwrap_or_default();
    expiry.checked_sub(LAST_MOMENT.min(lifetime / 16)).unwrap_or(expiry)
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Taken as they are, they would be asked for again with every request.
fn not_expired(credentials: Credentials, now: SystemTime) -> Result<Credentials, store::Error> {
    match credentials.expiry().filter(|expiry| *expiry <= now) {
        None => Ok(credentials),
        Some(expiry) => {
            let shown = |time| jiff::Timestamp::try_from(time).map_or_else(|_| "?".to_owned(), |time| time.to_string());
            let message = format!("those obtained expired at {}, and it is {} here", shown(expiry), shown(now));
            let error = store::Error::at("sts", "credentials", "(obtained just now)", Class::ClockSkew, message);
            Err(store::Error { remedy: Some("fix NTP on this host".to_owned()), ..error })
        }
    }
}

/// What may pass is one class for whoever waits for credentials, whatever stood in their way.
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
