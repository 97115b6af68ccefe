//! Which objects of a backup are not created, each with its reason. Pure.

use serde_json::Value;

use super::fields::{at, is_token_name, list, text};
use super::owners::{Owner, owners};
use crate::resources::select::DEFAULT_EXCLUDED;

/// Why an object is not created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOut {
    /// It was being deleted when it was saved.
    BeingDeleted,
    /// A built-in controller creates it again from its owner. `--dependents` restores it.
    Remade,
    /// A volume that its driver made for a claim, and deleted with it. `--dependents` restores it.
    Reclaimed,
    /// A pod or job that had ended.
    Finished,
    /// The API's copy of a pod that is defined by a file on a node.
    MirrorPod,
    /// A token Secret that Kubernetes up to 1.23 made for each service account.
    ControllerToken,
    /// The server, or a controller that every cluster has, creates its own.
    ServerMade,
    /// It describes a machine, a process or a moment of the old cluster.
    OldCluster,
    /// A volume snapshot that had not been taken.
    NoSnapshot,
}

impl LeftOut {
    pub const ALL: [Self; 9] = [
        Self::BeingDeleted,
        Self::Remade,
        Self::Reclaimed,
        Self::Finished,
        Self::MirrorPod,
        Self::ControllerToken,
        Self::ServerMade,
        Self::OldCluster,
        Self::NoSnapshot,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeingDeleted => "being-deleted",
            Self::Remade => "remade",
            Self::Reclaimed => "reclaimed",
            Self::Finished => "finished",
            Self::MirrorPod => "mirror-pod",
            Self::ControllerToken => "controller-token",
            Self::ServerMade => "server-made",
            Self::OldCluster => "old-cluster",
            Self::NoSnapshot => "no-snapshot",
        }
    }

    /// The end of a sentence that names the object.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::BeingDeleted => "it was being deleted when it was saved",
            Self::Remade => "a controller of the cluster creates it again from its owner (`--dependents` restores it)",
            Self::Reclaimed => {
                "its reclaim policy is `Delete`, so its disk went with its claim, which gets a new, empty one (`--dependents` restores it)"
            }
            Self::Finished => "it had ended, and would run again",
            Self::MirrorPod => "it is the API's copy of a static pod, which is a file on its node",
            Self::ControllerToken => "Kubernetes up to 1.23 made it for a service account, and newer ones need none",
            Self::ServerMade => "the server, or a controller of every cluster, creates its own",
            Self::OldCluster => "it describes a machine, a process or a moment of the old cluster",
            Self::NoSnapshot => "the snapshot had not been taken when it was saved: a new one would be of other data",
        }
    }
}

/// Kinds of which no object is restored, besides those that no backup has by default.
pub const OLD_CLUSTER: [(&str, &str); 19] = [
    ("certificatesigningrequests.certificates.k8s.io", ASKED),
    ("podcertificaterequests.certificates.k8s.io", ASKED),
    ("certificaterequests.cert-manager.io", ASKED),
    ("orders.acme.cert-manager.io", ASKED),
    ("challenges.acme.cert-manager.io", ASKED),
    ("leasecandidates.coordination.k8s.io", "processes of the old cluster renew them every few seconds"),
    ("storageversions.internal.apiserver.k8s.io", "each server records the version that it stores"),
    ("resourceslices.resource.k8s.io", MACHINE),
    ("nodeclaims.karpenter.sh", "each is a machine of the old cluster, and would start a new one"),
    ("cninodes.vpcresources.k8s.aws", MACHINE),
    ("policyendpoints.networking.k8s.aws", "a controller creates them from network policies and current pods"),
    ("ciliumnodes.cilium.io", MACHINE),
    ("ciliumendpoints.cilium.io", ADDRESSES),
    ("ciliumendpointslices.cilium.io", ADDRESSES),
    ("ciliumidentities.cilium.io", ADDRESSES),
    ("ipamblocks.crd.projectcalico.org", ADDRESSES),
    ("ipamhandles.crd.projectcalico.org", ADDRESSES),
    ("blockaffinities.crd.projectcalico.org", ADDRESSES),
    ("caliconodestatuses.crd.projectcalico.org", MACHINE),
];

