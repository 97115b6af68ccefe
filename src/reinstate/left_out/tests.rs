use serde_json::json;

use super::*;

fn owned(api_version: &str, kind: &str) -> Value {
    json!({"metadata": {"name": "x", "ownerReferences": [
        {"apiVersion": api_version, "kind": kind, "name": "o", "uid": "u", "controller": true}]}})
}

#[test]
fn what_a_built_in_controller_makes_is_left_to_it_unless_asked_for() {
    let slices = "endpointslices.discovery.k8s.io";
    for (resource, api_version, kind, expected) in [
        ("replicasets.apps", "apps/v1", "Deployment", true),
        ("replicasets.apps", "extensions/v1beta1", "Deployment", true),
        ("replicasets.apps", "argoproj.io/v1alpha1", "Rollout", false),
        ("pods", "apps/v1", "ReplicaSet", true),
        ("pods", "apps/v1", "StatefulSet", true),
        ("pods", "apps/v1", "DaemonSet", true),
        ("pods", "batch/v1", "Job", true),
        ("pods", "v1", "ReplicationController", true),
        ("pods", "core.strimzi.io/v1beta2", "StrimziPodSet", false),
        ("pods", "example.com/v1", "StatefulSet", false),
        ("jobs.batch", "batch/v1", "CronJob", true),
        ("jobs.batch", "batch.volcano.sh/v1alpha1", "CronJob", false),
        ("controllerrevisions.apps", "apps/v1", "DaemonSet", true),
        (slices, "v1", "Service", true),
        (slices, "v1", "Endpoints", true),
        (slices, "mesh.example.com/v1", "Export", false),
        ("persistentvolumeclaims", "v1", "Pod", true),
        // The data of a stateful set whose claims are deleted with it.
        ("persistentvolumeclaims", "apps/v1", "StatefulSet", false),
        ("deployments.apps", "apps/v1", "Deployment", false),
        ("secrets", "apps/v1", "Deployment", false),
    ] {
        let object = owned(api_version, kind);
        assert_eq!(left_out(resource, &object, false), expected.then_some(LeftOut::Remade), "{resource} {kind}");
        assert_eq!(left_out(resource, &object, true), None, "{resource} {kind}");
    }
    let mut manual = owned("batch/v1", "CronJob");
    manual["metadata"]["annotations"] = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    assert_eq!(left_out("jobs.batch", &manual, false), None);
    let mut loose = owned("apps/v1", "ReplicaSet");
    loose["metadata"]["ownerReferences"][0]["controller"] = false.into();
    assert_eq!(left_out("pods", &loose, false), None);
}

fn check(rows: &[(&str, Value, Option<LeftOut>)]) {
    for (resource, object, expected) in rows {
        assert_eq!(left_out(resource, object, false), *expected, "{resource} {object}");
    }
}

#[test]
fn what_ended_or_was_the_old_clusters_is_left_out() {
    check(&[
        ("pods", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), Some(LeftOut::BeingDeleted)),
        ("pods", json!({"metadata": {"deletionTimestamp": null}}), None),
        ("pods", json!({"status": {"phase": "Succeeded"}}), Some(LeftOut::Finished)),
        ("pods", json!({"status": {"phase": "Failed"}}), Some(LeftOut::Finished)),
        ("pods", json!({"status": {"phase": "Running"}}), None),
        ("pods", json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}), Some(LeftOut::MirrorPod)),
        ("jobs.batch", json!({"status": {"completionTime": "2026-01-01T00:00:00Z"}}), Some(LeftOut::Finished)),
        (
            "jobs.batch",
            json!({"status": {"conditions": [{"type": "Failed", "status": "True"}]}}),
            Some(LeftOut::Finished),
        ),
        (
            "jobs.batch",
            json!({"status": {"conditions": [{"type": "Failed", "status": "False"}, {"type": "Suspended", "status": "True"}]}}),
            None,
        ),
        ("events", json!({}), Some(LeftOut::OldCluster)),
        ("certificatesigningrequests.certificates.k8s.io", json!({}), Some(LeftOut::OldCluster)),
        ("certificates.cert-manager.io", json!({}), None),
        (
            "configmaps",
            json!({"metadata": {"namespace": "shop", "name": "kube-root-ca.crt"}}),
            Some(LeftOut::ServerMade),
        ),
        (
            "configmaps",
            json!({"metadata": {"namespace": "kube-system", "name": "extension-apiserver-authentication"}}),
            Some(LeftOut::ServerMade),
        ),
        ("configmaps", json!({"metadata": {"namespace": "shop", "name": "extension-apiserver-authentication"}}), None),
        ("services", json!({"metadata": {"namespace": "default", "name": "kubernetes"}}), Some(LeftOut::ServerMade)),
        ("services", json!({"metadata": {"namespace": "shop", "name": "kubernetes"}}), None),
        (
            "apiservices.apiregistration.k8s.io",
            json!({"metadata": {"labels": {"kube-aggregator.kubernetes.io/automanaged": "true"}}}),
            Some(LeftOut::ServerMade),
        ),
        ("apiservices.apiregistration.k8s.io", json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}}), None),
    ]);
}

