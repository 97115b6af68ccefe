//! The credentials of one location: obtained, kept fresh, shared by its S3 and EC2 clients.
//!
//! The SDK's own cache refreshes seconds before expiry and fails the request when the refresh fails, although the old
//! credentials still hold. This one refreshes when less than a quarter of the lifetime (at most five minutes) is left,
//! one refresh at a time, and while the last good credentials hold it goes on with them, says so in the log, and tries
//! again after [`RETRY_PAUSE`]. Once they have expired a failed refresh is the request's error, and is given to
//! everyone who asks within the pause: a dozen parts do not ask a refusing STS a dozen times.
//!
//! Nothing here refreshes in the background yet: a refresh is done by the request that finds it due.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};

use crate::store;

/// The most that is left of the lifetime when a refresh begins; long sessions need no more than this.
pub const REFRESH_MARGIN: Duration = Duration::from_mins(5);

/// Of short sessions (a chain's last quarter of an hour, an emulator's few minutes) this share instead.
const REFRESH_SHARE: u32 = 4;

/// Credentials that do not expire (files, a profile) are read again after this long: a rotated key is found.
pub const REREAD: Duration = Duration::from_mins(1);

/// How long a failed refresh is remembered.
pub const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A request signed at the last moment still has to arrive.
const LAST_MOMENT: Duration = Duration::from_secs(10);

/// Where credentials come from.
#[async_trait]
pub(crate) trait Fetch: fmt::Debug + Send + Sync {
    async fn fetch(&self) -> Result<Credentials, store::Error>;
}

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Cheap to clone; all clones are one cache.
#[derive(Clone)]
pub struct Provider {
    inner: Arc<Inner>,
}

struct Inner {
    location: String,
    source: Box<dyn Fetch>,
    clock: Clock,
    state: Mutex<State>,
    /// Held by the one refresh.
    refresh: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    /// Counts what was obtained, so that a late "expired" cannot drop what came after it.
    generation: u64,
    failed: Option<(SystemTime, store::Error)>,
}

#[derive(Clone)]
struct Held {
    credentials: Credentials,
    refresh_at: SystemTime,
}

/// Which credentials a request was sent with, for [`Provider::invalidate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

enum Now {
    Serve(Credentials),
    /// What is held still serves if the refresh fails.
    Refresh(Option<Credentials>),
    Fail(store::Error),
}

impl Provider {
    pub(crate) fn new(location: &str, source: Box<dyn Fetch>) -> Self {
        Self::with_clock(location, source, Arc::new(SystemTime::now))
    }

    fn with_clock(location: &str, source: Box<dyn Fetch>, clock: Clock) -> Self {
        let inner = Inner {
            location: location.to_owned(),
            source,
            clock,
            state: Mutex::default(),
            refresh: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// When the credentials held now expire; `None` when none are held or they do not expire.
    #[must_use]
    pub fn expiry(&self) -> Option<SystemTime> {
        self.inner.state().held.as_ref().and_then(|held| held.credentials.expiry())
    }

    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.inner.state().generation)
    }

    /// Which credentials a request that begins now will be sent with, after obtaining them if none are held. A failure
    /// is left to the request, which meets it again.
    pub(crate) async fn ready(&self) -> Generation {
        drop(self.get().await);
        self.generation()
    }

    /// The service refused credentials of `generation` as expired: they are dropped, whatever their expiry says, and
    /// the next request obtains others. Newer ones are kept.
    pub fn invalidate(&self, generation: Generation) {
        let mut state = self.inner.state();
        if state.generation == generation.0 {
            state.held = None;
        }
    }

