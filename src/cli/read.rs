//! The commands that read one backup: `show`, `cat`; and how they find it.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::key::{Need, described, reveal, unlock};
use super::output::{self, Done};
use super::session::Session;
use super::{Failure, file_list};
use crate::catalog::{Catalog, Selector};
use crate::config::{self, Config, SourceKind};
use crate::format::claim::{Chained, ClaimName};
use crate::format::ebs::EbsSnapshot;
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, MAX_NOT_ENTERED, Manifest, NotEntered, Warning};
use crate::location::Location;
use crate::restore as files;
use crate::snapshot::claim;

/// In the place of the node's name: of a claim, or of a node.
pub(super) fn chain_of(claim: Option<&ClaimName>, node: Option<&Name>) -> Option<Name> {
    claim.map(ClaimName::chain).or_else(|| node.cloned())
}

/// The backup that the arguments name.
pub(super) fn selected(
    config: &Config,
    backup: Option<&Selector>,
    claim: Option<&ClaimName>,
) -> Result<Selector, Failure> {
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
