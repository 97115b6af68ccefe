//! `penstock sweep`, and the sweep at the end of `penstock backup`.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::output::Done;
use super::session::Session;
use super::{Failure, args};
use crate::config::{self, Config};
use crate::error::{Class, Report};
use crate::location::Location;
use crate::upload::sweep::{self, Fate, Mode, Reach, Swept};

pub(super) async fn run(config: &Config, args: args::Sweep) -> Result<Done, Failure> {
    let mode = match args {
        args::Sweep { dry_run: true, .. } => Mode::DryRun,
        args::Sweep { give_up: true, .. } => Mode::GiveUp,
        args::Sweep { .. } => Mode::Abort,
    };
    let cancel = CancellationToken::new();
    let open = open(&mut Session::new(config, &cancel), config.locations.values())?;
    let swept = sweep::sweep(&config.state_dir, &open, &BTreeSet::new(), mode, Reach::Bucket).await?.uploads;
    let text = if swept.is_empty() { "no interrupted uploads\n".to_owned() } else { swept.iter().map(line).collect() };
    let done =
        Done::new(text, json!({ "dry_run": args.dry_run, "uploads": swept.iter().map(value).collect::<Vec<_>>() }));
    Ok(match swept.iter().find_map(|one| class(&one.fate)) {
        Some(class) => done.code(class.exit_code()),
        None if swept.iter().any(|one| matches!(one.fate, Fate::Unknown)) => done.something_failed(),
        None => done,
    })
}

/// Opens every configured location. Fails if one of `used` cannot be opened; skips any other that cannot.
pub(super) fn open<'a>(
    session: &mut Session<'a>,
    used: impl Iterator<Item = &'a config::Location>,
) -> Result<Vec<Location>, Failure> {
    let used: BTreeSet<&str> = used.map(|location| location.name.as_str()).collect();
    let mut all = Vec::new();
    for location in session.config.locations.values() {
        match session.open(location) {
            Ok(open) => all.push(open),
            Err(failure) if used.contains(location.name.as_str()) => return Err(failure),
            Err(_) => tracing::warn!(
                location = location.name,
                "could not open the location: skipping its sweep; see `penstock validate`"
            ),
        }
    }
    Ok(all)
}

/// Aborts the uploads that earlier backups left. A failure is logged and does not fail the backup.
pub(super) async fn after_backup(config: &Config, open: &[Location]) {
    match sweep::sweep(&config.state_dir, open, &BTreeSet::new(), Mode::Abort, Reach::Bucket).await {
        Ok(sweep) if sweep.uploads.is_empty() => {}
        Ok(sweep) => tracing::info!(uploads = sweep.uploads.len(), "aborted interrupted uploads"),
        Err(error) => tracing::error!(%error, "could not sweep interrupted uploads: the next sweep tries again"),
    }
}

const fn class(fate: &Fate) -> Option<Class> {
    match fate {
        Fate::Failed(report) => Some(report.class),
        Fate::Aborted | Fate::WouldAbort | Fate::Spared | Fate::Nothing | Fate::Unknown | Fate::GivenUp(_) => None,
    }
}

const fn why(fate: &Fate) -> Option<&Report> {
    match fate {
        Fate::Failed(report) | Fate::GivenUp(report) => Some(report),
        Fate::Aborted | Fate::WouldAbort | Fate::Spared | Fate::Nothing | Fate::Unknown => None,
    }
}

fn line(swept: &Swept) -> String {
    let Swept { location, key, id, begun, fate } = swept;
    let id = id.as_ref().map_or("no ID", |id| id.0.as_str());
    let begun = begun.map_or_else(|| "-".to_owned(), |begun| format!("{begun:.0}"));
    let why = why(fate).map_or_else(String::new, |report| {
        let remedy = report.remedy.as_ref().map_or_else(String::new, |remedy| format!("; {remedy}"));
        format!("  {}: {}{remedy}", report.class, report.message)
    });
    format!("{:<13}  {begun:<20}  {location}  {key}  {id}{why}\n", fate.as_str())
}

fn value(swept: &Swept) -> Value {
    let Swept { location, key, id, begun, fate } = swept;
    let error = why(fate);
    json!({
        "location": location, "key": key, "upload_id": id.as_ref().map(|id| &id.0), "begun": begun,
        "outcome": fate.as_str(), "error": error,
    })
}
