//! Objects are made, changed and deleted: the same answers from the fake and from a real server.

use std::time::Duration;

use penstock::cluster::{Cluster as _, Effect, Failure, Object, Resource, Scope, Write};
use penstock::error::{Class, Retry};
use penstock::kube::Client;
use serde_json::{Value, json};

use super::{Admin, client, of_environment, resource};
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, denial};
use crate::servers::Servers;

/// One kind in one namespace.
pub(super) struct Kind<'a> {
    pub(super) client: &'a Client,
    pub(super) resource: Resource,
    pub(super) namespace: Option<String>,
}

impl Kind<'_> {
    async fn write(&self, name: &str, write: Write<'_>, effect: Effect) -> Result<Value, Failure> {
        let object = Object { resource: &self.resource, namespace: self.namespace.as_deref(), name };
        self.client.write(&object, &write, effect).await.map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    /// With name and kind.
    fn of(&self, name: &str, more: Value) -> Value {
        let mut object = json!({ "apiVersion": self.resource.api_version(), "kind": self.resource.kind, "metadata": { "name": name } });
        let Value::Object(more) = more else { unreachable!() };
        for (field, value) in more {
            match field.as_str() {
                "metadata" => object["metadata"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone()),
                _ => object[field] = value,
            }
        }
        object
    }

    pub(super) async fn create(&self, name: &str, more: Value, effect: Effect) -> Result<Value, Failure> {
        self.write(name, Write::Create(self.of(name, more).to_string().as_bytes()), effect).await
    }

    async fn replace(&self, name: &str, more: Value) -> Result<Value, Failure> {
        self.write(name, Write::Replace(self.of(name, more).to_string().as_bytes()), Effect::Real).await
    }

    pub(super) async fn merge(&self, name: &str, patch: Value) -> Result<Value, Failure> {
        self.write(name, Write::Merge(patch.to_string().as_bytes()), Effect::Real).await
    }

    async fn get(&self, name: &str) -> Option<Value> {
        let object = Object { resource: &self.resource, namespace: self.namespace.as_deref(), name };
        match self.client.get(&object).await {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
            Err(failure) => {
                assert_eq!(failure.error.class, Class::NotFound, "{failure}");
                None
            }
        }
    }
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Final, of that class and HTTP status.
pub(super) fn refused(answer: Result<Value, Failure>, status: u16, class: Class) -> Failure {
    let failure = answer.unwrap_err();
    assert_eq!((failure.error.status, failure.error.class), (Some(status), class), "{failure}");
    assert_eq!(failure.error.class.retry(), Retry::No);
    failure
}

/// What holds on every server; `p` is the suite's prefix.
pub(super) async fn conform(client: &Client, admin: &Admin, p: &str) {
    let namespaces = Resource { scope: Scope::Cluster, ..resource("", "namespaces", "Namespace") };
    let namespaces = Kind { client, resource: namespaces, namespace: None };
    let namespace = format!("{p}-w");
    namespaces.create(&namespace, json!({}), Effect::Real).await.unwrap();
    let maps = Kind { client, resource: resource("", "configmaps", "ConfigMap"), namespace: Some(namespace.clone()) };
    define(admin, p).await;
    let resource = resource(&format!("{p}.test"), "gadgets", "Gadget");
    let gadgets = Kind { client, resource, namespace: Some(namespace.clone()) };

    what_is_made_is_the_server_s(&maps).await;
    managed_fields_need_a_second_request(&maps).await;
    managed_fields_need_a_second_request(&gadgets).await;
    a_dry_run_leaves_nothing(&maps).await;
    what_cannot_be_made_is_refused(client, &maps).await;
    a_change_is_of_what_is_there(&maps).await;
    custom_resources_have_generation_and_status(&gadgets).await;
    only_the_object_meant_is_deleted(&maps).await;
    finalizers_hold_an_object(&gadgets).await;
    too_large_is_final(&maps, &gadgets).await;
    a_namespace_that_goes_takes_nothing(&namespaces, client, p).await;
}

async fn define(admin: &Admin, p: &str) {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "spec": any, "status": any } });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": format!("gadgets.{p}.test") },
        "spec": { "group": format!("{p}.test"), "scope": "Namespaced", "names": { "plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "subresources": { "status": {} }, "schema": { "openAPIV3Schema": schema } }] }
    });
    admin.make("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    admin.wait_for(&format!("/apis/{p}.test/v1/namespaces/{p}-w/gadgets"), Result::is_ok).await;
}

