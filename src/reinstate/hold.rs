//! Checks that a restore held: workloads are ready, claims are bound, and every object is still there and as it was restored.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::contents::Batch;
use super::run::Work;
use super::target::Served as _;
use super::{Error, Output, Summary};
use crate::cluster::{Failure, Object, Scope};

const LOOK: Duration = Duration::from_secs(2);

/// Objects that are named in the report; more are only counted.
const NAMED: usize = 100;

/// Why a workload is not ready, or `None`.
type Unready = Option<String>;

/// Waits up to `wait`, then looks at every object once.
///
/// # Errors
/// As [`super::run::Restore::run`].
pub(super) async fn held(
    work: &mut Work<'_>,
    batches: &[Batch],
    wait: Duration,
    output: &mut dyn Output,
    summary: &mut Summary,
) -> Result<(), Error> {
    ready(work, batches, Instant::now() + wait, summary).await?;
    work.restore.progress.set("checking that the objects are still there");
    let work = &*work;
    for batch in batches {
        let restored: Vec<usize> =
            batch.entries.iter().copied().filter(|index| !summary.absent.contains(index)).collect();
        let check = async |index, value| {
            let undone = match work.prepared(index, value).await {
                Ok(prepared) => work.step().undone(&prepared).await,
                Err(failure) => Err(failure),
            };
            undone.unwrap_or_else(|failure| Some(failure.to_string())).map(|why| (index, why))
        };
        work.each(&restored, check, |undone| {
            let Some((index, why)) = undone else { return Ok(()) };
            let entry = &work.contents.entries[index];
            let filed = &work.contents.kind_of(entry).filed;
            summary.undone += 1;
            let item = work.archives[entry.archive].item.as_str();
            output.undone(item, filed, &entry.key, &why).map_err(Error::Output)
        })
        .await?;
    }
    Ok(())
}