const ASKED: &str = "they request a certificate once: whoever still needs one requests it again";
const MACHINE: &str = "a program on each machine creates its own";
const ADDRESSES: &str = "they record the addresses of pods in the old cluster";

/// Kinds whose objects run once, by programs that take an object without a status for a new one.
pub const RUNS: [&str; 18] = [
    "workflows.argoproj.io",
    "analysisruns.argoproj.io",
    "taskruns.tekton.dev",
    "pipelineruns.tekton.dev",
    "customruns.tekton.dev",
    "jobs.batch.volcano.sh",
    "rayjobs.ray.io",
    "tfjobs.kubeflow.org",
    "pytorchjobs.kubeflow.org",
    "mpijobs.kubeflow.org",
    "backups.postgresql.cnpg.io",
    "backups.velero.io",
    "restores.velero.io",
    "deletebackuprequests.velero.io",
    "podvolumebackups.velero.io",
    "podvolumerestores.velero.io",
    "datauploads.velero.io",
    "datadownloads.velero.io",
];

/// Why `object`, as saved, of the kind `resource` is not created; `None`: it is. With `dependents`, objects that a controller would
/// create again are created too.
#[must_use]
pub fn left_out(resource: &str, object: &Value, dependents: bool) -> Option<LeftOut> {
    if !text(object, &["metadata", "deletionTimestamp"]).is_empty() {
        return Some(LeftOut::BeingDeleted);
    }
    if DEFAULT_EXCLUDED.iter().chain(&OLD_CLUSTER).any(|(kind, _)| *kind == resource) {
        return Some(LeftOut::OldCluster);
    }
    if is_server_made(resource, object) {
        return Some(LeftOut::ServerMade);
    }
    match resource {
        "pods" if has_annotation(object, "kubernetes.io/config.mirror") => return Some(LeftOut::MirrorPod),
        "pods" if matches!(text(object, &["status", "phase"]), "Succeeded" | "Failed") => {
            return Some(LeftOut::Finished);
        }
        "jobs.batch" if has_ended(object) => return Some(LeftOut::Finished),
        _ if RUNS.contains(&resource) && has_run(object) => return Some(LeftOut::Finished),
        "secrets" if is_controller_token(object) => return Some(LeftOut::ControllerToken),
        "volumesnapshots.snapshot.storage.k8s.io" if is_untaken_snapshot(object) => return Some(LeftOut::NoSnapshot),
        "volumesnapshotcontents.snapshot.storage.k8s.io" if is_untaken_content(object) => {
            return Some(LeftOut::NoSnapshot);
        }
        "persistentvolumes" if !dependents && is_reclaimed(object) => return Some(LeftOut::Reclaimed),
        _ => {}
    }
    (!dependents && is_remade(resource, object)).then_some(LeftOut::Remade)
}

fn has_annotation(object: &Value, key: &str) -> bool {
    at(object, &["metadata", "annotations", key]).is_some()
}

fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    text(object, &["metadata", "labels", key])
}

fn has_ended(job: &Value) -> bool {
    // A job that failed has no completion time. The newer two conditions mean that its last pods were being stopped.
    const ENDED: [&str; 4] = ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"];
    let ended =
        |condition: &Value| ENDED.contains(&text(condition, &["type"])) && text(condition, &["status"]) == "True";
    !text(job, &["status", "completionTime"]).is_empty() || list(job, &["status", "conditions"]).iter().any(ended)
}

