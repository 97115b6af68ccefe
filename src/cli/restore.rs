//! `penstock restore`.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufWriter, Write as _};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::key::{Need, unlock};
use super::output::{self, Done};
use super::{Failure, file_list, progress, read};
use crate::catalog::{Catalog, Scope};
use crate::config::Config;
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{Manifest, Outcome};
use crate::pattern::printable;
use crate::restore::{self as files, DamagedFile, Options, Summary, elsewhere};
use crate::tar;

/// How many of the other backups of a chain are asked for damaged files, the newest first.
const ASKED: usize = 20;

/// How many damaged files are asked for, and printed.
const SHOWN: usize = 1000;

/// The other backups that have damaged files, by item and path.
type Found = BTreeMap<(Name, Vec<u8>), BackupId>;

pub(super) async fn run(
    config: &Config,
    args: &args::Restore,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let (catalog, mut manifest) = read::which(config, &args.which, (&args.place, &args.key), cancel).await?;
    unlock(&catalog.location, &mut manifest, Need::Content)?;
    let heal = match &args.heal_from {
        None => None,
        Some(from) => {
            let mut from = read::find(&catalog, from).await?;
            unlock(&catalog.location, &mut from, Need::Content)?;
            Some(Box::new(from))
        }
    };
    let options = Options {
        items: args.item.clone(),
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        onto: args.onto(),
        damaged: args.damaged,
        read_back: args.verify,
        heal,
    };
    if args.dry_run {
        return preview(&catalog, manifest, options, args, format, cancel).await;
    }
    let (done, count) = read::counter();
    let whole = args.item.is_empty() && args.include.is_empty() && args.exclude.is_empty();
    let expected = if whole { read::plain_bytes(&manifest) } else { 0 };
    let state = || (done.load(Ordering::Relaxed), expected, String::new());
    let work = files::restore(&catalog.location, &manifest, &args.to, &options, cancel, &count);
    let summary = progress::shown(format, "restore", state, work).await?;
    for warning in &summary.warnings.list {
        tracing::warn!(class = %warning.class, item = %warning.item, path = %warning.path, "{}", warning.message);
    }
    let found =
        if summary.lacks_damaged() { find_elsewhere(&catalog, &manifest, &summary).await } else { Found::new() };
    Ok(told(args, &manifest, &summary, &found, format))
}

/// The result of a restore.
fn told(args: &args::Restore, manifest: &Manifest, summary: &Summary, found: &Found, format: OutputFormat) -> Done {
    let left = match (summary.left_out, summary.altered) {
        (0, 0) => String::new(),
        (left_out, altered) => format!("; {left_out} left out, {altered} not as saved: see the warnings"),
    };
    let all = args.include.is_empty()
        && args.exclude.is_empty()
        && args.item.is_empty()
        && summary.left_out == 0
        && manifest.items.iter().all(|item| item.outcome != Outcome::Failure);
    let read_back =
        if args.verify { format!("; {} read back", output::count(summary.read_back, "file")) } else { String::new() };
    let mut text = format!(
        "restored {} of {}@{}: {}, {} into {}{read_back}{left}\n",
        if all { "all" } else { "part" },
        manifest.job,
        manifest.id,
        output::entries(summary.files),
        output::size(summary.bytes),
        args.to.display()
    );
    text.extend(summary.damage.iter().take(SHOWN).map(|file| damaged_line(file, found)));
    if summary.damaged > SHOWN as u64 {
        text.extend([format!("damaged  and {} more\n", summary.damaged - SHOWN as u64)]);
    }
    let mut json = json!({
        "id": manifest.id, "job": manifest.job, "node": manifest.node, "target": args.to,
        "files": summary.files, "bytes": summary.bytes, "left_out": summary.left_out, "read_back": summary.read_back, "altered": summary.altered,
        "warnings": summary.warnings, "damaged": summary.damaged,
        "damage": summary.damage.iter().map(|file| damaged_json(file, found)).collect::<Vec<_>>(),
    });
    if let Some(report) = summary.failure() {
        if format == OutputFormat::Human {
            output::print_failure(format, &report);
        }
        json["error"] = serde_json::to_value(&report).expect("a report has only strings");
        return Done::new(text, json).code(report.class.exit_code());
    }
    let done = Done::new(text, json);
    if summary.warnings.count == 0 { done } else { done.something_failed() }
}

fn found_in<'a>(file: &DamagedFile, found: &'a Found) -> Option<&'a BackupId> {
    found.get(&(file.item.clone(), file.path.clone()))
}

