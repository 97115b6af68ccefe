//! The locations that are open, and what the last look at each of them found.
//!
//! Each has a task that looks: at its credentials every [`CREDENTIALS_EVERY`], which also renews them before a job would
//! have to wait for that, and at its bucket every [`CHECK_EVERY`], by listing a prefix that holds nothing. What it finds
//! is logged when it changes. Nothing waits for these tasks: a job tries for itself.
//!
//! A location that leaves the configuration, or changes, stays open for as long as a run holds it, but nothing looks at it any more:
//! its name, and what is said under it, belong to what came in its place.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::files::Fingerprint;
use super::history::{About, History};
use crate::config;
use crate::error::{Class, Classify as _, Report, ServiceError};
use crate::format::key::cluster_prefix;
use crate::location::{self, Connect};
use crate::process::Process;

const CREDENTIALS_EVERY: Duration = Duration::from_secs(30);
const CHECK_EVERY: Duration = Duration::from_mins(5);
/// While something is wrong.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// The adapter's own timeouts end a request before this.
const LONGEST_LOOK: Duration = Duration::from_mins(2);

/// Below the cluster's prefix; no job's name begins with a dot.
const NOTHING: &str = ".penstock-check/";

#[derive(Debug, Clone, Default)]
pub(super) enum Credentials {
    #[default]
    Unknown,
    Valid {
        expiry: Option<Timestamp>,
    },
    Refused(Report),
}

/// What the last look found.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    pub(super) credentials: Credentials,
    pub(super) checked: Option<(Timestamp, Result<(), Report>)>,
}

impl Health {
    /// Whether the last check found nothing wrong.
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

/// One open location and its looking task, which ends with it.
pub(super) struct Location {
    pub(super) open: location::Location,
    certificate: Option<Fingerprint>,
    /// A prefix with nothing below it.
    probe: String,
    health: Mutex<Health>,
    task: Mutex<Option<AbortHandle>>,
}

pub(super) type Locations = BTreeMap<String, Arc<Location>>;

/// Opens what is new or changed, and keeps the others.
///
/// # Errors
/// The first location that cannot be opened; nothing has changed then.
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
            let probe = cluster_prefix(&wanted.prefix, &config.cluster) + NOTHING;
            Arc::new(Location { open, certificate, probe, health: Mutex::default(), task: Mutex::default() })
        };
        opened.insert(name.clone(), location);
    }
    Ok(opened)
}

/// The files whose change makes a location another.
pub(super) fn files(config: &config::Config) -> impl Iterator<Item = PathBuf> {
    config.locations.values().filter_map(|location| location.certificate.clone())
}

impl Location {
    pub(super) fn health(&self) -> Health {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts looking, if nothing looks yet.
    pub(super) fn watch(self: &Arc<Self>, history: &History, stop: &CancellationToken) {
        self.task().get_or_insert_with(|| {
            // It holds no reference while it sleeps, so that a location that nobody has any more ends it.
            let (location, history, stop) = (Arc::downgrade(self), history.clone(), stop.clone());
            let task = async move {
                let mut last_good = None;
                while let Some(location) = location.upgrade() {
                    let pause = location.look(&history, &mut last_good).await;
                    drop(location);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            };
            tokio::spawn(task).abort_handle()
        });
    }

    /// Ends the looking.
    pub(super) fn leave(&self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }

    /// Returns how long nothing need be looked at.
    async fn look(&self, history: &History, last_good: &mut Option<Instant>) -> Duration {
        let credentials = self.within_time(self.open.remote.credentials()).await;
        let usable = credentials.as_ref().map(drop).map_err(Clone::clone);
        self.note_credentials(credentials, history);
        if usable.is_ok() && last_good.is_some_and(|at| at.elapsed() < CHECK_EVERY) {
            return CREDENTIALS_EVERY;
        }
        let store = self.open.remote.store();
        let result = match usable {
            Ok(()) => self.within_time(store.list(&self.probe, None)).await.map(drop),
            Err(fault) => Err(fault),
        };
        *last_good = result.is_ok().then(Instant::now);
        self.note_check(result, history);
        if last_good.is_some() { CREDENTIALS_EVERY } else { AGAIN_AFTER }
    }

    async fn within_time<T>(&self, look: impl Future<Output = Result<T, ServiceError>>) -> Result<T, Report> {
        match tokio::time::timeout(LONGEST_LOOK, look).await {
            Ok(result) => result.map_err(|error| error.report()),
            Err(_) => Err(Report::new(Class::Timeout, format!("no answer within {LONGEST_LOOK:?}"))),
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
            // Said already, when the credentials were looked at.
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
