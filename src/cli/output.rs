//! Prints results to standard output, failures to standard error (or, with `--output json`, standard output).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::OutputFormat;
use crate::catalog::Entry;
use crate::error::Report;
use crate::format::claim::Chained;
use crate::format::cluster::Record;
use crate::format::key::Name;
use crate::format::manifest::{Item, Manifest, Outcome};
use crate::format::round;
use crate::job::Volume;
use crate::retention::some_of;
use crate::snapshot::claim;

/// The command finished, but a part of its work failed.
const SOMETHING_FAILED: u8 = 1;

/// What a shell shows of a program that SIGPIPE ended: the stream was not written to its end, because nobody reads it.
pub(super) const CLOSED_PIPE: u8 = 141;

/// The result of a command that did its work.
#[derive(Debug)]
pub(super) struct Done {
    text: String,
    json: Option<Value>,
    code: u8,
}

impl Done {
    pub(super) fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json: Some(json), code: 0 }
    }

    /// A result that is the same in every output format: an example file, a stream already written.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), json: None, code: 0 }
    }

    pub(super) fn json(value: Value) -> Self {
        Self { text: format!("{value:#}\n"), json: Some(value), code: 0 }
    }

    pub(super) fn something_failed(mut self) -> Self {
        self.code = SOMETHING_FAILED;
        self
    }

    /// Sets the exit code.
    pub(super) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    pub(super) fn print(self, format: OutputFormat) -> ExitCode {
        let text = match (format, self.json) {
            (OutputFormat::Json, Some(json)) => format!("{json}\n"),
            (OutputFormat::Human | OutputFormat::Json, _) => self.text,
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => ExitCode::from(self.code),
            // The reader of the pipe has seen enough (`penstock list | head`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(self.code),
            Err(error) => {
                eprintln!("penstock: could not write the result: {error}");
                ExitCode::from(crate::error::Class::Local.exit_code())
            }
        }
    }
}

pub(super) fn print_failure(format: OutputFormat, report: &Report) {
    match format {
        OutputFormat::Json => drop(writeln!(std::io::stdout(), "{}", json!({ "error": report }))),
        OutputFormat::Human => {
            let name = paint("penstock:", Colour::Bad, io::stderr().is_terminal());
            eprintln!("{name} {}", report.message);
            if let Some(remedy) = &report.remedy {
                eprintln!("  what to do: {remedy}");
            }
            let id = report.request_id.as_ref().map_or_else(String::new, |id| format!(", request {id}"));
            eprintln!("  class: {}{id}", report.class);
        }
    }
}

/// How a word is shown on a terminal.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    Good,
    Warn,
    Bad,
}

impl From<Outcome> for Colour {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Good,
            Outcome::Partial | Outcome::Cancelled => Self::Warn,
            Outcome::Failure => Self::Bad,
        }
    }
}

/// The text for standard output, in colour if that is a terminal and `NO_COLOR` is not set.
pub(super) fn painted(text: &str, colour: impl Into<Colour>) -> String {
    paint(text, colour.into(), io::stdout().is_terminal())
}

