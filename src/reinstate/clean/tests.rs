use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn cleaned_in(resource: &str, mut object: Value, has_volume: bool) -> Value {
    clean(resource, &mut object, &Context { status: false, has_volume: &|_| has_volume });
    object
}

fn cleaned(resource: &str, object: Value) -> Value {
    cleaned_in(resource, object, false)
}

/// A table whose first cells are code.
fn table<'a>(head: &str, rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let row = |(name, text): (&str, &str)| format!("| `{name}` | {text} |\n");
    head.to_owned() + &rows.into_iter().map(row).collect::<String>()
}

#[test]
fn the_documentation_has_the_tables() {
    use crate::reinstate::left_out::{LeftOut, OLD_CLUSTER, RUNS};
    use crate::reinstate::rank::{LAST, RANKS};
    let cleaned = ROWS.iter().map(|row| {
        let kind = if row.resource == EVERY { "every kind".to_owned() } else { format!("`{}`", row.resource) };
        format!("| {kind} | {} | {} |\n", row.what, row.reason)
    });
    let ranks = (0..=LAST).map(|rank| {
        let kinds = RANKS.iter().filter(|row| row.rank == rank).map(|row| format!("`{}`", row.resource));
        let kinds = kinds.collect::<Vec<_>>().join(", ");
        format!("| {} | {} |\n", rank + 1, if kinds.is_empty() { "every other kind: custom resources" } else { &kinds })
    });
    let tables = [
        "| kind | what | why |\n|---|---|---|\n".to_owned() + &cleaned.collect::<String>(),
        "| | kinds |\n|---|---|\n".to_owned() + &ranks.collect::<String>(),
        table("| reason | because |\n|---|---|\n", LeftOut::ALL.map(|reason| (reason.as_str(), reason.reason()))),
        table("| kind | why |\n|---|---|\n", OLD_CLUSTER),
        RUNS.map(|kind| format!("`{kind}`")).join(", "),
    ];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes-restore.md");
    let page = std::fs::read_to_string(path).unwrap();
    for table in tables {
        assert!(page.contains(&table), "docs/kubernetes-restore.md needs this:\n\n{table}");
    }
}

#[test]
fn a_row_that_removes_says_what_it_removes_and_does() {
    let mut seen = BTreeSet::new();
    for row in ROWS {
        assert!(seen.insert((row.resource, row.what)), "twice: {} {}", row.resource, row.what);
        assert!(!row.reason.is_empty() && !row.reason.contains('|') && !row.what.contains('|'));
        let Action::Remove(path) = row.action else { continue };
        let last = path.last().unwrap();
        assert!(row.what.contains(last), "{}", row.what);
        let leaf = json!({*last: "x", "other": "kept"});
        let object = path[..path.len() - 1].iter().rev().fold(leaf, |inner, key| {
            if *key == fields::EACH { json!([inner.clone(), inner]) } else { json!({*key: inner}) }
        });
        let resource = if row.resource == EVERY { "widgets.example.com" } else { row.resource };
        let text = cleaned(resource, object).to_string();
        assert!(!text.contains("\"x\"") && text.contains("kept"), "{} {}: {text}", row.resource, row.what);
    }
}

#[test]
fn labels_annotations_finalizers_and_owners_stay() {
    let object = json!({"apiVersion": "e.com/v1", "kind": "Widget", "metadata": {
        "name": "w", "namespace": "shop", "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["e.com/f"],
        "ownerReferences": [{"uid": "u"}]}, "spec": {"status": 1, "uid": "kept", "nodeName": "kept", "clusterIP": "kept"}});
    assert_eq!(cleaned("widgets.example.com", object.clone()), object);
}

#[test]
fn what_is_given_back_is_handed_out() {
    let object = json!({"metadata": {"managedFields": [{"manager": "a"}, {"manager": "b", "subresource": "status"}, 7]},
        "status": {"phase": "x"}});
    let take = |status| {
        let mut object = object.clone();
        let taken = clean("widgets.example.com", &mut object, &Context { status, has_volume: &|_| false });
        assert_eq!(object, json!({"metadata": {}}));
        taken
    };
    let status = Some(json!({"phase": "x"}));
    assert_eq!(take(false), Taken { managed_fields: Some(json!([{"manager": "a"}])), status: status.clone() });
    let all = json!([{"manager": "a"}, {"manager": "b", "subresource": "status"}]);
    assert_eq!(take(true), Taken { managed_fields: Some(all), status });
}

