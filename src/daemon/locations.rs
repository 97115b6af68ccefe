//! Keeps the open locations, and checks each of them.
//!
//! A task for each location checks its credentials every [`CREDENTIALS_EVERY`], which makes no request while they are valid, and its
//! bucket every [`CHECK_EVERY`], by listing an empty prefix (docs/decisions/0094). It logs a result that differs from the one before.
//! Nothing waits for these tasks: a job makes its own requests.
//!
//! A location that leaves the configuration, or changes, stays open while a run uses it, but its checks end: its metrics and status
//! now describe its replacement.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::files::Fingerprint;
use super::history::{About, History};
use crate::backoff::{Backoff, between, random};
use crate::config;
use crate::error::{Class, Classify as _, Report, ServiceError};
use crate::format::key::cluster_prefix;
use crate::location::{self, Connect};
use crate::process::Process;

const CREDENTIALS_EVERY: Duration = Duration::from_secs(30);
/// Between two checks of a bucket that answers: at least and at most, at random, so that nodes that came up together drift apart.
const CHECK_EVERY: (Duration, Duration) = (Duration::from_mins(15), Duration::from_mins(20));
/// Pauses after a failed check.
const AGAIN_AFTER: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_mins(1), (75, 100));
/// The adapter's own timeouts end a request before this.
const LONGEST_CHECK: Duration = Duration::from_mins(2);

/// Below the cluster's prefix, and empty: no job's name begins with a dot.
const EMPTY: &str = ".penstock-check/";

#[derive(Debug, Clone, Default)]
pub(super) enum Credentials {
    #[default]
    Unknown,
    Valid {
        expiry: Option<Timestamp>,
    },
    Refused(Report),
}

/// The result of the last check.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    pub(super) credentials: Credentials,
    pub(super) checked: Option<(Timestamp, Result<(), Report>)>,
}

impl Health {
    /// Whether the last check succeeded.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.checked, Some((_, Ok(()))))
    }

    pub(super) const fn was_tried(&self) -> bool {
        !matches!(self.credentials, Credentials::Unknown)
    }

    /// Why the location cannot be used now.
    pub(super) fn objection(&self, now: Timestamp) -> Option<String> {
        match &self.credentials {
            Credentials::Unknown => Some("no credentials yet".to_owned()),
            Credentials::Valid { expiry: Some(expiry) } if *expiry <= now => {
                Some(format!("the credentials expired at {expiry}"))
            }
            Credentials::Valid { .. } => None,
            Credentials::Refused(fault) => Some(format!("{} ({})", fault.message, fault.class)),
        }
    }
}

/// When a bucket is checked again.
#[derive(Debug, Default)]
pub(super) struct Rhythm {
    /// `None`: now.
    due: Option<Instant>,
    /// Consecutive failures.
    failures: u32,
}

/// One open location and the task that checks it, which ends with it.
pub(super) struct Location {
    pub(super) open: location::Location,
    certificate: Option<Fingerprint>,
    /// The empty prefix that a check lists.
    probe: String,
    health: Mutex<Health>,
    task: Mutex<Option<AbortHandle>>,
}

pub(super) type Locations = BTreeMap<String, Arc<Location>>;

/// Opens the locations that are new or changed, and keeps the others.
///
/// # Errors
/// When a location cannot be opened; `old` is then still in force.
pub(super) fn open(
    config: &config::Config,
    old: &Locations,
    connect: &dyn Connect,
    process: &Process,
) -> Result<Locations, Report> {
    let mut opened = Locations::new();
    for (name, wanted) in &config.locations {
        let certificate = wanted.certificate.as_ref().map(Fingerprint::of);
        let kept = old.get(name).filter(|old| *old.open.config == *wanted && old.certificate == certificate);
        let location = if let Some(location) = kept {
            Arc::clone(location)
        } else {
            let open = location::Location::open(connect, wanted, (&config.cluster, &config.node), process)?;
            let expiry = open.remote.certificate_expiry().map(|expiry| expiry.as_duration().as_secs_f64());
            open.endpoint.metrics().certificate_expiry(expiry);
            Arc::new(Location::new(open, certificate))
        };
        opened.insert(name.clone(), location);
    }
    Ok(opened)
}

/// The files whose change replaces a location.
pub(super) fn files(config: &config::Config) -> impl Iterator<Item = PathBuf> {
    config.locations.values().filter_map(|location| location.certificate.clone())
}

