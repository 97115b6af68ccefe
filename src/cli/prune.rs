//! `penstock prune`, and what it and `penstock delete` print.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::args::{self, OutputFormat};
use super::list::must_be_known;
use super::output::{self, Done};
use super::read::{chain_of, whose};
use super::session::Session;
use super::{Failure, session};
use crate::catalog::{self, Scope};
use crate::config::{self, Config};
use crate::error::{Class, Classify as _, Report};
use crate::format::claim::Chained;
use crate::format::key::{Chain, Name};
use crate::object_lock;
use crate::prune::{self, Context, Count, Garbage, Plan, Planned, Pruned, Rules, Survey};
use crate::retention::{Reason, some_of};

/// A chain in a location, with its rules.
struct Target<'a> {
    location: &'a config::Location,
    chain: Chain,
    rules: Rules,
    grace: Duration,
}

/// Does what a plan says, or finds out what it would free.
pub(super) async fn carry_out(
    ctx: &Context,
    plan: &mut Plan,
    summary: &mut Summary,
    dry_run: bool,
) -> Result<Did, prune::Error> {
    summary.pay(plan).map_err(|error| prune::Error::Chain { chain: plan.chain.clone(), error })?;
    Ok(if dry_run { Did::Nothing(prune::survey(ctx, plan).await?) } else { Did::All(prune::apply(ctx, plan).await) })
}

pub(super) async fn prune(
    config: &Config,
    args: &args::Prune,
    format: OutputFormat,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let (mut session, mut summary, now) = (Session::new(config, cancel), Summary::new(format), Timestamp::now());
    let mut targets = targets(config, args)?;
    if args.node.is_none() && args.claim.is_none() {
        add_chains(config, &mut session, &mut targets, args.all_nodes).await?;
    }
    summary.ages = args.all_nodes;
    for target in &targets {
        let ctx = Context { catalog: session.catalog(target.location)?, grace: target.grace };
        let work = async {
            let mut plan = prune::plan(&ctx, &target.chain, &target.rules, now).await?;
            let did = carry_out(&ctx, &mut plan, &mut summary, args.dry_run).await?;
            Ok((plan, did))
        };
        let result = prune::bounded(work, cancel).await;
        let pruned = result.is_ok();
        match result {
            Ok((plan, _)) if plan.is_empty() => {}
            Ok((plan, did)) => summary.chain(target.location, &target.rules.zone, &plan, &did),
            Err(error) if targets.len() == 1 => return Err(error.into()),
            Err(error) => summary.failed(target.location, &target.chain, error.report()),
        }
        if pruned && !args.dry_run {
            // What stays is kept locked. What was deleted is reported in any case.
            let keep = object_lock::keep(&ctx.catalog, &target.chain, object_lock::When::IfDue);
            let keep = async { keep.await.map_err(|error| prune::Error::Locks { chain: target.chain.clone(), error }) };
            match prune::bounded(keep, cancel).await {
                Ok(kept) => summary.unlocked += kept.map_or(0, |kept| kept.failures.count),
                Err(error) => summary.failed(target.location, &target.chain, error.report()),
            }
        }
        if cancel.is_cancelled() {
            break;
        }
    }
    let named = args.claim.as_ref().map(|claim| format!("the claim {claim}"));
    let named = named.or_else(|| args.node.as_ref().map(|node| format!("node {node}")));
    if let (Some(named), true) = (named, summary.is_empty()) {
        let message = format!("there is nothing of {named} in cluster {}", config.cluster);
        let report = Report::new(Class::NotFound, message).remedy("`penstock stats` shows the nodes that have backups");
        return Err(Failure::Report(report));
    }
    if args.job.is_some() && summary.is_empty() {
        let catalogs = session.catalogs(args.location.as_deref())?;
        must_be_known(config, &catalogs, Scope { job: args.job.as_ref(), node: None }, None).await?;
    }
    Ok(summary.done(args.dry_run))
}

