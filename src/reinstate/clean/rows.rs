//! The table of what is not restored as it was.

use super::{Action, EVERY, Row, kinds, pods, services};
use Action::{Change, Later, Remove};

const fn row(resource: &'static str, what: &'static str, action: Action, reason: &'static str) -> Row {
    Row { resource, what, action, reason }
}

macro_rules! annotation {
    ($resource:expr, $key:literal, $reason:expr) => {
        row($resource, concat!("annotation `", $key, "`"), Remove(&["metadata", "annotations", $key]), $reason)
    };
}

macro_rules! label {
    ($resource:expr, $key:literal, $reason:expr) => {
        row($resource, concat!("label `", $key, "`"), Remove(&["metadata", "labels", $key]), $reason)
    };
}

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
const SECRETS: &str = "secrets";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
const AUTOSCALERS: &str = "horizontalpodautoscalers.autoscaling";
const SNAPSHOTS: &str = "volumesnapshots.snapshot.storage.k8s.io";
const CONTENTS: &str = "volumesnapshotcontents.snapshot.storage.k8s.io";

const BOUND: &str =
    "they say that the old claim was bound: kept, they would make the new one Lost until its volume is there";
const DRIVER: &str = "the volume controller writes it for the class that the claim has now";
const MIGRATED: &str = "the volume controller writes it where this cluster has moved a driver to CSI";
const UID: &str = "it is the UID of an object of the old cluster";
const EFFECTS: &str =
    "`Unknown` and `Some`, which v1beta1 allowed, become `None`: v1 refuses them when a configuration is made";

