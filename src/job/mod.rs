//! One run of one job: its sources into one backup.
//!
//! - **Consistency**: the manifest is written last, with `If-None-Match: *`; until then nothing of the backup is visible.
//! - **Failure of a source** (a command's exit code, a root that is gone, a match that cannot be looked at) fails its item. The other items
//!   go on, and the backup is committed as `partial`, naming the item; when no item is left, nothing is committed. So are items of the backup
//!   before that could not be looked for (the module `unlisted`).
//! - **Failure of the store** fails the run.
//! - **Hooks**: a failing `before` fails the run, and the timeout counts it. `after` runs however the run ended, has a time of its own,
//!   and cannot undo a commit: its failure is said beside the backup.
//! - **Snapshots** are taken before anything is read and waited for when all else is done, after `after` (the module `snapshot`). Once all
//!   is captured, a cancellation or the time limit ends only the waiting: the backup is committed with what is pending.
//! - **Cancellation and time limit** stop the reading, end commands with their process group, and abort what is in flight.
//! - Every exit that is not a commit aborts the upload in progress and deletes the objects that were completed, under a deadline.
//! - **Incremental**: what the backup before has is referred to, not stored again ([`parent`]).
//! - **Memory**: [`budget::stream`](crate::budget::stream); what a run cannot have is said before anything is read.

mod disks;
mod failure;
mod hooks;
mod item;
mod items;
mod objects;
mod parent;
mod plan;
mod unlisted;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::config::{self, Source};
use crate::error::{Class, Classify, Report};
use crate::format::codec::Codec;
use crate::format::key::{BackupId, BackupPrefix, Chain, Name, ObjectKey};
use crate::format::manifest::{self, Manifest, Outcome, Warnings};
use crate::location::Location;
use crate::metrics;
use crate::snapshot;
use crate::store::{Overwrite, Payload, Store as _};
use crate::upload::{self, journal::Journal};

pub use self::failure::Error;
use self::parent::{Ancestor, Ancestors};
pub use self::parent::{Policy, Reuse};

/// How long the clean-up after a failed run may take.
const CLEAN_UP_DEADLINE: Duration = Duration::from_secs(60);

/// Objects of a failed run that are deleted at a time.
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
}

/// Commands around a run.
#[derive(Debug, Clone, Default)]
pub struct Hooks {
    pub before: Vec<Vec<String>>,
    pub after: Vec<Vec<String>>,
    /// Of each command.
    pub time_limit: Duration,
}

impl Spec {
    /// A job as it is configured.
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
        }
    }
}

/// What a run has done so far, for a progress bar or a status page to read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Plain bytes that have been cut, hashed and handed to the upload.
    pub plain: AtomicU64,
    pub stored: AtomicU64,
    pub files: AtomicU64,
    pub warnings: AtomicU64,
    /// Expected plain bytes; 0 while unknown.
    pub expected: AtomicU64,
    pub snapshots: snapshot::Progress,
}

impl Progress {
    fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A run that committed its backup.
#[derive(Debug)]
pub struct Committed {
    pub manifest: Manifest,
    /// The `after` command that failed: the backup stays, and the run counts as partial.
    pub after: Option<Error>,
}

impl Committed {
    /// How the run ended, and the class of the first thing that failed in it.
    #[must_use]
    pub fn verdict(&self) -> (Outcome, Option<Class>) {
        let outcome = if self.after.is_some() { Outcome::Partial } else { self.manifest.outcome };
        (outcome, self.failure().map(|report| report.class))
    }

    /// The first thing that failed in it.
    #[must_use]
    pub fn failure(&self) -> Option<Report> {
        failed_item(&self.manifest).or_else(|| self.after.as_ref().map(Classify::report))
    }

