//! Runs the commands of pods, and keeps the record of those that are owed: `hooks/JOB.json` below the state directory.
//!
//! The record is locked by whoever works with it: a run, or [`thaw_left`]. So nothing is thawed while a run reads it.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::claims::api::Server;
use crate::claims::decide::PodRef;
use crate::claims::hooks::Hook;
use crate::claims::objects::Pod;
use crate::claims::owed::{Ledger, MAX_SIZE};
use crate::claims::thaw::{Action, Outcome, Thaw};
use crate::cluster::{Cluster, Exec, Executed};
use crate::error::Classify as _;
use crate::format::key::Name;
use crate::format::round::{MOST, Ran};
use crate::metrics;
use crate::process::Process;
use crate::resources::patience::Patience;
use crate::state::{self, Lock};

const FOLDER: &str = "hooks";

/// How long a run waits for [`thaw_left`], which runs what is owed itself.
pub(super) const PATIENCE: Duration = Duration::from_mins(10);

const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How much of a command's output the manifest has.
const OUTPUT: usize = 1 << 10;

/// The commands of one job's pods.
pub(super) struct Commands {
    cluster: Arc<dyn Cluster>,
    server: Server,
    path: PathBuf,
    /// `Err`: the record cannot be read, and is not overwritten.
    ledger: Result<Ledger, String>,
    ran: Vec<Ran>,
    metrics: metrics::Job,
    _lock: Lock,
}

fn path_of(process: &Process, job: &Name) -> PathBuf {
    process.state_dir.join(FOLDER).join(format!("{job}.json"))
}

/// Runs what earlier runs of any job owe to pods, of jobs that have left the configuration too. A job that runs is left alone.
pub async fn thaw_left(process: &Process) {
    let folder = process.state_dir.join(FOLDER);
    let jobs = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.filter_map(Result::ok).filter_map(|entry| job_of(&entry.path())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::error!(path = %folder.display(), %error, "could not look for commands that are owed to pods: a pod may be frozen");
            return;
        }
    };
    for job in jobs {
        let cluster = match process.cluster.get().await {
            Ok(cluster) => cluster,
            Err(report) => {
                tracing::error!(class = %report.class, error = report.message, "could not run commands that are owed to pods: a pod may be frozen");
                return;
            }
        };
        if let Err(error) = Commands::begin(process, &job, &cluster, false, Duration::ZERO).await {
            tracing::debug!(%job, %error, "commands that are owed to pods are left to the run that works with them");
        }
    }
}

fn job_of(path: &Path) -> Option<Name> {
    let is_record = path.extension().is_some_and(|extension| extension == "json");
    path.file_stem().filter(|_| is_record)?.to_str()?.parse().ok()
}

impl Commands {
    /// Locks the job's record, for which it waits up to `patience`, and runs what is owed. `None` where commands are switched off and
    /// nothing is owed.
    pub(super) async fn begin(
        process: &Process,
        job: &Name,
        cluster: &Arc<dyn Cluster>,
        are_on: bool,
        patience: Duration,
    ) -> Result<Option<Self>, Error> {
        let path = path_of(process, job);
        if !are_on && !path.exists() {
            return Ok(None);
        }
        let local = |error| Error::Local { action: "lock the record of commands that are owed to pods", error };
        state::make_folder(path.parent().unwrap_or(&path)).map_err(|error| local(io::Error::other(error)))?;
        let lock = locked(&path.with_extension("lock"), patience).await.map_err(local)?;
        let mut commands = Self {
            cluster: Arc::clone(cluster),
            server: Server::new(Arc::clone(cluster), Patience::default()),
            ledger: read(&path),
            path,
            ran: Vec::new(),
            metrics: process.metrics.job(job.as_str()),
            _lock: lock,
        };
        commands.pay(job).await;
        Ok(Some(commands))
    }

    /// Runs what an earlier process left.
    async fn pay(&mut self, job: &Name) {
        let ledger = match &self.ledger {
            Ok(ledger) => ledger.clone(),
            Err(fault) => {
                tracing::error!(%job, path = %self.path.display(), fault, "could not read which commands are owed to pods: a pod may be frozen");
                return;
            }
        };
        self.metrics.hooks_owed(ledger.owed().len());
        if ledger.is_empty() {
            return;
        }
        tracing::warn!(%job, commands = ledger.owed().len(), "an earlier run was stopped between the commands of pods: running what is owed now");
        let (mut thaw, never) = (Thaw::of(&ledger), CancellationToken::new());
        loop {
            let action = thaw.action();
            if action == Action::End {
                break;
            }
            let outcome = self.act(&action, &never).await;
            thaw.done(outcome);
        }
        for trouble in thaw.troubles() {
            tracing::error!(%job, "{}", trouble.message);
        }
    }