async fn what_is_made_is_the_server_s(maps: &Kind<'_>) {
    let old = json!({ "uid": "old", "creationTimestamp": "2001-01-01T00:00:00Z", "selfLink": "/x", "labels": { "a": "b" }, "finalizers": [] });
    let made = maps.create("made", json!({ "metadata": old, "data": { "a": "1" } }), Effect::Real).await.unwrap();
    let metadata = &made["metadata"];
    assert!(metadata["uid"] != "old" && metadata["uid"].is_string() && !version(&made).is_empty(), "{made}");
    assert!(metadata["creationTimestamp"] != "2001-01-01T00:00:00Z" && metadata["creationTimestamp"].is_string());
    assert_eq!(
        (&metadata["labels"]["a"], &made["data"]["a"], &made["kind"]),
        (&"b".into(), &"1".into(), &"ConfigMap".into())
    );
    assert_eq!(maps.get("made").await.unwrap(), made);
    for effect in [Effect::Real, Effect::DryRun] {
        let again = refused(maps.create("made", json!({}), effect).await, 409, Class::Conflict);
        assert!(again.is_there_already() && !again.is_being_deleted() && !again.is_outdated());
    }
}

/// Those that a POST carries are lost: every field is new, so the one who makes the object takes it over from all others.
async fn managed_fields_need_a_second_request(kind: &Kind<'_>) {
    let (field, api) = (if kind.resource.group.is_empty() { "data" } else { "spec" }, kind.resource.api_version());
    let others = json!([{ "manager": "other", "operation": "Apply", "apiVersion": api, "time": "2020-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": { format!("f:{field}"): { "f:a": {} } } }]);
    let with = json!({ "metadata": { "managedFields": others }, field: { "a": "1", "b": "2" } });
    let made = kind.create("managed", with, Effect::Real).await.unwrap();
    let managers = |object: &Value| -> Vec<String> {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        entries.map(|entry| entry["manager"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(managers(&made), ["penstock"]);
    let patch = json!({ "metadata": { "managedFields": others, "resourceVersion": version(&made) } });
    let patched = kind.merge("managed", patch.clone()).await.unwrap();
    assert_eq!(patched["metadata"]["managedFields"], others, "as they were, and none of ours");
    assert_ne!(version(&patched), version(&made));
    let object = kind.of("in-its-name", json!({ field: { "a": "1" } })).to_string();
    let write = Write::CreateAs { object: object.as_bytes(), manager: "kubectl-create" };
    let in_its_name = kind.write("in-its-name", write, Effect::Real).await.unwrap();
    let entry = &in_its_name["metadata"]["managedFields"][0];
    assert_eq!(
        (managers(&in_its_name), &entry["operation"], &entry["apiVersion"]),
        (vec!["kubectl-create".to_owned()], &json!("Update"), &json!(api))
    );
    assert_eq!(entry["fieldsV1"], json!({ format!("f:{field}"): { ".": {}, "f:a": {} } }));
    // Once more changes nothing.
    let again = kind.merge("managed", json!({ "metadata": { "managedFields": others } })).await.unwrap();
    assert_eq!(again, patched);
    // A field that changes is ours again; the others' stay.
    let changed = kind.merge("managed", json!({ field: { "b": "3" } })).await.unwrap();
    let mut both = managers(&changed);
    both.sort();
    assert_eq!(both, ["other", "penstock"]);
    // One empty entry: nobody's.
    let none = kind.merge("managed", json!({ "metadata": { "managedFields": [{}] } })).await.unwrap();
    assert_eq!(managers(&none), Vec::<String>::new());
}

async fn a_dry_run_leaves_nothing(maps: &Kind<'_>) {
    let judged = maps.create("dry", json!({ "data": { "a": "1" } }), Effect::DryRun).await.unwrap();
    assert!(version(&judged).is_empty() && judged["metadata"]["uid"].is_string(), "{judged}");
    assert_eq!(maps.get("dry").await, None);
    let before = maps.get("made").await.unwrap();
    let patch = json!({ "data": { "z": "1" } }).to_string();
    let judged = maps.write("made", Write::Merge(patch.as_bytes()), Effect::DryRun).await.unwrap();
    assert_eq!(judged["data"]["z"], "1");
    let uid = before["metadata"]["uid"].as_str().unwrap();
    maps.write("made", Write::Delete { uid }, Effect::DryRun).await.unwrap();
    assert_eq!(maps.get("made").await.unwrap(), before);
}

async fn what_cannot_be_made_is_refused(client: &Client, maps: &Kind<'_>) {
    let nowhere = Kind { client, resource: maps.resource.clone(), namespace: Some("penstock-nowhere".to_owned()) };
    for effect in [Effect::Real, Effect::DryRun] {
        let missing = refused(nowhere.create("x", json!({}), effect).await, 404, Class::NotFound);
        assert!(missing.is_namespace_missing() && !missing.is_kind_missing());
    }
    let other = json!({ "metadata": { "namespace": "default" } });
    refused(maps.create("x", other, Effect::Real).await, 400, Class::Config);
    let versioned = json!({ "metadata": { "resourceVersion": "5" } });
    refused(maps.create("x", versioned, Effect::Real).await, 500, Class::Internal);
    refused(maps.write("x", Write::Create(b"{\"metadata\":"), Effect::Real).await, 400, Class::Config);
    let nameless = refused(maps.create("", json!({}), Effect::Real).await, 422, Class::Config);
    let expected = "metadata.name: required value: name or generateName is required";
    assert_eq!(nameless.error.message, expected);
    for (group, plural) in [("nothing.test", "things"), ("", "things")] {
        let unknown = Kind { client, resource: resource(group, plural, "Thing"), namespace: maps.namespace.clone() };
        let missing = refused(unknown.create("x", json!({}), Effect::Real).await, 404, Class::NotFound);
        assert!(missing.is_kind_missing() && !missing.is_namespace_missing());
    }
}

async fn a_change_is_of_what_is_there(maps: &Kind<'_>) {
    let made = maps.create("changed", json!({ "data": { "a": "1", "b": "2" } }), Effect::Real).await.unwrap();
    let next = |version: &str| json!({ "metadata": { "resourceVersion": version }, "data": { "c": "3" } });
    let changed = maps.replace("changed", next(version(&made))).await.unwrap();
    assert_eq!((&changed["data"], &changed["metadata"]["uid"]), (&json!({ "c": "3" }), &made["metadata"]["uid"]));
    assert!(refused(maps.replace("changed", next(version(&made))).await, 409, Class::Conflict).is_outdated());
    assert_eq!(maps.replace("changed", next(version(&changed))).await.unwrap(), changed, "nothing differs");
    let other = json!({ "metadata": { "uid": "other" }, "data": {} });
    assert!(refused(maps.replace("changed", other).await, 409, Class::Conflict).is_outdated());
    // Most built-in kinds are replaced without a resourceVersion, whatever is there.
    maps.replace("changed", json!({ "data": { "c": "4", "d": "5" } })).await.unwrap();

    let merged = maps.merge("changed", json!({ "data": { "c": null, "e": "6" } })).await.unwrap();
    assert_eq!(merged["data"], json!({ "d": "5", "e": "6" }));
    let old = json!({ "metadata": { "resourceVersion": version(&made) }, "data": { "f": "7" } });
    assert!(refused(maps.merge("changed", old).await, 409, Class::Conflict).is_outdated());
    for absent in [maps.merge("absent", json!({})).await, maps.replace("absent", json!({})).await] {
        let absent = refused(absent, 404, Class::NotFound);
        assert!(!absent.is_namespace_missing() && !absent.is_kind_missing());
    }
    let told = maps.of("changed", json!({})).to_string();
    let status = maps.write("changed", Write::Status(told.as_bytes()), Effect::Real);
    assert!(refused(status.await, 404, Class::NotFound).is_kind_missing(), "it has none");
}

async fn custom_resources_have_generation_and_status(gadgets: &Kind<'_>) {
    let given = json!({ "metadata": { "generation": 9 }, "spec": { "n": 1 }, "status": { "s": 1 } });
    let made = gadgets.create("g", given, Effect::Real).await.unwrap();
    assert_eq!((&made["metadata"]["generation"], made.get("status")), (&1.into(), None));
    let unversioned = refused(gadgets.replace("g", json!({ "spec": {} })).await, 422, Class::Config);
    let expected = "metadata.resourceVersion: invalid value: must be specified for an update";
    assert_eq!(unversioned.error.message, expected);
    let status = gadgets.of(
        "g",
        json!({ "metadata": { "resourceVersion": version(&made) }, "spec": { "n": 7 }, "status": { "s": 2 } }),
    );
    let told = gadgets.write("g", Write::Status(status.to_string().as_bytes()), Effect::Real).await.unwrap();
    assert_eq!(
        (&told["spec"]["n"], &told["status"]["s"], &told["metadata"]["generation"]),
        (&1.into(), &2.into(), &1.into())
    );
    let next = json!({ "metadata": { "resourceVersion": version(&told) }, "spec": { "n": 2 }, "status": { "s": 3 } });
    let changed = gadgets.replace("g", next).await.unwrap();
    assert_eq!((&changed["status"]["s"], &changed["metadata"]["generation"]), (&2.into(), &2.into()));
    let kindless =
        gadgets.write("h", Write::Create(br#"{"metadata":{"name":"h"},"spec":{"x":"hunter2"}}"#), Effect::Real);
    assert!(!refused(kindless.await, 400, Class::Config).error.message.contains("hunter2"));
}

async fn only_the_object_meant_is_deleted(maps: &Kind<'_>) {
    let made = maps.create("deleted", json!({}), Effect::Real).await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let delete = |uid| maps.write("deleted", Write::Delete { uid }, Effect::Real);
    assert!(refused(delete("00000000-0000-0000-0000-000000000000").await, 409, Class::Conflict).is_outdated());
    assert_eq!(maps.get("deleted").await.unwrap(), made);
    delete(uid).await.unwrap();
    assert_eq!(maps.get("deleted").await, None);
    refused(delete(uid).await, 404, Class::NotFound);
}

async fn finalizers_hold_an_object(gadgets: &Kind<'_>) {
    let held = json!({ "metadata": { "finalizers": ["penstock.test/x"] }, "spec": {} });
    let made = gadgets.create("held", held, Effect::Real).await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    gadgets.write("held", Write::Delete { uid }, Effect::Real).await.unwrap();
    let going = gadgets.get("held").await.unwrap();
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let again = refused(gadgets.create("held", json!({ "spec": {} }), Effect::Real).await, 409, Class::Conflict);
    assert!(again.is_there_already() && again.is_being_deleted());
    gadgets.merge("held", json!({ "metadata": { "finalizers": null } })).await.unwrap();
    assert_eq!(gadgets.get("held").await, None);
}

async fn too_large_is_final(maps: &Kind<'_>, gadgets: &Kind<'_>) {
    let of = |length| json!({ "x": "x".repeat(length) });
    let long = refused(maps.create("large", json!({ "data": of(1_100_000) }), Effect::Real).await, 422, Class::Config);
    assert_eq!(long.error.message, "[]: too long: must have at most 1048576 bytes");
    // etcd's limit is met only when it is written.
    gadgets.create("large", json!({ "spec": of(1_600_000) }), Effect::DryRun).await.unwrap();
    refused(gadgets.create("large", json!({ "spec": of(1_600_000) }), Effect::Real).await, 500, Class::Quota);
    for effect in [Effect::Real, Effect::DryRun] {
        refused(gadgets.create("large", json!({ "spec": of(3_200_000) }), effect).await, 413, Class::Quota);
    }
}

async fn a_namespace_that_goes_takes_nothing(namespaces: &Kind<'_>, client: &Client, p: &str) {
    let name = format!("{p}-going");
    let made = namespaces.create(&name, json!({}), Effect::Real).await.unwrap();
    let maps = Kind { client, resource: resource("", "configmaps", "ConfigMap"), namespace: Some(name.clone()) };
    let held = json!({ "metadata": { "finalizers": ["penstock.test/x"] } });
    maps.create("held", held, Effect::Real).await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    namespaces.write(&name, Write::Delete { uid }, Effect::Real).await.unwrap();
    for effect in [Effect::Real, Effect::DryRun] {
        // The admission of a busy server may see the deletion a moment later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let late = refused(maps.create("late", json!({}), effect).await, 403, Class::Conflict);
        assert!(late.is_namespace_terminating() && late.error.remedy.unwrap().contains("being deleted"));
    }
    let again = refused(namespaces.create(&name, json!({}), Effect::Real).await, 409, Class::Conflict);
    assert!(again.is_being_deleted());
    maps.merge("held", json!({ "metadata": { "finalizers": null } })).await.unwrap();
}

/// With a controller manager as well: the rest of the suite counts what its controllers make.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a Kubernetes API server: PENSTOCK_KUBECONFIG"]
async fn real() {
    let (kubeconfig, p) = (of_environment(), format!("t{}", std::process::id()));
    super::reality::a_real_server_alone(&kubeconfig, &p).await;
    conform(&client(&kubeconfig).await, &Admin::new(&kubeconfig).await, &p).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_of_the_fake_refuses_as_a_real_one() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let client = client(&fake.kubeconfig(&servers, "admin", ADMIN)).await;
    let maps = Kind {
        client: &client,
        resource: resource("", "configmaps", "ConfigMap"),
        namespace: Some("default".to_owned()),
    };
    fake.script(|_, seen, _| {
        let headers = vec![("content-type", "application/json".to_owned())];
        let body = denial("w.penstock.test", "no owner").to_string();
        seen.body.contains("refused").then_some(Fault::Answer { status: 400, headers, body })
    });
    maps.create("allowed", json!({}), Effect::Real).await.unwrap();
    let denied = refused(maps.create("refused", json!({}), Effect::Real).await, 400, Class::AccessDenied).error;
    assert_eq!(
        (denied.code, &*denied.message),
        (None, "admission webhook \"w.penstock.test\" denied the request: no owner")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fake_s_collector_takes_what_has_no_owner_left() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let path = "/api/v1/namespaces/default/configmaps";
    let owned = |name: &str, uid: &str| json!({ "metadata": { "name": name, "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": uid }] } });
    fake.make(path, &json!({ "metadata": { "name": "owner" } }));
    let client = client(&fake.kubeconfig(&servers, "admin", ADMIN)).await;
    let maps = Kind {
        client: &client,
        resource: resource("", "configmaps", "ConfigMap"),
        namespace: Some("default".to_owned()),
    };
    let uid = maps.get("owner").await.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
    fake.make(path, &owned("child", &uid));
    fake.make(path, &owned("orphan", "another-cluster's"));
    fake.state().collect();
    assert!(maps.get("child").await.is_some() && maps.get("orphan").await.is_none());
    fake.state().remove(&format!("{path}/owner"));
    fake.state().collect();
    assert!(maps.get("child").await.is_none());
}