    /// Whether every item is there: warnings leave a backup good, a failed item does not.
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

/// How a run that committed nothing ended.
#[must_use]
pub fn outcome_of(error: &Error) -> Outcome {
    match error.class() {
        Class::Cancelled => Outcome::Cancelled,
        _ => Outcome::Failure,
    }
}

/// Runs a job with its hooks, and counts it.
///
/// # Errors
/// When nothing was committed. What had been written has been removed again, as far as the store let us.
pub async fn run(
    location: &Location,
    spec: &Spec,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Committed, Error> {
    let (started, clock) = (Timestamp::now(), tokio::time::Instant::now());
    let id = BackupId::new(started, getrandom::u32().unwrap_or_else(|_| started.subsec_nanosecond().unsigned_abs()));
    let span = tracing::info_span!("run", job = %spec.job, backup = %id);
    let metrics = location.process.metrics.job(spec.job.as_str());
    let hooks = hooks::Runner::new(&spec.hooks, location, &spec.job, &id);
    let run = async {
        let result = Box::pin(within_time(location, spec, progress, cancel, &hooks, (started, id.clone()))).await;
        let after = hooks.after(&result).await;
        result.map(|manifest| Committed { manifest, after })
    };
    let result = tracing::Instrument::instrument(run, span).await;
    let (outcome, class) = match &result {
        Ok(committed) => committed.verdict(),
        Err(error) => (outcome_of(error), Some(error.class())),
    };
    metrics.ran(outcome, class, clock.elapsed());
    if let Some(good) = result.as_ref().ok().filter(|committed| committed.is_good()) {
        metrics.last_success(good.manifest.finished.as_duration().as_secs_f64());
    }
    result
}

/// The `before` hooks and the backup, within the job's timeout.
async fn within_time(
    location: &Location,
    spec: &Spec,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
    hooks: &hooks::Runner<'_>,
    (started, id): (Timestamp, BackupId),
) -> Result<Manifest, Error> {
    let stop = cancel.child_token();
    let metrics = location.process.metrics.job(spec.job.as_str());
    let journal = Journal::open(&location.process.state_dir, location.name(), &location.config.bucket);
    let journal = journal.map_err(upload::Error::from)?;
    let threads = |error| Error::Local { action: "starting threads", error };
    let pool = location.process.pool().map_err(threads)?;
    let chain = location.chain(&spec.job);
    let ancestors = Ancestors::new(&location.until(&stop), &chain, spec.parent, started);
    let mut run = Run {
        location,
        spec,
        progress,
        metrics,
        hooks,
        journal,
        pool,
        stop: stop.clone(),
        ancestors,
        parent: None,
        written: Vec::new(),
    };
    let work = async {
        hooks.before(&stop).await?;
        run.backup(chain, started, id).await
    };
    let result = match spec.timeout {
        None => work.await,
        Some(limit) => {
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => result,
                () = tokio::time::sleep(limit) => {
                    stop.cancel();
                    match work.await {
                        Err(error) if error.is_cancelled() => Err(Error::Timeout { job: spec.job.clone(), limit }),
                        result => result,
                    }
                }
            }
        }
    };
    let result = result.map_err(|error| if error.is_cancelled() { Error::Cancelled } else { error });
    if result.as_ref().is_err_and(Error::is_final) {
        run.clean_up(&run.written).await;
    }
    result
}

struct Run<'a> {
    location: &'a Location,
    spec: &'a Spec,
    progress: &'a Arc<Progress>,
    metrics: metrics::Job,
    hooks: &'a hooks::Runner<'a>,
    journal: Journal,
    /// Compresses.
    pool: Arc<rayon::ThreadPool>,
    stop: CancellationToken,
    ancestors: Ancestors,
    /// The newest backup that an item refers to.
    parent: Option<Arc<Ancestor>>,
    /// Completed objects, to be deleted again unless the manifest is committed.
    written: Vec<ObjectKey>,
}

impl Run<'_> {
    async fn backup(&mut self, chain: Chain, started: Timestamp, id: BackupId) -> Result<Manifest, Error> {
        let backup = BackupPrefix::new(self.location.prefix(), &chain, &id);
        let mut manifest = Manifest {
            version: manifest::VERSION,
            id,
            job: chain.job,
            cluster: chain.cluster,
            node: chain.node,
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            started,
            finished: started,
            parent: None,
            base: None,
            labels: std::collections::BTreeMap::new(),
            outcome: Outcome::Partial,
            items: Vec::new(),
            warnings: Warnings::default(),
        };
        tracing::info!("backup started");
        let volumes = plan::volumes(self.spec);
        if volumes.is_empty() {
            let failed = self.items(&backup, &mut manifest, Vec::new()).await?;
            finish(&mut manifest, failed)?;
            self.commit(&backup.manifest(), &manifest, &self.stop).await?;
        } else {
            self.with_snapshots(&backup, &mut manifest, &volumes).await?;
        }
        tracing::info!(outcome = manifest.outcome.as_str(), "backup committed");
        Ok(manifest)
    }

