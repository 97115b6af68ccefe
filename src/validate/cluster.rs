//! Checks the cluster of jobs that save API objects: that it answers, what it serves, and whether each kind may be listed.
//!
//! Lists nothing and writes nothing: a SelfSubjectAccessReview asks about each permission. Costs a request for each kind, and for each
//! namespace if the configuration names them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Found, Outcome, Proof};
use crate::cluster::{Access, Cluster, Failure, Resource, Scope, Shared};
use crate::config::{Claims, Objects};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::Name;
use crate::resources::discover::discover;
use crate::resources::discovery::Served;
use crate::resources::patience::Patience;
use crate::resources::select::{Pattern, Plan, Selection, plan};

/// Short, since a person waits for the answer.
pub(super) const PATIENCE: Patience = Patience { answered: Duration::from_secs(5), silent: Duration::from_secs(15) };

/// The most kinds that one check names.
const NAMED: usize = 10;

/// The sources that need a cluster, each by its name in the configuration.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    pub objects: Vec<(String, &'a Objects)>,
    pub claims: Vec<(String, &'a Claims)>,
}

/// Makes every check, for each source. `node` is the node whose claims are saved.
pub async fn prove(cluster: &Shared, sources: &Sources<'_>, node: &Name, cancel: &CancellationToken) -> Proof {
    let mut proof = Proof::new("kubernetes");
    let stopped = tokio::select! {
        () = checks(&mut proof, cluster, sources, node) => false,
        () = cancel.cancelled() => true,
    };
    if stopped {
        let report = Report::new(Class::Cancelled, "stopped before all checks were made");
        proof.add("all checks", Duration::ZERO, Err(report));
    }
    proof
}

async fn checks(proof: &mut Proof, cluster: &Shared, sources: &Sources<'_>, node: &Name) {
    let began = Instant::now();
    let client = cluster.get().await;
    let found = client.as_ref().map(|client| Found::Good(client.address())).map_err(Clone::clone);
    proof.add("configuration", began.elapsed(), found);
    let Ok(client) = client else { return };
    let began = Instant::now();
    let version = PATIENCE.retried("version", || client.version()).await;
    let found = version.map(|version| Found::Good(format!("{} on {}", version.git_version, version.platform)));
    proof.add("version", began.elapsed(), found.map_err(|failure| failure.report()));
    if proof.last_failed() {
        return;
    }
    let began = Instant::now();
    let who = PATIENCE.retried("identity", || client.who()).await.map(|name| {
        Found::Good(
            name.unwrap_or_else(|| "the server does not report the user; Kubernetes does from 1.28 on".to_owned()),
        )
    });
    proof.add("identity", began.elapsed(), who.map_err(|failure| failure.report()));
    if proof.last_failed() {
        return;
    }
    for (name, claims) in &sources.claims {
        super::claims::source(proof, &client, name, claims, node).await;
    }
    if sources.objects.is_empty() {
        return;
    }
    let began = Instant::now();
    match discover(&*client, PATIENCE).await {
        Err(failure) => proof.add("discovery", began.elapsed(), Err(failure.report())),
        Ok(served) => {
            proof.add("discovery", began.elapsed(), Ok(groups(&served)));
            for (name, objects) in &sources.objects {
                source(proof, &*client, &served, name, objects).await;
            }
        }
    }
}

/// A group that does not answer makes a backup partial.
fn groups(served: &Served) -> Found {
    let joined = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    let kinds = format!("{} kinds of {} groups", served.kinds.len(), served.groups.len());
    let dead: Vec<String> = [("stale", &served.stale), ("do not answer", &served.missing)]
        .into_iter()
        .filter(|(_, groups)| !groups.is_empty())
        .map(|(what, groups)| format!("{what}: {}", joined(groups)))
        .collect();
    if dead.is_empty() { Found::Good(kinds) } else { Found::Odd(format!("{kinds}; {}", dead.join("; "))) }
}

async fn source(proof: &mut Proof, cluster: &dyn Cluster, served: &Served, name: &str, objects: &Objects) {
    let selection = match Selection::of(objects) {
        Ok(selection) => selection,
        Err(fault) => return proof.add(name, Duration::ZERO, Err(Report::new(Class::Config, fault))),
    };
    let plan = plan(served, &selection);
    proof.add(format!("{name}: selection"), Duration::ZERO, Ok(selected(&plan, &selection)));
    let began = Instant::now();
    let (mut allowed, mut refused) = (0, Vec::new());
    for listed in &plan.listed {
        match may_list(cluster, &listed.resource, &selection).await {
            Err(failure) => {
                return proof.add(format!("{name}: permissions"), began.elapsed(), Err(failure.report()));
            }
            Ok(None) => allowed += 1,
            Ok(Some(place)) => refused.push(format!("{}{place}", listed.resource.name())),
        }
    }
    proof.add(format!("{name}: permissions"), began.elapsed(), permissions(allowed, &refused));
}

fn selected(plan: &Plan, selection: &Selection) -> Found {
    let text = format!("{} kinds are listed, {} are not", plan.listed.len(), plan.unlisted.len());
    let unknown: Vec<String> = plan
        .unknown
        .iter()
        .map(|(pattern, nearest)| match nearest {
            Some(nearest) => format!("nothing has the name {pattern:?}, did you mean {nearest:?}?"),
            None => format!("nothing has the name {pattern:?}"),
        })
        .collect();
    if unknown.is_empty() && !(plan.listed.is_empty() && selection.resources.is_everything()) {
        return Found::Good(text);
    }
    Found::Odd(format!("{text}; {}", unknown.join("; ")))
}

fn permissions(allowed: usize, refused: &[String]) -> Outcome {
    if refused.is_empty() {
        return Ok(Found::Good(format!("all {allowed} kinds may be listed")));
    }
    let first = refused[..refused.len().min(NAMED)].join(", ");
    let more = refused.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("{} of {} kinds may not be listed: {first}{more}", refused.len(), refused.len() + allowed);
    Err(Report::new(Class::AccessDenied, message).remedy(
        "grant `get` and `list` on them, or name them in `exclude_resources`: until then each backup is partial",
    ))
}

/// Where the kind may not be listed; `None`: it may be, wherever the selection needs it.
async fn may_list(
    cluster: &dyn Cluster,
    resource: &Resource,
    selection: &Selection,
) -> Result<Option<String>, Failure> {
    let namespaces = &selection.namespaces.include;
    // If the configuration names the namespaces, each Namespace object is read by name, for which a Role in it is enough.
    let is_namespaces = resource.group.is_empty() && resource.plural == "namespaces";
    let named = (resource.scope == Scope::Namespaced || is_namespaces) && namespaces.iter().all(Pattern::is_literal);
    let verb = if is_namespaces && named { "get" } else { "list" };
    let places: Vec<Option<&str>> =
        if named { namespaces.iter().map(|pattern| Some(pattern.text())).collect() } else { vec![None] };
    for namespace in places {
        let access = Access { verb, group: &resource.group, resource: &resource.plural, namespace };
        let verdict = PATIENCE.retried("access", || cluster.access(&access)).await?;
        if !verdict.allowed {
            return Ok(Some(namespace.map_or_else(String::new, |namespace| format!(" in {namespace}"))));
        }
    }
    Ok(None)
}