fn damaged_line(file: &DamagedFile, found: &Found) -> String {
    let slash = if file.path.is_empty() { "" } else { "/" };
    let name = format!("{}{slash}{}", file.item, printable(&file.path));
    let outcome = match &file.outcome {
        files::Outcome::LeftOut => match found_in(file, found) {
            Some(id) if file.path.is_empty() => format!("left out; {id} has it: restore that backup's item"),
            Some(id) => format!("left out; {id} has it: --heal-from {id}"),
            None => format!("left out; not found whole in the last {ASKED} backups"),
        },
        files::Outcome::Filled(_) => "has zeros for what is lost".to_owned(),
        files::Outcome::Healed(id) => format!("restored as it is in {id}"),
    };
    format!("damaged  {name}: {outcome}\n")
}

fn damaged_json(file: &DamagedFile, found: &Found) -> Value {
    let (outcome, ranges, healed) = match &file.outcome {
        files::Outcome::LeftOut => ("left-out", Value::Null, Value::Null),
        files::Outcome::Filled(ranges) => {
            let ranges = ranges.iter().map(|range| json!({ "start": range.start, "end": range.end }));
            ("zero-filled", ranges.collect(), Value::Null)
        }
        files::Outcome::Healed(id) => ("healed", Value::Null, json!(id)),
    };
    json!({
        "item": file.item, "path": tar::shown(&file.path), "outcome": outcome, "zeros": ranges, "healed_from": healed,
        "found_in": found_in(file, found),
    })
}

/// Looks for the damaged files in the chain's other backups. What cannot be read of those is passed over: this is advice.
async fn find_elsewhere(catalog: &Catalog, manifest: &Manifest, summary: &Summary) -> Found {
    let mut wanted: BTreeMap<Name, HashSet<Vec<u8>>> = BTreeMap::new();
    for file in summary.damage.iter().filter(|file| file.outcome == files::Outcome::LeftOut).take(SHOWN) {
        wanted.entry(file.item.clone()).or_default().insert(file.path.clone());
    }
    let mut found = Found::new();
    let scope = Scope { job: Some(&manifest.job), node: Some(&manifest.node) };
    let entries = match catalog.entries(scope).await {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "could not list the other backups: whether one has the damaged files is not known");
            return found;
        }
    };
    for entry in entries.iter().filter(|entry| entry.id != manifest.id).take(ASKED) {
        if wanted.values().all(HashSet::is_empty) {
            break;
        }
        let Ok(mut other) = catalog.manifest(entry).await else { continue };
        if unlock(&catalog.location, &mut other, Need::Index).is_err() {
            continue;
        }
        for (item, paths) in wanted.iter_mut().filter(|(_, paths)| !paths.is_empty()) {
            match elsewhere::find(&catalog.location, &other, item, paths, &summary.lost).await {
                Ok(there) => {
                    for path in there {
                        paths.remove(&path);
                        found.insert((item.clone(), path), entry.id.clone());
                    }
                }
                Err(error) => {
                    tracing::debug!(backup = %entry.id, %error, "could not look for damaged files in another backup");
                }
            }
        }
    }
    found
}

/// `--dry-run`: prints while it reads, so that memory does not grow with the number of files.
async fn preview(
    catalog: &Catalog,
    manifest: Manifest,
    options: Options,
    args: &args::Restore,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let (location, runtime, cancel) = (catalog.location.clone(), Handle::current(), cancel.clone());
    let (id, job) = (manifest.id.clone(), manifest.job.clone());
    let list = move || {
        let mut out = BufWriter::new(io::stdout().lock());
        let listed = files::preview::preview(&location, &manifest, &options, (&runtime, &cancel), |item, file| {
            if format == OutputFormat::Json {
                return Ok(());
            }
            match file {
                Some(file) => file_list::line(&mut out, item, file),
                None => writeln!(out, "{}", item.name),
            }
        })?;
        out.flush().map_err(files::written)?;
        Ok(listed)
    };
    let listed = tokio::task::spawn_blocking(list).await;
    let listed = match listed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
        Ok(listed) => listed,
        // The reader of the pipe has seen enough (`… | head`).
        Err(error) if files::Error::is_closed_pipe(&error) => return Ok(Done::text("")),
        Err(error) => return Err(error.into()),
    };
    if listed.files == 0 {
        let message = format!("nothing in the backup {id} matches --include and --exclude");
        return Err(files::Error::NotFound(message).into());
    }
    let text = format!(
        "would restore {}, {} of {job}@{id} into {}\n",
        output::entries(listed.files),
        output::size(listed.bytes),
        args.to.display()
    );
    let json = json!({ "id": id, "job": job, "target": args.to, "dry_run": true, "files": listed.files, "bytes": listed.bytes });
    Ok(Done::new(text, json))
}
