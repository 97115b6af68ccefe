//! The commands that read backups: `show`, `cat`, `verify`.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::key::{Need, described, reveal, unlock};
use super::output::{self, Done};
use super::session::Session;
use super::{Failure, file_list, progress};
use crate::catalog::{Catalog, Entry, Scope, Selector};
use crate::config::{self, Config, SourceKind};
use crate::error::{Class, Classify as _};
use crate::format::claim::{Chained, ClaimName};
use crate::format::damage::Places;
use crate::format::ebs::EbsSnapshot;
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, MAX_NOT_ENTERED, Manifest, NotEntered, Warning};
use crate::location::Location;
use crate::location::keys::Locked;
use crate::restore as files;
use crate::snapshot::claim;
use crate::verify::{self as check, Depth, Finding};

/// In the place of the node's name: of a claim, or of a node.
pub(super) fn chain_of(claim: Option<&ClaimName>, node: Option<&Name>) -> Option<Name> {
    claim.map(ClaimName::chain).or_else(|| node.cloned())
}

/// The backup that the arguments name.
fn selected(config: &Config, backup: Option<&Selector>, claim: Option<&ClaimName>) -> Result<Selector, Failure> {
    let selector = backup.cloned().unwrap_or(Selector::NEWEST);
    let Some(claim) = claim else { return Ok(selector) };
    if let Some(node) = selector.node() {
        return Err(Failure::Usage(format!(
            "--claim {claim} and the node {node} in {selector} name two histories; give one"
        )));
    }
    // The only job that saves claims spares a listing of the whole cluster.
    let saves = |job: &&config::Job| job.sources.iter().any(|source| matches!(source.kind, SourceKind::Claims(_)));
    let mut jobs = config.jobs.values().filter(saves).map(|job| &job.name);
    let job = jobs.next().filter(|_| jobs.next().is_none());
    Ok(selector.of_node(claim.chain(), job))
}

/// Opens the location that stores the selected backup, and finds its manifest.
pub(super) async fn which(
    config: &Config,
    which: &args::Which,
    place: (&args::Place, &args::Key),
    cancel: &CancellationToken,
) -> Result<(Catalog, Manifest), Failure> {
    let selector = selected(config, which.backup.as_ref(), which.claim.as_ref())?;
    let catalog = open(config, place, &selector, cancel)?;
    let manifest = find(&catalog, &selector).await?;
    Ok((catalog, manifest))
}

/// Opens the location that stores the selected backup, with the keys that read it.
pub(super) fn open(
    config: &Config,
    (place, key): (&args::Place, &args::Key),
    backup: &Selector,
    cancel: &CancellationToken,
) -> Result<Catalog, Failure> {
    Session::reading(config, place, cancel).with_key(key)?.catalog_of(place.location.as_deref(), backup.job())
}

/// The manifest that a selector names. Logs if it is another node's and the selector names no node.
pub(super) async fn find(catalog: &Catalog, selector: &Selector) -> Result<Manifest, Failure> {
    let node = &catalog.location.node;
    let entry = catalog.resolve(selector, node).await?;
    if selector.node().is_none() && entry.chain.node != *node {
        tracing::info!(node = %entry.chain.node, backup = %entry.id, "this node has no such backup: using another node's");
    }
    Ok(catalog.manifest(&entry).await?)
}

pub(super) async fn show(
    config: &Config,
    args: &args::Show,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let (catalog, mut manifest) = which(config, &args.which, (&args.place, &args.key), cancel).await?;
    if args.files {
        unlock(&catalog.location, &mut manifest, Need::Index)?;
        return file_list::show(&catalog.location, manifest, format).await;
    }
    reveal(&catalog.location, &mut manifest);
    let json = serde_json::to_value(&manifest).expect("a manifest has only string keys and finite numbers");
    Ok(Done::new(readable(&manifest, &catalog.location), json))
}

/// `on n1`, or `volume shop/data`.
pub(super) fn whose(node: &Name) -> String {
    Chained::of(node).map_or_else(|| format!("on {node}"), |volume| format!("volume {volume}"))
}