#[test]
fn volumes_endpoints_and_tokens() {
    check(&[
        (
            "persistentvolumes",
            json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "ebs.csi.aws.com"}}, "spec": {"persistentVolumeReclaimPolicy": "Delete"}}),
            Some(LeftOut::Reclaimed),
        ),
        (
            "persistentvolumes",
            json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "ebs.csi.aws.com"}}, "spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
            None,
        ),
        ("persistentvolumes", json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}), None),
        (
            "volumesnapshots.snapshot.storage.k8s.io",
            json!({"spec": {"source": {"persistentVolumeClaimName": "c"}}}),
            Some(LeftOut::NoSnapshot),
        ),
        (
            "volumesnapshots.snapshot.storage.k8s.io",
            json!({"spec": {"source": {"volumeSnapshotContentName": "c"}}}),
            None,
        ),
        (
            "volumesnapshotcontents.snapshot.storage.k8s.io",
            json!({"spec": {"source": {"volumeHandle": "v"}}, "status": {"snapshotHandle": "s"}}),
            None,
        ),
        (
            "volumesnapshotcontents.snapshot.storage.k8s.io",
            json!({"spec": {"source": {"volumeHandle": "v"}}}),
            Some(LeftOut::NoSnapshot),
        ),
        (
            "endpoints",
            json!({"metadata": {"managedFields": [{"manager": "kube-controller-manager", "fieldsV1": {"f:subsets": {}}}]}}),
            Some(LeftOut::Remade),
        ),
        (
            "endpoints",
            json!({"metadata": {"managedFields": [{"manager": "kubectl", "fieldsV1": {"f:subsets": {}}}]}}),
            None,
        ),
        (
            "endpointslices.discovery.k8s.io",
            json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "mesh.example.com"}}}),
            None,
        ),
    ]);
    let token = |name: &str| {
        json!({"type": "kubernetes.io/service-account-token",
        "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": "ci"}}})
    };
    assert_eq!(left_out("secrets", &token("ci-token-x7k2z"), true), Some(LeftOut::ControllerToken));
    assert_eq!(left_out("secrets", &token("ci-token-mine"), false), None);
    assert_eq!(left_out("secrets", &token("ci"), false), None);
}

#[test]
fn what_every_cluster_has_is_merged_or_kept() {
    let named = |name: &str| json!({"metadata": {"name": name}});
    let role = |autoupdate: &str| {
        json!({"metadata": {"name": "view", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": autoupdate}}})
    };
    let roles = "clusterroles.rbac.authorization.k8s.io";
    for (resource, object, expected) in [
        ("serviceaccounts", named("default"), Existing::Merge),
        ("serviceaccounts", named("ci"), Existing::AsAsked),
        (roles, role("true"), Existing::Keep),
        (roles, role("false"), Existing::AsAsked),
        (roles, named("mine"), Existing::AsAsked),
        ("priorityclasses.scheduling.k8s.io", named("system-node-critical"), Existing::Keep),
        ("priorityclasses.scheduling.k8s.io", named("high"), Existing::AsAsked),
        ("persistentvolumes", named("pv"), Existing::Keep),
        ("namespaces", named("kube-system"), Existing::Keep),
        ("namespaces", named("shop"), Existing::AsAsked),
    ] {
        assert_eq!(existing(resource, &object), expected, "{resource} {object}");
    }
}

#[test]
fn odd_shapes_are_left_to_the_server() {
    for odd in [json!(null), json!([]), json!("x"), json!({"metadata": 7, "status": [], "spec": null})] {
        for resource in
            ["pods", "jobs.batch", "secrets", "endpoints", "persistentvolumes", "apiservices.apiregistration.k8s.io"]
        {
            assert_eq!(left_out(resource, &odd, false), None, "{resource} {odd}");
        }
    }
}