/// Waits until the workloads and claims are ready, and reports those that are not.
async fn ready(work: &Work<'_>, batches: &[Batch], until: Instant, summary: &mut Summary) -> Result<(), Error> {
    let mut waiting: BTreeMap<usize, String> = BTreeMap::new();
    for index in batches.iter().flat_map(|batch| &batch.entries) {
        let entry = &work.contents.entries[*index];
        if is_awaited(&work.contents.kind_of(entry).filed.resource) && !summary.absent.contains(index) {
            waiting.insert(*index, String::new());
        }
    }
    loop {
        work.restore.progress.set(format!("waiting for {} workloads and claims", waiting.len()));
        for index in waiting.keys().copied().collect::<Vec<_>>() {
            match unready(work, index).await.unwrap_or_else(|failure| Some(failure.to_string())) {
                Some(why) => waiting.insert(index, why),
                None => waiting.remove(&index),
            };
        }
        if waiting.is_empty() || Instant::now() >= until {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    summary.unready = waiting.len() as u64;
    for (index, why) in waiting.iter().take(NAMED) {
        let entry = &work.contents.entries[*index];
        summary.notes.push(format!("{} {} is not ready: {why}", work.contents.kind_of(entry).filed, entry.key));
    }
    Ok(())
}

async fn unready(work: &Work<'_>, index: usize) -> Result<Unready, Failure> {
    let entry = &work.contents.entries[index];
    let kind = work.contents.kind_of(entry);
    let Some(resource) = work.target.resource(kind) else { return Ok(None) };
    let (namespace, name) = entry.key.split_once('/').unwrap_or(("", &entry.key));
    let namespace = work.restore.options.mapping.namespace(namespace);
    let namespace = (resource.scope == Scope::Namespaced).then_some(namespace);
    let live = work.target.get(&Object { resource: &resource, namespace, name }).await?;
    let Some(live) = live else { return Ok(Some("it does not exist".to_owned())) };
    if kind.filed.resource == "persistentvolumeclaims" && waits_for_a_pod(work, &live).await? {
        return Ok(None);
    }
    Ok(why(&kind.filed.resource, &live))
}

/// Whether the claim's class binds volumes only for a pod: without one it is Pending, as it should be.
async fn waits_for_a_pod(work: &Work<'_>, claim: &Value) -> Result<bool, Failure> {
    let class = claim.pointer("/spec/storageClassName").and_then(Value::as_str).unwrap_or_default();
    let served = work.target.served();
    let (Some(resource), false) = (served.find("storageclasses.storage.k8s.io"), class.is_empty()) else {
        return Ok(false);
    };
    let class = work.target.get(&Object { resource, namespace: None, name: class }).await?;
    Ok(class.is_some_and(|class| class["volumeBindingMode"] == "WaitForFirstConsumer"))
}

fn is_awaited(resource: &str) -> bool {
    matches!(
        resource,
        "deployments.apps"
            | "statefulsets.apps"
            | "daemonsets.apps"
            | "replicasets.apps"
            | "pods"
            | "persistentvolumeclaims"
    )
}

/// Why the live object is not ready; `None` if it is.
fn why(resource: &str, live: &Value) -> Unready {
    let number = |pointer: &str| live.pointer(pointer).and_then(Value::as_i64);
    let seen = number("/status/observedGeneration").unwrap_or(0);
    if resource.split_once('.').is_some_and(|(_, group)| group == "apps")
        && seen < number("/metadata/generation").unwrap_or(0)
    {
        return Some("its controller has not seen it yet".to_owned());
    }
    let replicas = |wanted: Option<i64>, ready: &str| {
        let (wanted, ready) = (wanted.unwrap_or(1), number(ready).unwrap_or(0));
        (ready < wanted).then(|| format!("{ready} of {wanted} pods are ready"))
    };
    match resource {
        "deployments.apps" => replicas(number("/spec/replicas"), "/status/availableReplicas"),
        "statefulsets.apps" | "replicasets.apps" => replicas(number("/spec/replicas"), "/status/readyReplicas"),
        "daemonsets.apps" => replicas(number("/status/desiredNumberScheduled").or(Some(0)), "/status/numberReady"),
        "pods" => {
            let phase = live.pointer("/status/phase").and_then(Value::as_str).unwrap_or("unknown");
            let conditions = live.pointer("/status/conditions").and_then(Value::as_array);
            let is_ready =
                conditions.into_iter().flatten().any(|found| found["type"] == "Ready" && found["status"] == "True");
            (phase != "Succeeded" && !is_ready).then(|| format!("its phase is {phase:.40}"))
        }
        "persistentvolumeclaims" => {
            let phase = live.pointer("/status/phase").and_then(Value::as_str).unwrap_or("unknown");
            (phase != "Bound").then(|| format!("its phase is {phase:.40}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_ready() {
        let ready = |resource, live: &Value| why(resource, live).is_none();
        let deployment = |generation: i64, available: i64| {
            json!({ "metadata": { "generation": 2 }, "spec": { "replicas": 2 },
                    "status": { "observedGeneration": generation, "availableReplicas": available } })
        };
        assert!(ready("deployments.apps", &deployment(2, 2)));
        assert!(!ready("deployments.apps", &deployment(1, 2)) && !ready("deployments.apps", &deployment(2, 1)));
        assert!(!ready("deployments.apps", &json!({ "metadata": { "generation": 1 }, "spec": {} })));
        assert!(ready("deployments.apps", &json!({ "spec": { "replicas": 0 } })));
        assert!(!ready("pods", &json!({ "status": { "phase": "Pending" } })));
        assert!(ready("pods", &json!({ "status": { "phase": "Succeeded" } })));
        let condition = json!([{ "type": "Ready", "status": "True" }]);
        assert!(ready("pods", &json!({ "status": { "phase": "Running", "conditions": condition } })));
        assert!(!ready("persistentvolumeclaims", &json!({ "status": { "phase": "Lost" } })));
        assert!(ready("persistentvolumeclaims", &json!({ "status": { "phase": "Bound" } })));
    }
}
