//! Which kinds are created before which. Pure.

/// The place of a kind in the order, and the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// `deployments.apps`.
    pub resource: &'static str,
    pub rank: u8,
    pub reason: &'static str,
}

/// Custom resources, and every kind that is not in the table: their operators find the secrets, claims and services that they name, and
/// run before the objects that they own.
pub const OTHERS: u8 = 10;

/// The highest rank.
pub const LAST: u8 = 16;

const fn row(resource: &'static str, rank: u8, reason: &'static str) -> Row {
    Row { resource, rank, reason }
}

const PARAMETERS: &str = "claims, pods and others name it, and are refused or wait without it";
const GRANT: &str = "only administrators may create a binding to a missing role";
const BINDING: &str = "it names roles and service accounts, and workloads need their rights from the start";
const SCALED: &str = "it acts on workloads as soon as both exist, so they first start as they were saved";
const TEMPLATE: &str = "its pods start within a second, and find everything that they name";
const JUDGE: &str = "it could refuse objects that existed before it, and its backend runs only after the workloads";

/// One row for each kind, sorted by rank.
pub const RANKS: &[Row] = &[
    row("customresourcedefinitions.apiextensions.k8s.io", 0, "the server knows no custom resource without it"),
    row("namespaces", 1, "the server refuses the objects in a missing namespace"),
    row("storageclasses.storage.k8s.io", 2, PARAMETERS),
    row("volumeattributesclasses.storage.k8s.io", 2, PARAMETERS),
    row("csidrivers.storage.k8s.io", 2, "it defines how the driver's volumes are attached and mounted"),
    row("volumesnapshotclasses.snapshot.storage.k8s.io", 2, PARAMETERS),
    row("priorityclasses.scheduling.k8s.io", 2, PARAMETERS),
    row("runtimeclasses.node.k8s.io", 2, PARAMETERS),
    row("ingressclasses.networking.k8s.io", 2, PARAMETERS),
    row("gatewayclasses.gateway.networking.k8s.io", 2, PARAMETERS),
    row("deviceclasses.resource.k8s.io", 2, PARAMETERS),
    row("podsecuritypolicies.policy", 2, "up to 1.24 a pod may need one to be admitted"),
    row("prioritylevelconfigurations.flowcontrol.apiserver.k8s.io", 2, "flow schemas name it"),
    row("flowschemas.flowcontrol.apiserver.k8s.io", 3, "requests of the restored workloads are queued by it"),
    row("clusterroles.rbac.authorization.k8s.io", 3, GRANT),
    row("roles.rbac.authorization.k8s.io", 3, GRANT),
    row("serviceaccounts", 4, "a pod is refused without it, and a token secret without it is deleted"),
    row("secrets", 5, "pods wait for it, and operators create another one if it is missing"),
    row("configmaps", 5, "pods wait for it, and operators create another one if it is missing"),
    row("clusterrolebindings.rbac.authorization.k8s.io", 6, BINDING),
    row("rolebindings.rbac.authorization.k8s.io", 6, BINDING),
    row("persistentvolumes", 7, "a claim that names it would be Lost, or get another volume"),
    row("volumesnapshotcontents.snapshot.storage.k8s.io", 7, "a snapshot that names it would be in error"),
    row("persistentvolumeclaims", 8, "pods wait for it, and a stateful set creates an empty one if it is missing"),
    row("volumesnapshots.snapshot.storage.k8s.io", 8, "claims may be made from it"),
    row("endpoints", 9, "a service's controller creates others if they are missing"),
    row("endpointslices.discovery.k8s.io", 9, "a service's controller creates others if they are missing"),
    row("services", 9, "a pod gets the addresses of the services that exist when it starts"),
    row("networkpolicies.networking.k8s.io", 9, "no pod may run without its protection"),
    row("ingresses.networking.k8s.io", 9, "it needs its class and names services"),
    row("pods", 11, "a controller adopts the pods that it finds, and creates those that are missing"),
    row(
        "limitranges",
        12,
        "it would change or refuse pods and claims that existed before it, but sets the defaults of later pods",
    ),
    row("replicasets.apps", 13, "a deployment adopts the sets that it finds; also as for other workloads"),
    row("replicationcontrollers", 13, TEMPLATE),
    row("controllerrevisions.apps", 13, "a stateful or daemon set adopts those that it finds"),
    row("deployments.apps", 14, TEMPLATE),
    row("statefulsets.apps", 14, TEMPLATE),
    row("daemonsets.apps", 14, TEMPLATE),
    row("jobs.batch", 14, TEMPLATE),
    row("cronjobs.batch", 14, TEMPLATE),
    row("horizontalpodautoscalers.autoscaling", 15, SCALED),
    row("poddisruptionbudgets.policy", 15, SCALED),
    row("resourcequotas", 15, "older objects may exceed it, and it refuses all until it has counted"),
    row("mutatingwebhookconfigurations.admissionregistration.k8s.io", LAST, JUDGE),
    row("validatingwebhookconfigurations.admissionregistration.k8s.io", LAST, JUDGE),
    row("mutatingadmissionpolicies.admissionregistration.k8s.io", LAST, JUDGE),
    row("mutatingadmissionpolicybindings.admissionregistration.k8s.io", LAST, JUDGE),
    row("validatingadmissionpolicies.admissionregistration.k8s.io", LAST, JUDGE),
    row("validatingadmissionpolicybindings.admissionregistration.k8s.io", LAST, JUDGE),
    row(
        "apiservices.apiregistration.k8s.io",
        LAST,
        "a group that does not answer yet delays discovery and the deletion of namespaces",
    ),
];

