//! Runs the commands before and after a run.
//!
//! Each has a time limit. Its output is read to the end, but only the last [`TAIL`] bytes are kept, so a verbose hook neither blocks
//! nor costs memory. It leads a process group; if it is late or its run is cancelled, the group gets SIGTERM, and SIGKILL [`GRACE`]
//! later. Processes that a hook leaves running when it exits are not waited for.

use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
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

/// How much of a hook's output is kept.
const TAIL: usize = 4 << 10;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// How long the output is read on after the hook's exit. What the hook itself printed is in the pipe by then.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

pub(super) struct Runner<'a> {
    hooks: &'a Hooks,
    environment: Vec<(&'static str, String)>,
    /// The result of `after`, if it has run already.
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

    /// Runs the `before` commands in order, up to the first that fails.
    pub(super) async fn before(&self, stop: &CancellationToken) -> Result<(), Error> {
        for argv in &self.hooks.before {
            self.one("before", argv, &self.environment, stop).await?;
        }
        Ok(())
    }

    /// Runs the `after` commands once everything is captured: frozen volumes must not wait until snapshots are complete.
    pub(super) async fn thaw(&self, outcome: Outcome, class: Option<Class>) {
        let first = self.all_after(outcome, class).await;
        self.thawed.get_or_init(|| first);
    }

    /// Runs the `after` commands, unless [`Runner::thaw`] did. Returns the first failure.
    pub(super) async fn after(&mut self, result: &Result<Manifest, Error>) -> Option<Error> {
        match (self.thawed.take(), result) {
            (Some(first), _) => first,
            (None, Ok(manifest)) => {
                self.all_after(manifest.outcome, failed_item(manifest).map(|report| report.class)).await
            }
            (None, Err(error)) => self.all_after(outcome_of(error), Some(error.class())).await,
        }
    }

    /// Runs all of them, whichever fails: a frozen volume must thaw.
    async fn all_after(&self, outcome: Outcome, class: Option<Class>) -> Option<Error> {
        let mut environment = self.environment.clone();
        environment.push(("PENSTOCK_OUTCOME", outcome.as_str().to_owned()));
        environment.push(("PENSTOCK_CLASS", class.map_or("none", Class::as_str).to_owned()));
        let mut first = None;
        for argv in &self.hooks.after {
            if let Err(error) = self.one("after", argv, &environment, &CancellationToken::new()).await {
                tracing::error!(class = %error.class(), %error, "an `after` hook failed: the other hooks still run, and a committed backup stays");
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

/// Waits until the command ends, is late or is cancelled; returns the end of its output too.
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
        // A process that still has the pipe may keep it open for ever.
        let _ = tokio::time::timeout(LAST_OUTPUT, reading).await;
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

/// A failed hook's output, as the end of an error message.
pub(super) fn quoted(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        output => format!(": {output}"),
    }
}

#[cfg(test)]
mod tests;