/// The chains to prune, all of one node: that of each configured job at its location, and the ad-hoc chain at every location.
fn targets<'a>(config: &'a Config, args: &args::Prune) -> Result<Vec<Target<'a>>, Failure> {
    let node = chain_of(args.claim.as_ref(), args.node.as_ref()).unwrap_or_else(|| config.node.clone());
    let chain = |job: &Name| Chain { cluster: config.cluster.clone(), job: job.clone(), node: node.clone() };
    let mut targets = Vec::new();
    for job in config.jobs.values().filter(|job| args.job.as_ref().is_none_or(|asked| *asked == job.name)) {
        let location = session::location(config, Some(args.location.as_deref().unwrap_or(&job.location)))?;
        let grace = args.grace.unwrap_or_else(|| prune::grace_of(Some(job)));
        targets.push(Target { location, chain: chain(&job.name), rules: Rules::of(job), grace });
    }
    // A job that is not configured (ad hoc, or removed) has no rules: only objects that no backup needs are deleted.
    let other = match &args.job {
        None => Some(Name::new(config::AD_HOC).expect("a constant name")),
        Some(job) => (!config.jobs.contains_key(job)).then(|| job.clone()),
    };
    if let Some(job) = other {
        for location in session::locations(config, args.location.as_deref())? {
            let rules = Rules { retention: None, zone: TimeZone::UTC };
            let grace = args.grace.unwrap_or_else(|| prune::grace_of(None));
            targets.push(Target { location, chain: chain(&job), rules, grace });
        }
    }
    Ok(targets)
}

/// Adds the volumes' chains of jobs that save claims: any node may prune them, and of a claim that is gone nobody else does. With
/// `all_nodes` those of the other nodes too: of a node that is gone nobody else does either.
async fn add_chains<'a>(
    config: &'a Config,
    session: &mut Session<'a>,
    targets: &mut Vec<Target<'a>>,
    all_nodes: bool,
) -> Result<(), Failure> {
    let mut more = Vec::new();
    for target in &*targets {
        let Chain { job, node, .. } = &target.chain;
        let saves_claims = config.jobs.get(job).is_some_and(config::Job::saves_claims);
        if !saves_claims && !all_nodes {
            continue;
        }
        let scope = Scope { job: Some(job), node: None };
        let mut chains = session.catalog(target.location)?.chains(scope).await?;
        chains.retain(|chain| match Chained::of(&chain.node) {
            Some(_) => saves_claims,
            None => all_nodes && chain.node != *node,
        });
        more.extend(chains.into_iter().map(|chain| Target { chain, rules: target.rules.clone(), ..*target }));
    }
    targets.append(&mut more);
    Ok(())
}

/// The result of a plan.
pub(super) enum Did {
    /// A dry run: the objects that would be garbage.
    Nothing(Survey),
    All(Pruned),
}

/// The command's output, chain by chain.
pub(super) struct Summary {
    format: OutputFormat,
    /// Memory reserved for the output, in bytes.
    paid: usize,
    /// Each chain's line names its newest backup: a node that is gone makes no more.
    ages: bool,
    pub(super) lines: Vec<String>,
    chains: Vec<Value>,
    errors: Vec<Value>,
    /// The class of the first chain that failed as a whole.
    first: Option<Class>,
    failures: u64,
    /// Locks that could not be extended.
    unlocked: u64,
}

/// Memory for one backup's output, with its copies on the way.
fn output_bytes(format: OutputFormat, backup: &Planned) -> usize {
    let failed = backup.summary.iter().flat_map(|summary| &*summary.backup.failed);
    match format {
        OutputFormat::Human => 1024,
        OutputFormat::Json => 4096 + failed.map(|name| 2 * name.as_str().len() + 96).sum::<usize>(),
    }
}

impl Summary {
    pub(super) const fn new(format: OutputFormat) -> Self {
        Self {
            format,
            paid: 0,
            ages: false,
            lines: Vec::new(),
            chains: Vec::new(),
            errors: Vec::new(),
            first: None,
            failures: 0,
            unlocked: 0,
        }
    }

