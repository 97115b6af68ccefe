use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn document(text: &str) -> Document {
    Document { bytes: Bytes::copy_from_slice(text.as_bytes()), content_type: String::new() }
}

fn names(served: &Served) -> Vec<String> {
    let name = |kind: &ServedKind| format!("{}/{}", kind.resource.name(), kind.resource.version);
    served.kinds.iter().map(name).collect()
}

const AGGREGATED: &str = r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","metadata":{},"items":[
 {"metadata":{"name":"apps"},"versions":[{"version":"v1","freshness":"Current","resources":[
   {"resource":"deployments","responseKind":{"group":"","version":"","kind":"Deployment"},"scope":"Namespaced","verbs":["create","get","list"],
    "subresources":[{"subresource":"scale","verbs":["get"]}]}]}]},
 {"metadata":{"name":"autoscaling"},"versions":[
   {"version":"v2","freshness":"Current","resources":[{"resource":"horizontalpodautoscalers","responseKind":{"kind":"HorizontalPodAutoscaler"},"scope":"Namespaced","verbs":["list"]}]},
   {"version":"v1","freshness":"Current","resources":[{"resource":"horizontalpodautoscalers","responseKind":{"kind":"HorizontalPodAutoscaler"},"scope":"Namespaced","verbs":["list"]},
     {"resource":"olds","responseKind":{"kind":"Old"},"scope":"Cluster","verbs":["list"]}]}]},
 {"metadata":{"name":"metrics.k8s.io"},"versions":[{"version":"v1beta1","freshness":"Stale"}]},
 {"metadata":{"name":"half.example.com"},"versions":[{"version":"v1","freshness":"Stale","resources":[{"resource":"halves","responseKind":{"kind":"Half"},"scope":"Cluster","verbs":["list"]}]}]}
]}"#;

#[test]
fn the_aggregated_form() {
    let mut served = Served::default();
    assert_eq!(served.root(&document(AGGREGATED)).unwrap(), RootForm::Aggregated);
    let expected = [
        "deployments.apps/v1",
        "horizontalpodautoscalers.autoscaling/v2",
        "horizontalpodautoscalers.autoscaling/v1",
        "olds.autoscaling/v1",
        "halves.half.example.com/v1",
    ];
    assert_eq!(names(&served), expected);
    let preferred: Vec<bool> = served.kinds.iter().map(|kind| kind.is_preferred).collect();
    assert_eq!(preferred, [true, true, false, true, true]);
    assert_eq!(served.groups, ["apps", "autoscaling"].map(str::to_owned).into());
    assert_eq!(served.missing, ["metrics.k8s.io/v1beta1".to_owned()].into(), "a dead group is recorded");
    assert_eq!(served.stale, ["half.example.com/v1".to_owned()].into());
    assert_eq!(served.odd, Vec::<String>::new());
    assert_eq!(served.kinds[0].resource.scope, Scope::Namespaced);
    assert_eq!(served.kinds[3].resource.scope, Scope::Cluster);
}

#[test]
fn the_old_form() {
    let mut served = Served::default();
    let core = served.root(&document(r#"{"kind":"APIVersions","versions":["v1"]}"#)).unwrap();
    assert_eq!(core, RootForm::Old(vec![Group { name: String::new(), versions: vec!["v1".into()] }]));
    let groups = r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[
        {"name":"batch","versions":[{"groupVersion":"batch/v1beta1","version":"v1beta1"},{"groupVersion":"batch/v1","version":"v1"}],"preferredVersion":{"groupVersion":"batch/v1"}},
        {"name":"dead.example.com","versions":[{"groupVersion":"dead.example.com/v1"}],"preferredVersion":{"groupVersion":"dead.example.com/v1"}}]}"#;
    let RootForm::Old(groups) = served.root(&document(groups)).unwrap() else { panic!() };
    assert_eq!(groups[0].versions, ["batch/v1", "batch/v1beta1"], "the preferred version first");
    let core = r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[
        {"name":"pods","namespaced":true,"kind":"Pod","verbs":["list","get"]},{"name":"pods/log","namespaced":true,"kind":"Pod","verbs":["get"]},
        {"name":"nodes","namespaced":false,"kind":"Node","verbs":["list"]}]}"#;
    served.version("", "v1", Some(&document(core))).unwrap();
    let jobs = |version: &str| {
        format!(
            r#"{{"kind":"APIResourceList","groupVersion":"batch/{version}","resources":[{{"name":"cronjobs","namespaced":true,"kind":"CronJob","verbs":["list"]}}]}}"#
        )
    };
    served.version("batch", "batch/v1", Some(&document(&jobs("v1")))).unwrap();
    served.version("batch", "batch/v1beta1", Some(&document(&jobs("v1beta1")))).unwrap();
    served.version("dead.example.com", "dead.example.com/v1", None).unwrap();
    assert_eq!(names(&served), ["pods/v1", "nodes/v1", "cronjobs.batch/v1", "cronjobs.batch/v1beta1"]);
    assert_eq!(served.kinds.iter().map(|kind| kind.is_preferred).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(served.missing, ["dead.example.com/v1".to_owned()].into());
    assert_eq!(served.groups, ["", "batch"].map(str::to_owned).into());
}

#[test]
fn names_that_no_server_should_send_are_ignored_and_told() {
    let resource = |plural: &str, kind: &str| {
        format!(r#"{{"resource":{plural:?},"responseKind":{{"kind":{kind:?}}},"scope":"Cluster","verbs":["list"]}}"#)
    };
    let text = format!(
        r#"{{"kind":"APIGroupDiscoveryList","items":[{{"metadata":{{"name":"../etc"}},"versions":[]}},
        {{"metadata":{{"name":"a.b"}},"versions":[{{"version":"v1/../x","resources":[]}},{{"version":"v1","resources":[{},{},{},{},{}]}}]}}]}}"#,
        resource("..", "A"),
        resource("a/b", "A"),
        resource("goods", "A B"),
        resource("goods", "Good"),
        resource("Goods", "Good"),
    );
    let mut served = Served::default();
    served.root(&document(&text)).unwrap();
    assert_eq!(names(&served), ["goods.a.b/v1"]);
    assert_eq!(served.odd.len(), 5, "{:?}", served.odd);
}

#[test]
fn what_is_not_discovery_is_refused() {
    for text in
        ["", "[]", "{}", "null", r#"{"kind":"Status"}"#, r#"{"kind":"APIGroupDiscoveryList","items":{}}"#, "<html>"]
    {
        assert!(Served::default().root(&document(text)).is_err(), "{text}");
        assert!(Served::default().version("a", "a/v1", Some(&document(text))).is_err(), "{text}");
    }
    let many: Vec<String> =
        (0..=MAX_RESOURCES).map(|n| format!(r#"{{"resource":"r{n}","responseKind":{{"kind":"R"}}}}"#)).collect();
    let text = format!(
        r#"{{"kind":"APIGroupDiscoveryList","items":[{{"metadata":{{"name":"a"}},"versions":[{{"version":"v1","resources":[{}]}}]}}]}}"#,
        many.join(",")
    );
    assert_eq!(Served::default().root(&document(&text)), Err(Fault::TooMany(MAX_RESOURCES, "resources")));
}

proptest! {
    #[test]
    fn damaged_documents_are_an_answer_or_a_fault(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = AGGREGATED.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut served = Served::default();
        let _ = served.root(&Document { bytes: bytes.into(), content_type: String::new() });
        for kind in &served.kinds {
            prop_assert!(!kind.resource.path(None).contains(".."), "{:?}", kind.resource);
        }
    }
}