/// The final states of the programs behind [`RUNS`].
fn has_run(object: &Value) -> bool {
    const TIMES: [&str; 5] = ["completionTime", "completionTimestamp", "finishedAt", "stoppedAt", "endTime"];
    const PHASES: [&str; 14] = [
        "aborted",
        "cancelled",
        "canceled",
        "completed",
        "error",
        "failed",
        "failedvalidation",
        "finishing",
        "inconclusive",
        "partiallyfailed",
        "processed",
        "succeeded",
        "successful",
        "terminated",
    ];
    let phase = |path: &[&str]| PHASES.contains(&text(object, path).to_ascii_lowercase().as_str());
    // Tekton's condition is Unknown until the run ends.
    let judged = |condition: &Value| {
        text(condition, &["type"]) == "Succeeded" && matches!(text(condition, &["status"]), "True" | "False")
    };
    TIMES.iter().any(|time| !text(object, &["status", time]).is_empty())
        || [&["status", "phase"][..], &["status", "state", "phase"], &["status", "jobStatus"]].into_iter().any(phase)
        || list(object, &["status", "conditions"]).iter().any(judged)
}

fn is_controller_token(secret: &Value) -> bool {
    let account = text(secret, &["metadata", "annotations", "kubernetes.io/service-account.name"]);
    text(secret, &["type"]) == "kubernetes.io/service-account-token"
        && is_token_name(account, text(secret, &["metadata", "name"]))
}

fn is_untaken_snapshot(snapshot: &Value) -> bool {
    !text(snapshot, &["spec", "source", "persistentVolumeClaimName"]).is_empty()
        && text(snapshot, &["status", "boundVolumeSnapshotContentName"]).is_empty()
}

fn is_untaken_content(content: &Value) -> bool {
    !text(content, &["spec", "source", "volumeHandle"]).is_empty()
        && text(content, &["status", "snapshotHandle"]).is_empty()
}

fn is_reclaimed(volume: &Value) -> bool {
    text(volume, &["spec", "persistentVolumeReclaimPolicy"]) == "Delete"
        && has_annotation(volume, "pv.kubernetes.io/provisioned-by")
}

fn is_server_made(resource: &str, object: &Value) -> bool {
    let (namespace, name) = (text(object, &["metadata", "namespace"]), text(object, &["metadata", "name"]));
    match resource {
        "configmaps" => matches!(
            (namespace, name),
            (_, "kube-root-ca.crt" | "openshift-service-ca.crt")
                | (
                    "kube-system",
                    "extension-apiserver-authentication" | "kube-apiserver-legacy-service-account-token-tracking"
                )
        ),
        "services" | "endpoints" | "endpointslices.discovery.k8s.io" => (namespace, name) == ("default", "kubernetes"),
        "servicecidrs.networking.k8s.io" => name == "kubernetes",
        "apiservices.apiregistration.k8s.io" => {
            // The server's own groups (`onstart`), and those of definitions (`true`).
            at(object, &["metadata", "labels", "kube-aggregator.kubernetes.io/automanaged"]).is_some()
        }
        _ => false,
    }
}

/// Whether a built-in controller creates it again.
fn is_remade(resource: &str, object: &Value) -> bool {
    // A person started this one by hand (`kubectl create job --from=cronjob/…`): no controller creates it again.
    if text(object, &["metadata", "annotations", "cronjob.kubernetes.io/instantiate"]) == "manual" {
        return false;
    }
    let by_owner = owners(object).iter().any(|owner| makes(owner, resource));
    by_owner
        || match resource {
            "endpoints" => is_kept_endpoints(object),
            "endpointslices.discovery.k8s.io" => matches!(
                label(object, "endpointslice.kubernetes.io/managed-by"),
                "endpointslice-controller.k8s.io" | "endpointslicemirroring-controller.k8s.io"
            ),
            // It is of a load balancer of the old cluster, which would get the new cluster's pods as targets.
            "targetgroupbindings.elbv2.k8s.aws" => {
                const STACKS: [&str; 3] = ["ingress.k8s.aws/", "service.k8s.aws/", "gateway.k8s.aws"];
                let labels = at(object, &["metadata", "labels"]).and_then(Value::as_object);
                labels.is_some_and(|labels| labels.keys().any(|key| STACKS.iter().any(|stack| key.starts_with(stack))))
            }
            _ => false,
        }
}

