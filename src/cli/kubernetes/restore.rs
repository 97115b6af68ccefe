//! `penstock kubernetes plan | restore`: options, progress, and the report.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{named, opened, within};
use crate::cli::args::{KubernetesPlan, KubernetesRestore, OutputFormat, Recreation};
use crate::cli::key::Need;
use crate::cli::output::{Done, count};
use crate::cli::{Failure, progress, read, session};
use crate::cluster::{Cluster as _, Effect};
use crate::config::Config;
use crate::error::{Classify as _, Report};
use crate::format::manifest::Manifest;
use crate::inventory::Filter;
use crate::inventory::cleaned::Fields;
use crate::reinstate::mapping::Mapping;
use crate::reinstate::{AsOf, Data, Error, Options, Outcome, Output, Progress, Restore, Row, Summary, Verdict, Volume};
use crate::resources::patience::Patience;
use crate::resources::place::Filed;
use crate::resources::select::Pattern;

/// Lines about single objects in the report for people; more are only counted.
const MOST_LINES: usize = 1000;

pub(in crate::cli) async fn plan(
    config: &Config,
    args: &KubernetesPlan,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    run(config, &args.what, Effect::DryRun, options(&args.what)?, format, cancel).await
}

pub(in crate::cli) async fn restore(
    config: &Config,
    args: &KubernetesRestore,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let options = Options { wait: args.wait.map(Into::into), ..options(&args.what)? };
    run(config, &args.what, Effect::Real, options, format, cancel).await
}

fn options(args: &Recreation) -> Result<Options, Failure> {
    let mapping = Mapping::new(&args.namespace, &args.storage_class).map_err(|why| Failure::Usage(why.to_string()))?;
    let from = Mapping::chosen(&args.namespace);
    let pattern =
        |glob: &String| Pattern::new(glob).map_err(|why| Failure::Usage(format!("--exclude-resource {glob:?} {why}")));
    Ok(Options {
        filter: Filter::new(&from, &args.resource)?,
        exclude: args.exclude_resource.iter().map(pattern).collect::<Result<_, _>>()?,
        selector: args.selector.clone().unwrap_or_default(),
        mapping,
        existing: args.existing.into(),
        status: args.status,
        dependents: args.dependents,
        from_cluster: args.from_cluster.clone(),
        volumes: args.volumes.with_volumes,
        wait: None,
    })
}

async fn run(
    config: &Config,
    args: &Recreation,
    effect: Effect,
    options: Options,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let catalog = read::open(config, (&args.place, &args.key), &args.backup, cancel)?;
    let (manifest, archives) = opened(&catalog, &args.backup, Need::Content, cancel).await?;
    let client = within(cancel, session::client(&config.kubernetes, args.context.as_deref())).await??;
    let as_of = args.volumes.volumes_as_of.unwrap_or(AsOf::Time(manifest.finished));
    let data = args.volumes.with_volumes.then(|| Data::new(&catalog, as_of, args.volumes.jobs()));
    let progress = Progress::default();
    let action = if effect == Effect::DryRun { "plan" } else { "restore" };
    let mut printer = Printer::new(format, &manifest, action);
    let restore = Restore {
        cluster: &client,
        options: &options,
        data: data.as_ref(),
        effect,
        patience: Patience::default(),
        memory: config.limits.memory,
        progress: &progress,
        cancel,
    };
    let state = || {
        let (done, total) = (progress.objects.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        (done, total, progress.current())
    };
    let work = Box::pin(restore.run(&archives, &mut printer));
    match progress::objects(format, action, state, work).await {
        Ok(summary) => {
            printer.end(&summary, &client.address()).map_err(|error| Failure::local("write the result", &error))?;
            Ok(done(&summary))
        }
        Err(error) => printer.failed(&error),
    }
}

/// 0: everything is as in the backup. 1: not everything.
fn done(summary: &Summary) -> Done {
    let done = Done::text("");
    if summary.is_clean() { done } else { done.something_failed() }
}

/// Writes JSON rows as they come; for people the counts, and below them the objects that need attention.
struct Printer<'a> {
    out: BufWriter<Stdout>,
    format: OutputFormat,
    manifest: &'a Manifest,
    action: &'static str,
    rows: u64,
    undone: Vec<Value>,
    volumes: Vec<Value>,
    lines: Vec<String>,
    unshown: u64,
    /// Rows by verdict, for an end before the summary.
    counts: BTreeMap<&'static str, u64>,
    /// The reader of the pipe has seen enough.
    is_closed: bool,
}