    /// Reserves memory for the plan's output, before anything is deleted.
    pub(super) fn pay(&mut self, plan: &mut Plan) -> Result<(), catalog::Error> {
        let each = plan.backups.iter().map(|backup| output_bytes(self.format, backup));
        let bytes = self.paid + each.sum::<usize>();
        plan.memory.take(bytes)?;
        self.paid = bytes;
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.errors.is_empty()
    }

    fn failed(&mut self, location: &config::Location, chain: &Chain, report: Report) {
        tracing::error!(class = %report.class, "{}", report.message);
        self.first.get_or_insert(report.class);
        let (job, node) = (&chain.job, &chain.node);
        self.errors.push(json!({ "location": location.name, "job": job, "node": node, "error": report }));
    }

    pub(super) fn chain(&mut self, location: &config::Location, zone: &TimeZone, plan: &Plan, did: &Did) {
        let Chain { job, node, .. } = &plan.chain;
        let planned = plan.backups.iter().filter(|backup| !backup.stays()).count();
        let (deleted, kept, objects, bytes, waiting, pruned) = match did {
            Did::Nothing(Survey { garbage, .. }) => {
                (planned, plan.backups.len() - planned, garbage.due.objects, garbage.due.bytes, garbage, None)
            }
            Did::All(done) => (done.deleted.len(), done.kept, done.objects, done.bytes, &done.waiting, Some(done)),
        };
        let failures = pruned.map(|done| &done.failures);
        let would = if pruned.is_none() { "would delete" } else { "deleted" };
        let whose = whose(node);
        let gone = if pruned.is_none() { "would go" } else { "are gone" };
        let newest = plan
            .backups
            .first()
            .filter(|_| self.ages)
            .map_or_else(String::new, |newest| format!("; the newest is of {}", shown(newest.entry.taken(), zone)));
        self.lines.push(format!(
            "{job} {whose} in {}: {would} {}, {kept} stay; {}, {}, {gone}{newest}",
            location.name,
            output::count(deleted as u64, "backup"),
            output::count(objects, "object"),
            output::size(bytes),
        ));
        // A dry run shows the kept backups too, if rules keep them.
        let kept_by_rule = |backup: &&Planned| pruned.is_none() && backup.reasons != [Reason::NotNamed];
        let shown = plan.backups.iter().filter(|backup| !backup.stays() || kept_by_rule(backup));
        let shown = shown.filter(|_| self.format == OutputFormat::Human);
        self.lines.extend(shown.map(|backup| row(backup, zone, pruned)));
        let hidden = pruned.map_or_else(Count::default, |done| done.hidden);
        self.lines.extend(kept_as_versions(hidden));
        let locked = match did {
            Did::Nothing(survey) => survey.locked,
            Did::All(done) => done.locked,
        };
        self.lines.extend(kept_locked(locked, zone));
        self.lines.extend(wait(waiting, zone));
        let failed = failures.map_or(0, |failures| failures.count);
        if failed > 0 {
            self.lines.push(format!("  {failed} could not be deleted: see the log"));
        }
        self.failures += failed;
        let list = failures.iter().flat_map(|failures| &failures.list);
        let list: Vec<_> = list.map(|(key, report)| json!({ "key": key, "error": report })).collect();
        let backups = plan.backups.iter().filter(|_| self.format == OutputFormat::Json);
        self.chains.push(json!({
            "location": location.name, "job": job, "node": node, "kept": kept, "deleted": deleted,
            "removed": { "objects": objects, "bytes": bytes },
            "hidden": { "objects": hidden.objects, "bytes": hidden.bytes },
            "locked": { "objects": locked.count.objects, "bytes": locked.count.bytes, "until": locked.until.filter(|until| *until < Timestamp::MAX) },
            "waiting": { "objects": waiting.waiting.objects, "bytes": waiting.waiting.bytes, "until": waiting.until },
            "failed": failed, "failures": list,
            "backups": backups.map(backup_json).collect::<Vec<_>>(),
        }));
    }

