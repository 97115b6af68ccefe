//! One run of one job: makes one backup of its sources, in the order of `steps`.
//!
//! - **Consistency**: the manifest is written last, with `If-None-Match: *`; until then nothing of the backup is visible.
//! - **Failure of a source** (a command's exit code, a missing root, a match that cannot be examined) fails its item. The other items go on,
//!   and the backup is committed as `partial`, naming the item; if every item fails, nothing is committed. Items of the previous backup
//!   that could not be looked for fail too (the module `unlisted`).
//! - **Failure of the store** fails the run.
//! - **Hooks**: a failing `before` fails the run, and counts towards the timeout. `after` runs however the run ended and has a time limit of
//!   its own; if it fails, that is reported, but the backup stays committed.
//! - **Snapshots** are begun before anything is read and waited for last, after `after` (the module `snapshot`). Once everything is
//!   captured, a cancellation or the time limit only ends the waiting: the backup is committed with pending snapshots.
//! - **Cancellation and time limit** stop the reading, end commands with their process group, and abort uploads in flight.
//! - A run that does not commit aborts its upload and deletes its completed objects, within a deadline.
//! - **Incremental**: chunks of the previous backup are referenced, not stored again ([`parent`]).
//! - **Memory**: [`budget::stream`](crate::budget::stream). A run that cannot get its memory fails before it reads anything.

mod claims;
mod disks;
mod encryption;
mod failure;
mod hooks;
mod item;
mod kinds;
mod locks;
mod objects;
mod parent;
mod plan;
pub mod rescue;
mod spool;
mod steps;
mod tally;
mod unlisted;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Source};
use crate::error::{Class, Classify, Report};
use crate::format::codec::Codec;
use crate::format::key::{BackupId, BackupPrefix, Chain, Name, ObjectKey};
use crate::format::manifest::{Manifest, Outcome};
use crate::location::Location;
use crate::metrics;
use crate::resources::lister;
use crate::snapshot::{self, Owner};
use crate::store::{Lock, Overwrite, Payload, Store as _, VersionId};
use crate::upload::{self, journal::Journal};

pub use self::claims::{Volume, thaw_left};
use self::encryption::Keys;
pub use self::failure::Error;
use self::parent::{Ancestor, Ancestors, Tables};
pub use self::parent::{Policy, Reuse};
use self::tally::Tally;

/// How long the clean-up after a failed run may take.
const CLEAN_UP_DEADLINE: Duration = Duration::from_secs(60);

/// How many objects of a failed run are deleted at a time.
const DELETES: usize = 8;

/// What to back up.
#[derive(Debug, Clone)]
pub struct Spec {
    pub job: Name,
    pub sources: Vec<Source>,
    pub codec: Codec,
    pub timeout: Option<Duration>,
    pub hooks: Hooks,
    pub parent: Policy,
    /// Makes a plain backup although the chain's last one is encrypted.
    pub allow_plain: bool,
}

/// Commands around a run.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    pub before: Vec<Vec<String>>,
    pub after: Vec<Vec<String>>,
    /// The time limit of each command.
    pub time_limit: Duration,
}

impl Spec {
    /// A job of these sources, with defaults for everything else.
    #[must_use]
    pub fn new(job: Name, sources: Vec<Source>) -> Self {
        let (codec, hooks, parent) = (Codec::default(), Hooks::default(), Policy::default());
        Self { job, sources, codec, timeout: None, hooks, parent, allow_plain: false }
    }

    /// A job as configured.
    #[must_use]
    pub fn of(job: &config::Job) -> Self {
        Self {
            job: job.name.clone(),
            sources: job.sources.clone(),
            codec: Codec { compression: job.compression },
            timeout: job.timeout,
            hooks: Hooks { before: job.before.clone(), after: job.after.clone(), time_limit: job.hook_timeout },
            parent: Policy {
                reuse: if job.incremental { Reuse::Files } else { Reuse::Nothing },
                full_every: job.full_every,
                min_live: job.min_live,
                ..Policy::default()
            },
            allow_plain: false,
        }
    }
}