/// A manifest for people; `--output json` has all of it.
fn readable(manifest: &Manifest, location: &Location) -> String {
    let Manifest { id, job, node, cluster, agent, started, finished, parent, labels, outcome, items, warnings, .. } =
        manifest;
    let when = started.strftime("%Y-%m-%d %H:%M:%S UTC");
    let took = finished.duration_since(*started);
    let took = took.round(jiff::Unit::Millisecond).unwrap_or(took);
    let parent = parent.as_ref().map_or_else(|| "none: a full backup".to_owned(), ToString::to_string);
    let mut lines = vec![
        format!("backup    {id}: {}", output::painted(outcome.as_str(), *outcome)),
        format!("job       {job}, {}, cluster {cluster}", whose(node)),
        format!("when      {when}, took {took:#}"),
        format!("parent    {parent}"),
        format!("agent     penstock {agent}"),
    ];
    lines.extend(labels.iter().map(|(label, value)| format!("label     {label} = {value}")));
    lines.extend(described(manifest, location));
    lines.extend(items.iter().flat_map(item_lines));
    if warnings.count > 0 {
        lines.push(format!("warnings  {}", warnings.count));
    }
    lines.extend(warnings.list.iter().map(|Warning { item, path, message }| {
        let slash = if path.is_empty() { "" } else { "/" };
        format!("          {item}{slash}{path}: {message}")
    }));
    lines.join("\n") + "\n"
}

fn item_lines(item: &Item) -> Vec<String> {
    let mut lines = vec![format!(
        "item      {} ({}): {}",
        item.name,
        item.source,
        output::painted(item.outcome.as_str(), item.outcome)
    )];
    if let Some(error) = &item.error {
        lines.push(format!("          {}: {}", error.class, error.message));
        lines.extend(error.remedy.iter().map(|remedy| format!("          what to do: {remedy}")));
    }
    if let Some(record) = item.kubernetes.as_deref() {
        lines.push(format!("          {}", output::cluster_words(record)));
        lines.extend(record.remedies().into_iter().map(|remedy| format!("          {remedy}")));
    }
    if let (Some(pod), Some(node)) = (item.labels.get("pod"), item.labels.get("node")) {
        let of = item.labels.get("pv_name").map_or_else(String::new, |volume| format!("of the volume {volume}, "));
        lines.push(format!("          {of}read through the pod {pod} on {node}"));
    }
    if let Some(round) = item.claims.as_deref() {
        lines.extend(output::round_lines(round));
    }
    match &item.content {
        Content::Stream { stream: None } | Content::EbsSnapshot { snapshot: None } => {}
        Content::EbsSnapshot { snapshot: Some(snapshot) } => {
            let EbsSnapshot { snapshot_id, volume_id, size_gib, availability_zone, volume_type, state, .. } = snapshot;
            let claim = claim(&item.labels).map_or_else(String::new, |claim| format!("; the claim {claim}"));
            let state = state.as_str();
            lines.push(format!(
                "          {snapshot_id} of {volume_id}: {state}; {size_gib} GiB {volume_type} in {availability_zone}{claim}"
            ));
        }
        Content::Stream { stream: Some(stream) } => {
            let [plain, stored, new] = [stream.plain_bytes, stream.stored_bytes, stream.new_bytes].map(output::size);
            let (entries, objects) =
                (output::entries(stream.files), output::count(stream.objects.len() as u64, "object"));
            lines.push(format!("          {plain} plain, {stored} stored, {new} new; {entries}; {objects}"));
            let NotEntered { count, list } = &stream.not_entered;
            if *count > 0 {
                lines.push(format!(
                    "          {count} not entered, because another file system or subvolume is mounted there:"
                ));
            }
            lines.extend(list.iter().take(MAX_NOT_ENTERED).map(|path| format!("            {path}")));
            if *count > list.len() as u64 {
                lines.push(format!("            and {} more", count - list.len() as u64));
            }
        }
    }
    lines
}

