//! The table of the parts that are not restored as they were.

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

const BOUND: &str = "they mark the old claim as bound: with them, the new one would be Lost until its volume exists";
const DRIVER: &str = "the volume controller sets it for the claim's current class";
const MIGRATED: &str = "the volume controller sets it if the cluster has migrated a driver to CSI";
const UID: &str = "it is the UID of an object of the old cluster";
const EFFECTS: &str =
    "`Unknown` and `Some`, which v1beta1 allowed, become `None`: v1 refuses to create a configuration with them";

/// In the order of the documentation: rows of every kind, then kind by kind.
pub const ROWS: &[Row] = &[
    row(EVERY, "`metadata.uid`", Remove(&["metadata", "uid"]), "the server gives each object a new one"),
    row(
        EVERY,
        "`metadata.resourceVersion`",
        Remove(&["metadata", "resourceVersion"]),
        "the server refuses to create an object that has one",
    ),
    row(
        EVERY,
        "`metadata.creationTimestamp`",
        Remove(&["metadata", "creationTimestamp"]),
        "the server sets it when an object is created",
    ),
    row(
        EVERY,
        "`metadata.deletionTimestamp`",
        Remove(&["metadata", "deletionTimestamp"]),
        "the new object is not being deleted",
    ),
    row(
        EVERY,
        "`metadata.deletionGracePeriodSeconds`",
        Remove(&["metadata", "deletionGracePeriodSeconds"]),
        "the new object is not being deleted",
    ),
    row(
        EVERY,
        "`metadata.generation`",
        Remove(&["metadata", "generation"]),
        "the server counts the changes of the other fields",
    ),
    row(EVERY, "`metadata.selfLink`", Remove(&["metadata", "selfLink"]), "servers up to 1.19 derive it from the name"),
    row(
        EVERY,
        "`metadata.generateName`",
        Remove(&["metadata", "generateName"]),
        "the object has its name: with both, a server reports an existing name as an error of its name generator",
    ),
    row(
        EVERY,
        "`metadata.managedFields`",
        Later,
        "restored once the object is created, without the entries of a status that is not restored",
    ),
    row(
        EVERY,
        "`metadata.ownerReferences`",
        Later,
        "they get the UIDs of the new owners; a missing owner is dropped and reported, since the garbage collector would delete the object",
    ),
    row(EVERY, "`status`", Later, "controllers write what they observe; `--status` restores it"),
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
        "Kubernetes up to 1.23 made them, and makes new ones",
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
        "it is that of the old claim",
    ),
    annotation!(
        VOLUMES,
        "pv.kubernetes.io/bound-by-controller",
        "the restore binds it, not the controller, which would remove the claim's name when it unbinds the volume"
    ),
    annotation!(VOLUMES, "pv.kubernetes.io/migrated-to", MIGRATED),
    row(
        CLAIMS,
        "`spec.volumeName`",
        Change(kinds::claim),
        "of a volume that is missing, or belongs to another claim: the claim would wait for it for ever, and gets a new, empty one instead",
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
    annotation!(
        CLAIMS,
        "backup.penstock/unfilled",
        "it says that the old claim did not have its data yet: the restore that creates a claim sets it, and no other"
    ),
    row(
        CONTENTS,
        "`spec.source.volumeHandle`",
        Change(kinds::content),
        "a new snapshot of the volume's current content would be taken: it becomes `snapshotHandle`, from the status",
    ),
    row(CONTENTS, "`spec.volumeSnapshotRef.uid`", Remove(&["spec", "volumeSnapshotRef", "uid"]), UID),
    row(
        CONTENTS,
        "`spec.volumeSnapshotRef.resourceVersion`",
        Remove(&["spec", "volumeSnapshotRef", "resourceVersion"]),
        "it is that of the old snapshot",
    ),
    row(
        CONTENTS,
        "`spec.deletionPolicy`",
        Later,
        "becomes `Retain` with it: if the old object still exists, both refer to one snapshot, which deleting either would remove",
    ),
    row(
        SNAPSHOTS,
        "`spec.source.persistentVolumeClaimName`",
        Change(kinds::snapshot),
        "a new snapshot of the claim's current content would be taken: it becomes `volumeSnapshotContentName`, from the status",
    ),
    row(
        "services",
        "`spec.clusterIP`, `spec.clusterIPs`, `spec.ipFamilies`",
        Change(services::addresses),
        "the server chose them; kept if the author set them (managed fields, or kubectl's annotation), and in a headless service",
    ),
    row(
        "services",
        "`spec.ports[].nodePort`, `spec.healthCheckNodePort`",
        Change(services::ports),
        "the server chose them; kept if the author set them",
    ),
    row("endpoints", "`uid` and `resourceVersion` of `targetRef`", Change(kinds::targets), UID),
    row("endpointslices.discovery.k8s.io", "`uid` and `resourceVersion` of `targetRef`", Change(kinds::targets), UID),
    row(
        "ingresses.networking.k8s.io",
        "annotation `kubernetes.io/ingress.class`",
        Change(kinds::ingress),
        "beside a `spec.ingressClassName` of the same value: the server refuses to create an Ingress with both",
    ),
    row(
        "pods",
        "`spec.nodeName`",
        Remove(&["spec", "nodeName"]),
        "the scheduler chooses one: the old node may be gone, full or replaced",
    ),
    row(
        "pods",
        "`spec.priority`",
        Remove(&["spec", "priority"]),
        "the server takes it from the class, and refuses another value",
    ),
    row(
        "pods",
        "`spec.preemptionPolicy`",
        Remove(&["spec", "preemptionPolicy"]),
        "the server takes it from the class, and refuses another value",
    ),
    row(
        "pods",
        "`spec.overhead`",
        Remove(&["spec", "overhead"]),
        "the server takes it from the runtime class, and refuses another value",
    ),
    row(
        "pods",
        "`spec.ephemeralContainers`",
        Remove(&["spec", "ephemeralContainers"]),
        "they were added for debugging; a pod cannot be created with them",
    ),
    row(
        "pods",
        "volumes and mounts of `ACCOUNT-token-xxxxx`",
        Change(pods::tokens),
        "their secrets are not restored, and the server adds a new token",
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
        "the server made them from the job's UID; kept if `manualSelector` is set",
    ),
    annotation!("jobs.batch", "batch.kubernetes.io/job-tracking", "the server sets it if it tracks pods that way"),
    annotation!(AUTOSCALERS, "autoscaling.alpha.kubernetes.io/conditions", "it is the status, as v1 shows it"),
    annotation!(AUTOSCALERS, "autoscaling.alpha.kubernetes.io/current-metrics", "it is the status, as v1 shows it"),
    row(MUTATING, "`webhooks[].sideEffects`", Change(kinds::webhooks), EFFECTS),
    row(VALIDATING, "`webhooks[].sideEffects`", Change(kinds::webhooks), EFFECTS),
];
