//! `penstock kubernetes …`: prints while it reads the backup and the cluster, so that memory does not grow with the number of objects.
//!
//! After a failure, the lines printed before stay; a JSON document is still complete, with the failure in `error`.

mod restore;

pub(super) use restore::{plan, restore};

use std::io::{self, BufWriter, Stdout, Write};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{KubernetesDiff, KubernetesObjects, OutputFormat};
use super::key::{Need, unlock};
use super::output::{Done, count};
use super::{Failure, read, session};
use crate::catalog::{Catalog, Selector};
use crate::cluster::{Cluster as _, Scope};
use crate::config::Config;
use crate::error::{Class, Classify as _, Report};
use crate::format::cluster::Record;
use crate::format::manifest::Manifest;
use crate::inventory::archive::{self, Archive, Listed, Object, Wanted};
use crate::inventory::cleaned::Fields;
use crate::inventory::diff::{Comparison, Difference, Output, Row, Summary};
use crate::inventory::{Error, Filter};
use crate::resources::patience::Patience;
use crate::resources::place::{Filed, Place};

/// The bytes that are written to standard output at a time.
const BUFFER: usize = 64 << 10;

/// The bytes of one kind's names that are sorted at a time.
const SORTED: usize = 4 << 20;

pub(super) async fn objects(
    config: &Config,
    args: &KubernetesObjects,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let filter = Filter::new(&args.objects.namespace, &args.objects.resource)?;
    let need = if args.yaml.is_some() { Need::Content } else { Need::Index };
    let catalog = read::open(config, (&args.place, &args.key), &args.backup, cancel)?;
    let (manifest, archives) = opened(&catalog, &args.backup, need, cancel).await?;
    if let Some(wanted) = args.yaml.clone() {
        return one(archives, wanted, format, cancel).await;
    }
    for note in Archive::unknown(&archives, &filter).into_iter().chain(not_saved(&manifest)) {
        tracing::warn!("{note}");
    }
    let write = move || {
        let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
        match format {
            OutputFormat::Human => table(&mut out, &archives, &filter),
            OutputFormat::Json => document(&mut out, &manifest, &archives, &filter),
        }
    };
    match within(cancel, blocking(write)).await? {
        Ok(()) => Ok(Done::text("")),
        // The reader of the pipe has closed it.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Done::text("")),
        // The document contains the failure.
        Err(error) if format == OutputFormat::Json && !matches!(error, Error::Output(_)) => {
            Ok(Done::text("").code(error.class().exit_code()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The backup's manifest, and its items of API objects.
async fn opened(
    catalog: &Catalog,
    backup: &Selector,
    need: Need,
    cancel: &CancellationToken,
) -> Result<(Manifest, Vec<Archive>), Failure> {
    let mut manifest = read::find(catalog, backup).await?;
    unlock(&catalog.location, &mut manifest, need)?;
    let archives = within(cancel, archive::open(&catalog.location, &manifest)).await??;
    Ok((manifest, archives))
}

/// What a partial backup lacks: missing lines or differences prove nothing about these objects.
fn not_saved(manifest: &Manifest) -> Vec<String> {
    let records = manifest.items.iter().filter_map(|item| item.kubernetes.as_deref());
    records.flat_map(Record::losses).map(|loss| format!("the backup is partial: {loss}")).collect()
}

async fn within<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, Failure> {
    let cancelled = || Failure::Report(Report::new(Class::Cancelled, "cancelled"));
    cancel.run_until_cancelled(work).await.ok_or_else(cancelled)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// One object: as YAML, or as JSON the bytes that the server sent.
async fn one(
    archives: Vec<Archive>,
    wanted: Wanted,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let token = cancel.clone();
    let found = within(cancel, blocking(move || archive::find(&archives, &wanted, &token))).await?;
    let (Object { bytes, .. }, value) = found?;
    Ok(Done::text(match format {
        OutputFormat::Human if value.is_null() => {
            let message = "the object is nested too deep to be shown as YAML; --output json prints it";
            return Err(Report::new(Class::Compat, message).into());
        }
        OutputFormat::Human => yaml(&value)?,
        OutputFormat::Json => String::from_utf8_lossy(&bytes).into_owned() + "\n",
    }))
}

/// As `kubectl get -o yaml` prints it: keys sorted, text of several lines as blocks. Text of another type in YAML 1.1 is quoted.
fn yaml(object: &Value) -> Result<String, Failure> {
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(object, options)
        .map_err(|_| Report::new(Class::Internal, "the object cannot be written as YAML; use --output json").into())
}

fn listed(
    archives: &[Archive],
    filter: &Filter,
    mut each: impl FnMut(&Archive, Listed) -> io::Result<()>,
) -> Result<(), Error> {
    for archive in archives {
        archive.list(|listed| if filter.fits(&listed.place) { Ok(each(archive, listed)?) } else { Ok(()) })?;
    }
    Ok(())
}

/// A line for each object, sorted within each kind.
fn table(out: &mut impl Write, archives: &[Archive], filter: &Filter) -> Result<(), Error> {
    writeln!(out, "{:<48} {:<24} NAME", "RESOURCE", "NAMESPACE")?;
    let (mut kind, mut names, mut bytes) = (None::<Filed>, Vec::new(), 0);
    let written = listed(archives, filter, |_, Listed { place, .. }| {
        let Place { filed, namespace, name } = place;
        if kind.as_ref() != Some(&filed) || bytes > SORTED {
            rows(out, kind.as_ref(), &mut names)?;
            (kind, bytes) = (Some(filed), 0);
        }
        bytes += namespace.len() + name.len() + 2 * size_of::<String>();
        names.push((namespace, name));
        Ok(())
    });
    rows(out, kind.as_ref(), &mut names)?;
    out.flush()?;
    written
}

fn rows(out: &mut impl Write, kind: Option<&Filed>, names: &mut Vec<(String, String)>) -> io::Result<()> {
    names.sort();
    let kind = kind.map(ToString::to_string).unwrap_or_default();
    for (namespace, name) in names.drain(..) {
        let namespace = if namespace.is_empty() { "-" } else { &namespace };
        writeln!(out, "{kind:<48} {namespace:<24} {name}")?;
    }
    Ok(())
}

fn document(out: &mut impl Write, manifest: &Manifest, archives: &[Archive], filter: &Filter) -> Result<(), Error> {
    begin(out, manifest, "objects")?;
    let mut before = "";
    let written = listed(archives, filter, |archive, Listed { place, bytes, .. }| {
        let mut row = named(archive.item.as_str(), &place.filed, &place.namespace, &place.name);
        row["bytes"] = json!(bytes);
        write!(out, "{before}{row}")?;
        before = ",";
        Ok(())
    });
    out.write_all(b"]")?;
    match &written {
        Err(Error::Output(_)) => return written,
        Err(error) => write!(out, ",\"error\":{}", json!(error.report()))?,
        Ok(()) => {}
    }
    out.write_all(b"}\n")?;
    out.flush()?;
    written
}

fn begin(out: &mut impl Write, manifest: &Manifest, list: &str) -> io::Result<()> {
    let Manifest { id, job, node, .. } = manifest;
    write!(out, r#"{{"id":{},"job":{},"node":{},"{list}":["#, json!(id), json!(job), json!(node))
}

fn named(item: &str, filed: &Filed, namespace: &str, name: &str) -> Value {
    let mut row = json!({ "item": item, "resource": filed.resource, "name": name });
    if !filed.version.is_empty() {
        row["version"] = json!(filed.version);
    }
    if !namespace.is_empty() {
        row["namespace"] = json!(namespace);
    }
    row
}

pub(super) async fn diff(
    config: &Config,
    args: &KubernetesDiff,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let filter = Filter::new(&args.objects.namespace, &args.objects.resource)?;
    let catalog = read::open(config, (&args.place, &args.key), &args.backup, cancel)?;
    let (manifest, archives) = opened(&catalog, &args.backup, Need::Content, cancel).await?;
    let client = within(cancel, session::client(&config.kubernetes, args.context.as_deref())).await??;
    let out = BufWriter::with_capacity(BUFFER, io::stdout());
    let mut printer = Printer { out, format, manifest: &manifest, rows: 0 };
    let (memory, patience) = (config.limits.memory, Patience::default());
    let comparison = Comparison { cluster: &client, filter: &filter, patience, memory, cancel };
    let written = match within(cancel, comparison.run(&archives, &mut printer)).await {
        Ok(Ok(mut summary)) => {
            summary.notes.extend(not_saved(&manifest));
            printer.end(&summary, &client.address()).map(|()| summary)
        }
        Ok(Err(Error::Output(error))) => Err(error),
        Ok(Err(error)) => return printer.failed(error.report()),
        Err(cancelled) => return Err(cancelled),
    };
    match written {
        Ok(summary) => Ok(done(&summary)),
        // The reader of the pipe has closed it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Done::text("").something_failed()),
        Err(error) => Err(Failure::local("write the result", &error)),
    }
}

fn done(summary: &Summary) -> Done {
    for note in &summary.notes {
        tracing::warn!("{note}");
    }
    match summary.failures.first() {
        Some(report) => Done::text("").code(report.class.exit_code()),
        None if summary.differences() > 0 => Done::text("").something_failed(),
        None => Done::text(""),
    }
}

/// Prints each difference as it is found.
struct Printer<'a> {
    out: BufWriter<Stdout>,
    format: OutputFormat,
    manifest: &'a Manifest,
    rows: u64,
}

impl Output for Printer<'_> {
    fn difference(&mut self, row: Row<'_>) -> io::Result<()> {
        let Row { item, filed, key, difference } = row;
        let what = match difference {
            Difference::Changed(_) => "changed",
            Difference::OnlyInBackup => "only-in-backup",
            Difference::OnlyInCluster => "only-in-cluster",
        };
        let first = self.rows == 0;
        self.rows += 1;
        if self.format == OutputFormat::Json {
            let (namespace, name) = match filed.scope {
                Scope::Namespaced => key.split_once('/').unwrap_or(("", key)),
                Scope::Cluster => ("", key),
            };
            let mut row = named(item.as_str(), filed, namespace, name);
            row["difference"] = json!(what);
            if let Difference::Changed(Fields { paths, count }) = difference {
                (row["fields"], row["field_count"]) = (json!(paths), json!(count));
            }
            if first {
                begin(&mut self.out, self.manifest, "differences")?;
            }
            return write!(self.out, "{}{row}", if first { "" } else { "," });
        }
        let fields = match difference {
            Difference::Changed(Fields { paths, count }) => {
                let more = count - paths.len() as u64;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                format!(": {}{more}", paths.join(", "))
            }
            _ => String::new(),
        };
        writeln!(self.out, "{:<15}  {filed} {key}{fields}", what.replace('-', " "))
    }
}

impl Printer<'_> {
    fn end(&mut self, summary: &Summary, cluster: &str) -> io::Result<()> {
        let Summary { compared, changed, only_in_backup, only_in_cluster, failures, notes } = summary;
        if self.format == OutputFormat::Json {
            if self.rows == 0 {
                begin(&mut self.out, self.manifest, "differences")?;
            }
            let rest = json!({
                "cluster": cluster, "same": summary.differences() == 0 && failures.is_empty(), "compared": compared, "changed": changed,
                "only_in_backup": only_in_backup, "only_in_cluster": only_in_cluster, "errors": failures, "notes": notes,
            });
            writeln!(self.out, "],{}", &rest.to_string()[1..])?;
            return self.out.flush();
        }
        for Report { class, message, remedy, .. } in failures {
            let remedy = remedy.as_ref().map_or_else(String::new, |remedy| format!("; what to do: {remedy}"));
            writeln!(self.out, "not compared     {class}: {message}{remedy}")?;
        }
        let rows =
            [(changed, "changed"), (only_in_backup, "only in the backup"), (only_in_cluster, "only in the cluster")];
        let found: Vec<String> =
            rows.iter().filter(|(count, _)| **count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        let found = match (found.is_empty(), failures.is_empty()) {
            (true, true) => "nothing differs".to_owned(),
            (true, false) => "no differences in what was compared".to_owned(),
            (false, _) => found.join(", "),
        };
        writeln!(self.out, "{} compared with {cluster}: {found}", count(*compared, "object"))?;
        self.out.flush()
    }

    /// After the first row, the document is completed even if a failure follows.
    fn failed(mut self, report: Report) -> Result<Done, Failure> {
        let code = report.class.exit_code();
        let is_begun = self.format == OutputFormat::Json && self.rows > 0;
        let last = if is_begun { format!("],\"error\":{}}}\n", json!(report)) } else { String::new() };
        let written = self.out.write_all(last.as_bytes()).and_then(|()| self.out.flush());
        if !is_begun {
            return Err(report.into());
        }
        written.map_err(|error| Failure::local("write the result", &error))?;
        Ok(Done::text("").code(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_yaml_takes_for_something_else_is_quoted() {
        let odd = [
            "",
            " ",
            "yes",
            "No",
            "on",
            "~",
            "null",
            "true",
            "0x1F",
            "1e3",
            "012",
            "1:30",
            "1_000",
            ".5",
            "- a",
            "a: b",
            "a #b",
            "# a",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "`a",
            "[a]",
            "{a}",
            "'",
            "\"",
            "a\n",
            "\na",
            "a\n b\n\n",
            "a\r\nb",
            "\ta",
            "a\t",
            "a ",
            "---",
            "...",
            "=",
            "<<",
            "2026-11-29",
            "\u{7}",
            "\u{85}",
            "\u{2028}",
            "é",
        ];
        let long = "words and ".repeat(50);
        let mut object = serde_json::Map::new();
        for text in odd.iter().copied().chain([long.as_str()]) {
            object.insert(text.to_owned(), json!({ "value": text, "list": [text, {"in": text}] }));
        }
        object.insert("numbers".to_owned(), json!([0, -1, u64::MAX, i64::MIN, 1.5, 1.0, 1e300, [], {}, null, true]));
        let object = Value::Object(object);
        let written = yaml(&object).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&written).unwrap(), object, "{written}");
        // As parsers of YAML 1.1 read, kubectl's among them.
        for plain in ["yes", "No", "on", "~", "null", "0x1F", "012", "1:30", "1_000", "2026-11-29", "="] {
            assert!(!written.lines().any(|line| line == format!("  value: {plain}")), "{plain}: {written}");
        }
    }
}
