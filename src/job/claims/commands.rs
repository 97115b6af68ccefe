//! Runs the commands of pods, and keeps the record of those that are owed: `hooks/JOB.json` below the state directory.
//!
//! The record is locked by whoever works with it: a run, or [`thaw_left`]. So nothing is thawed while a run reads it. A record that cannot be
//! locked or read is left as it is, and no command is run: the volumes of pods with commands fail, and the others are saved.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::claims::api::Server;
use crate::claims::decide::PodRef;
use crate::claims::hooks::Hook;
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

/// The commands of one job's pods.
pub(super) struct Commands {
    cluster: Arc<dyn Cluster>,
    server: Server,
    path: PathBuf,
    /// `Err`: the record cannot be locked or read, and is not overwritten.
    ledger: Result<Ledger, String>,
    ran: Vec<Ran>,
    metrics: metrics::Job,
    lock: Option<Lock>,
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
        drop(Commands::begin(process, &job, &cluster, false, Duration::ZERO).await);
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
    ) -> Option<Self> {
        let path = path_of(process, job);
        if !are_on && !path.exists() {
            return None;
        }
        let (ledger, lock) = match locked(&path, patience).await {
            Ok(lock) => (read(&path), Some(lock)),
            Err(error) => (Err(format!("could not lock the record {}: {error}", path.display())), None),
        };
        let mut commands = Self {
            cluster: Arc::clone(cluster),
            server: Server::new(Arc::clone(cluster), Patience::default()),
            ledger,
            path,
            ran: Vec::new(),
            metrics: process.metrics.job(job.as_str()),
            lock,
        };
        commands.pay(job).await;
        Some(commands)
    }

    /// Why no command is run in this round.
    pub(super) fn fault(&self) -> Option<String> {
        let fault = self.ledger.as_ref().err()?;
        let remedy =
            if self.lock.is_some() { "; thaw the pods by hand if any is frozen, and remove the file" } else { "" };
        Some(format!("no command is run in a pod, and what is owed to pods is not known: {fault}{remedy}"))
    }

    /// Runs what an earlier process left.
    async fn pay(&mut self, job: &Name) {
        let ledger = match &self.ledger {
            Ok(ledger) => ledger.clone(),
            Err(fault) if self.lock.is_none() => {
                tracing::debug!(%job, fault, "commands that are owed to pods are left to the run that works with them");
                return;
            }
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
            let outcome = match &action {
                Action::Post(debt) => self.run("post", &debt.pod, &debt.late_hook()).await,
                other => self.act(other, &never).await,
            };
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
                outcome.unwrap_or_else(|| Outcome::Unsure("the run was stopped".to_owned()))
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
        let (outcome, output) = ended.unwrap_or_else(|_| {
            let why = format!("it took longer than {:?}; it may still run", hook.timeout);
            (Outcome::Unsure(why), String::new())
        });
        let failure = match &outcome {
            Outcome::Done => None,
            Outcome::Failed(why) | Outcome::Unsure(why) => Some(why.clone()),
            Outcome::Gone => Some("the pod is gone".to_owned()),
        };
        let (name, seconds) = (format!("{}/{}", pod.namespace, pod.name), started.elapsed().as_secs());
        tracing::info!(when, pod = name, container = hook.container, seconds, failure, "command of a pod ended");
        if self.ran.len() < MOST {
            self.ran.push(Ran { pod: name, when: when.to_owned(), seconds, failure, output });
        }
        outcome
    }

    /// How the command ended, and the end of its output.
    async fn execute(&self, pod: &PodRef, hook: &Hook) -> (Outcome, String) {
        let without = |outcome| (outcome, String::new());
        match self.server.pod(&pod.namespace, &pod.name).await {
            Ok(Some(found)) if found.is_alive(&pod.uid) => {}
            Ok(_) => return without(Outcome::Gone),
            Err(why) => return without(Outcome::Failed(why)),
        }
        let PodRef { namespace, name, .. } = pod;
        let exec = Exec { namespace, pod: name, container: &hook.container, command: &hook.command };
        match self.cluster.exec(&exec).await {
            Ok(Executed { failure: None, output }) => (Outcome::Done, output),
            Ok(Executed { failure: Some(why), output }) => (Outcome::Failed(quoted(&why, &output)), output),
            Err(failure) => {
                let is_refused = failure.error.status.is_some_and(|status| (400..500).contains(&status));
                let report = failure.report();
                let remedy = report.remedy.map_or_else(String::new, |remedy| format!(" ({remedy})"));
                let why = format!("{}{remedy}", report.message);
                without(if is_refused { Outcome::Failed(why) } else { Outcome::Unsure(why) })
            }
        }
    }

    /// How the commands ended.
    pub(super) fn end(self) -> Vec<Ran> {
        self.ran
    }
}

/// Locks a record, for which it waits up to `patience`.
async fn locked(path: &Path, patience: Duration) -> Result<Lock, String> {
    state::make_folder(path.parent().unwrap_or(path)).map_err(|error| error.to_string())?;
    let until = tokio::time::Instant::now() + patience;
    loop {
        match Lock::at(&path.with_extension("lock")).map_err(|error| error.to_string())? {
            Some(lock) => return Ok(lock),
            None if tokio::time::Instant::now() >= until => return Err("another run works with it".to_owned()),
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
    match output.trim() {
        "" => why.to_owned(),
        output => format!("{why}: {output}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_that_another_run_holds_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hooks/volumes.json");
        let held = locked(&path, Duration::ZERO).await.unwrap();
        assert_eq!(locked(&path, Duration::ZERO).await.unwrap_err(), "another run works with it");
        drop(held);
        locked(&path, Duration::ZERO).await.unwrap();
    }
}
