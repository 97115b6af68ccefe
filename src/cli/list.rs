//! `penstock list`, and what it shares with `find`: which backups there are, newest first.

use futures_util::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Failure;
use super::args::{self, Newest, OutputFormat, Place};
use super::output::{self, Done};
use super::rows::{Out, Words, written};
use super::session::Session;
use crate::catalog::{self, Catalog, ENTRY, Entry, Known, Memory, Scope};
use crate::config::Config;
use crate::error::{Class, Classify, Report};
use crate::format::key::Name;
use crate::format::manifest::Manifest;
use crate::nearest::nearest;

/// Writes while it reads, so that memory does not grow with what is in the manifests.
pub(super) async fn run(
    config: &Config,
    args: &args::List,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let node = args.whose.node();
    let scope = Scope { job: args.named.as_ref().or(args.whose.job.as_ref()), node: node.as_ref() };
    let catalogs = Session::reading(config, &args.place, cancel).catalogs(args.place.location.as_deref())?;
    let mut memory = Memory::new(config.limits.memory);
    let mut entries = backups(config, &catalogs, scope, &args.place, args.newest, &mut memory).await?;
    if args.item.is_none() {
        entries.truncate(args.newest.most());
    }
    let (runtime, item, most) = (Handle::current(), args.item.clone(), args.newest.most());
    // By number, so that both can go to the thread that writes.
    let number = |catalog: &Catalog| catalogs.iter().position(|other| std::ptr::eq(other, catalog)).unwrap_or_default();
    let numbered: Vec<(usize, Entry)> = entries.into_iter().map(|(catalog, entry)| (number(catalog), entry)).collect();
    let head = Words { text: output::header(), ..Words::default() };
    let work = move |rows: &mut Out| {
        let of = |(number, entry): (usize, Entry)| (&catalogs[number], entry);
        let entries: Vec<(&Catalog, Entry)> = numbered.into_iter().map(of).collect();
        let (mut wanted, mut faults) = (item.as_ref().map(ItemName::new), Vec::new());
        let mut manifests = std::pin::pin!(manifests(&entries));
        while rows.count() < most as u64
            && let Some((catalog, entry, manifest)) = runtime.block_on(manifests.next())
        {
            match manifest {
                Ok(manifest) => {
                    if wanted.as_mut().is_none_or(|wanted| wanted.is_in(&manifest)) {
                        let row = || output::listed_row(&manifest, entry).trim_end().to_owned();
                        rows.row(row, || output::listed(&manifest, entry, catalog.location.name()))?;
                    }
                }
                Err(error) => faults.push(fault(error)?),
            }
        }
        if let Some(wanted) = wanted.filter(|_| rows.count() == 0 && faults.is_empty() && !entries.is_empty()) {
            return Err(wanted.missing("no backup has").into());
        }
        let text = if rows.count() == 0 { output::header() } else { String::new() };
        Ok(Words { text, json: json!({ "errors": faults }), code: u8::from(!faults.is_empty()) })
    };
    written(format, ("backups", head), work).await
}

/// The backups of `scope` in all of `catalogs`, newest first.
///
/// # Errors
/// Also where there is none because a name is wrong.
pub(super) async fn backups<'a>(
    config: &Config,
    catalogs: &'a [Catalog],
    scope: Scope<'_>,
    place: &Place,
    newest: Newest,
    memory: &mut Memory,
) -> Result<Vec<(&'a Catalog, Entry)>, Failure> {
    let (mut backups, mut some) = (Vec::new(), false);
    for catalog in catalogs {
        let entries = catalog.entries(scope).await?;
        some |= !entries.is_empty();
        for entry in entries.into_iter().filter(|entry| newest.holds(entry.taken())) {
            memory.take(ENTRY)?;
            backups.push((catalog, entry));
        }
    }
    if !some {
        must_be_known(config, catalogs, scope, place.cluster.as_ref()).await?;
    }
    backups.sort_by(|(_, a), (_, b)| b.age().cmp(&a.age()));
    Ok(backups)
}

/// For a command that found nothing in `scope`: an error if one of its names is not known in any of the locations, nor configured.
pub(super) async fn must_be_known(
    config: &Config,
    catalogs: &[Catalog],
    scope: Scope<'_>,
    cluster: Option<&Name>,
) -> Result<(), Failure> {
    let mut known = Known::default();
    let own = cluster.is_none_or(|cluster| *cluster == config.cluster);
    let configured = scope.job.is_some_and(|job| config.jobs.contains_key(job));
    if own && configured && scope.node.is_none_or(|node| *node == config.node) {
        return Ok(());
    }
    if own {
        let jobs = config.jobs.keys().map(ToString::to_string).collect();
        known = Known { cluster: true, jobs, nodes: [config.node.to_string()].into() };
    }
    let mut first: Option<catalog::Error> = None;
    for catalog in catalogs {
        match catalog.unknown(scope, &known).await {
            // The one that can say what was meant.
            Some(error) if first.is_none() || error.meant().is_some() => first = Some(error),
            Some(_) => {}
            None if own => return hint(catalog).await,
            None => return Ok(()),
        }
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}

/// The configuration's own cluster may have no backups yet; or it is misspelt.
async fn hint(catalog: &Catalog) -> Result<(), Failure> {
    let nothing = catalog.unknown(Scope::default(), &Known::default()).await;
    if let Some(error) = nothing.filter(|error| error.meant().is_some()) {
        tracing::warn!("{error}");
    }
    Ok(())
}

/// Reads manifests in order, each with its own error. Only those being read are in memory.
pub(super) fn manifests<'a>(
    entries: &'a [(&'a Catalog, Entry)],
) -> impl Stream<Item = (&'a Catalog, &'a Entry, Result<Manifest, catalog::Error>)> {
    let parallel = entries.first().map_or(1, |(catalog, _)| catalog.parallel(entries.iter().map(|(_, entry)| entry)));
    let read =
        |(catalog, entry): &'a (&'a Catalog, Entry)| async move { (*catalog, entry, catalog.manifest(entry).await) };
    stream::iter(entries).map(read).buffered(parallel)
}

/// Logs and keeps the failure of one backup; fails where every other one ends the same way.
pub(super) fn fault(error: impl Classify) -> Result<Report, Report> {
    let report = error.report();
    if report.class == Class::Cancelled {
        return Err(report);
    }
    tracing::error!(class = %report.class, "{}", report.message);
    Ok(report)
}

/// The item that is looked for, and the most similar one so far.
pub(super) struct ItemName<'a> {
    wanted: &'a Name,
    nearest: Option<String>,
}

impl<'a> ItemName<'a> {
    pub(super) const fn new(wanted: &'a Name) -> Self {
        Self { wanted, nearest: None }
    }

    pub(super) fn is_in(&mut self, manifest: &Manifest) -> bool {
        if manifest.items.iter().any(|item| item.name == *self.wanted) {
            return true;
        }
        let names = manifest.items.iter().map(|item| item.name.to_string());
        self.nearest = nearest(self.wanted.as_str(), self.nearest.take().into_iter().chain(names));
        false
    }

    /// The error of a command that found no such item.
    pub(super) fn missing(self, whose: &str) -> Report {
        let meant = self.nearest.map_or_else(String::new, |name| format!("; did you mean {name}?"));
        Report::new(Class::NotFound, format!("{whose} an item {}{meant}", self.wanted))
            .remedy("`penstock show BACKUP` names the items of a backup")
    }
}