fn paint(text: &str, colour: Colour, terminal: bool) -> String {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if !terminal || variable("NO_COLOR").is_some() || variable("TERM").is_none_or(|term| term == "dumb") {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Good => 32,
        Colour::Warn => 33,
        Colour::Bad => 31,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// A size with a binary unit and three digits.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `1 object`, `2 objects`.
pub(super) fn count(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The entries of trees, as people read it: files, folders, links, and what else a tree holds; any other item is one.
pub(super) fn entries(count: u64) -> String {
    format!("{count} {}", if count == 1 { "entry" } else { "entries" })
}

/// Namespaces that `show` names; its JSON has all of them.
const MOST_NAMESPACES: usize = 10;

/// Items that a line names; of more it has the number.
const MOST_ITEMS: usize = 4;

/// One backup, as `list` and `backup` show it.
pub(super) fn summary(manifest: &Manifest, location: &str) -> Value {
    let sum = |value: fn(&crate::format::manifest::Stream) -> u64| {
        manifest.streams().map(|(_, stream)| value(stream)).sum::<u64>()
    };
    let mut json = json!({
        "id": manifest.id,
        "job": manifest.job,
        "node": manifest.node,
        "location": location,
        "started": manifest.started,
        "finished": manifest.finished,
        "outcome": manifest.outcome,
        "plain_bytes": sum(|stream| stream.plain_bytes),
        "stored_bytes": sum(|stream| stream.stored_bytes),
        "new_bytes": sum(|stream| stream.new_bytes),
        "items": manifest.items.iter().map(|item| &item.name).collect::<Vec<_>>(),
        "failed_items": failed_items(manifest),
        "warnings": manifest.warnings,
    });
    if let Some(volume) = Chained::of(&manifest.node) {
        json["claim"] = json!(volume.to_string());
    }
    if let Some(encryption) = &manifest.encryption {
        json["recipients"] = json!(encryption.recipients);
    }
    let objects = cluster_objects(manifest);
    if !objects.is_empty() {
        json["kubernetes"] = json!(objects);
    }
    json
}

/// One backup, as `list` shows it: with the time at which the store took it.
pub(super) fn listed(manifest: &Manifest, entry: &Entry, location: &str) -> Value {
    let mut json = summary(manifest, location);
    json["taken"] = json!(entry.taken());
    json["dated_ahead"] = json!(entry.dated_ahead());
    json
}

/// One backup as a line of `list`.
pub(super) fn listed_row(manifest: &Manifest, entry: &Entry) -> String {
    let mut row = row(manifest);
    if entry.dated_ahead() {
        row.insert_str(
            row.len() - 1,
            &entry.taken().strftime("  clock was ahead: taken %Y-%m-%d %H:%M:%S").to_string(),
        );
    }
    row
}

/// The items that a backup lacks because they failed.
fn failed_items(manifest: &Manifest) -> BTreeSet<Name> {
    let failed = manifest.items.iter().filter(|item| item.outcome == Outcome::Failure);
    failed.map(|item| item.name.clone()).collect()
}

/// The name of a chain, as people say it: of a node, or `NAMESPACE/CLAIM`.
pub(super) fn chain_name(node: &Name) -> String {
    Chained::of(node).map_or_else(|| node.to_string(), |volume| volume.to_string())
}

/// The backup of a volume, below the line of its round.
pub(super) fn volume_row(round: &Manifest, volume: &Volume) -> String {
    let flag = if volume.outcome == Outcome::Success { "" } else { volume.outcome.as_str() };
    let [plain, stored, new] = [volume.plain_bytes, volume.stored_bytes, volume.new_bytes].map(size);
    let (started, node) = (volume.backup.started().unwrap_or(round.started), chain_name(&volume.chain));
    let started = started.strftime("%Y-%m-%d %H:%M:%S");
    let (id, job) = (&volume.backup, &round.job);
    format!("{id}  {job:<12} {node:<16} {started}  {plain:>11} {stored:>11} {new:>11}  volume {flag}")
        .trim_end()
        .to_owned()
        + "\n"
}

pub(super) fn volume(volume: &Volume) -> Value {
    json!({
        "claim": Chained::of(&volume.chain).map(|volume| volume.to_string()),
        "node": volume.chain,
        "id": volume.backup,
        "outcome": volume.outcome,
        "plain_bytes": volume.plain_bytes,
        "stored_bytes": volume.stored_bytes,
        "new_bytes": volume.new_bytes,
    })
}

/// One backup as a line.
pub(super) fn row(manifest: &Manifest) -> String {
    let plain = manifest.streams().map(|(_, stream)| stream.plain_bytes).sum();
    let stored = manifest.streams().map(|(_, stream)| stream.stored_bytes).sum();
    let new = manifest.streams().map(|(_, stream)| stream.new_bytes).sum();
    let items: Vec<String> = manifest.items.iter().take(MOST_ITEMS + 1).map(item_name).collect();
    let items = if items.len() > MOST_ITEMS { count(manifest.items.len() as u64, "item") } else { items.join(",") };
    let failed = failed_items(manifest);
    let flag = match manifest.outcome {
        Outcome::Success => String::new(),
        outcome if failed.is_empty() => painted(outcome.as_str(), outcome),
        outcome => format!("{}: without {}", painted(outcome.as_str(), outcome), some_of(&failed)),
    };
    format!(
        "{}  {:<12} {:<16} {}  {:>11} {:>11} {:>11}  {} {flag}",
        manifest.id,
        manifest.job,
        chain_name(&manifest.node),
        manifest.started.strftime("%Y-%m-%d %H:%M:%S"),
        size(plain),
        size(stored),
        size(new),
        items
    )
    .trim_end()
    .to_owned()
        + "\n"
}

/// The item's name, with the volume's claim if it has one, and the number of a cluster's objects.
fn item_name(item: &Item) -> String {
    match (claim(&item.labels), &item.kubernetes) {
        (Some(claim), _) => format!("{}({claim})", item.name),
        (None, Some(record)) => format!("{}({})", item.name, objects_in_namespaces(record)),
        (None, None) => item.name.to_string(),
    }
}

fn objects_in_namespaces(record: &Record) -> String {
    let namespaces = count(record.namespaces.len() as u64, "namespace");
    format!("{} in {namespaces}", count(record.objects(), "object"))
}

/// What was saved of a cluster.
pub(super) fn cluster_words(record: &Record) -> String {
    let kinds = record.resources.values().filter(|kind| kind.objects > 0).count() as u64;
    let all = objects_in_namespaces(record);
    let named: Vec<&str> = record.namespaces.iter().take(MOST_NAMESPACES).map(String::as_str).collect();
    let more = record.namespaces.len().saturating_sub(MOST_NAMESPACES);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = if named.is_empty() { String::new() } else { format!(" ({}{more})", named.join(", ")) };
    format!("{all}{named}, of {}; Kubernetes {}", count(kinds, "kind"), record.server_version)
}

/// The progress of a cluster's objects, to be added to a run's; empty for a run that lists none.
pub(super) fn listing(objects: u64, kind: Option<&str>) -> String {
    let kind = kind.map_or_else(String::new, |kind| format!(", listing {kind}"));
    if objects == 0 && kind.is_empty() { String::new() } else { format!(", {}{kind}", count(objects, "object")) }
}

/// The progress of volumes, likewise.
pub(super) fn volumes(all: u64, done: u64, failed: u64, current: Option<&str>) -> String {
    let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
    let current = current.map_or_else(String::new, |current| format!(", saving {current}"));
    if all == 0 { String::new() } else { format!(", {done} of {}{failed}{current}", count(all, "volume")) }
}

/// A round over the volumes of pods, as `show` has it.
pub(super) fn round_lines(round: &round::Record) -> Vec<String> {
    let (saved, failed): (Vec<_>, Vec<_>) = round.saved.values().partition(|saved| saved.backup.is_some());
    let mut lines = vec![format!(
        "          {} saved, {} failed, {} missing",
        count(saved.len() as u64, "volume"),
        failed.len(),
        round.missing.len()
    )];
    lines.extend(round.saved.iter().filter_map(|(chain, saved)| {
        let name = saved.claim.clone().unwrap_or_else(|| chain_name(chain));
        Some(format!("            {name}: {}", saved.backup.as_ref()?))
    }));
    lines.extend(
        round
            .unsaved
            .iter()
            .filter(|unsaved| !unsaved.is_loss())
            .map(|unsaved| format!("          not saved: {unsaved}")),
    );
    let commands = round.commands.iter().map(|ran| {
        let ended = ran.failure.as_deref().unwrap_or("done");
        format!("          {} command of {}: {ended}, {} s", ran.when, ran.pod, ran.seconds)
    });
    lines.extend(commands);
    lines
}

/// How many objects of clusters a backup has, by item.
fn cluster_objects(manifest: &Manifest) -> BTreeMap<&str, Value> {
    let records = manifest.items.iter().filter_map(|item| Some((item.name.as_str(), item.kubernetes.as_deref()?)));
    let row = |record: &Record| json!({ "objects": record.objects(), "namespaces": record.namespaces.len() });
    records.map(|(name, record)| (name, row(record))).collect()
}

pub(super) fn header() -> String {
    format!(
        "{:<23}  {:<12} {:<16} {:<19}  {:>11} {:>11} {:>11}  {}\n",
        "ID", "JOB", "NODE", "STARTED (UTC)", "PLAIN", "STORED", "NEW", "ITEMS"
    )
}