    /// Says something about an item that does not keep it from being backed up.
    fn warn(&self, item: &Name, path: &str, message: String, warnings: &mut Warnings) {
        Progress::add(&self.progress.warnings, 1);
        self.metrics.warning();
        tracing::warn!(%item, path, "{message}");
        warnings.push(manifest::Warning { item: item.clone(), path: path.to_owned(), message });
    }

    /// The one request that makes the backup visible, and one that reads back whether it did: a gateway may say yes and pass nothing on.
    /// Once the first is on its way neither is cut short by `stop`, but for the time that cleaning up would have.
    async fn commit(&self, key: &ObjectKey, manifest: &Manifest, stop: &CancellationToken) -> Result<(), Error> {
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
            let put = store.put(key, payload.clone(), Overwrite::Refuse).await;
            (put, store.head(key).await)
        };
        let (put, found) = tokio::select! {
            () = too_late => return Err(undecided(Report::new(Class::Cancelled, "cancelled".to_owned()))),
            both = commit => both,
        };
        // An attempt whose answer was lost may have been carried out, whatever a later one was told: the key decides. The id is random,
        // nobody else writes it. One that has not arrived yet still may, unless the service has refused it.
        match (put, found) {
            (_, Ok(object)) if object.is(payload.size(), payload.checksum) => Ok(()),
            (Err(error), Err(missing)) if missing.class == Class::NotFound && error.is_refusal() => Err(error.into()),
            // What is there under another checksum may be ours all the same: nothing that it names may go.
            (Err(error), _) => Err(undecided(error.report())),
            (Ok(()), Err(denied)) if denied.class == Class::AccessDenied => {
                tracing::warn!(%key, error = %denied, "the manifest was taken, and cannot be read back: grant s3:GetObject");
                Ok(())
            }
            (Ok(()), found) => Err(undecided(failure::unconfirmed(found, payload.size()))),
        }
    }

    /// Deletes objects of what is not committed.
    async fn clean_up(&self, keys: &[ObjectKey]) {
        let store = &self.location.patient();
        let delete = |key| async move {
            if let Err(error) = store.delete(key).await {
                tracing::error!(%key, %error, "an object of the failed backup could not be deleted; no manifest names it");
            }
        };
        // Made first and driven then: a stream that makes them as it goes is not `Send` enough for a task (rust-lang/rust#102211).
        let deletions: Vec<_> = keys.iter().map(delete).collect();
        let delete = stream::iter(deletions).buffer_unordered(DELETES).collect::<Vec<()>>();
        if tokio::time::timeout(CLEAN_UP_DEADLINE, delete).await.is_err() {
            tracing::error!(objects = keys.len(), "deleting the failed backup's objects timed out");
        }
    }
}

/// The manifest's last words; or `failed`, the first failure of an item, where none is left.
fn finish(manifest: &mut Manifest, failed: Option<Error>) -> Result<(), Error> {
    if let Some(error) = failed
        && manifest.items.iter().all(|item| item.outcome == Outcome::Failure)
    {
        return Err(error);
    }
    manifest.finished = Timestamp::now();
    let whole = manifest.warnings.count == 0 && manifest.items.iter().all(|item| item.outcome == Outcome::Success);
    manifest.outcome = if whole { Outcome::Success } else { Outcome::Partial };
    Ok(())
}