    /// Does one thing. Only a `pre` command ends with `stop`: whoever was frozen must be thawed.
    pub(super) async fn act(&mut self, action: &Action, stop: &CancellationToken) -> Outcome {
        match action {
            Action::Owe(debts) => self.change(|ledger| ledger.with(debts)).await,
            Action::Settle(results) => self.change(|ledger| ledger.settled(results)).await,
            Action::Pre(pod, hook) => {
                let outcome = stop.run_until_cancelled(self.run("pre", pod, hook)).await;
                outcome.unwrap_or_else(|| Outcome::Failed("the run was stopped".to_owned()))
            }
            Action::Post(debt) => self.run("post", &debt.pod, &debt.hook()).await,
            Action::Read | Action::End => Outcome::Done,
        }
    }

    async fn change(&mut self, change: impl FnOnce(&Ledger) -> Ledger) -> Outcome {
        let changed = match &self.ledger {
            Ok(ledger) => change(ledger),
            Err(fault) => return Outcome::Failed(fault.clone()),
        };
        let (path, written) = (self.path.clone(), changed.clone());
        let write = move || {
            if !written.is_empty() {
                return state::replace(&path, &written.to_bytes()).map_err(|error| error.to_string());
            }
            // A file that a crash brings back only makes the commands run once more.
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
                Ok(()) | Err(_) => Ok(()),
            }
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {
                self.metrics.hooks_owed(changed.owed().len());
                self.ledger = Ok(changed);
                Outcome::Done
            }
            Ok(Err(error)) => Outcome::Failed(error),
            Err(_) => Outcome::Failed("the thread that writes it ended".to_owned()),
        }
    }

    async fn run(&mut self, when: &'static str, pod: &PodRef, hook: &Hook) -> Outcome {
        let started = tokio::time::Instant::now();
        let ended = tokio::time::timeout(hook.timeout, self.execute(pod, hook)).await;
        let (outcome, output) = match ended {
            Ok(Ok(Some(Executed { failure: None, output }))) => (Outcome::Done, output),
            Ok(Ok(Some(Executed { failure: Some(why), output }))) => (Outcome::Failed(quoted(&why, &output)), output),
            Ok(Ok(None)) => (Outcome::Gone, String::new()),
            Ok(Err(why)) => (Outcome::Failed(why), String::new()),
            Err(_) => {
                let why = format!("it took longer than {:?}; it may still run", hook.timeout);
                (Outcome::Failed(why), String::new())
            }
        };
        let failure = match &outcome {
            Outcome::Done => None,
            Outcome::Failed(why) => Some(why.clone()),
            Outcome::Gone => Some("the pod is gone".to_owned()),
        };
        let (name, seconds) = (format!("{}/{}", pod.namespace, pod.name), started.elapsed().as_secs());
        tracing::info!(when, pod = name, container = hook.container, seconds, failure, "command of a pod ended");
        if self.ran.len() < MOST {
            let output = end_of(&output, OUTPUT).to_owned();
            self.ran.push(Ran { pod: name, when: when.to_owned(), seconds, failure, output });
        }
        outcome
    }

    /// `None`: there is no such pod any more, or it has ended.
    async fn execute(&self, pod: &PodRef, hook: &Hook) -> Result<Option<Executed>, String> {
        let found = self.server.pod(&pod.namespace, &pod.name).await.map_err(|failure| failure.to_string())?;
        let found = found.and_then(|bytes| serde_json::from_slice::<Pod>(&bytes).ok());
        let ended = |found: &Pod| matches!(found.status.phase.as_str(), "Succeeded" | "Failed");
        if found.is_none_or(|found| found.metadata.uid != pod.uid || ended(&found)) {
            return Ok(None);
        }
        let PodRef { namespace, name, .. } = pod;
        let exec = Exec { namespace, pod: name, container: &hook.container, command: &hook.command };
        self.cluster.exec(&exec).await.map(Some).map_err(|failure| {
            let report = failure.report();
            let remedy = report.remedy.map_or_else(String::new, |remedy| format!(" ({remedy})"));
            format!("{}{remedy}", report.message)
        })
    }

    /// How the commands ended.
    pub(super) fn end(self) -> Vec<Ran> {
        self.ran
    }
}

async fn locked(path: &Path, patience: Duration) -> io::Result<Lock> {
    let until = tokio::time::Instant::now() + patience;
    loop {
        match Lock::at(path)? {
            Some(lock) => return Ok(lock),
            None if tokio::time::Instant::now() >= until => return Err(io::ErrorKind::WouldBlock.into()),
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// The record; empty where there is none.
fn read(path: &Path) -> Result<Ledger, String> {
    let fault = |error: &dyn std::fmt::Display| format!("the record {} {error}", path.display());
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(error) => return Err(fault(&format!("cannot be read: {error}"))),
    };
    let mut bytes = Vec::new();
    let read = file.take(MAX_SIZE + 1).read_to_end(&mut bytes);
    read.map_err(|error| fault(&format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(fault(&format!("is longer than {MAX_SIZE} bytes")));
    }
    Ledger::read(&bytes).map_err(|error| fault(&error))
}

fn quoted(why: &str, output: &str) -> String {
    match end_of(output.trim(), OUTPUT) {
        "" => why.to_owned(),
        output => format!("{why}: {output}"),
    }
}

/// At most `most` bytes from the end.
fn end_of(text: &str, most: usize) -> &str {
    let from = (text.len().saturating_sub(most)..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[from.unwrap_or(text.len())..]
}