impl<'a> Printer<'a> {
    fn new(format: OutputFormat, manifest: &'a Manifest, action: &'static str) -> Self {
        let out = BufWriter::with_capacity(super::BUFFER, io::stdout());
        Self {
            out,
            format,
            manifest,
            action,
            rows: 0,
            undone: Vec::new(),
            volumes: Vec::new(),
            lines: Vec::new(),
            unshown: 0,
            counts: BTreeMap::new(),
            is_closed: false,
        }
    }

    fn line(&mut self, line: String) {
        if self.lines.len() < MOST_LINES {
            self.lines.push(line);
        } else {
            self.unshown += 1;
        }
    }

    /// Writes, until the reader of the pipe ends: a restore goes on without it.
    fn written(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        match write(self) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.is_closed = true,
            result => return result,
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            super::begin(&mut self.out, self.manifest, "objects")?;
        }
        self.rows += 1;
        Ok(())
    }
}

fn fields(fields: &Fields) -> String {
    let more = fields.count.saturating_sub(fields.paths.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", fields.paths.join(", "))
}

impl Output for Printer<'_> {
    fn row(&mut self, Row { item, filed, key, verdict, notes }: Row<'_>) -> io::Result<()> {
        *self.counts.entry(verdict.word()).or_default() += 1;
        if self.format == OutputFormat::Json {
            let (namespace, name) = key.split_once('/').unwrap_or(("", key));
            let mut row = named(item, filed, namespace, name);
            row["verdict"] = json!(verdict.word());
            match verdict {
                Verdict::Change(fields)
                | Verdict::Recreate(fields)
                | Verdict::Keep(fields)
                | Verdict::Leave(fields) => {
                    (row["fields"], row["field_count"]) = (json!(fields.paths), json!(fields.count));
                }
                Verdict::LeftOut(reason) => row["reason"] = json!(reason.as_str()),
                Verdict::Refused(report) => row["error"] = json!(report),
                Verdict::Create | Verdict::CreateUnchecked | Verdict::Same => {}
            }
            if !notes.is_empty() {
                row["notes"] = json!(notes);
            }
            let comma = if self.rows == 0 { "" } else { "," };
            return self.written(|printer| {
                printer.begin()?;
                write!(printer.out, "{comma}{row}")
            });
        }
        match verdict {
            Verdict::Keep(differing) => {
                self.line(format!("{filed} {key} is kept as it is; it differs in {}", fields(differing)));
            }
            Verdict::Refused(Report { class, message, remedy, .. }) => {
                let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!("; what to do: {remedy}"));
                self.line(format!("{filed} {key} is refused: {class}: {message}{remedy}"));
            }
            Verdict::Change(differing) | Verdict::Recreate(differing) => {
                self.line(format!("{filed} {key}: {} {}", verdict.word(), fields(differing)));
            }
            Verdict::Create | Verdict::CreateUnchecked | Verdict::Same | Verdict::Leave(_) | Verdict::LeftOut(_) => {}
        }
        for note in notes {
            self.line(format!("{filed} {key}: {note}"));
        }
        Ok(())
    }

    fn volume(&mut self, Volume { claim, chosen, outcome }: Volume<'_>) -> io::Result<()> {
        if self.format == OutputFormat::Json {
            let (namespace, name) = claim.split_once('/').unwrap_or(("", claim));
            let mut row = json!({ "namespace": namespace, "claim": name, "verdict": outcome.word() });
            if let Some(chosen) = chosen {
                (row["backup"], row["taken"], row["bytes"]) =
                    (json!(chosen.backup), json!(chosen.taken), json!(chosen.bytes));
            }
            match outcome {
                Outcome::Failed(report) => row["error"] = json!(report),
                Outcome::Filled { warnings: Some(warnings) } => row["warnings"] = json!(warnings),
                _ => {}
            }
            self.volumes.push(row);
            return Ok(());
        }
        let from = chosen.map_or_else(String::new, |chosen| format!(" from {}", chosen.backup));
        match outcome {
            Outcome::Failed(Report { class, message, remedy, .. }) => {
                let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!("; what to do: {remedy}"));
                self.line(format!("the claim {claim} could not be filled{from}: {class}: {message}{remedy}"));
            }
            Outcome::NoBackup => self.line(format!("the claim {claim} is new and empty: it has no backup")),
            Outcome::Filled { warnings: Some(warnings) } => {
                self.line(format!("the claim {claim} is filled{from}, with {warnings}"));
            }
            Outcome::Filled { warnings: None } | Outcome::Fill | Outcome::There | Outcome::Excluded => {}
        }
        Ok(())
    }

    fn undone(&mut self, item: &str, filed: &Filed, key: &str, why: &str) -> io::Result<()> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        if self.format == OutputFormat::Json && self.undone.len() < MOST_LINES {
            let mut row = named(item, filed, namespace, name);
            row["why"] = json!(why);
            self.undone.push(row);
        }
        self.line(format!("{filed} {key} did not hold: {why}"));
        Ok(())
    }
}

