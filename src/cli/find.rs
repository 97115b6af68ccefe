//! `penstock find`: the versions of a file in all backups.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::file_list::{kind, time};
use super::key::{Need, unlock};
use super::list::{ItemName, backups, fault, manifests};
use super::output::{self, Done};
use super::rows::{Out, Words, written};
use super::session::Session;
use super::{Failure, progress};
use crate::catalog::{Catalog, Entry, Memory, Scope};
use crate::config::Config;
use crate::download;
use crate::download::index::{self, IndexFile};
use crate::error::{Class, Report};
use crate::find::files;
use crate::find::versions::{Version, Versions};
use crate::format::key::{Chain, Name};
use crate::format::manifest::{Item, Manifest, SourceDescription, Stream};
use crate::pattern::printable;
use crate::pattern::{Pattern, plain};

/// Indexes of one backup that are fetched at a time.
const FETCHED: usize = 4;

pub(super) async fn run(
    config: &Config,
    args: &args::Find,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let matcher = Matcher::new(&args.glob)?;
    let node = args.whose.node();
    let scope = Scope { job: args.whose.job.as_ref(), node: node.as_ref() };
    let mut session = Session::reading(config, &args.place, cancel).with_key(&args.key)?;
    let catalogs = session.catalogs(args.place.location.as_deref())?;
    let mut memory = Memory::new(config.limits.memory);
    let entries = backups(config, &catalogs, scope, &args.place, args.newest, &mut memory).await?;
    let (done, all) = (AtomicU64::new(0), entries.len() as u64);
    let search = Search {
        matcher,
        item: args.item.as_ref(),
        chains: chains(&entries),
        versions: Versions::new(memory, args.newest.most()),
        faults: Vec::new(),
        searched: &done,
    };
    let state = || (done.load(Ordering::Relaxed), all, String::new());
    let (versions, faults) = progress::backups(format, "find", state, search.run(&entries)).await?;
    let searched = done.load(Ordering::Relaxed);
    let text = format!("none of {} has {}\n", output::count(all, "backup"), args.glob);
    let tail = Words {
        text: if versions.is_empty() { text } else { String::new() },
        json: json!({ "searched": searched, "errors": faults }),
        code: u8::from(!faults.is_empty()),
    };
    let of = |(catalog, entry): (&Catalog, Entry)| (catalog.location.name().to_owned(), entry);
    let backups: Vec<(String, Entry)> = entries.into_iter().map(of).collect();
    let widths = versions.iter().map(|version| name(&backups[version.newest].1).len());
    let width = widths.chain(["BACKUP".len()]).max().unwrap_or_default();
    let text = line(width, ["BACKUP", "BACKUPS", "MODIFIED (UTC)", "SIZE", "FILE"]) + "\n";
    let head = Words { text, ..Words::default() };
    let work = move |rows: &mut Out| {
        for version in &versions {
            rows.row(|| row(width, &backups[version.newest].1, version), || found(&backups, version))?;
        }
        Ok(tail)
    };
    written(format, ("versions", head), work).await
}

/// As it may be given to other commands.
fn name(entry: &Entry) -> String {
    format!("{}/{}@{}", entry.chain.job, entry.chain.node, entry.id)
}

fn found(backups: &[(String, Entry)], version: &Version) -> Value {
    let (location, entry) = &backups[version.newest];
    json!({
        "id": entry.id,
        "job": entry.chain.job,
        "node": entry.chain.node,
        "location": location,
        "taken": entry.taken(),
        "item": version.item.as_str(),
        "path": String::from_utf8_lossy(&version.path),
        "type": kind(version.kind),
        "size": version.size,
        "mode": format!("{:04o}", version.mode & 0o7777),
        "mtime": time(version.mtime),
        "backups": version.backups,
        "oldest": backups[version.oldest].1.id,
    })
}

fn line(width: usize, [backup, backups, modified, size, file]: [&str; 5]) -> String {
    format!("{backup:<width$}  {backups:>7}  {modified:<19}  {size:>11}  {file}")
}

fn row(width: usize, backup: &Entry, version: &Version) -> String {
    let modified = time(version.mtime).map(|time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    let path = format!("{}/{}", version.item, printable(&version.path));
    let (count, size) = (version.backups.to_string(), output::size(version.size));
    line(width, [&name(backup), &count, &modified.unwrap_or_default(), &size, &path])
}

/// The number of each backup's chain. Backups of one chain in two locations are two histories.
fn chains(entries: &[(&Catalog, Entry)]) -> Vec<usize> {
    let mut known: HashMap<(&str, &Chain), usize> = HashMap::new();
    let numbered = entries.iter().map(|(catalog, entry)| {
        let next = known.len();
        *known.entry((catalog.location.name(), &entry.chain)).or_insert(next)
    });
    numbered.collect()
}

struct Search<'a> {
    matcher: Matcher,
    item: Option<&'a Name>,
    /// Of each backup.
    chains: Vec<usize>,
    versions: Versions,
    faults: Vec<Report>,
    searched: &'a AtomicU64,
}