/// Sorted as the documentation shows it: every kind's, then kind by kind.
pub const ROWS: &[Row] = &[
    row(EVERY, "`metadata.uid`", Remove(&["metadata", "uid"]), "the server gives each object another one"),
    row(
        EVERY,
        "`metadata.resourceVersion`",
        Remove(&["metadata", "resourceVersion"]),
        "the server refuses to make an object that has one",
    ),
    row(
        EVERY,
        "`metadata.creationTimestamp`",
        Remove(&["metadata", "creationTimestamp"]),
        "the server sets it when an object is made",
    ),
    row(
        EVERY,
        "`metadata.deletionTimestamp`",
        Remove(&["metadata", "deletionTimestamp"]),
        "nobody is deleting the new object",
    ),
    row(
        EVERY,
        "`metadata.deletionGracePeriodSeconds`",
        Remove(&["metadata", "deletionGracePeriodSeconds"]),
        "nobody is deleting the new object",
    ),
    row(
        EVERY,
        "`metadata.generation`",
        Remove(&["metadata", "generation"]),
        "the server counts the changes of the rest",
    ),
    row(EVERY, "`metadata.selfLink`", Remove(&["metadata", "selfLink"]), "servers up to 1.19 make it from the name"),
    row(
        EVERY,
        "`metadata.generateName`",
        Remove(&["metadata", "generateName"]),
        "the object has its name: with both, a server reports a name that is taken as a fault of its generator",
    ),
    row(
        EVERY,
        "`metadata.managedFields`",
        Later,
        "given back once the object is made, without the entries of a status that is not",
    ),
    row(
        EVERY,
        "`metadata.ownerReferences`",
        Later,
        "they get the UIDs of the new owners; an owner that is not there is dropped and reported, since the garbage collector would delete the object",
    ),
    row(EVERY, "`status`", Later, "controllers write what they find; `--status` gives it back"),
    row("namespaces", "`kubernetes` in `spec.finalizers`", Change(kinds::namespace), "the server adds it"),
    row(
        DEFINITIONS,
        "`spec.preserveUnknownFields: true`",
        Change(kinds::definition),
        "v1 refuses it: each version gets `x-kubernetes-preserve-unknown-fields`, which means the same",
    ),
    row(
        "serviceaccounts",
        "tokens (`NAME-token-xxxxx`) in `secrets`",
        Change(kinds::account),
        "Kubernetes up to 1.23 made them, and makes others",
    ),
    row(
        SECRETS,
        "`token`, `ca.crt`, `namespace` in the `data` of a service account's token",
        Change(kinds::token),
        "they are valid in the old cluster only; a controller fills them in",
    ),
    annotation!(
        SECRETS,
        "kubernetes.io/service-account.uid",
        "it is the UID of the old service account: a controller deletes the secret for it"
    ),
    label!(SECRETS, "kubernetes.io/legacy-token-last-used", "the new token has not been used"),
    label!(SECRETS, "kubernetes.io/legacy-token-invalid-since", "it would make the new token invalid"),
    row(
        VOLUMES,
        "`spec.claimRef.uid`",
        Remove(&["spec", "claimRef", "uid"]),
        "it is the UID of the old claim; the name stays, so that no other claim gets the volume",
    ),
    row(
        VOLUMES,
        "`spec.claimRef.resourceVersion`",
        Remove(&["spec", "claimRef", "resourceVersion"]),
        "it is the old claim's",
    ),
    annotation!(
        VOLUMES,
        "pv.kubernetes.io/bound-by-controller",
        "the restore binds it, not the controller, which would forget the claim's name when it lets go"
    ),
    annotation!(VOLUMES, "pv.kubernetes.io/migrated-to", MIGRATED),
    row(
        CLAIMS,
        "`spec.volumeName`",
        Change(kinds::claim),
        "of a volume that is not there, or is another claim's: the claim would wait for it for ever, and gets a new, empty one instead",
    ),
    row(
        CLAIMS,
        "`spec.dataSource`, `spec.dataSourceRef`",
        Later,
        "of a claim that gets a new volume: its source may be gone, and its data comes from a backup",
    ),
    annotation!(CLAIMS, "pv.kubernetes.io/bind-completed", BOUND),
    annotation!(CLAIMS, "pv.kubernetes.io/bound-by-controller", BOUND),
    annotation!(CLAIMS, "volume.beta.kubernetes.io/storage-provisioner", DRIVER),
    annotation!(CLAIMS, "volume.kubernetes.io/storage-provisioner", DRIVER),
    annotation!(CLAIMS, "volume.kubernetes.io/storage-resizer", DRIVER),
    annotation!(
        CLAIMS,
        "volume.kubernetes.io/selected-node",
        "it is a node of the old cluster, and the new volume would wait for it"
    ),
    annotation!(CLAIMS, "pv.kubernetes.io/migrated-to", MIGRATED),
    row(
        CONTENTS,
        "`spec.source.volumeHandle`",
        Change(kinds::content),
        "a new snapshot would be taken of what the volume holds today: it becomes `snapshotHandle`, out of the status",
    ),
    row(CONTENTS, "`spec.volumeSnapshotRef.uid`", Remove(&["spec", "volumeSnapshotRef", "uid"]), UID),
    row(
        CONTENTS,
        "`spec.volumeSnapshotRef.resourceVersion`",
        Remove(&["spec", "volumeSnapshotRef", "resourceVersion"]),
        "it is the old snapshot's",
    ),
    row(
        CONTENTS,
        "`spec.deletionPolicy`",
        Later,
        "becomes `Retain` with it: where the old object is still there, both are of one snapshot, and deleting one would take it from the other",
    ),
    row(
        SNAPSHOTS,
        "`spec.source.persistentVolumeClaimName`",
        Change(kinds::snapshot),
        "a new snapshot would be taken of what the claim holds today: it becomes `volumeSnapshotContentName`, out of the status",
    ),
    row(
        "services",
        "`spec.clusterIP`, `spec.clusterIPs`, `spec.ipFamilies`",
        Change(services::addresses),
        "the server chose them; kept where the author did (managed fields, or kubectl's annotation), and in a headless service",
    ),
    row(
        "services",
        "`spec.ports[].nodePort`, `spec.healthCheckNodePort`",
        Change(services::ports),
        "the server chose them; kept where the author did",
    ),
    row("endpoints", "`uid` and `resourceVersion` of `targetRef`", Change(kinds::targets), UID),
    row("endpointslices.discovery.k8s.io", "`uid` and `resourceVersion` of `targetRef`", Change(kinds::targets), UID),
    row(
        "ingresses.networking.k8s.io",
        "annotation `kubernetes.io/ingress.class`",
        Change(kinds::ingress),
        "beside a `spec.ingressClassName` of the same value: both at once are refused when an Ingress is made",
    ),
    row(
        "pods",
        "`spec.nodeName`",
        Remove(&["spec", "nodeName"]),
        "the scheduler chooses: the old node may be gone, full or another one",
    ),
    row(
        "pods",
        "`spec.priority`",
        Remove(&["spec", "priority"]),
        "the server takes it from the class, and refuses another one",
    ),
    row(
        "pods",
        "`spec.preemptionPolicy`",
        Remove(&["spec", "preemptionPolicy"]),
        "the server takes it from the class, and refuses another one",
    ),
    row(
        "pods",
        "`spec.overhead`",
        Remove(&["spec", "overhead"]),
        "the server takes it from the runtime class, and refuses another one",
    ),
    row(
        "pods",
        "`spec.ephemeralContainers`",
        Remove(&["spec", "ephemeralContainers"]),
        "somebody was debugging; no pod can be made with one",
    ),
    row(
        "pods",
        "volumes and mounts of `ACCOUNT-token-xxxxx`",
        Change(pods::tokens),
        "their secrets are not restored, and the server adds a token of today",
    ),
    row(
        "deployments.apps",
        "annotation `deployment.kubernetes.io/revision`",
        Remove(&["metadata", "annotations", "deployment.kubernetes.io/revision"]),
        "the controller counts its replica sets",
    ),
    row(
        "statefulsets.apps",
        "`spec.volumeClaimTemplates[].status`",
        Remove(&["spec", "volumeClaimTemplates", "*", "status"]),
        "a template has no state",
    ),
    row(
        "jobs.batch",
        "`controller-uid` and `batch.kubernetes.io/controller-uid` in selector and labels",
        Change(pods::job),
        "the server made them of the job's UID; kept where `manualSelector` is set",
    ),
    annotation!("jobs.batch", "batch.kubernetes.io/job-tracking", "the server sets it where it counts pods that way"),
    annotation!(AUTOSCALERS, "autoscaling.alpha.kubernetes.io/conditions", "it is the status, as v1 shows it"),
    annotation!(AUTOSCALERS, "autoscaling.alpha.kubernetes.io/current-metrics", "it is the status, as v1 shows it"),
    row(MUTATING, "`webhooks[].sideEffects`", Change(kinds::webhooks), EFFECTS),
    row(VALIDATING, "`webhooks[].sideEffects`", Change(kinds::webhooks), EFFECTS),
];
