use proptest::prelude::*;
use serde_json::json;

use super::*;

fn paths(resource: &str, ours: Value, live: Value) -> Vec<String> {
    differing(resource, &ours, &live).paths
}

#[test]
fn defaults_and_what_the_server_owns_make_no_difference() {
    let ours = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"a": "1"}, "finalizers": ["x"]},
        "spec": {"replicas": 2, "strategy": {}, "paused": null, "template": {"metadata": {"creationTimestamp": null},
            "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": []}}}});
    let live = json!({"metadata": {"name": "web", "uid": "u", "resourceVersion": "1", "generation": 3, "labels": {"a": "1", "b": "2"},
            "annotations": {"deployment.kubernetes.io/revision": "1"}, "managedFields": [{}]},
        "spec": {"replicas": 2.0, "revisionHistoryLimit": 10, "template": {"metadata": {},
            "spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Always"}], "dnsPolicy": "ClusterFirst"}}},
        "status": {"replicas": 2}});
    assert_eq!(paths("deployments.apps", ours, live), [""; 0]);
}

#[test]
fn what_is_otherwise_is_named_by_its_path() {
    let ours = json!({"metadata": {"labels": {"a": "1", "gone": "x"}, "annotations": {"e.com/a": "hunter2"}},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {"spec": {
            "containers": [{"image": "a"}], "nodeSelector": {"disk": "ssd"}, "emptyDir": {}}}}});
    let live = json!({"metadata": {"labels": {"a": "2"}, "annotations": {"e.com/a": "hunter3"}},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web", "tier": "1"}}, "template": {"spec": {
            "containers": [{"image": "b"}, {"image": "sidecar"}], "nodeSelector": {"disk": "ssd", "zone": "a"}, "emptyDir": {"medium": "Memory"}}}}});
    let expected = [
        "metadata.annotations[\"e.com/a\"]",
        "metadata.labels.a",
        "metadata.labels.gone",
        "spec.replicas",
        "spec.selector.matchLabels.tier",
        "spec.template.spec.containers[0].image",
        "spec.template.spec.containers[1]",
        "spec.template.spec.emptyDir",
        "spec.template.spec.nodeSelector.zone",
    ];
    let mut found = paths("deployments.apps", ours, live);
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_field_more_counts_where_the_server_adds_none() {
    let row = |resource: &str, ours: Value, live: Value, expected: &[&str]| {
        assert_eq!(paths(resource, ours, live), expected, "{resource}");
    };
    row("configmaps", json!({"data": {"a": ""}}), json!({"data": {"a": "", "b": "1"}}), &["data.b"]);
    row("configmaps", json!({"data": {"a": ""}}), json!({"data": {}}), &["data"]);
    row("configmaps", json!({}), json!({"binaryData": {"a": "AA=="}, "data": null}), &["binaryData"]);
    row("secrets", json!({"type": "Opaque"}), json!({"type": "Opaque", "data": {"a": "AA=="}}), &["data"]);
    let token = "kubernetes.io/service-account-token";
    row("secrets", json!({"type": token}), json!({"type": token, "data": {"token": "AA=="}}), &[]);
    let policies = "networkpolicies.networking.k8s.io";
    row(
        policies,
        json!({"spec": {"podSelector": {}}}),
        json!({"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}),
        &["spec.podSelector"],
    );
    row(
        policies,
        json!({"spec": {"ingress": [{}]}}),
        json!({"spec": {"ingress": [{"from": [{}]}]}}),
        &["spec.ingress[0]"],
    );
    row(
        "widgets.example.com",
        json!({"spec": {"a": 1}}),
        json!({"spec": {"a": 1, "paused": true}, "status": {}}),
        &["spec.paused"],
    );
    row(
        "services",
        json!({"spec": {"selector": {"a": "b"}}}),
        json!({"spec": {"selector": {"a": "b", "c": "d"}, "clusterIP": "10.0.0.1"}}),
        &["spec.selector.c"],
    );
}

#[test]
fn what_controllers_write_is_not_held_against_an_object() {
    let webhooks = "validatingwebhookconfigurations.admissionregistration.k8s.io";
    let hook = |bundle: &str, path: &str| json!({"webhooks": [{"clientConfig": {"caBundle": bundle, "service": {"path": path}}}]});
    assert_eq!(paths(webhooks, hook("old", "/x"), hook("new", "/x")), [""; 0]);
    assert_eq!(paths(webhooks, hook("old", "/x"), hook("new", "/y")), ["webhooks[0].clientConfig.service.path"]);
    let role = |rules: Value| json!({"aggregationRule": {"clusterRoleSelectors": []}, "rules": rules});
    assert_eq!(paths("clusterroles.rbac.authorization.k8s.io", role(json!([1])), role(json!([]))), [""; 0]);
    let account = |secrets: Value| json!({"metadata": {"name": "ci"}, "secrets": secrets});
    let (ours, live) =
        (account(json!([{"name": "mine"}])), account(json!([{"name": "ci-token-x7k2z"}, {"name": "mine"}])));
    assert_eq!(paths("serviceaccounts", ours.clone(), live), [""; 0]);
    assert_eq!(paths("serviceaccounts", ours, account(json!(null))), ["secrets[0]"]);
    // The server adds its token to a pod.
    let pod =
        |volumes: Value, mounts: Value| json!({"spec": {"volumes": volumes, "containers": [{"volumeMounts": mounts}]}});
    let name = json!([{"name": "data"}]);
    let more = json!([{"name": "data"}, {"name": "kube-api-access-x7k2z"}]);
    assert_eq!(paths("pods", pod(name.clone(), name), pod(more.clone(), more)), [""; 0]);
    // A job's selector and labels have its new UID.
    let job = json!({"spec": {"template": {"metadata": {"labels": {"job-name": "j"}}}}});
    let live = json!({"spec": {"selector": {"matchLabels": {"controller-uid": "u"}},
        "template": {"metadata": {"labels": {"job-name": "j", "controller-uid": "u"}}}}});
    assert_eq!(paths("jobs.batch", job, live), [""; 0]);
    // An owner that a controller added.
    let owned = |owners: Value| json!({"metadata": {"ownerReferences": owners}});
    let (one, two) = (json!([{"uid": "a"}]), json!([{"uid": "b"}, {"uid": "a", "name": "x"}]));
    assert_eq!(paths("secrets", owned(one.clone()), owned(two.clone())), [""; 0]);
    assert_eq!(paths("secrets", owned(two), owned(one)), ["metadata.ownerReferences[0]"]);
}

#[test]
fn what_is_no_object_differs_from_one() {
    assert_eq!(differing("pods", &json!(null), &json!({})).count, 1);
    assert_eq!(differing("pods", &json!([1]), &json!([1])).count, 0);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("spec|metadata|labels|selector|data|[a-c]{1,2}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// An object that is returned as it was sent has no difference: a second restore changes nothing.
    #[test]
    fn an_object_is_what_it_is(object in value(), kind in 0..4_usize) {
        let resource = ["deployments.apps", "configmaps", "widgets.example.com", "pods"][kind];
        let mut ours = object;
        clean(resource, &mut ours, &Context { status: false, has_volume: &|_| false });
        prop_assert_eq!(differing(resource, &ours, &ours), Fields::default());
    }

    /// A changed leaf is found, with its path.
    #[test]
    fn a_change_is_found(key in "[a-z]{1,8}", old in "[a-c]{1,3}", new in "[x-z]{1,3}", rest in value()) {
        let make = |value: &str| json!({"spec": {"a": [{key.clone(): value}], "b": rest.clone()}});
        let fields = differing("deployments.apps", &make(&old), &make(&new));
        prop_assert_eq!(fields.paths, [format!("spec.a[0].{key}")]);
    }
}

#[test]
fn an_empty_selector_is_not_a_missing_one() {
    let policy =
        |peer: Value| json!({"metadata": {"name": "x"}, "spec": {"ingress": [{"from": [peer]}], "podSelector": {}}});
    let own = json!({"podSelector": {"matchLabels": {"a": "b"}}});
    let every = json!({"podSelector": {"matchLabels": {"a": "b"}}, "namespaceSelector": {}});
    let kind = "networkpolicies.networking.k8s.io";
    let expected = ["spec.ingress[0].from[0].namespaceSelector"];
    assert_eq!(paths(kind, policy(own.clone()), policy(every.clone())), expected, "all namespaces, not this one");
    assert_eq!(paths(kind, policy(every.clone()), policy(own)), expected);
    assert_eq!(paths(kind, policy(every.clone()), policy(every)), Vec::<String>::new());
    let spec = |spec: Value| json!({"metadata": {"name": "x"}, "spec": spec});
    let (one, none) = (spec(json!({"a": 1, "selfSigned": {}})), spec(json!({"a": 1})));
    assert_eq!(paths("issuers.cert-manager.io", one, none), ["spec.selfSigned"]);
    let (one, none) = (spec(json!({"replicas": 1, "strategy": {}})), spec(json!({"replicas": 1})));
    assert_eq!(paths("deployments.apps", one, none), Vec::<String>::new());
}
