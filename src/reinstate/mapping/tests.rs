use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|option| (*option).to_owned()).collect()
}

fn mapping() -> Mapping {
    Mapping::new(&owned(&["shop:shop-2", "other"]), &owned(&["gp2:gp3"])).unwrap()
}

#[test]
fn options_are_read_or_refused_with_their_reason() {
    let mapping = mapping();
    assert_eq!(mapping.namespaces, BTreeMap::from([("shop".into(), "shop-2".into())]));
    assert_eq!(mapping.classes, BTreeMap::from([("gp2".into(), "gp3".into())]));
    assert_eq!(Mapping::chosen(&owned(&["shop:shop-2", "team-*"])), ["shop", "team-*"]);
    assert_eq!((mapping.namespace("shop"), mapping.namespace("other")), ("shop-2", "other"));
    assert_eq!(mapping.old_namespaces(), ["shop"]);
    // Two that are exchanged, and one option twice.
    assert!(Mapping::new(&owned(&["a:b", "b:a", "a:b"]), &[]).is_ok());
    assert!(Mapping::new(&[], &owned(&["a:b", "c:b", "ebs.x-1:b"])).is_ok(), "classes may become one");
    for (namespaces, classes, why) in [
        (&["a:"][..], &[][..], "TO is not a name"),
        (&[":a"], &[], "FROM is not a name"),
        (&[""], &[], "is empty"),
        (&["a:b:c"], &[], "TO is not a name"),
        (&["a:B"], &[], "TO is not a name"),
        (&["a:b."], &[], "TO is not a name"),
        (&["team-*:x"], &[], "maps a glob"),
        (&["a:b", "a:c"], &[], "\"b\" and to \"c\""),
        (&["a:c", "b:c"], &[], "one namespace, \"c\""),
        (&["a:b", "b"], &[], "one namespace, \"b\""),
        (&[], &["gp2"], "is not of the form FROM:TO"),
        (&[], &["gp2:"], "TO is not a name"),
    ] {
        let error = Mapping::new(&owned(namespaces), &owned(classes)).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let restored = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert!(mapping.check(&restored(&["shop", "other"])).is_ok());
    assert!(mapping.check(&restored(&["shop", "shop-2"])).is_err());
}

/// An object with this namespace and class; the last one makes a reference to a service.
type Make = fn(&str, &str, &dyn Fn(&str) -> Value) -> Value;

#[test]
fn every_field_that_is_known_to_name_one_follows() {
    let service = |namespace: &str| json!({"namespace": namespace, "name": "hook"});
    let rows: [(&str, Make); 9] = [
        (
            "namespaces",
            |namespace, _, _| json!({"metadata": {"name": namespace, "labels": {"kubernetes.io/metadata.name": namespace}}}),
        ),
        (
            "widgets.example.com",
            |namespace, _, _| json!({"metadata": {"namespace": namespace}, "spec": {"storageClassName": "gp2"}}),
        ),
        ("rolebindings.rbac.authorization.k8s.io", |namespace, _, _| {
            json!({"metadata": {"namespace": namespace}, "subjects": [
            {"kind": "ServiceAccount", "name": "shop", "namespace": namespace},
            {"kind": "ServiceAccount", "name": "x", "namespace": "other"},
            {"kind": "Group", "name": format!("system:serviceaccounts:{namespace}")},
            {"kind": "Group", "name": "system:serviceaccounts"},
            {"kind": "User", "name": format!("system:serviceaccount:{namespace}:ci")},
            {"kind": "User", "name": "shop"}]})
        }),
        ("persistentvolumes", |namespace, class, _| {
            json!({"metadata": {"name": "shop"}, "spec": {
            "claimRef": {"namespace": namespace, "name": "shop"}, "storageClassName": class}})
        }),
        ("persistentvolumeclaims", |namespace, class, _| {
            json!({"metadata": {"namespace": namespace, "annotations": {
            "volume.beta.kubernetes.io/storage-class": class}}, "spec": {"storageClassName": class}})
        }),
        ("statefulsets.apps", |namespace, class, _| {
            json!({"metadata": {"namespace": namespace}, "spec": {
            "volumeClaimTemplates": [{"spec": {"storageClassName": class}}],
            "template": {"spec": {"volumes": [{"ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": class}}}}]}}}})
        }),
        ("mutatingwebhookconfigurations.admissionregistration.k8s.io", |namespace, _, service| {
            json!({"webhooks": [
            {"clientConfig": {"service": service(namespace)}}, {"clientConfig": {"url": "https://x"}}]})
        }),
        (
            "apiservices.apiregistration.k8s.io",
            |namespace, _, service| json!({"spec": {"service": service(namespace)}}),
        ),
        ("customresourcedefinitions.apiextensions.k8s.io", |namespace, _, service| {
            json!({"spec": {"conversion": {"webhook": {
            "clientConfig": {"service": service(namespace)}}}}})
        }),
    ];
    for (resource, make) in rows {
        let mut object = make("shop", "gp2", &service);
        assert!(mapping().apply(resource, &mut object));
        assert!(!mapping().apply(resource, &mut object), "{resource}: once is enough");
        assert_eq!(object, make("shop-2", "gp3", &service), "{resource}");
    }
    for odd in [json!(null), json!({"metadata": {"namespace": ["shop"]}, "subjects": {"a": 1}, "spec": 7})] {
        let mut object = odd.clone();
        assert!(!mapping().apply("rolebindings.rbac.authorization.k8s.io", &mut object));
        assert_eq!(object, odd);
    }
}

