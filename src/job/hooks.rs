//! The commands before and after a run.
//!
//! Each has a time limit; what it prints is read to its end and only the last [`TAIL`] bytes are kept, so a chatty
//! hook neither blocks nor costs memory. It leads a process group: one that is late, or whose run is cancelled, gets
//! SIGTERM with all it started, and SIGKILL [`GRACE`] later. What a hook leaves running when it exits is not waited for.

use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{Error, Hooks, failed_item, outcome_of};
use crate::error::{Class, Classify as _};
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{Manifest, Outcome};
use crate::location::Location;

/// How much of what a hook printed is kept.
const TAIL: usize = 4 << 10;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// What had been printed when the hook exited is in the pipe already.
const LAST_WORDS: Duration = Duration::from_millis(200);

pub(super) struct Runner<'a> {
    hooks: &'a Hooks,
    environment: Vec<(&'static str, String)>,
    /// How `after` went, where it ran before the end.
    thawed: OnceLock<Option<Error>>,
}

enum End {
    Exited(std::io::Result<ExitStatus>),
    Late,
    Cancelled,
}

impl<'a> Runner<'a> {
    pub(super) fn new(hooks: &'a Hooks, location: &Location, job: &Name, id: &BackupId) -> Self {
        let environment = vec![
            ("PENSTOCK_JOB", job.to_string()),
            ("PENSTOCK_BACKUP", id.to_string()),
            ("PENSTOCK_CLUSTER", location.cluster.to_string()),
            ("PENSTOCK_NODE", location.node.to_string()),
        ];
        Self { hooks, environment, thawed: OnceLock::new() }
    }

    /// In order; the first that fails ends it.
    pub(super) async fn before(&self, stop: &CancellationToken) -> Result<(), Error> {
        for argv in &self.hooks.before {
            self.one("before", argv, &self.environment, stop).await?;
        }
        Ok(())
    }

    /// The `after` commands, as soon as all is captured: what was frozen must not wait until snapshots are complete.
    pub(super) async fn thaw(&self, outcome: Outcome, class: Option<Class>) {
        let first = self.all_after(outcome, class).await;
        self.thawed.get_or_init(|| first);
    }

    /// The `after` commands, unless they ran already. Returns the first failure.
    pub(super) async fn after(&mut self, result: &Result<Manifest, Error>) -> Option<Error> {
        match (self.thawed.take(), result) {
            (Some(first), _) => first,
            (None, Ok(manifest)) => {
                self.all_after(manifest.outcome, failed_item(manifest).map(|report| report.class)).await
            }
            (None, Err(error)) => self.all_after(outcome_of(error), Some(error.class())).await,
        }
    }

    /// All of them, whatever failed: a volume that was frozen must thaw.
    async fn all_after(&self, outcome: Outcome, class: Option<Class>) -> Option<Error> {
        let mut environment = self.environment.clone();
        environment.push(("PENSTOCK_OUTCOME", outcome.as_str().to_owned()));
        environment.push(("PENSTOCK_CLASS", class.map_or("none", Class::as_str).to_owned()));
        let mut first = None;
        for argv in &self.hooks.after {
            if let Err(error) = self.one("after", argv, &environment, &CancellationToken::new()).await {
                tracing::error!(class = %error.class(), %error, "a hook failed");
                first.get_or_insert(error);
            }
        }
        first
    }

    async fn one(
        &self,
        when: &'static str,
        argv: &[String],
        environment: &[(&'static str, String)],
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let failed = |class, outcome: String, output: String| {
            Err(Error::Hook { when, argv: argv.to_vec(), class, outcome, output })
        };
        let started = tokio::time::Instant::now();
        let mut child = match spawn(argv, environment) {
            Ok(child) => child,
            Err(error) => return failed(Class::Source, format!("could not be started: {error}"), String::new()),
        };
        let (end, output) = watch(&mut child, self.hooks.time_limit, stop).await;
        match end {
            End::Exited(Ok(status)) if status.success() => {
                let seconds = started.elapsed().as_secs_f64();
                tracing::info!(when, program = argv[0], seconds, output = output.trim_end(), "hook ran");
                Ok(())
            }
            End::Exited(Ok(status)) => failed(Class::Source, format!("failed: {status}"), output),
            End::Exited(Err(error)) => failed(Class::Source, format!("could not be waited for: {error}"), output),
            End::Late => failed(Class::Timeout, format!("took longer than {:?}", self.hooks.time_limit), output),
            End::Cancelled => Err(Error::Cancelled),
        }
    }
}

fn spawn(argv: &[String], environment: &[(&'static str, String)]) -> std::io::Result<Child> {
    let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    Command::new(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Waits for the end of the command, one way or another, and returns the end of what it printed.
async fn watch(child: &mut Child, limit: Duration, stop: &CancellationToken) -> (End, String) {
    let tail = Mutex::new(Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        tokio::join!(drain(stdout, &tail), drain(stderr, &tail));
    };
    tokio::pin!(reading);
    let mut read_all = false;
    let end = {
        let waiting = async {
            tokio::select! {
                status = child.wait() => End::Exited(status),
                () = tokio::time::sleep(limit) => End::Late,
                () = stop.cancelled() => End::Cancelled,
            }
        };
        tokio::pin!(waiting);
        loop {
            tokio::select! {
                end = &mut waiting => break end,
                () = &mut reading, if !read_all => read_all = true,
            }
        }
    };
    if !matches!(end, End::Exited(_)) {
        end_group(child).await;
    }
    if !read_all {
        // Whoever still holds the pipe may hold it for ever.
        let _ = tokio::time::timeout(LAST_WORDS, reading).await;
    }
    let tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    let output = String::from_utf8_lossy(&tail).into_owned();
    (end, output)
}

async fn end_group(child: &mut Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    let _ = signal(Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = signal(Signal::KILL);
        let _ = child.wait().await;
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, tail: &Mutex<Vec<u8>>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; TAIL];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&buffer[..count]);
        let surplus = tail.len().saturating_sub(TAIL);
        tail.drain(..surplus);
    }
}

/// What a failed hook printed, for the end of an error's sentence.
pub(super) fn quoted(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        output => format!(": {output}"),
    }
}

#[cfg(test)]
mod tests;