    /// Credentials that hold now.
    ///
    /// # Errors
    /// When none are held that do and none can be obtained: what the failing hop or provider said.
    pub async fn get(&self) -> Result<Credentials, store::Error> {
        let spare = match self.inner.now() {
            Now::Serve(credentials) => return Ok(credentials),
            Now::Fail(error) => return Err(error),
            Now::Refresh(spare) => spare,
        };
        let _one = match (self.inner.refresh.try_lock(), spare) {
            (Ok(guard), _) => guard,
            // Someone is at it, and what is held still holds.
            (Err(_), Some(credentials)) => return Ok(credentials),
            (Err(_), None) => self.inner.refresh.lock().await,
        };
        match self.inner.now() {
            Now::Serve(credentials) => Ok(credentials),
            Now::Fail(error) => Err(error),
            Now::Refresh(spare) => self.inner.obtain(spare).await,
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        let now = (self.clock)();
        let state = self.state();
        let holds = |held: &&Held| held.credentials.expiry().is_none_or(|expiry| now + LAST_MOMENT < expiry);
        let held = state.held.as_ref().filter(holds);
        let paused =
            state.failed.as_ref().filter(|(at, _)| now.duration_since(*at).is_ok_and(|since| since < RETRY_PAUSE));
        match (held, paused) {
            (Some(held), _) if now < held.refresh_at => Now::Serve(held.credentials.clone()),
            (Some(held), Some(_)) => Now::Serve(held.credentials.clone()),
            (None, Some((_, error))) => Now::Fail(error.clone()),
            (held, None) => Now::Refresh(held.map(|held| held.credentials.clone())),
        }
    }

    async fn obtain(&self, spare: Option<Credentials>) -> Result<Credentials, store::Error> {
        let result = self.source.fetch().await;
        let now = (self.clock)();
        let mut state = self.state();
        match result {
            Ok(credentials) => {
                let refresh_at = refresh_at(now, credentials.expiry());
                state.held = Some(Held { credentials: credentials.clone(), refresh_at });
                state.generation += 1;
                state.failed = None;
                Ok(credentials)
            }
            Err(error) => {
                state.failed = Some((now, error.clone()));
                let Some(spare) = spare else { return Err(error) };
                let expiry = spare.expiry().and_then(|expiry| jiff::Timestamp::try_from(expiry).ok());
                tracing::warn!(
                    location = self.location, class = %error.class, error = %error, remedy = error.remedy,
                    "the credentials could not be refreshed; going on with the old ones until {}",
                    expiry.map_or_else(|| "they are refused".to_owned(), |expiry| expiry.to_string()),
                );
                Ok(spare)
            }
        }
    }
}

/// When credentials obtained at `now` are due: with a quarter of their lifetime left, or [`REFRESH_MARGIN`] if that is less.
fn refresh_at(now: SystemTime, expiry: Option<SystemTime>) -> SystemTime {
    let Some(expiry) = expiry else { return now + REREAD };
    let lifetime = expiry.duration_since(now).unwrap_or_default();
    expiry.checked_sub(REFRESH_MARGIN.min(lifetime / REFRESH_SHARE)).unwrap_or(expiry)
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;
    use crate::error::Class;
    use crate::format::key::ObjectKey;

    /// Hands out key `AK1`, `AK2`, … for an hour each, or fails while `down` is not 0.
    #[derive(Debug, Default)]
    struct Script {
        calls: AtomicUsize,
        down: AtomicUsize,
        lifetime: Option<Duration>,
        now: Arc<AtomicU64>,
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    #[async_trait]
    impl Fetch for Arc<Script> {
        async fn fetch(&self) -> Result<Credentials, store::Error> {
            let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            if self.down.load(Ordering::SeqCst) > 0 {
                return Err(store::Error::local(
                    "AssumeRole",
                    ObjectKey::new("r"),
                    Class::Transient,
                    format!("down at call {call}"),
                ));
            }
            let expiry = self.lifetime.map(|lifetime| at(self.now.load(Ordering::SeqCst)) + lifetime);
            Ok(Credentials::new(format!("AK{call}"), "very-secret", None, expiry, "test"))
        }
    }

    fn provider(lifetime: Option<u64>) -> (Provider, Arc<Script>) {
        let script = Arc::new(Script { lifetime: lifetime.map(Duration::from_secs), ..Script::default() });
        let now = script.now.clone();
        let clock: Clock = Arc::new(move || at(now.load(Ordering::SeqCst)));
        (Provider::with_clock("primary", Box::new(script.clone()), clock), script)
    }

    async fn key(provider: &Provider) -> String {
        provider.get().await.unwrap().access_key_id().to_owned()
    }

    #[tokio::test]
    async fn refreshes_early_once_and_for_everyone() {
        let (provider, script) = provider(Some(3600));
        let all = futures_util::future::join_all((0..20).map(|_| key(&provider))).await;
        assert!(all.iter().all(|key| key == "AK1"), "{all:?}");
        assert_eq!(provider.expiry(), Some(at(3600)));
        script.now.store(3299, Ordering::SeqCst);
        assert_eq!(key(&provider).await, "AK1");
        script.now.store(3300, Ordering::SeqCst);
        let all = futures_util::future::join_all((0..20).map(|_| key(&provider))).await;
        // The first refreshes; the others do not wait for it.
        assert_eq!(all.iter().filter(|key| *key == "AK2").count(), 1, "{all:?}");
        assert_eq!(key(&provider).await, "AK2");
        assert_eq!(script.calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_failed_refresh_leaves_the_old_ones_until_they_expire() {
        let (provider, script) = provider(Some(3600));
        assert_eq!(key(&provider).await, "AK1");
        script.down.store(1, Ordering::SeqCst);
        script.now.store(3400, Ordering::SeqCst);
        assert_eq!(key(&provider).await, "AK1");
        assert_eq!(key(&provider).await, "AK1");
        assert_eq!(script.calls.load(Ordering::SeqCst), 2, "no sooner than after the pause");
        script.now.store(3405, Ordering::SeqCst);
        assert_eq!(key(&provider).await, "AK1");
        assert_eq!(script.calls.load(Ordering::SeqCst), 3);
        script.now.store(3595, Ordering::SeqCst);
        assert!(provider.get().await.unwrap_err().to_string().contains("call 4"));
        assert!(provider.get().await.unwrap_err().to_string().contains("call 4"));
        script.now.store(3600, Ordering::SeqCst);
        script.down.store(0, Ordering::SeqCst);
        assert_eq!(key(&provider).await, "AK5");
    }

    #[tokio::test]
    async fn what_does_not_expire_is_read_again() {
        let (provider, script) = provider(None);
        assert_eq!(key(&provider).await, "AK1");
        assert_eq!(provider.expiry(), None);
        script.now.store(59, Ordering::SeqCst);
        assert_eq!(key(&provider).await, "AK1");
        script.now.store(60, Ordering::SeqCst);
        assert_eq!(key(&provider).await, "AK2");
    }

    #[tokio::test]
    async fn invalidating_drops_only_what_was_used() {
        let (provider, _) = provider(Some(3600));
        assert_eq!(key(&provider).await, "AK1");
        let used = provider.generation();
        provider.invalidate(used);
        assert_eq!(key(&provider).await, "AK2");
        provider.invalidate(used);
        assert_eq!(key(&provider).await, "AK2");
    }

    #[test]
    fn when_a_refresh_is_due() {
        let due = |lifetime| refresh_at(at(0), Some(at(lifetime))).duration_since(at(0)).unwrap().as_secs();
        assert_eq!(due(12 * 3600), 12 * 3600 - 300);
        assert_eq!(due(3600), 3300);
        assert_eq!(due(900), 675);
        assert_eq!(due(0), 0);
        assert_eq!(refresh_at(at(100), Some(at(0))), at(0));
    }

    #[tokio::test]
    async fn debug_holds_no_secret() {
        let (provider, _) = provider(Some(3600));
        key(&provider).await;
        let shown = format!("{provider:?}");
        assert!(!shown.contains("AK1") && !shown.contains("secret"), "{shown}");
    }
}