/// The number of bytes done so far, and the function that adds to it.
pub(super) fn counter() -> (Arc<AtomicU64>, crate::download::Progress) {
    let done = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&done);
    let count = move |bytes| {
        counter.fetch_add(bytes, Ordering::Relaxed);
    };
    (done, Arc::new(count))
}

pub(super) fn plain_bytes(manifest: &Manifest) -> u64 {
    manifest.streams().map(|(_, stream)| stream.plain_bytes).sum()
}

pub(super) async fn cat(config: &Config, args: &args::Cat, cancel: &CancellationToken) -> Result<Done, Failure> {
    let (catalog, mut manifest) = which(config, &args.which, (&args.place, &args.key), cancel).await?;
    unlock(&catalog.location, &mut manifest, Need::Content)?;
    let stdout = std::io::stdout().as_fd().try_clone_to_owned();
    let stdout = stdout.map_err(|error| Failure::local("open standard output", &error))?;
    let stdout = tokio::fs::File::from_std(stdout.into());
    match files::cat(&catalog.location, &manifest, args.item.as_ref(), stdout, cancel).await {
        Ok(_) => Ok(Done::text("")),
        // The reader of the pipe has seen enough (`penstock cat … | head`).
        Err(error) if error.is_closed_pipe() => Ok(Done::text("").code(output::CLOSED_PIPE)),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn verify(
    config: &Config,
    args: &args::Verify,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let selector =
        args.backup.as_ref().map(|backup| selected(config, Some(backup), args.claim.as_ref())).transpose()?;
    let node = chain_of(args.claim.as_ref(), None);
    let scope = Scope { job: None, node: node.as_ref() };
    let catalogs = if let Some(selector) = &selector {
        vec![open(config, (&args.place, &args.key), selector, cancel)?]
    } else {
        let mut session = Session::reading(config, &args.place, cancel).with_key(&args.key)?;
        session.catalogs(args.place.location.as_deref())?
    };
    let mut entries = Vec::new();
    for catalog in &catalogs {
        let found = match &selector {
            Some(selector) => vec![catalog.resolve(selector, &config.node).await?],
            None if args.all => catalog.entries(scope).await?,
            None => catalog.newest(scope).await?,
        };
        entries.extend(found.into_iter().map(|entry| (catalog, entry)));
    }
    if entries.is_empty() {
        let cluster = args.place.cluster.clone().unwrap_or_else(|| config.cluster.clone());
        let what = args.claim.as_ref().map_or_else(|| "at all".to_owned(), |claim| format!("of the claim {claim}"));
        return Err(crate::catalog::Error::NotFound { what, cluster }.into());
    }
    let depth = if args.data { Depth::Data } else { Depth::Structure };
    let (mut text, mut results, mut first) = (String::new(), Vec::new(), None);
    for (catalog, entry) in &entries {
        let may_record = args.place.as_of.is_none();
        let verdict = verify_one(catalog, (entry, may_record), depth, format, cancel).await?;
        let Verdict { findings, locked, .. } = &verdict;
        let name = format!("{}/{}@{}", entry.chain.job, entry.chain.node, entry.id);
        text.extend([name.as_str(), verdict.words(depth)]);
        let not_proven = locked.iter().filter(|_| depth == Depth::Data).map(|(class, ..)| class);
        if let Some(class) = findings.iter().map(|(class, _)| class).chain(not_proven).next() {
            first.get_or_insert(*class);
        }
        if let Some((note, _)) = &verdict.recorded {
            text.extend(["  ", note.as_str(), "\n"]);
        }
        for (class, message) in findings {
            text.extend(["  ", class.as_str(), ": ", message.as_str(), "\n"]);
        }
        for (_, item, message) in locked {
            text.extend(["  not proven: the content of ", item.as_str(), ": ", message.as_str(), "\n"]);
        }
        results.push(json!({
            "id": entry.id, "job": entry.chain.job, "node": entry.chain.node, "location": catalog.location.name(),
            "ok": findings.is_empty() && (locked.is_empty() || depth == Depth::Structure),
            "encrypted": verdict.encrypted,
            "damage_recorded": verdict.recorded.as_ref().map(|(_, recorded)| recorded),
            "findings": findings.iter().map(|(class, message)| json!({ "class": class, "message": message })).collect::<Vec<_>>(),
            "not_proven": locked.iter().map(|(class, item, message)| json!({ "class": class, "item": item, "message": message })).collect::<Vec<_>>(),
        }));
    }
    let done = Done::new(text, json!({ "ok": first.is_none(), "data": args.data, "backups": results }));
    Ok(match first {
        Some(class) => done.code(class.exit_code()),
        None => done,
    })
}

/// What verifying one backup found.
struct Verdict {
    encrypted: bool,
    findings: Vec<(Class, String)>,
    /// What becomes of lost chunks, and whether they were recorded for the next backup.
    recorded: Option<(String, bool)>,
    /// Items whose content nobody here can read.
    locked: Vec<(Class, Name, String)>,
}

impl Verdict {
    fn words(&self, depth: Depth) -> &'static str {
        match (self.findings.is_empty(), self.locked.is_empty(), depth) {
            (false, ..) => ": DAMAGED\n",
            (true, false, Depth::Data) => ": NOT PROVEN\n",
            (true, false, Depth::Structure) => ": ok as far as it can be seen without the key\n",
            (true, true, _) => ": ok\n",
        }
    }
}

/// Records lost chunks beside the manifest. Says what follows.
async fn record(catalog: &Catalog, entry: &Entry, lost: &Places) -> (String, bool) {
    let chunks: usize = lost.values().map(HashSet::len).sum();
    match check::record(&catalog.location, entry, lost).await {
        Ok(()) => {
            let key = entry.damaged();
            (
                format!(
                    "recorded {chunks} lost chunks in {key}: the next backup of the job there stores again what it still has of them"
                ),
                true,
            )
        }
        Err(error) => {
            let chain = format!("{} on {}", entry.chain.job, entry.chain.node);
            (
                format!(
                    "could not record {chunks} lost chunks ({error}): run `penstock backup --full` of the job {chain}, or later backups refer to them again"
                ),
                false,
            )
        }
    }
}

async fn verify_one(
    catalog: &Catalog,
    (entry, may_record): (&Entry, bool),
    depth: Depth,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Verdict, Failure> {
    let mut manifest = match catalog.manifest(entry).await {
        Ok(manifest) => manifest,
        // A manifest that is refused is a finding; one that cannot be fetched fails the command.
        Err(error @ crate::catalog::Error::Manifest { .. }) => {
            let findings = vec![(error.class(), error.to_string())];
            return Ok(Verdict { encrypted: false, findings, recorded: None, locked: Vec::new() });
        }
        Err(error) => return Err(error.into()),
    };
    let locked = unlock(&catalog.location, &mut manifest, Need::Index).err();
    let (done, count) = counter();
    let expected = if depth == Depth::Data { plain_bytes(&manifest) } else { 0 };
    let state = || (done.load(Ordering::Relaxed), expected, String::new());
    let work = check::verify(&catalog.location, &manifest, depth, cancel, &count);
    let found = progress::shown(format, "verify", state, work).await?;
    let recorded =
        if found.lost.is_empty() || !may_record { None } else { Some(record(catalog, entry, &found.lost).await) };
    let mut findings = found.list;
    findings.extend(check::snapshots(&catalog.location, &manifest).await?);
    let findings = findings.into_iter().map(|finding| (finding.class, finding.message)).collect();
    // What names the recipients says more than what one object says.
    let why = |message| locked.as_ref().map_or(message, Locked::to_string);
    let locked = found.locked.into_iter().map(|Finding { class, item, message, .. }| (class, item, why(message)));
    let locked = locked.collect();
    Ok(Verdict { encrypted: manifest.encryption.is_some(), findings, recorded, locked })
}
