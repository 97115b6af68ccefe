//! `penstock diff`: the files in which two backups differ, written while their indexes are read.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::file_list::{entry, kind};
use super::key::{Need, unlock};
use super::list::ItemName;
use super::output::{self, Done};
use super::rows::{Failed, Out, Words, fetcher, written};
use super::session::Session;
use super::{Failure, read};
use crate::catalog::{Catalog, Memory, Selector};
use crate::config::Config;
use crate::download;
use crate::download::index::IndexFile;
use crate::error::Classify as _;
use crate::find::changes::{self, Change, List, compare, differing};
use crate::format::index::{FileEntry, FileKind};
use crate::format::key::Name;
use crate::format::manifest::{Content, Manifest, Stream};
use crate::pattern::printable;

pub(super) async fn run(
    config: &Config,
    args: &args::Diff,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    // One session for both: the identity may be read from a pipe, once.
    let mut session = Session::reading(config, &args.place, cancel).with_key(&args.key)?;
    let mut sides = Vec::new();
    for selector in [&args.before, &args.after] {
        let catalog = session.catalog_of(args.place.location.as_deref(), selector.job())?;
        let manifest = opened(&catalog, selector).await?;
        sides.push((catalog, manifest));
    }
    let [(before_in, before), (after_in, after)] =
        <[_; 2]>::try_from(sides).unwrap_or_else(|_| unreachable!("two selectors"));
    if let Some(item) = &args.item {
        let mut wanted = ItemName::new(item);
        if !wanted.is_in(&before) && !wanted.is_in(&after) {
            return Err(wanted.missing("neither backup has"));
        }
    }
    let head = Words {
        json: json!({ "before": named(&before_in, &before), "after": named(&after_in, &after) }),
        ..Words::default()
    };
    let names = [&before, &after].into_iter().flat_map(|manifest| &manifest.items).map(|item| item.name.clone());
    let names: BTreeSet<Name> = names.filter(|name| args.item.as_ref().is_none_or(|item| item == name)).collect();
    let (fetch_before, fetch_after) = (fetcher(before_in.location), fetcher(after_in.location));
    let memory = Memory::new(config.limits.memory);
    let work = move |rows: &mut Out| {
        let [added, removed, changed] = [Total::default(); 3];
        let mut diff = Diff { memory, rows, added, removed, changed, not_compared: Vec::new() };
        for name in &names {
            let (old, new) = (Side::of(&before, name), Side::of(&after, name));
            diff.item(name, (old, &fetch_before), (new, &fetch_after))?;
        }
        Ok(diff.end())
    };
    written(format, ("differences", head), work).await
}

async fn opened(catalog: &Catalog, selector: &Selector) -> Result<Manifest, Failure> {
    let mut manifest = read::find(catalog, selector).await?;
    unlock(&catalog.location, &mut manifest, Need::Index)?;
    Ok(manifest)
}

type Fetch<'a> = &'a dyn Fn(&Stream) -> Result<IndexFile, download::Error>;

fn named(catalog: &Catalog, manifest: &Manifest) -> Value {
    json!({ "id": manifest.id, "job": manifest.job, "node": manifest.node, "location": catalog.location.name() })
}

/// One backup's item of a name, as it can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side<'a> {
    None,
    Tree(&'a Stream),
    /// A file's bytes, or a command's.
    Bytes(&'a Stream),
    Failed,
    Snapshot,
}

impl<'a> Side<'a> {
    fn of(manifest: &'a Manifest, name: &Name) -> Self {
        let Some(item) = manifest.items.iter().find(|item| item.name == *name) else { return Self::None };
        match &item.content {
            Content::Stream { stream: Some(stream) } if item.source.is_tree() => Self::Tree(stream),
            Content::Stream { stream: Some(stream) } => Self::Bytes(stream),
            Content::Stream { stream: None } | Content::EbsSnapshot { snapshot: None } => Self::Failed,
            Content::EbsSnapshot { snapshot: Some(_) } => Self::Snapshot,
        }
    }

    fn files(self, fetch: Fetch<'_>, memory: &mut Memory) -> Result<List, Failed> {
        let Self::Tree(stream) = self else { return Ok(List::Empty) };
        List::of(fetch(stream)?, stream, memory).map_err(failed)
    }

    fn bytes(self) -> Option<&'a Stream> {
        if let Self::Bytes(stream) = self { Some(stream) } else { None }
    }
}

fn failed(error: changes::Error) -> Failed {
    match error {
        changes::Error::Output(error) => Failed::Output(error),
        error => Failed::Report(error.report()),
    }
}

/// Files, and the bytes of the regular ones.
#[derive(Debug, Default, Clone, Copy)]
struct Total {
    files: u64,
    before: u64,
    after: u64,
}

impl Total {
    fn add(&mut self, before: u64, after: u64) {
        self.files += 1;
        self.before = self.before.saturating_add(before);
        self.after = self.after.saturating_add(after);
    }
}