fn service(metadata: Value) -> Value {
    json!({"metadata": metadata, "spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "healthCheckNodePort": 31000, "loadBalancerIP": "1.2.3.4",
        "ports": [{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053}]}})
}

#[test]
fn a_service_keeps_what_its_author_fixed() {
    let bare = json!({"type": "LoadBalancer", "ipFamilyPolicy": "SingleStack", "loadBalancerIP": "1.2.3.4",
        "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP"}]});
    let spec = |metadata: Value| cleaned("services", service(metadata))["spec"].take();
    assert_eq!(spec(json!({})), bare);

    let applied = json!({"spec": {"clusterIP": "10.0.0.9", "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "nodePort": 30053}]}});
    let annotations = json!({"kubectl.kubernetes.io/last-applied-configuration": applied.to_string()});
    let kept = spec(json!({"annotations": annotations}));
    assert_eq!((kept["clusterIP"].as_str(), kept["clusterIPs"][0].as_str()), (Some("10.0.0.9"), Some("10.0.0.9")));
    assert_eq!(
        kept["ports"],
        json!([{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 53, "protocol": "UDP"}])
    );
    assert!(kept.get("ipFamilies").is_none() && kept.get("healthCheckNodePort").is_none());

    let managed = json!([{"manager": "helm", "fieldsV1": {"f:spec": {"f:healthCheckNodePort": {}, "f:ipFamilies": {}, "f:ports": {
        ".": {}, "k:{\"port\":53,\"protocol\":\"UDP\"}": {"f:nodePort": {}}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {"f:port": {}}}}}},
        {"manager": "x", "subresource": "status", "fieldsV1": {"f:spec": {"f:clusterIP": {}}}}, 7]);
    let kept = spec(json!({"managedFields": managed}));
    assert_eq!(
        kept["ports"],
        json!([{"name": "a", "port": 80}, {"name": "b", "port": 53, "protocol": "UDP", "nodePort": 30053}])
    );
    assert_eq!((kept["healthCheckNodePort"].as_i64(), kept["ipFamilies"][0].as_str()), (Some(31000), Some("IPv4")));
    assert!(kept.get("clusterIP").is_none());

    // Values that leave the choice to the server, and invalid JSON, set nothing.
    for text in ["{\"spec\":{\"clusterIP\":\"\",\"ports\":[{\"port\":80,\"nodePort\":0}]}}", "{", "[]"] {
        assert_eq!(spec(json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": text}})), bare);
    }
    let headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
    assert_eq!(cleaned("services", headless.clone()), headless);
}

#[test]
fn a_service_that_is_refused_can_be_made_without_what_its_author_fixed() {
    let mut object = service(json!({}));
    assert!(unfix("services", &mut object));
    assert_eq!(object, cleaned("services", service(json!({}))));
    assert!(!unfix("services", &mut object));
    let mut headless = json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
    assert!(
        !unfix("services", &mut headless) && !unfix("widgets.example.com", &mut json!({"spec": {"clusterIP": "x"}}))
    );
}

#[test]
fn a_claim_stays_with_its_volume_or_gets_a_new_one() {
    let claim = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes", "mine": "x"}},
        "spec": {"volumeName": "pv", "storageClassName": "gp3", "dataSource": {"name": "s"}, "dataSourceRef": {"name": "s"}}});
    let annotations = json!({"mine": "x"});
    let bound = json!({"metadata": {"annotations": annotations},
        "spec": {"volumeName": "pv", "storageClassName": "gp3", "dataSource": {"name": "s"}, "dataSourceRef": {"name": "s"}}});
    assert_eq!(cleaned_in("persistentvolumeclaims", claim.clone(), true), bound);
    let fresh = json!({"metadata": {"annotations": annotations}, "spec": {"storageClassName": "gp3"}});
    assert_eq!(cleaned_in("persistentvolumeclaims", claim, false), fresh);
}

#[test]
fn a_volume_is_reserved_for_the_claim_of_its_name() {
    let volume = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "ebs.csi.aws.com", "pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {"claimRef": {"kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data", "uid": "u", "resourceVersion": "7"}}});
    let expected = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "ebs.csi.aws.com"}},
        "spec": {"claimRef": {"kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data"}}});
    assert_eq!(cleaned("persistentvolumes", volume), expected);
}