impl Location {
    pub(super) fn new(open: location::Location, certificate: Option<Fingerprint>) -> Self {
        let probe = cluster_prefix(open.prefix(), &open.cluster) + EMPTY;
        Self { open, certificate, probe, health: Mutex::default(), task: Mutex::default() }
    }

    pub(super) fn health(&self) -> Health {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task that checks the location, unless it runs already.
    pub(super) fn watch(self: &Arc<Self>, history: &History, stop: &CancellationToken) {
        self.task().get_or_insert_with(|| {
            // Keeps no reference while it sleeps, so that it ends when the last user drops the location.
            let (location, history, stop) = (Arc::downgrade(self), history.clone(), stop.clone());
            let task = async move {
                let mut rhythm = Rhythm::default();
                while let Some(location) = location.upgrade() {
                    let pause = location.check(&history, &mut rhythm).await;
                    let sleep = location.open.clock.sleep(pause);
                    drop(location);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = sleep => {}
                    }
                }
            };
            tokio::spawn(task).abort_handle()
        });
    }

    /// Ends the checks.
    pub(super) fn leave(&self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }

    /// Returns the time until the next call.
    pub(super) async fn check(&self, history: &History, rhythm: &mut Rhythm) -> Duration {
        let clock = &self.open.clock;
        let credentials = self.within_time(self.open.remote.credentials()).await;
        let usable = credentials.as_ref().map(drop).map_err(Clone::clone);
        self.note_credentials(credentials, history);
        let left = rhythm.due.map(|due| due.saturating_duration_since(clock.now())).unwrap_or_default();
        if usable.is_ok() && !left.is_zero() {
            return left.min(CREDENTIALS_EVERY);
        }
        let store = self.open.remote.store();
        let result = match usable {
            Ok(()) => self.within_time(store.list(&self.probe, None)).await.map(drop),
            Err(fault) => Err(fault),
        };
        let is_good = result.is_ok();
        self.note_check(result, history);
        if is_good {
            let (least, most) = CHECK_EVERY;
            *rhythm = Rhythm { due: Some(clock.now() + between(least, most, random())), failures: 0 };
            return CREDENTIALS_EVERY;
        }
        *rhythm = Rhythm { due: None, failures: rhythm.failures.saturating_add(1) };
        AGAIN_AFTER.pause(rhythm.failures - 1, random())
    }

    async fn within_time<T>(&self, check: impl Future<Output = Result<T, ServiceError>>) -> Result<T, Report> {
        match tokio::time::timeout(LONGEST_CHECK, check).await {
            Ok(result) => result.map_err(|error| error.report()),
            Err(_) => Err(Report::new(Class::Timeout, format!("no answer within {LONGEST_CHECK:?}"))),
        }
    }

    fn note_credentials(&self, found: Result<Option<SystemTime>, Report>, history: &History) {
        let found = match found {
            Ok(expiry) => Credentials::Valid { expiry: expiry.and_then(|expiry| Timestamp::try_from(expiry).ok()) },
            Err(fault) => Credentials::Refused(fault),
        };
        let before = std::mem::replace(&mut self.lock().credentials, found.clone());
        match (before, found) {
            (Credentials::Refused(old), Credentials::Refused(new)) if old.class == new.class => {}
            (_, Credentials::Refused(fault)) => history.failed(About::Location, self.open.name(), &fault),
            (Credentials::Refused(_) | Credentials::Unknown, Credentials::Valid { expiry }) => {
                let expiry = expiry.map(tracing::field::display);
                tracing::info!(location = self.open.name(), expiry, "credentials obtained");
            }
            (Credentials::Valid { .. }, Credentials::Valid { .. }) | (_, Credentials::Unknown) => {}
        }
    }

    fn note_check(&self, found: Result<(), Report>, history: &History) {
        let now = Timestamp::now();
        self.open.endpoint.metrics().checked(found.as_ref().map(drop).map_err(drop), now.as_duration().as_secs_f64());
        let (before, refused) = {
            let mut health = self.lock();
            let before = health.checked.replace((now, found.clone()));
            (before.map(|(_, result)| result), matches!(health.credentials, Credentials::Refused(_)))
        };
        match (before, found) {
            (Some(Err(old)), Err(new)) if old.class == new.class => {}
            // The check of the credentials has logged it.
            (_, Err(_)) if refused => {}
            (_, Err(fault)) => history.failed(About::Location, self.open.name(), &fault),
            (Some(Ok(())), Ok(())) => {}
            (None | Some(Err(_)), Ok(())) => tracing::info!(location = self.open.name(), "the location is up"),
        }
    }
}

impl Drop for Location {
    fn drop(&mut self) {
        self.leave();
    }
}