/// The difference so far.
struct Diff<'a> {
    memory: Memory,
    rows: &'a mut Out,
    added: Total,
    removed: Total,
    changed: Total,
    /// Items, and whether they failed.
    not_compared: Vec<(Name, bool)>,
}

impl Diff<'_> {
    fn item(
        &mut self,
        name: &Name,
        (old, fetch_old): (Side<'_>, Fetch<'_>),
        (new, fetch_new): (Side<'_>, Fetch<'_>),
    ) -> Result<(), Failed> {
        if [old, new].contains(&Side::Failed) || [old, new].contains(&Side::Snapshot) {
            self.not_compared.push((name.clone(), [old, new].contains(&Side::Failed)));
            return Ok(());
        }
        self.streams(name, old.bytes(), new.bytes())?;
        let mut memory = self.memory.clone();
        let (before, after) = (old.files(fetch_old, &mut memory)?, new.files(fetch_new, &mut memory)?);
        compare(before, after, |change| Ok(self.change(name, change)?)).map_err(failed)
    }

    /// Items without files: they have only bytes.
    fn streams(&mut self, name: &Name, old: Option<&Stream>, new: Option<&Stream>) -> Result<(), Failed> {
        let (before, after) = (old.map_or(0, |old| old.plain_bytes), new.map_or(0, |new| new.plain_bytes));
        let (difference, total) = match (old, new) {
            (None, None) => return Ok(()),
            (Some(old), Some(new)) if old.digest == new.digest && before == after => return Ok(()),
            (Some(_), Some(_)) => ("changed", &mut self.changed),
            (Some(_), None) => ("removed", &mut self.removed),
            (None, Some(_)) => ("added", &mut self.added),
        };
        total.add(before, after);
        let of_old = old.map(|_| json!({ "size": before }));
        let of_new = new.map(|_| json!({ "size": after }));
        self.rows.row(
            || line(difference, "content", (old.map(|_| before), new.map(|_| after)), name.as_str()),
            || json!({ "difference": difference, "item": name, "type": "stream", "changed": ["content"], "before": of_old, "after": of_new }),
        )?;
        Ok(())
    }

    fn change(&mut self, name: &Name, change: &Change) -> std::io::Result<()> {
        let (difference, total, old, new) = match change {
            Change::Added(new) => ("added", &mut self.added, None, Some(new)),
            Change::Removed(old) => ("removed", &mut self.removed, Some(old), None),
            Change::Changed(both) => ("changed", &mut self.changed, Some(&both.0), Some(&both.1)),
        };
        let size = |file: &&FileEntry| if file.kind == FileKind::Regular { file.size } else { 0 };
        let sizes = (old.as_ref().map(size), new.as_ref().map(size));
        total.add(sizes.0.unwrap_or(0), sizes.1.unwrap_or(0));
        let what = old.zip(new).map(|(old, new)| differing(old, new));
        let Some(one) = new.or(old) else { return Ok(()) };
        let said = what.as_ref().map_or_else(|| kind(one.kind).to_owned(), |what| what.join(","));
        let path = || format!("{name}/{}", printable(&one.path));
        let value = || {
            let shown = |file: Option<&FileEntry>| file.map(|file| entry(name, file));
            json!({
                "difference": difference, "item": name, "path": String::from_utf8_lossy(&one.path),
                "type": kind(one.kind), "changed": what, "before": shown(old), "after": shown(new),
            })
        };
        self.rows.row(|| line(difference, &said, sizes, &path()), value)
    }

    fn end(self) -> Words {
        let Self { added, removed, changed, not_compared, rows, .. } = self;
        let [plus, minus, before, after] =
            [added.after, removed.before, changed.before, changed.after].map(output::size);
        let mut text = if rows.count() == 0 {
            "no difference\n".to_owned()
        } else {
            format!(
                "{} added ({plus}), {} removed ({minus}), {} changed ({before} before, {after} after)\n",
                added.files, removed.files, changed.files
            )
        };
        for (name, has_failed) in &not_compared {
            let why = if *has_failed { "it failed in one of the backups" } else { "it is a snapshot of a volume" };
            text.extend(["not compared: ", name.as_str(), ": ", why, "\n"]);
        }
        let failed = not_compared.iter().any(|(_, failed)| *failed);
        let json = json!({
            "added": { "files": added.files, "bytes": added.after },
            "removed": { "files": removed.files, "bytes": removed.before },
            "changed": { "files": changed.files, "bytes_before": changed.before, "bytes_after": changed.after },
            "not_compared": not_compared.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "same": rows.count() == 0 && !failed,
        });
        Words { text, json, code: u8::from(failed) }
    }
}

/// One difference, as people read it: the size is the newer one.
fn line(difference: &str, what: &str, (before, after): (Option<u64>, Option<u64>), path: &str) -> String {
    let sign = match difference {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    let size = output::size(after.or(before).unwrap_or(0));
    let was = match (before, after) {
        (Some(before), Some(after)) if before != after => format!("  (was {})", output::size(before)),
        _ => String::new(),
    };
    format!("{sign} {what:<16} {size:>11}  {path}{was}")
}