#[test]
fn a_pod_is_made_for_any_node_and_with_a_token_of_today() {
    let mounts = json!([{"name": "data"}, {"name": "web-token-x7k2z"}]);
    let pod = json!({"spec": {"nodeName": "n", "priority": 7, "preemptionPolicy": "Never", "overhead": {}, "serviceAccountName": "web",
        "priorityClassName": "high", "ephemeralContainers": [{}],
        "volumes": [{"name": "data"}, {"name": "web-token-x7k2z", "secret": {"secretName": "web-token-x7k2z"}},
            {"name": "mine", "secret": {"secretName": "web-token-x7k2z"}}, {"name": "kube-api-access-x7k2z", "projected": {}}],
        "containers": [{"volumeMounts": mounts}, {}], "initContainers": [{"volumeMounts": mounts}]}});
    let mounts = json!([{"name": "data"}]);
    let expected = json!({"spec": {"serviceAccountName": "web", "priorityClassName": "high",
        "volumes": [{"name": "data"}, {"name": "mine", "secret": {"secretName": "web-token-x7k2z"}}, {"name": "kube-api-access-x7k2z", "projected": {}}],
        "containers": [{"volumeMounts": mounts}, {}], "initContainers": [{"volumeMounts": mounts}]}});
    assert_eq!(cleaned("pods", pod), expected);
}

#[test]
fn a_job_counts_its_own_pods() {
    let labels = json!({"app": "x", "job-name": "j", "controller-uid": "u", "batch.kubernetes.io/controller-uid": "u"});
    let job = |manual: Value, matched: Value| {
        json!({"metadata": {"labels": labels}, "spec": {"manualSelector": manual,
        "selector": {"matchLabels": matched}, "template": {"metadata": {"labels": labels}}}})
    };
    let left = json!({"app": "x", "job-name": "j"});
    let expected = json!({"metadata": {"labels": left}, "spec": {"manualSelector": false, "template": {"metadata": {"labels": left}}}});
    assert_eq!(cleaned("jobs.batch", job(json!(false), json!({"controller-uid": "u"}))), expected);
    let cleaned_job =
        cleaned("jobs.batch", job(json!(null), json!({"batch.kubernetes.io/controller-uid": "u", "app": "x"})));
    assert_eq!(cleaned_job["spec"]["selector"], json!({"matchLabels": {"app": "x"}}));
    let manual = job(json!(true), json!({"controller-uid": "u"}));
    assert_eq!(cleaned("jobs.batch", manual.clone()), manual);
}

fn check(rows: &[(&str, Value, Value)]) {
    for (resource, object, expected) in rows {
        assert_eq!(cleaned(resource, object.clone()), *expected, "{resource}");
    }
}