/// The rank of the kind `resource` (`deployments.apps`): lower ranks are created first, kinds of one rank in parallel. OpenShift's and
/// extensions' views of a kind are not saved if another group has it.
#[must_use]
pub fn rank(resource: &str) -> u8 {
    RANKS.iter().find(|row| row.resource == resource).map_or(OTHERS, |row| row.rank)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_has_one_row_and_rows_are_sorted() {
        let names: BTreeSet<_> = RANKS.iter().map(|row| row.resource).collect();
        assert_eq!(names.len(), RANKS.len());
        assert!(RANKS.is_sorted_by_key(|row| row.rank));
        assert!(RANKS.iter().all(|row| row.rank <= LAST && row.rank != OTHERS && !row.reason.is_empty()));
        assert_eq!(RANKS.last().unwrap().rank, LAST);
    }

    #[test]
    fn what_is_needed_comes_before_what_needs_it() {
        let pairs = [
            ("customresourcedefinitions.apiextensions.k8s.io", "namespaces"),
            ("namespaces", "secrets"),
            ("roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io"),
            ("serviceaccounts", "secrets"),
            ("serviceaccounts", "pods"),
            ("storageclasses.storage.k8s.io", "persistentvolumeclaims"),
            ("persistentvolumes", "persistentvolumeclaims"),
            ("persistentvolumeclaims", "widgets.example.com"),
            ("secrets", "widgets.example.com"),
            ("services", "pods"),
            ("networkpolicies.networking.k8s.io", "pods"),
            ("widgets.example.com", "deployments.apps"),
            ("persistentvolumeclaims", "limitranges"),
            ("pods", "limitranges"),
            ("limitranges", "replicasets.apps"),
            ("pods", "replicasets.apps"),
            ("replicasets.apps", "deployments.apps"),
            ("deployments.apps", "resourcequotas"),
            ("deployments.apps", "validatingwebhookconfigurations.admissionregistration.k8s.io"),
            // A kind of another group than the built-in one.
            ("deployments.example.com", "deployments.apps"),
        ];
        for (first, then) in pairs {
            assert!(rank(first) < rank(then), "{first} {then}");
        }
        assert_eq!(rank("deployments.example.com"), OTHERS);
    }
}