/// Whether the controller of `owner`'s kind creates objects of the kind `resource` for it.
fn makes(owner: &Owner, resource: &str) -> bool {
    let group = match owner.group() {
        // Workloads began in that group, and owner references keep it.
        "extensions" => "apps",
        group => group,
    };
    owner.controller
        && matches!(
            (group, owner.kind.as_str(), resource),
            ("apps", "Deployment", "replicasets.apps")
                | ("apps", "ReplicaSet", "pods")
                | ("apps", "StatefulSet" | "DaemonSet", "pods" | "controllerrevisions.apps")
                | ("", "ReplicationController", "pods")
                | ("batch", "Job", "pods")
                | ("batch", "CronJob", "jobs.batch")
                | ("", "Service" | "Endpoints", "endpointslices.discovery.k8s.io")
                // They are of a generic ephemeral volume, or a claim for a device: a pod refuses one that it does not own.
                | ("", "Pod", "persistentvolumeclaims" | "resourceclaims.resource.k8s.io")
        )
}

/// Endpoints have no owner: their controller is known by other marks.
fn is_kept_endpoints(endpoints: &Value) -> bool {
    // Distributions that run all of Kubernetes as one process use its name as the manager.
    const MANAGERS: [&str; 3] = ["kube-controller-manager", "k3s", "kubelite"];
    has_annotation(endpoints, "endpoints.kubernetes.io/last-change-trigger-time")
        || label(endpoints, "endpoints.kubernetes.io/managed-by") == "endpoint-controller"
        || list(endpoints, &["metadata", "managedFields"]).iter().any(|entry| {
            MANAGERS.contains(&text(entry, &["manager"])) && at(entry, &["fieldsV1", "f:subsets"]).is_some()
        })
}

/// Whether other objects, or a disk, go with an object of this kind when it is deleted: it is never recreated.
#[must_use]
pub fn holds_others(resource: &str) -> bool {
    matches!(
        resource,
        "namespaces"
            | "customresourcedefinitions.apiextensions.k8s.io"
            | "persistentvolumeclaims"
            | "persistentvolumes"
    )
}

/// What a restore does if the cluster has the object already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// What `--existing` selects.
    AsAsked,
    /// The server creates one in each namespace, so that it exists even in an empty cluster: the missing parts are added
    /// ([`super::merge::lacking`]).
    Merge,
    /// The live object stays, whatever `--existing` says: the server maintains it, or it is in use as it is.
    Keep,
}

/// What a restore does if the cluster has `object` already. `object` is as saved, or mapped.
#[must_use]
pub fn existing(resource: &str, object: &Value) -> Existing {
    let name = text(object, &["metadata", "name"]);
    let is_kept = match resource {
        "serviceaccounts" if name == "default" => return Existing::Merge,
        // Bindings and roles of the server itself: they depend on its version, and it repairs them when it starts.
        "clusterroles.rbac.authorization.k8s.io"
        | "clusterrolebindings.rbac.authorization.k8s.io"
        | "roles.rbac.authorization.k8s.io"
        | "rolebindings.rbac.authorization.k8s.io" => {
            label(object, "kubernetes.io/bootstrapping") == "rbac-defaults"
                && text(object, &["metadata", "annotations", "rbac.authorization.kubernetes.io/autoupdate"]) != "false"
        }
        "priorityclasses.scheduling.k8s.io" => name.starts_with("system-"),
        "flowschemas.flowcontrol.apiserver.k8s.io" | "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io" => {
            text(object, &["metadata", "annotations", "apf.kubernetes.io/autoupdate-spec"]) == "true"
        }
        // Another claim would take it from the one that has it, and its source cannot change ([`super::volumes`]).
        "persistentvolumes" => true,
        "namespaces" => matches!(name, "default" | "kube-system" | "kube-public" | "kube-node-lease"),
        _ => false,
    };
    if is_kept { Existing::Keep } else { Existing::AsAsked }
}

#[cfg(test)]
mod tests;