    pub(super) fn done(self, dry_run: bool) -> Done {
        let mut lines = self.lines;
        if self.unlocked > 0 {
            lines.push(format!("{} locks could not be extended: see the log", self.unlocked));
        }
        if lines.is_empty() && self.errors.is_empty() {
            lines.push("there is nothing to prune".to_owned());
        }
        let text: String = lines.into_iter().map(|line| line + "\n").collect();
        let json = json!({ "dry_run": dry_run, "chains": self.chains, "errors": self.errors });
        let done = Done::new(text, json);
        match self.first {
            Some(class) => done.code(class.exit_code()),
            None if self.failures + self.unlocked > 0 => done.something_failed(),
            None => done,
        }
    }
}

fn shown(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned_datetime(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string()
}

fn row(backup: &Planned, zone: &TimeZone, pruned: Option<&Pruned>) -> String {
    let id = &backup.entry.id;
    let verdict = match (backup.stays(), pruned) {
        (true, _) => "keep",
        (false, None) => "delete",
        (false, Some(pruned)) if pruned.deleted.contains(id) => "deleted",
        (false, Some(_)) => "FAILED",
    };
    let taken = shown(backup.entry.taken(), zone);
    let (plain, mut state) = match &backup.summary {
        Some(summary) => (output::size(summary.plain_bytes), reasons(backup)),
        None => (String::new(), vec!["its manifest cannot be read".to_owned()]),
    };
    if let Some(summary) = backup.summary.as_ref().filter(|summary| !summary.backup.failed.is_empty()) {
        state.push(format!("without {}", some_of(&summary.backup.failed)));
    }
    if backup.entry.dated_ahead() {
        state.push("its clock was ahead".to_owned());
    }
    format!("  {verdict:<8} {id}  {taken:<21} {plain:>11}  {}", state.join(", ")).trim_end().to_owned()
}

/// Explains that deleted objects remain as versions, which Penstock neither lists nor deletes.
fn kept_as_versions(hidden: Count) -> Option<String> {
    let (count, size) = (output::count(hidden.objects, "object"), output::size(hidden.bytes));
    (hidden.objects > 0).then(|| {
        format!(
            "  {count}, {size}, hidden and still stored: the bucket keeps versions; a lifecycle rule \
             (NoncurrentVersionExpiration) removes them"
        )
    })
}

/// Explains which objects stay because they are locked.
fn kept_locked(locked: prune::Locked, zone: &TimeZone) -> Option<String> {
    let (count, size) = (output::count(locked.count.objects, "object"), output::size(locked.count.bytes));
    let until = match locked.until? {
        until if until == Timestamp::MAX => "until a hold is released".to_owned(),
        until => until.to_zoned_datetime(zone.clone()).strftime("until %Y-%m-%d %H:%M %Z at the latest").to_string(),
    };
    Some(format!("  {count}, {size}, that nothing needs any more and that are locked {until}"))
}

fn wait(waiting: &Garbage, zone: &TimeZone) -> Option<String> {
    let until = waiting.until?;
    let until = shown(until, zone);
    let count = output::count(waiting.waiting.objects, "object");
    let size = output::size(waiting.waiting.bytes);
    Some(format!("  {count}, {size}, that nothing needs any more: the last may go at {until}"))
}

fn reasons(backup: &Planned) -> Vec<String> {
    backup.reasons.iter().map(ToString::to_string).collect()
}

fn backup_json(backup: &Planned) -> Value {
    let summary = backup.summary.as_ref();
    json!({
        "id": backup.entry.id,
        "started": summary.map(|summary| summary.started),
        "taken": backup.entry.taken(),
        "dated_ahead": backup.entry.dated_ahead(),
        "outcome": summary.map(|summary| summary.backup.outcome),
        "plain_bytes": summary.map(|summary| summary.plain_bytes),
        "stored_bytes": summary.map(|summary| summary.stored_bytes),
        "new_bytes": summary.map(|summary| summary.new_bytes),
        "failed_items": summary.map(|summary| &*summary.backup.failed),
        "keep": backup.stays(),
        "reasons": reasons(backup),
    })
}
