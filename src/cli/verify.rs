//! `penstock verify`.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::key::{Need, unlock};
use super::output::Done;
use super::read::{chain_of, counter, open, plain_bytes, selected};
use super::session::Session;
use super::{Failure, progress};
use crate::catalog::{Catalog, Entry, Scope};
use crate::config::Config;
use crate::download::index;
use crate::error::{Class, Classify as _};
use crate::format::damage::{self, Places};
use crate::format::key::Name;
use crate::location::keys::Locked;
use crate::verify::{self as check, Depth, Finding};

/// The most backups that are verified at a time.
const VERIFIED: usize = 16;

pub(super) async fn run(
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
    let done = AtomicU64::new(0);
    let what = What { entries: &entries, depth, may_record: args.place.as_of.is_none() };
    let work = all(&what, at_a_time(depth, config), format, &done, cancel);
    // Where all bytes are read, each backup shows how far it is.
    if depth == Depth::Data {
        return work.await;
    }
    let state = || (done.load(Ordering::Relaxed), entries.len() as u64, String::new());
    progress::backups(format, "verify", state, work).await
}

/// What to verify, and how.
struct What<'a> {
    entries: &'a [(&'a Catalog, Entry)],
    depth: Depth,
    /// Whether lost chunks are recorded for the next backup.
    may_record: bool,
}

async fn all(
    what: &What<'_>,
    at_a_time: usize,
    format: OutputFormat,
    done: &AtomicU64,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let What { entries, depth, may_record } = *what;
    let (mut text, mut results, mut first) = (String::new(), Vec::new(), None);
    let verify = async |at: usize| {
        let (catalog, entry) = &entries[at];
        (catalog, entry, verify_one(catalog, (entry, may_record), depth, format, cancel).await)
    };
    let mut verdicts = std::pin::pin!(stream::iter((0..entries.len()).map(verify)).buffered(at_a_time));
    while let Some((catalog, entry, verdict)) = verdicts.next().await {
        let verdict = verdict?;
        done.fetch_add(1, Ordering::Relaxed);
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
    let done = Done::new(text, json!({ "ok": first.is_none(), "data": depth == Depth::Data, "backups": results }));
    Ok(match first {
        Some(class) => done.code(class.exit_code()),
        None => done,
    })
}

/// How many backups are verified at a time. Where all bytes are read, one has as many requests as help; otherwise a backup is a few requests,
/// one after the other, and an index in memory.
fn at_a_time(depth: Depth, config: &Config) -> usize {
    let fit = usize::try_from(config.limits.memory / (2 * index::IN_MEMORY)).unwrap_or(VERIFIED);
    if depth == Depth::Data { 1 } else { fit.clamp(1, VERIFIED) }
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
async fn record(catalog: &Catalog, entry: &Entry, (lost, chunks): (&Places, u64)) -> (String, bool) {
    match check::record(&catalog.location, entry, lost).await {
        Ok(recorded) => {
            let key = entry.damaged();
            let all = recorded as u64 >= lost.values().map(|places| places.len() as u64).sum()
                && chunks <= damage::MAX_CHUNKS as u64;
            let rest = if all { "" } else { "; there are more: `penstock backup --full` stores all again" };
            let message = format!(
                "recorded {recorded} lost chunks in {key}: the next backup of the job there stores again what it still has of them{rest}"
            );
            (message, all)
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
    let found = if depth == Depth::Data { progress::shown(format, "verify", state, work).await? } else { work.await? };
    let recorded = if found.lost.is_empty() || !may_record {
        None
    } else {
        Some(record(catalog, entry, (&found.lost, found.lost_chunks)).await)
    };
    let mut findings = found.list;
    findings.extend(check::snapshots(&catalog.location, &manifest).await?);
    let findings = findings.into_iter().map(|finding| (finding.class, finding.message)).collect();
    // What names the recipients says more than what one object says.
    let why = |message| locked.as_ref().map_or(message, Locked::to_string);
    let locked = found.locked.into_iter().map(|Finding { class, item, message, .. }| (class, item, why(message)));
    let locked = locked.collect();
    Ok(Verdict { encrypted: manifest.encryption.is_some(), findings, recorded, locked })
}
