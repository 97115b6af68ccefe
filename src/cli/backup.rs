//! `penstock backup`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::args::{Backup, OutputFormat};
use super::output::{self, Done};
use super::session::Session;
use super::{Failure, progress, session, sweep};
use crate::config::{self, Config, Source, SourceKind};
use crate::error::{Classify, Report, Retry};
use crate::format::key::Name;
use crate::format::manifest::Outcome;
use crate::job::{self, Progress, Reuse, Spec};
use crate::location::Location;
use crate::source::glob;
use crate::state::{Holder, StateDir};

pub(super) async fn run(
    config: &Config,
    args: &Backup,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let planned = match &args.name {
        Some(name) => vec![ad_hoc(config, args, name)?],
        None => configured(config, args)?,
    };
    let _lock = StateDir::lock(&config.state_dir, Holder::Backup)?;
    let mut session = Session::new(config, cancel);
    let open = sweep::open(&mut session, planned.iter().map(|(location, _)| *location))?;
    let result = run_all(&planned, &open, args.rescue, format, cancel).await;
    // No sweep at a location that did not answer: it would delay the report of the failure, and the next backup sweeps.
    let unreachable = matches!(&result, Err(Failure::Report(report)) if report.class.retry() == Retry::BackOff);
    if !cancel.is_cancelled() && !unreachable {
        tokio::select! {
            () = sweep::after_backup(config, &open) => {}
            () = cancel.cancelled() => {}
        }
    }
    result
}