#[test]
fn namespaces_accounts_secrets_and_definitions() {
    check(&[
        (
            "namespaces",
            json!({"spec": {"finalizers": ["kubernetes", "e.com/f"]}}),
            json!({"spec": {"finalizers": ["e.com/f"]}}),
        ),
        ("namespaces", json!({"spec": {"finalizers": ["kubernetes"]}}), json!({"spec": {}})),
        (
            "serviceaccounts",
            json!({"metadata": {"name": "ci"}, "secrets": [{"name": "ci-token-x7k2z"}, {"name": "ci-token-mine"}]}),
            json!({"metadata": {"name": "ci"}, "secrets": [{"name": "ci-token-mine"}]}),
        ),
        (
            "serviceaccounts",
            json!({"metadata": {"name": "ci"}, "secrets": [{"name": "ci-token-x7k2z"}]}),
            json!({"metadata": {"name": "ci"}}),
        ),
        (
            "secrets",
            json!({"type": "kubernetes.io/service-account-token", "data": {"token": "x", "ca.crt": "x", "namespace": "x", "extra": "y"}}),
            json!({"type": "kubernetes.io/service-account-token", "data": {"extra": "y"}}),
        ),
        (
            "secrets",
            json!({"type": "Opaque", "data": {"token": "x"}}),
            json!({"type": "Opaque", "data": {"token": "x"}}),
        ),
        (
            "customresourcedefinitions.apiextensions.k8s.io",
            json!({"spec": {"preserveUnknownFields": true, "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {}}}}, {"name": "v2"}]}}),
            json!({"spec": {"versions": [
                {"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true}}},
                {"name": "v2", "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}),
        ),
        (
            "customresourcedefinitions.apiextensions.k8s.io",
            json!({"spec": {"preserveUnknownFields": false, "conversion": {"webhook": {"clientConfig": {"caBundle": "x"}}}}}),
            json!({"spec": {"preserveUnknownFields": false, "conversion": {"webhook": {"clientConfig": {"caBundle": "x"}}}}}),
        ),
    ]);
}

#[test]
fn the_other_kinds() {
    let snapshots = "snapshot.storage.k8s.io";
    let policies = |effects: [&str; 4]| {
        json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "webhooks": effects.map(|effects| json!({"sideEffects": effects, "clientConfig": {"caBundle": "kept"}}))})
    };
    let class = |annotation: &str| json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": annotation}}, "spec": {"ingressClassName": "nginx"}});
    let target = |more: Value| json!({"kind": "Pod", "name": "p", "uid": more["uid"]});
    check(&[
        (
            "validatingwebhookconfigurations.admissionregistration.k8s.io",
            policies(["None", "NoneOnDryRun", "Unknown", "Some"]),
            policies(["None", "NoneOnDryRun", "None", "None"]),
        ),
        (
            "ingresses.networking.k8s.io",
            class("nginx"),
            json!({"metadata": {"annotations": {}}, "spec": {"ingressClassName": "nginx"}}),
        ),
        ("ingresses.networking.k8s.io", class("other"), class("other")),
        (
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.2.3.4", "targetRef": target(json!({"uid": "u"}))}, {"ip": "1.2.3.5"}]}]}),
            json!({"subsets": [{"addresses": [{"ip": "1.2.3.4", "targetRef": {"kind": "Pod", "name": "p"}}, {"ip": "1.2.3.5"}]}]}),
        ),
        (
            &format!("volumesnapshotcontents.{snapshots}"),
            json!({"spec": {"deletionPolicy": "Delete", "source": {"volumeHandle": "vol-1"}}, "status": {"snapshotHandle": "snap-1"}}),
            json!({"spec": {"deletionPolicy": "Retain", "source": {"snapshotHandle": "snap-1"}}}),
        ),
        (
            &format!("volumesnapshotcontents.{snapshots}"),
            json!({"spec": {"deletionPolicy": "Delete", "source": {"snapshotHandle": "snap-1"}}, "status": {"snapshotHandle": "snap-1"}}),
            json!({"spec": {"deletionPolicy": "Delete", "source": {"snapshotHandle": "snap-1"}}}),
        ),
        (
            &format!("volumesnapshots.{snapshots}"),
            json!({"spec": {"source": {"persistentVolumeClaimName": "c"}}, "status": {"boundVolumeSnapshotContentName": "content"}}),
            json!({"spec": {"source": {"volumeSnapshotContentName": "content"}}}),
        ),
    ]);
}

fn value() -> impl Strategy<Value = Value> {
    let keys = "metadata|spec|status|labels|annotations|ports|volumes|containers|template|selector|matchLabels|secrets|name|uid|data|subsets|webhooks|source|versions|schema";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u8>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(keys, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Objects are untrusted: no shape panics, and a clean object stays as it is.
    #[test]
    fn cleaning_takes_any_shape_and_is_done_once(object in value()) {
        let kinds: BTreeSet<&str> = ROWS.iter().map(|row| row.resource).collect();
        for resource in kinds {
            for has_volume in [true, false] {
                let once = cleaned_in(resource, object.clone(), has_volume);
                prop_assert_eq!(cleaned_in(resource, once.clone(), has_volume), once);
            }
        }
    }
}