#[test]
fn what_still_names_the_old_one_is_found_and_what_does_not_is_not() {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "shop", "namespace": "shop-2", "labels": {"app": "shop"}, "annotations": {
            "meta.helm.sh/release-namespace": "shop", "cert-manager.io/inject-ca-from": "shop/cert",
            "kubectl.kubernetes.io/last-applied-configuration": "shop/", "image": "registry.example.com/shop/web:1"},
            "managedFields": [{"namespace": "shop"}]},
        "spec": {
            "host": "db.shop.svc.cluster.local:5432", "url": "https://api/v1/namespaces/shop/pods", "other": "db.workshop.svc",
            "user": "system:serviceaccount:shop:ci", "text": "workshop/x", "ref": {"namespace": "shop", "name": "shop"},
            "env": [{"name": "POD_NAMESPACE", "value": "shop"}, {"name": "APP", "value": "shop"}],
            "affinity": {"namespaces": ["other", "shop"]},
            "selector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"},
                "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop"]},
                    {"key": "app", "values": ["shop"]}]},
        },
        "status": {"namespace": "shop"},
    });
    let expected = [
        "metadata.annotations[\"cert-manager.io/inject-ca-from\"]",
        "metadata.annotations[\"meta.helm.sh/release-namespace\"]",
        "spec.affinity.namespaces[1]",
        "spec.env[0].value",
        "spec.host",
        "spec.ref.namespace",
        "spec.selector.matchExpressions[0].values[0]",
        "spec.selector.matchLabels[\"kubernetes.io/metadata.name\"]",
        "spec.url",
        "spec.user",
    ];
    let mut found = mentions(&object, &["shop"]);
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(mentions(&object, &[]), [""; 0]);

    let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {
        "url": STANDARD.encode("postgres://u:hunter2@db.shop.svc/x"), "other": STANDARD.encode([0, 255]), "odd": "%"}});
    assert_eq!(mentions(&secret, &["shop"]), ["data.url"]);

    let many: Vec<String> = (0..1000).map(|n| format!("shop/{n}")).collect();
    assert_eq!(mentions(&json!({"spec": many}), &["shop"]).len(), MOST_MENTIONS);
}

proptest! {
    #[test]
    fn a_mapping_and_its_reverse_are_nothing(from in "[a-c]{1,2}", to in "[x-z]{1,2}", other in "[a-c]{1,3}") {
        let there = Mapping::new(&[format!("{from}:{to}")], &[]).unwrap();
        let back = Mapping::new(&[format!("{to}:{from}")], &[]).unwrap();
        let object = json!({"metadata": {"namespace": from}, "subjects": [
            {"kind": "ServiceAccount", "namespace": other}, {"kind": "Group", "name": format!("system:serviceaccounts:{from}")}]});
        let mut mapped = object.clone();
        there.apply("rolebindings.rbac.authorization.k8s.io", &mut mapped);
        prop_assert_eq!(mapped["metadata"]["namespace"].as_str(), Some(to.as_str()));
        back.apply("rolebindings.rbac.authorization.k8s.io", &mut mapped);
        prop_assert_eq!(mapped, object);
    }
}
