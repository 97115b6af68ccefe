//! What the Jobs of a namespace need beside the claim: copies of what the agent's pod refers to, and a service account. Removed at the end.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::agent::{Kind, Need};
use super::job::{ACCOUNT, Jobs, LABEL, LABELLED};
use super::mark::settle;
use crate::cluster::{Cluster, Effect, Failure, List, MAX_DOCUMENT, Object, Resource, Scope, Write};
use crate::error::{Class, Classify as _, Report};
use crate::reinstate::target::Target;
use crate::resources::patience::Patience;

/// How long the removal may take after the restore has ended.
const REMOVAL: Duration = Duration::from_secs(60);

/// Objects of one kind and namespace that are looked at: Jobs and their pods are few.
const PAGE: u32 = 500;

pub(super) fn kind(group: &str, plural: &str, kind: &str) -> Resource {
    let (group, plural, kind) = (group.to_owned(), plural.to_owned(), kind.to_owned());
    Resource { group, version: "v1".to_owned(), plural, kind, scope: Scope::Namespaced }
}

pub(super) fn jobs() -> Resource {
    kind("batch", "jobs", "Job")
}

fn accounts() -> Resource {
    kind("", "serviceaccounts", "ServiceAccount")
}

fn of(need: Kind) -> Resource {
    match need {
        Kind::ConfigMap => kind("", "configmaps", "ConfigMap"),
        Kind::Secret => kind("", "secrets", "Secret"),
    }
}

/// The objects of a kind in a namespace, at most [`PAGE`].
pub(super) async fn listed(
    cluster: &dyn Cluster,
    resource: &Resource,
    namespace: &str,
    selector: &str,
) -> Result<Vec<Value>, Failure> {
    let list = List { resource, namespace: Some(namespace), selector, fields: "", limit: PAGE, from: None };
    let (mut body, mut bytes) = (cluster.list(&list).await?, Vec::new());
    while let Some(piece) = body.next().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > MAX_DOCUMENT {
            break;
        }
    }
    let mut page: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    Ok(page["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
}

/// Copies what Jobs need into `namespace`, and makes their service account.
///
/// # Errors
/// When something of the agent's is missing, or the server refuses a copy.
pub(super) async fn supply(
    target: &Target<'_>,
    jobs: &Jobs,
    needs: &BTreeSet<Need>,
    account: &str,
    namespace: &str,
) -> Result<(), Report> {
    let home = jobs.agent.0.as_str();
    for need in needs {
        let resource = of(need.kind);
        let at = Object { resource: &resource, namespace: Some(home), name: &need.name };
        let Some(original) = target.get(&at).await.map_err(|failure| failure.report())? else {
            if need.is_optional {
                continue;
            }
            let message = format!(
                "the agent {home}/{} needs the {} {}, which is missing",
                jobs.agent.1, resource.kind, need.name
            );
            return Err(Report::new(Class::NotFound, message)
                .remedy("install Penstock in this cluster first, as docs/install-kubernetes.md says"));
        };
        let mut copy = json!({ "apiVersion": "v1", "kind": resource.kind, "metadata": metadata(&need.copy(), namespace, &json!({})) });
        for key in ["data", "binaryData", "type"] {
            if let Some(value) = original.get(key) {
                copy[key] = value.clone();
            }
        }
        put(target, &resource, namespace, &need.copy(), &copy).await?;
    }
    if jobs.service_account.is_none() {
        let resource = accounts();
        let at = Object { resource: &resource, namespace: Some(home), name: account };
        let agent = target.get(&at).await.map_err(|failure| failure.report())?.unwrap_or_default();
        let mut annotations = agent["metadata"]["annotations"].clone();
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.retain(|key, _| key.starts_with("eks.amazonaws.com/"));
        }
        let made = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": false,
            "metadata": metadata(ACCOUNT, namespace, &annotations),
        });
        put(target, &resource, namespace, ACCOUNT, &made).await?;
    }
    Ok(())
}

fn metadata(name: &str, namespace: &str, annotations: &Value) -> Value {
    json!({ "name": name, "namespace": namespace, "labels": { LABEL: "true" }, "annotations": annotations })
}

/// Whether an object that is there was made by a restore, and may be changed and deleted.
pub(super) fn check_own(at: &Object<'_>, live: &Value) -> Result<(), Report> {
    if live["metadata"]["labels"][LABEL] == "true" {
        return Ok(());
    }
    let (kind, namespace) = (&at.resource.kind, at.namespace.unwrap_or_default());
    let message =
        format!("the {kind} {namespace}/{} is there, and no restore has made it: it has no label {LABELLED}", at.name);
    let remedy = match kind.as_str() {
        "ServiceAccount" => {
            "name it with --job-service-account if the Jobs shall use it, or delete it, and run the same command again"
        }
        _ => "delete it, and run the same command again",
    };
    Err(Report::new(Class::Conflict, message).remedy(remedy))
}