/// The progress of a run, which a progress bar or a status page may read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Plain bytes that have been cut, hashed and handed to the upload.
    pub plain: AtomicU64,
    /// Bytes of the run's objects that the store has: what waits for its upload does not count.
    pub sent: Arc<AtomicU64>,
    /// Entries of trees: files, folders, links, and what else they hold.
    pub files: AtomicU64,
    pub warnings: AtomicU64,
    /// Expected plain bytes; 0 while unknown.
    pub expected: AtomicU64,
    pub snapshots: snapshot::Progress,
    /// A cluster's objects.
    pub objects: Arc<lister::Progress>,
    /// The volumes of pods.
    pub claims: Arc<claims::Progress>,
}

/// A run that committed its backup.
#[derive(Debug)]
pub struct Committed {
    pub manifest: Manifest,
    /// The `after` command that failed: the backup stays, and the run counts as partial.
    pub after: Option<Error>,
    /// The backups of pods' volumes that the run committed besides.
    pub volumes: Vec<Volume>,
}

impl Committed {
    /// The run's outcome, and the class of its first failure.
    #[must_use]
    pub fn verdict(&self) -> (Outcome, Option<Class>) {
        let outcome = if self.after.is_some() { Outcome::Partial } else { self.manifest.outcome };
        (outcome, self.failure().map(|report| report.class))
    }

    /// The first failure of the run.
    #[must_use]
    pub fn failure(&self) -> Option<Report> {
        failed_item(&self.manifest)
            .or_else(|| unsaved(&self.manifest))
            .or_else(|| self.after.as_ref().map(Classify::report))
    }

    /// Whether it is a round over the volumes of pods.
    #[must_use]
    pub fn is_round(&self) -> bool {
        self.manifest.items.iter().any(|item| item.claims.is_some())
    }

    /// Whether the backup has every item. Warnings do not count.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.manifest.items.iter().all(|item| item.outcome != Outcome::Failure)
    }
}

/// The first item that failed in a committed backup.
fn failed_item(manifest: &Manifest) -> Option<Report> {
    let mut failed = manifest.items.iter().filter_map(|item| Some((&item.name, item.error.as_ref()?)));
    let (name, report) = failed.next()?;
    Some(Report { message: format!("item {name}: {}", report.message), ..report.clone() })
}

/// Volumes that a round should have saved, and did not try.
fn unsaved(manifest: &Manifest) -> Option<Report> {
    let claims = manifest.items.iter().find_map(|item| item.claims.as_ref()).filter(|claims| !claims.is_complete())?;
    let first = claims.unsaved.iter().find(|unsaved| unsaved.is_loss()).map(ToString::to_string);
    let first = first.or_else(|| claims.missing.first().map(ToString::to_string)).unwrap_or_default();
    let message = format!("{} of this node's volumes are not saved; the first: {first}", claims.losses);
    Some(Report::new(Class::Source, message).remedy("`penstock show` of the backup names them all"))
}

/// The outcome of a run that committed nothing.
#[must_use]
pub fn outcome_of(error: &Error) -> Outcome {
    match error.class() {
        Class::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failure,
    }
}

