//! The annotation of a claim whose data is not there yet, and how it goes.
//!
//! A Job that has ended well is what says that the data is there, until the annotation is gone: so no Job is removed before. A run that is killed
//! in between leaves the Job, and neither the next run nor the one that cleans up fills the volume again, which somebody may use by then.

use serde_json::{Value, json};

use super::fill::CLAIMS;
use super::job::{self, Filled};
use super::look::{State, look};
use super::supplies::kind;
use super::{UNFILLED, annotation};
use crate::cluster::{Cluster, Effect, FIELD_MANAGER, Failure, Object, Write};
use crate::resources::patience::Patience;

/// Removes the annotation: the claim has its data. Its fields have the managers of the backup, and no other.
pub(super) async fn unmark(
    cluster: &dyn Cluster,
    patience: Patience,
    (namespace, name): (&str, &str),
    uid: &str,
) -> Result<(), Failure> {
    let resource = kind("", CLAIMS, "PersistentVolumeClaim");
    let at = Object { resource: &resource, namespace: Some(namespace), name };
    let merge = async |patch: Value| {
        let patch = patch.to_string();
        let write = Write::Merge(patch.as_bytes());
        patience.retried("write", || cluster.write(&at, &write, Effect::Real)).await
    };
    // With the UID, since a claim that was made anew under this name has no data.
    let live = merge(json!({ "metadata": { "uid": uid, "annotations": { UNFILLED: null } } })).await?;
    let live: Value = serde_json::from_slice(&live).unwrap_or_default();
    let managers = live.pointer("/metadata/managedFields").and_then(Value::as_array);
    let others = managers.into_iter().flatten().filter(|entry| entry["manager"] != FIELD_MANAGER);
    let others: Vec<&Value> = others.collect();
    if managers.is_some_and(|all| all.len() > others.len()) && !others.is_empty() {
        merge(json!({ "metadata": { "managedFields": others } })).await?;
    }
    Ok(())
}

/// Removes the annotation of the claim that a Job has filled. Nothing where it has not, or its claim is another one now.
pub(super) async fn settle(
    cluster: &dyn Cluster,
    patience: Patience,
    job: &Value,
    pods: &[Value],
) -> Result<(), Failure> {
    let pods: Vec<Value> = pods.iter().filter(|pod| job::is_of(pod, job)).cloned().collect();
    let (State::Done { warnings }, Some(filled)) = (look(job, &pods), job::filled(job)) else { return Ok(()) };
    let Filled { namespace, claim, uid, backup } = filled;
    let resource = kind("", CLAIMS, "PersistentVolumeClaim");
    let at = Object { resource: &resource, namespace: Some(namespace), name: claim };
    let live = match patience.retried("get", || cluster.get(&at)).await {
        Err(failure) if failure.error.status == Some(404) => return Ok(()),
        live => serde_json::from_slice::<Value>(&live?).unwrap_or_default(),
    };
    if live["metadata"]["uid"] != uid || annotation(&live, UNFILLED) != Some(backup) {
        return Ok(());
    }
    tracing::info!(namespace, claim, backup, warnings, "the claim was filled before the restore ended");
    unmark(cluster, patience, (namespace, claim), uid).await
}