async fn run_all(
    planned: &[(&config::Location, Spec)],
    open: &[Location],
    rescue: bool,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let (mut text, mut backups, mut errors) = (output::header(), Vec::new(), Vec::new());
    let (mut partial, mut first_failure, mut only) = (false, None, None);
    for (location, spec) in planned {
        let location = open.iter().find(|open| open.name() == location.name).expect("each location in use is open");
        match run_one(location, spec, format, cancel).await {
            Ok(committed) => {
                partial |= committed.verdict().0 != Outcome::Success;
                let manifest = committed.manifest;
                text.push_str(&output::row(&manifest));
                let mut backup = output::summary(&manifest, location.name());
                for volume in &committed.volumes {
                    text.push_str(&output::volume_row(&manifest, volume));
                }
                if !committed.volumes.is_empty() {
                    backup["volumes"] = committed.volumes.iter().map(output::volume).collect();
                }
                backups.push(backup);
            }
            Err(error) if planned.len() == 1 => only = Some(error),
            Err(error) => {
                let report = error.report();
                tracing::error!(job = %spec.job, class = %report.class, "{}", report.message);
                first_failure.get_or_insert(report.class);
                errors.push(serde_json::json!({ "job": spec.job, "error": report }));
            }
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    // A location that did not answer the only job is not asked again.
    let unreachable = only.as_ref().is_some_and(|error| error.report().class.retry() == Retry::BackOff);
    if rescue && !cancel.is_cancelled() && !unreachable {
        for location in open {
            if let Err(report) = put_script(location).await {
                first_failure.get_or_insert(report.class);
                errors.push(serde_json::json!({ "location": location.name(), "error": report }));
            }
        }
    }
    if let Some(error) = only {
        return Err(error.into());
    }
    let done = Done::new(text, serde_json::json!({ "backups": backups, "errors": errors }));
    Ok(match first_failure {
        Some(class) => done.code(class.exit_code()),
        None if partial => done.something_failed(),
        None => done,
    })
}

async fn put_script(location: &Location) -> Result<(), Report> {
    let put = job::rescue::put(location).await;
    let key = put.map_err(|error| error.report()).inspect_err(|report| {
        tracing::error!(location = location.name(), class = %report.class, "{}", report.message);
    })?;
    tracing::info!(location = location.name(), %key, "stored the script that reads backups without Penstock");
    Ok(())
}

async fn run_one(
    location: &Location,
    spec: &Spec,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<job::Committed, job::Error> {
    let done = Arc::new(Progress::default());
    let state = || {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let mut message = format!("{} sent, {}", output::size(read(&done.sent)), output::entries(read(&done.files)));
        let snapshots = read(&done.snapshots.snapshots);
        if snapshots > 0 {
            message = format!("{message}, {} of {snapshots} snapshots complete", read(&done.snapshots.completed));
        }
        let claims = &done.claims;
        let [all, saved, failed] = [&claims.total, &claims.done, &claims.failed].map(read);
        message.push_str(&output::volumes(all, saved, failed, claims.current().as_deref()));
        message.push_str(&output::listing(read(&done.objects.objects), done.objects.current().as_deref()));
        (read(&done.plain), read(&done.expected), message)
    };
    progress::shown(format, "backup", state, Box::pin(job::run(location, spec, &done, cancel))).await
}

/// The configured jobs that the arguments name.
fn configured<'a>(config: &'a Config, args: &Backup) -> Result<Vec<(&'a config::Location, Spec)>, Failure> {
    if !args.argv.is_empty() {
        return Err(Failure::Usage("a command after `--` needs --name ITEM".to_owned()));
    }
    let names = config.jobs.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if args.targets.is_empty() {
        return Err(Failure::Usage(format!("name a job ({names}), or --name ITEM with a path, `-` or a command")));
    }
    let mut planned = Vec::new();
    for target in &args.targets {
        let job = config.jobs.values().find(|job| job.name.as_str() == target).ok_or_else(|| {
            Failure::Usage(format!(
                "there is no job {target:?}; the configuration has {names}. For a path give --name ITEM too"
            ))
        })?;
        let location = session::location(config, Some(args.location.as_deref().unwrap_or(&job.location)))?;
        let mut spec = Spec::of(job);
        // --force does not make a job incremental.
        if let Some(reuse) = args.reuse().filter(|_| job.incremental) {
            spec.parent.reuse = reuse;
        }
        spec.allow_plain = args.allow_plain;
        planned.push((location, spec));
    }
    Ok(planned)
}

fn ad_hoc<'a>(config: &'a Config, args: &Backup, name: &Name) -> Result<(&'a config::Location, Spec), Failure> {
    let location = session::location(config, args.location.as_deref())?;
    let usage = |text: &str| Err(Failure::Usage(text.to_owned()));
    let allow_empty = args.allow_empty;
    let one = |kind| vec![Source { name: name.clone(), kind }];
    let sources = match (args.targets.as_slice(), args.argv.as_slice()) {
        ([], []) => return usage("--name needs a path, `-` or a command after `--`"),
        ([], command) => one(SourceKind::Command { argv: command.to_vec(), allow_empty }),
        ([path], []) if path == "-" => {
            if std::io::stdin().is_terminal() {
                return usage(
                    "`-` reads standard input, which is a terminal; pipe a command's output into it, or give a file with `<`",
                );
            }
            one(SourceKind::Stdin { allow_empty })
        }
        (_, []) if allow_empty => return usage("--allow-empty applies only to `-` or a command after `--`"),
        (paths, []) => path_sources(name, paths)?,
        _ => return usage("paths and a command cannot go into one item"),
    };
    let job = Name::new(config::AD_HOC).expect("a constant name");
    let mut spec = Spec::new(job, sources);
    spec.parent.reuse = args.reuse().unwrap_or(Reuse::Files);
    spec.allow_plain = args.allow_plain;
    Ok((location, spec))
}

/// One path becomes the item NAME; several become NAME-BASENAME each.
fn path_sources(name: &Name, paths: &[String]) -> Result<Vec<Source>, Failure> {
    let mut sources: Vec<Source> = Vec::with_capacity(paths.len());
    for (position, path) in paths.iter().enumerate() {
        let source = path_source(name, path, paths.len())?;
        if let Some(other) = sources.iter().position(|other| other.name == source.name) {
            let (other, name, path) = (&paths[other], &source.name, &paths[position]);
            let text =
                format!("{other} and {path} would both be the item {name}; give one of them in a backup of its own");
            return Err(Failure::Usage(text));
        }
        sources.push(source);
    }
    Ok(sources)
}

/// A path that cannot be examined is an item too, and fails when it is opened: the other paths are saved.
fn path_source(name: &Name, path: &str, count: usize) -> Result<Source, Failure> {
    let invalid = |reason: String| Failure::Usage(format!("{path}: {reason}"));
    let absolute = std::path::absolute(path).map_err(|error| invalid(error.to_string()))?;
    let name = if count == 1 { name.clone() } else { suffixed(name, &absolute).map_err(invalid)? };
    let kind = if std::fs::metadata(&absolute).is_ok_and(|metadata| metadata.is_dir()) {
        let text = absolute.to_str().ok_or_else(|| invalid("is not UTF-8; back up a directory above it".to_owned()))?;
        // The path is no glob, whatever characters it holds.
        SourceKind::Tree { path: glob::escape(text), exclude: Vec::new(), one_file_system: false }
    } else {
        SourceKind::File { path: absolute }
    };
    Ok(Source { name, kind })
}

fn suffixed(name: &Name, path: &Path) -> Result<Name, String> {
    let base = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let safe: String =
        base.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' }).collect();
    Name::new(format!("{name}-{safe}")).map_err(|error| format!("{name}-{safe} {error}"))
}