/// Runs a job with its hooks, and updates the metrics.
///
/// # Errors
/// When nothing was committed. The objects written are deleted again, as far as the store permits.
pub async fn run(
    location: &Location,
    spec: &Spec,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Committed, Error> {
    let (started, clock) = (Timestamp::now(), tokio::time::Instant::now());
    let memory = location.process.budget.begin_run();
    let location = &location.with_budget(memory.budget());
    let id = new_id(started);
    let span = tracing::info_span!("run", job = %spec.job, backup = %id);
    let metrics = location.process.metrics.job(spec.job.as_str());
    let mut hooks = hooks::Runner::new(&spec.hooks, location, &spec.job, &id);
    let work = async {
        let mut volumes = Vec::new();
        let result = match Run::new(location, spec, progress, cancel, &hooks, started, id.clone()) {
            Ok(mut run) => {
                let result = Box::pin(run.within_time()).await;
                run.forget().await;
                volumes = run.volumes;
                result
            }
            Err(error) => Err(error),
        };
        let after = hooks.after(&result).await;
        result.map(|manifest| Committed { manifest, after, volumes })
    };
    let result = tracing::Instrument::instrument(work, span).await;
    let (outcome, class) = match &result {
        Ok(committed) => committed.verdict(),
        Err(error) => (outcome_of(error), Some(error.class())),
    };
    metrics.ran(outcome, class, clock.elapsed());
    if let Ok(Committed { manifest, .. }) = &result {
        metrics.objects(manifest.items.iter().filter_map(|item| item.kubernetes.as_deref()));
    }
    if let Some(good) = result.as_ref().ok().filter(|committed| committed.is_good()) {
        metrics.last_success(good.manifest.finished.as_duration().as_secs_f64());
    }
    result
}

fn new_id(started: Timestamp) -> BackupId {
    BackupId::new(started, getrandom::u32().unwrap_or_else(|_| started.subsec_nanosecond().unsigned_abs()))
}

/// Stops `work` when `limit` is over: it fails by `late` then.
async fn limited<T>(
    limit: Option<Duration>,
    stop: &CancellationToken,
    late: impl FnOnce(Duration) -> Error,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::pin!(work);
    let result = match limit {
        None => work.await,
        Some(limit) => tokio::select! {
            result = &mut work => result,
            () = tokio::time::sleep(limit) => {
                stop.cancel();
                match work.await {
                    Err(error) if error.is_cancelled() => Err(late(limit)),
                    result => result,
                }
            }
        },
    };
    result.map_err(|error| if error.is_cancelled() { Error::Cancelled } else { error })
}

/// The location for reading earlier backups, with the key of their indexes if this node has it.
fn reading(location: &Location, keys: Option<&Keys>, stop: &CancellationToken) -> Location {
    let identities = keys.map(|keys| Arc::clone(&keys.recipients.index_identity)).unwrap_or_default();
    location.until(stop).with_identities(identities)
}

struct Run<'a> {
    location: &'a Location,
    spec: &'a Spec,
    progress: &'a Progress,
    metrics: metrics::Job,
    hooks: &'a hooks::Runner<'a>,
    journal: Journal,
    /// Compresses.
    pool: Arc<rayon::ThreadPool>,
    stop: CancellationToken,
    started: Timestamp,
    /// The backup's chain and ID.
    owner: Owner,
    /// The prefix of its objects.
    home: BackupPrefix,
    /// `None`: the backup is not encrypted.
    keys: Option<Keys>,
    /// What this node keeps of its encrypted backups.
    tables: Tables,
    ancestors: Ancestors,
    /// The newest backup that an item references.
    parent: Option<Arc<Ancestor>>,
    /// Completed objects, which are deleted unless the manifest is committed.
    written: Vec<ObjectKey>,
    /// The lock of what the run writes, at its start; `None` if the location locks nothing.
    lock: Option<Lock>,
    /// The first failure of an item.
    first_failure: Option<Error>,
    /// The run has one item.
    is_only: bool,
    /// The volumes that were saved, each by a backup of its own.
    volumes: Vec<Volume>,
}

/// One item while it is streamed.
struct Streaming<'r, 'a> {
    run: &'r mut Run<'a>,
    tally: Tally<'a>,
}

impl<'a> Run<'a> {
    fn new(
        location: &'a Location,
        spec: &'a Spec,
        progress: &'a Progress,
        cancel: &CancellationToken,
        hooks: &'a hooks::Runner<'a>,
        started: Timestamp,
        id: BackupId,
    ) -> Result<Self, Error> {
        let (chain, stop) = (location.chain(&spec.job), cancel.child_token());
        let keys = Keys::of(location)?;
        let journal = Journal::open(&location.process.state_dir, location.name(), &location.config.bucket);
        let threads = |error| Error::Local { action: "start threads", error };
        Ok(Self {
            location,
            spec,
            progress,
            metrics: location.process.metrics.job(spec.job.as_str()),
            hooks,
            journal: journal.map_err(upload::Error::from)?,
            pool: location.process.pool().map_err(threads)?,
            started,
            home: BackupPrefix::new(location.prefix(), &chain, &id),
            tables: Tables::new(&location.process.state_dir, location.name(), &chain),
            ancestors: Ancestors::new(&reading(location, keys.as_ref(), &stop), &chain, spec.parent, started),
            keys,
            owner: Owner { chain, id },
            stop,
            parent: None,
            written: Vec::new(),
            lock: None,
            first_failure: None,
            is_only: false,
            volumes: Vec::new(),
        })
    }

