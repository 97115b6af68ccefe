//! `penstock run`, and the commands that ask the daemon: `status`, `trigger`, `reload`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::args::{Cli, OutputFormat, Trigger};
use super::logging::Levels;
use super::output::{self, Colour, Done, painted};
use super::session::{self, Aws};
use super::{Failure, progress};
use crate::config::Config;
use crate::daemon::{self, Answer, Client, LastRun, Request, RunningStatus, Setup, Status, when};
use crate::error::{Class, Report};
use crate::metrics::Outcome;

pub(super) async fn run(
    cli: &Cli,
    config: &Config,
    levels: &Levels,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    if let Some(file) = &config.identity_file {
        let file = file.display();
        tracing::warn!(%file, "the configuration names an identity_file, and this machine writes backups: whoever takes it over reads them; keep the private key where you restore");
    }
    let levels = levels.clone();
    let setup = Setup {
        file: cli.config.clone(),
        config: config.clone(),
        connect: Arc::new(Aws::of(config)),
        cluster: session::cluster(config),
        set_log_level: Box::new(move |level| levels.set(level)),
    };
    daemon::run(setup, cancel.clone()).await?;
    Ok(Done::text(""))
}

fn unexpected(answer: &Answer) -> Failure {
    match answer {
        Answer::Refused(failed) => Failure::Report(failed.clone()),
        other => Failure::Report(Report::new(Class::Internal, format!("the daemon answered {other:?}"))),
    }
}