/// Creates the object, or gives one that an earlier run left the same content.
async fn put(
    target: &Target<'_>,
    resource: &Resource,
    namespace: &str,
    name: &str,
    object: &Value,
) -> Result<(), Report> {
    let at = Object { resource, namespace: Some(namespace), name };
    let body = object.to_string();
    match target.write(&at, &Write::Create(body.as_bytes()), Effect::Real).await {
        Err(failure) if failure.is_there_already() => {
            let live = target.get(&at).await.map_err(|failure| failure.report())?;
            let live = live.ok_or_else(|| failure.report())?;
            check_own(&at, &live)?;
            let mut object = object.clone();
            // Another one in its place is not changed.
            object["metadata"]["uid"] = live["metadata"]["uid"].clone();
            let body = object.to_string();
            let written = target.write(&at, &Write::Merge(body.as_bytes()), Effect::Real).await;
            written.map(drop).map_err(|failure| failure.report())
        }
        Err(failure) => Err(failure.report()),
        Ok(_) => Ok(()),
    }
}

/// Deletes the object if it still is this one.
pub(super) async fn delete(
    cluster: &dyn Cluster,
    patience: Patience,
    resource: &Resource,
    object: &Value,
) -> Result<(), Failure> {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let at = Object { resource, namespace: Some(text("namespace")), name: text("name") };
    let write = Write::Delete { uid: text("uid") };
    match patience.retried("delete", || cluster.write(&at, &write, Effect::Real)).await {
        Err(failure) if failure.error.status != Some(404) => Err(failure),
        _ => Ok(()),
    }
}

/// Removes Jobs and copies from `namespaces`, however the restore has ended. Says what is left.
pub(super) async fn remove(cluster: &dyn Cluster, patience: Patience, jobs: &Jobs, namespaces: &BTreeSet<String>) {
    let work = async {
        for namespace in namespaces {
            let mut kinds = vec![self::jobs(), of(Kind::ConfigMap)];
            kinds.extend(jobs.copies_secrets.then(|| of(Kind::Secret)));
            kinds.extend(jobs.service_account.is_none().then(accounts));
            for resource in kinds {
                if let Err(failure) = remove_kind(cluster, patience, &resource, namespace).await {
                    left([namespace], &format!("{}: {failure}", resource.name()));
                }
            }
        }
    };
    if tokio::time::timeout(REMOVAL, work).await.is_err() {
        left(namespaces, "the server did not answer in time");
    }
}

/// Removes what has the label. A Job that has filled its claim goes when the claim says so.
async fn remove_kind(
    cluster: &dyn Cluster,
    patience: Patience,
    resource: &Resource,
    namespace: &str,
) -> Result<(), Failure> {
    let labelled =
        async |resource: &Resource| patience.retried("list", || listed(cluster, resource, namespace, LABELLED)).await;
    let found = labelled(resource).await?;
    let is_jobs = *resource == jobs();
    let pods = if is_jobs && !found.is_empty() { labelled(&kind("", "pods", "Pod")).await? } else { Vec::new() };
    let mut result = Ok(());
    for object in &found {
        let settled = if is_jobs { settle(cluster, patience, object, &pods).await } else { Ok(()) };
        let deleted = match settled {
            Ok(()) => delete(cluster, patience, resource, object).await,
            Err(failure) => Err(failure),
        };
        result = result.and(deleted);
    }
    result
}

fn left<'a>(namespaces: impl IntoIterator<Item = &'a String>, error: &str) {
    let namespaces: Vec<&str> = namespaces.into_iter().map(String::as_str).collect();
    let remedy = remedy(&namespaces);
    let namespaces = namespaces.join(", ");
    tracing::warn!(namespaces, error, remedy, "could not remove what the restore made for its Jobs");
}

/// One command for each namespace: kubectl takes no list of them. Jobs go by the restore itself, which knows what they have done.
fn remedy(namespaces: &[&str]) -> String {
    let delete = |namespace: &&str| {
        format!("kubectl --namespace {namespace} delete jobs,configmaps,secrets,serviceaccounts --selector {LABELLED}")
    };
    let all: Vec<String> = namespaces.iter().map(delete).collect();
    format!("run the same restore again; without one, {}", all.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_has_a_command_for_each_namespace() {
        let said = remedy(&["shop", "bank"]);
        for namespace in ["shop", "bank"] {
            assert_eq!(said.matches(&format!("kubectl --namespace {namespace} delete jobs")).count(), 1, "{said}");
        }
    }
}