    /// The `before` hooks and the backup, within the job's timeout.
    async fn within_time(&mut self) -> Result<Manifest, Error> {
        let (spec, stop) = (self.spec, self.stop.clone());
        let late = |limit| Error::Timeout { job: spec.job.clone(), limit };
        let work = async {
            self.hooks.before(&stop).await?;
            self.backup().await
        };
        let result = Box::pin(limited(spec.timeout, &stop, late, work)).await;
        self.settle(&result).await;
        result
    }

    /// The earlier backups of a chain of this job.
    fn ancestors_of(&self, chain: &Chain, policy: Policy, stop: &CancellationToken, started: Timestamp) -> Ancestors {
        Ancestors::new(&reading(self.location, self.keys.as_ref(), stop), chain, policy, started)
    }

    /// Keeps the tables of what is committed; removes what a failed run left, unless its backup may be visible.
    async fn settle(&self, result: &Result<Manifest, Error>) {
        match result {
            Ok(manifest) => self.tables.committed(manifest),
            Err(error) if error.is_final() => {
                self.tables.forget(&self.owner.id);
                self.clean_up(&self.written).await;
            }
            Err(_) => {}
        }
    }

    /// Writes the manifest, which makes the backup visible, and reads back that it did: a gateway may confirm a PUT and drop it. Once the
    /// PUT is sent, `stop` ends neither request before [`CLEAN_UP_DEADLINE`] has passed. Returns the manifest's version.
    async fn commit(
        &self,
        manifest: &Manifest,
        lock: Option<Lock>,
        stop: &CancellationToken,
    ) -> Result<Option<VersionId>, Error> {
        let key = &self.home.manifest();
        if stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let store = self.location.patient();
        let payload = Payload::new(manifest.to_json(), store.algorithm());
        let undecided = |why: Report| Error::Undecided { key: key.clone(), class: why.class, why: why.message };
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(CLEAN_UP_DEADLINE).await;
        };
        let commit = async {
            let put = store.put_locked(key, payload.clone(), Overwrite::Refuse, lock).await;
            let found = store.head(key).await;
            // A single wrong answer must not leave a good backup in doubt.
            let differs = found.as_ref().is_ok_and(|object| !object.is(payload.size(), payload.checksum));
            (put, if differs { store.head(key).await } else { found })
        };
        let (put, found) = tokio::select! {
            () = too_late => return Err(undecided(Report::new(Class::Cancelled, "cancelled".to_owned()))),
            both = commit => both,
        };
        // An attempt whose answer was lost may have succeeded, whatever a later one got: the key decides, since the id is random and nobody else
        // writes it. An attempt may also arrive later, unless the service refused it.
        match (put, found) {
            (_, Ok(object)) if object.is(payload.size(), payload.checksum) => Ok(object.version),
            (Err(error), Err(missing)) if missing.class == Class::NotFound && error.is_refusal() => Err(error.into()),
            // An object with another checksum may still be this manifest: everything that it names must stay.
            (Err(error), _) => Err(undecided(error.report())),
            (Ok(version), Err(denied)) if denied.class == Class::AccessDenied => {
                tracing::warn!(%key, error = %denied, "the manifest was written, but cannot be read back: grant s3:GetObject");
                Ok(version)
            }
            (Ok(_), found) => Err(undecided(failure::unconfirmed(found, payload.size()))),
        }
    }

    /// Deletes objects that are not committed.
    async fn clean_up(&self, keys: &[ObjectKey]) {
        let store = &self.location.patient();
        let delete = |key| async move {
            if let Err(error) = store.delete(key).await {
                tracing::error!(%key, %error, "could not delete an object of the failed backup: a later prune deletes it");
            }
        };
        // All futures are made before they are polled: a stream of a closure is not `Send` enough for a task (rust-lang/rust#102211).
        let deletions: Vec<_> = keys.iter().map(delete).collect();
        let delete = stream::iter(deletions).buffer_unordered(DELETES).collect::<Vec<()>>();
        if tokio::time::timeout(CLEAN_UP_DEADLINE, delete).await.is_err() {
            tracing::error!(objects = keys.len(), "could not delete the failed backup's objects in time: a prune will");
        }
    }
}