pub(super) async fn status(socket: &Path) -> Result<Done, Failure> {
    match Client::send(socket, &Request::Status).await?.answer().await? {
        Answer::Status(status) => {
            let json = serde_json::to_value(&status).expect("it came as JSON");
            Ok(Done::new(text(&status), json))
        }
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn reload(config: &Config) -> Result<Done, Failure> {
    match Client::send(&config.admin.socket, &Request::Reload).await?.answer().await? {
        Answer::Reloaded => Ok(Done::new("reloaded\n", serde_json::json!({ "ok": true }))),
        other => Err(unexpected(&other)),
    }
}

pub(super) async fn trigger(socket: &Path, args: &Trigger, format: OutputFormat) -> Result<Done, Failure> {
    let request = Request::Trigger { job: args.job.clone() };
    let mut client = Client::send(socket, &request).await?;
    match client.answer().await? {
        Answer::Queued if args.wait => {}
        Answer::Queued => {
            let text = format!("{} is queued; `penstock status` shows its progress\n", args.job);
            return Ok(Done::new(text, serde_json::json!({ "job": args.job, "queued": true })));
        }
        other => return Err(unexpected(&other)),
    }
    let seen = std::sync::Mutex::new((0, 0, "waiting".to_owned()));
    let lock = || seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let waiting = async {
        loop {
            match client.answer().await? {
                Answer::Queued => {}
                Answer::Progress(run) => *lock() = shown(&run),
                Answer::Ended(last) => return Ok(last),
                other => return Err(unexpected(&other)),
            }
        }
    };
    let last: LastRun = progress::shown(format, "trigger", || lock().clone(), Box::pin(waiting)).await?;
    ended(&args.job, &last)
}

fn shown(run: &RunningStatus) -> (u64, u64, String) {
    let (sent, entries) = (output::size(run.stored_bytes), output::entries(run.files));
    let listing = output::listing(run.objects, run.listing.as_deref());
    let message = format!("{sent} sent, {entries}{}{listing}", snapshots(run));
    (run.plain_bytes, run.expected_bytes.unwrap_or(0), message)
}

fn ended(job: &str, last: &LastRun) -> Result<Done, Failure> {
    let backup = last.backup.as_deref().unwrap_or("nothing");
    let done = Done::new(
        format!("{job}: {}, {backup} committed\n", last.outcome.as_str()),
        serde_json::json!({ "job": job, "run": last }),
    );
    match (last.outcome, &last.error) {
        (Outcome::Success, _) => Ok(done),
        (Outcome::Partial, _) => Ok(done.something_failed()),
        (Outcome::Failure | Outcome::Cancelled, Some(failed)) => Err(Failure::Report(failed.clone())),
        (Outcome::Failure | Outcome::Cancelled, None) => Ok(done.code(Class::Cancelled.exit_code())),
    }
}

/// The status for a terminal.
fn text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_text(&mut text, status);
    text
}

fn write_text(text: &mut String, status: &Status) -> std::fmt::Result {
    let now = status.now;
    let not_ready = |why| format!("{}: {why}", painted("NOT READY", Colour::Bad));
    let ready = status.not_ready.as_ref().map_or_else(|| painted("ready", Colour::Good), not_ready);
    writeln!(text, "penstock {} on {}/{}: {ready}", status.version, status.cluster, status.node)?;
    if let Some(refused) = &status.configuration.refused {
        writeln!(text, "the configuration was refused, the old one stays in force:\n{}", refused.report.message)?;
    }
    writeln!(text, "\n{:<16} {:<8} {:<12} CREDENTIALS", "LOCATION", "STATE", "CHECKED")?;
    for location in &status.locations {
        let state = match location.up {
            Some(true) => painted(&format!("{:<8}", "up"), Colour::Good),
            Some(false) => painted(&format!("{:<8}", "DOWN"), Colour::Bad),
            None => format!("{:<8}", "unknown"),
        };
        let expiry = location.credentials_expire.map_or_else(String::new, |at| format!(", until {}", when(at, now)));
        let (name, credentials) = (&location.name, &location.credentials);
        writeln!(text, "{name:<16} {state} {:<12} {credentials}{expiry}", or_dash(location.last_check, now))?;
        if let Some(failed) = &location.error {
            write_failed(text, failed)?;
        }
    }
    writeln!(text, "\n{:<16} {:<12} {:<12} {:<12} {:<12} RUNS NOW", "JOB", "NEXT", "LAST", "OUTCOME", "SUCCESS")?;
    for job in &status.jobs {
        let next = job.retry.or(job.next_run);
        let (finished, outcome) = match &job.last {
            Some(last) => {
                (Some(last.finished), painted(&format!("{:<12}", last.outcome.as_str()), colour(last.outcome)))
            }
            None => (None, format!("{:<12}", "-")),
        };
        let runs = match (&job.running, job.waiting_since) {
            (Some(run), _) => running(run),
            (None, Some(_)) => "waits for others".to_owned(),
            (None, None) => String::new(),
        };
        let [next, finished, success] = [next, finished, job.last_success].map(|at| or_dash(at, now));
        let line = format!("{:<16} {next:<12} {finished:<12} {outcome} {success:<12} {runs}", job.name);
        writeln!(text, "{}", line.trim_end())?;
        if let Some(failed) = job.last.as_ref().and_then(|last| last.error.as_ref()) {
            write_failed(text, failed)?;
        }
    }
    Ok(())
}

const fn colour(outcome: Outcome) -> Colour {
    match outcome {
        Outcome::Success => Colour::Good,
        Outcome::Partial | Outcome::Cancelled => Colour::Warn,
        Outcome::Failure => Colour::Bad,
    }
}

fn running(run: &RunningStatus) -> String {
    let read = output::size(run.plain_bytes);
    let read = match run.expected_bytes {
        Some(expected) => {
            let expected = expected.max(run.plain_bytes);
            format!("{read} of {} ({} %)", output::size(expected), run.plain_bytes * 100 / expected.max(1))
        }
        None => read,
    };
    read + &snapshots(run)
}

/// The progress of the run's snapshots or volumes, empty if it has none.
fn snapshots(run: &RunningStatus) -> String {
    match run.snapshots {
        0 => output::volumes(run.volumes, run.volumes_done, run.volumes_failed, run.volume.as_deref()),
        all => format!(", {} of {all} snapshots complete", run.snapshots_completed),
    }
}

fn write_failed(text: &mut String, failed: &Report) -> std::fmt::Result {
    writeln!(text, "  {}: {}", failed.class, failed.message)?;
    for (what, value) in [("what to do", &failed.remedy), ("request ID", &failed.request_id)] {
        if let Some(value) = value {
            writeln!(text, "  {what}: {value}")?;
        }
    }
    Ok(())
}

fn or_dash(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "-".to_owned(), |at| when(at, now))
}
