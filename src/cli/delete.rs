//! `penstock delete`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::output::{self, Done};
use super::prune::{Did, Summary, carry_out};
use super::read::chain_of;
use super::session::Session;
use super::{Failure, session};
use crate::catalog::{self, Scope};
use crate::config::{self, Config};
use crate::error::{Class, Report};
use crate::format::key::{BackupId, Chain, DELETED};
use crate::prune::{self, Context, Count, Plan, Pruned, Reclaim};

/// Backups that the question, and the way back, name.
const MOST_NAMED: usize = 10;

/// The backups to delete, by location and chain.
type Selected<'a> = BTreeMap<(&'a str, Chain), Vec<BackupId>>;

pub(super) async fn run(
    config: &Config,
    args: &args::Delete,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let (mut session, mut summary, now) = (Session::new(config, cancel), Summary::new(format), Timestamp::now());
    let selected = select(config, args, &mut session).await?;
    if !args.dry_run && !args.yes && format == OutputFormat::Human && is_terminal() {
        let named = selected.iter().flat_map(|((location, Chain { job, node, .. }), ids)| {
            ids.iter().map(move |id| format!("{job}/{node}@{id} in {location}"))
        });
        confirm(&named.collect::<Vec<_>>(), cancel).await?;
    }
    for ((location, chain), ids) in &selected {
        let location = &config.locations[*location];
        let grace = prune::grace_of(config.jobs.get(&chain.job));
        let ctx = Context { catalog: session.catalog(location)?, grace };
        let reclaim = if args.now { Reclaim::AtOnce } else { Reclaim::AfterGrace };
        let work = async {
            let mut plan = prune::plan_deletion(&ctx, chain, ids, reclaim, now).await?;
            let did = carry_out(&ctx, &mut plan, &mut summary, args.dry_run).await?;
            Ok((plan, did))
        };
        let (plan, did) = prune::bounded(work, cancel).await?;
        summary.chain(location, &TimeZone::UTC, &plan, &did);
        if let Did::All(done) = &did {
            summary.lines.extend(undo(location, &plan, done, if args.now { Duration::ZERO } else { grace }));
        }
    }
    Ok(summary.done(args.dry_run))
}

/// Finds every backup before one is deleted.
async fn select<'a>(
    config: &'a Config,
    args: &args::Delete,
    session: &mut Session<'a>,
) -> Result<Selected<'a>, Failure> {
    let node = &chain_of(args.claim.as_ref(), args.node.as_ref()).unwrap_or_else(|| config.node.clone());
    let mut selected = Selected::new();
    if args.all {
        for location in session::locations(config, args.location.as_deref())? {
            let scope = Scope { job: None, node: Some(node) };
            for entry in session.catalog(location)?.entries(scope).await? {
                selected.entry((&location.name, entry.chain)).or_default().push(entry.id);
            }
        }
        if let (Some(claim), true) = (&args.claim, selected.is_empty()) {
            let what = format!("of the claim {claim}");
            return Err(catalog::Error::NotFound { what, cluster: config.cluster.clone() }.into());
        }
    }
    for selector in &args.backups {
        let location = session::location_of(config, args.location.as_deref(), selector.job())?;
        let selector = &match &args.claim {
            Some(claim) => selector.clone().of_node(claim.chain(), None),
            None => selector.clone(),
        };
        let entry = session.catalog(location)?.resolve(selector, node).await?;
        if selector.is_shortened() {
            // What is deleted is said in full.
            tracing::info!("{selector} is {}/{}@{}", entry.chain.job, entry.chain.node, entry.id);
        }
        if entry.chain.node != *node {
            let theirs = &entry.chain.node;
            return Err(Failure::Usage(format!(
                "{selector} is {}/{theirs}@{}, another node's; add --node {theirs} if that is the one to delete",
                entry.chain.job, entry.id
            )));
        }
        let ids = selected.entry((&location.name, entry.chain)).or_default();
        if !ids.contains(&entry.id) {
            ids.push(entry.id);
        }
    }
    Ok(selected)
}

/// Whether a person reads the question, and answers it.
fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks whether to delete the backups.
async fn confirm(named: &[String], cancel: &CancellationToken) -> Result<(), Failure> {
    let hidden = named.len().saturating_sub(MOST_NAMED);
    named.iter().take(MOST_NAMED).for_each(|name| eprintln!("  {name}"));
    let more = if hidden > 0 { format!("  and {hidden} more\n") } else { String::new() };
    eprint!("{more}delete {}? [y/N] ", output::count(named.len() as u64, "backup"));
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = tokio::select! {
        () = cancel.cancelled() => String::new(),
        answer = read => answer.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).unwrap_or_default(),
    };
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::Report(Report::new(Class::Cancelled, "nothing was deleted")))
}

/// How to undo the deletion.
fn undo(location: &config::Location, plan: &Plan, done: &Pruned, grace: Duration) -> Vec<String> {
    let Chain { job, node, .. } = &plan.chain;
    let deleted = || plan.backups.iter().filter(|backup| done.deleted.contains(&backup.entry.id));
    if done.hidden != Count::default() {
        let commands = deleted().map(|backup| format!("    penstock undelete {job}/{node}@{}", backup.entry.id));
        return way_back("while the bucket keeps what is hidden", commands);
    }
    // Of a manifest that cannot be read no copy is left.
    let copied = deleted().filter(|backup| backup.summary.is_some() && !grace.is_zero());
    let commands = copied.map(|backup| {
        let manifest = format!("s3://{}/{}", location.bucket, backup.entry.key);
        let folder = manifest.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("    aws s3 cp {folder}/{DELETED} {manifest}")
    });
    let lines = way_back(&format!("within {}", humantime::format_duration(grace)), commands);
    if lines.is_empty() && deleted().next().is_some() {
        return vec!["  this cannot be undone: the bucket keeps no versions, and no copy of the manifest".to_owned()];
    }
    lines
}

fn way_back(when: &str, commands: impl Iterator<Item = String>) -> Vec<String> {
    let mut commands = commands.take(MOST_NAMED).peekable();
    let head = commands.peek().map(|_| format!("  to undo it, {when}:"));
    head.into_iter().chain(commands).collect()
}