impl Search<'_> {
    async fn run(mut self, entries: &[(&Catalog, Entry)]) -> Result<(Vec<Version>, Vec<Report>), Failure> {
        let mut wanted = self.item.map(ItemName::new);
        let mut seen = false;
        let mut manifests = std::pin::pin!(manifests(entries).enumerate());
        while self.versions.go_on()
            && let Some((number, (catalog, _, manifest))) = manifests.next().await
        {
            self.searched.store(number as u64 + 1, Ordering::Relaxed);
            if !self.versions.goes_on(self.chains[number]) {
                continue;
            }
            let mut manifest = match manifest {
                Ok(manifest) => manifest,
                Err(error) => {
                    self.faults.push(fault(error)?);
                    continue;
                }
            };
            if wanted.as_mut().is_some_and(|wanted| !wanted.is_in(&manifest)) {
                continue;
            }
            seen = true;
            match unlock(&catalog.location, &mut manifest, Need::Index) {
                Ok(()) => self.backup(number, catalog, &manifest).await?,
                Err(locked) => self.faults.push(fault(locked)?),
            }
        }
        if let Some(wanted) = wanted.filter(|_| !seen && self.faults.is_empty() && !entries.is_empty()) {
            return Err(wanted.missing("no backup has").into());
        }
        Ok((self.versions.into_found(), self.faults))
    }

    async fn backup(&mut self, number: usize, catalog: &Catalog, manifest: &Manifest) -> Result<(), Failure> {
        let trees = manifest.streams().filter(|(item, _)| item.source.is_tree());
        let trees = trees.filter(|(item, _)| self.item.is_none_or(|wanted| *wanted == item.name));
        let fetch =
            |(item, stream): (_, _)| async move { (item, stream, index::fetch(&catalog.location, stream).await) };
        let mut indexes = stream::iter(trees.collect::<Vec<(&Item, &Stream)>>()).map(fetch).buffered(FETCHED);
        while let Some((item, stream, index)) = indexes.next().await {
            let read = index.map_err(Ended::Index);
            let read = read.and_then(|index| tokio::task::block_in_place(|| self.item(number, item, stream, &index)));
            match read {
                Ok(()) => {}
                Err(Ended::Index(error)) => self.faults.push(fault(error)?),
                Err(Ended::Memory) => {
                    let message = "more files match than fit into limits.memory";
                    return Err(Report::new(Class::Local, message)
                        .remedy("raise limits.memory, or ask for less: --limit, --since, --job, --item, a longer path")
                        .into());
                }
            }
        }
        Ok(())
    }

    fn item(&mut self, number: usize, item: &Item, stream: &Stream, index: &IndexFile) -> Result<(), Ended> {
        let mut places = Places::of(item);
        let mut turn = self.versions.begin((self.chains[number], number), &item.name).map_err(|_| Ended::Memory)?;
        files(index, stream, |file| {
            if self.matcher.matches(&mut places, &file.path) {
                turn.file(file).map_err(|_| Ended::Memory)
            } else {
                Ok(())
            }
        })?;
        turn.end();
        Ok(())
    }
}

/// Why the search of an item ended early.
#[derive(Debug)]
enum Ended {
    Index(download::Error),
    Memory,
}

impl From<download::Error> for Ended {
    fn from(error: download::Error) -> Self {
        Self::Index(error)
    }
}

/// A pattern, which may be of a path in the tree, of one with the item's name before it, or of the path on the node.
#[derive(Debug)]
struct Matcher {
    pattern: Pattern,
    /// Whether it says where the file is.
    is_path: bool,
}

/// The places of an item's tree: buffers that begin with its name, and with its path on the node.
#[derive(Debug)]
struct Places {
    starts: Vec<(Vec<u8>, usize)>,
}

impl Places {
    fn of(item: &Item) -> Self {
        let source = match &item.source {
            SourceDescription::Tree { path } => plain(path),
            _ => "",
        };
        let starts = [item.name.as_str(), source].into_iter().filter(|start| !start.is_empty());
        Self { starts: starts.map(|start| (format!("{start}/").into_bytes(), start.len() + 1)).collect() }
    }
}

impl Matcher {
    fn new(glob: &str) -> Result<Self, Failure> {
        let pattern = Pattern::new(glob).map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(Self { pattern, is_path: glob.contains('/') })
    }

    fn matches(&self, places: &mut Places, path: &[u8]) -> bool {
        if path == b"." {
            return false;
        }
        let at = |(buffer, start): &mut (Vec<u8>, usize)| {
            buffer.truncate(*start);
            buffer.extend_from_slice(path);
            self.pattern.matches(buffer)
        };
        self.pattern.matches(path) || (self.is_path && places.starts.iter_mut().any(at))
    }
}