impl Printer<'_> {
    fn end(&mut self, summary: &Summary, cluster: &str) -> io::Result<()> {
        self.written(|printer| printer.summary(summary, cluster))
    }

    fn summary(&mut self, summary: &Summary, cluster: &str) -> io::Result<()> {
        let Summary { counts, conflicts, noted, unready, undone, notes, volumes, .. } = summary;
        if self.format == OutputFormat::Json {
            self.begin()?;
            let counted: Vec<Value> = counts
                .iter()
                .map(|((_, filed, verdict), count)| json!({ "resource": filed.resource, "verdict": verdict, "objects": count }))
                .collect();
            let mut rest = json!({
                "cluster": cluster, "clean": summary.is_clean(), "counts": counted, "conflicts": conflicts, "noted": noted,
                "unready": unready, "undone": undone, "did_not_hold": self.undone, "notes": notes,
            });
            if !self.volumes.is_empty() {
                rest["volumes"] = json!(self.volumes);
            }
            writeln!(self.out, "],{}", &rest.to_string()[1..])?;
            return self.out.flush();
        }
        writeln!(self.out, "{:<56} {:<17} OBJECTS", "RESOURCE", "VERDICT")?;
        for ((_, filed, verdict), count) in counts {
            writeln!(self.out, "{:<56} {verdict:<17} {count}", filed.to_string())?;
        }
        for (outcome, count) in volumes {
            writeln!(self.out, "{:<56} {outcome:<17} {count}", "data of persistentvolumeclaims")?;
        }
        let lines = self.lines.iter().chain(notes);
        for (number, line) in lines.enumerate() {
            writeln!(self.out, "{}{line}", if number == 0 { "\n" } else { "" })?;
        }
        if self.unshown > 0 {
            writeln!(self.out, "and {} more lines; --output json has every object", self.unshown)?;
        }
        let objects: u64 = counts.values().sum();
        let verdict = if summary.is_clean() { "no conflicts" } else { "not everything is as in the backup" };
        writeln!(
            self.out,
            "\n{} of {}, {cluster}: {}, {verdict}",
            self.action,
            self.manifest.id,
            count(objects, "object")
        )?;
        self.out.flush()
    }

    /// After the first row the JSON document is completed all the same.
    fn failed(mut self, error: &Error) -> Result<Done, Failure> {
        let report = error.report();
        if self.format == OutputFormat::Json && self.rows > 0 {
            let code = report.class.exit_code();
            let written = writeln!(self.out, "],\"error\":{}}}", json!(report)).and_then(|()| self.out.flush());
            written.map_err(|error| Failure::local("write the result", &error))?;
            return Ok(Done::text("").code(code));
        }
        for line in &self.lines {
            tracing::warn!("{line}");
        }
        let counts: Vec<String> = self.counts.iter().map(|(verdict, count)| format!("{verdict} {count}")).collect();
        tracing::warn!(objects = counts.join(", "), "the {} ended before all objects were looked at", self.action);
        Err(report.into())
    }
}
