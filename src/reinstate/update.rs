//! The patch that makes a live object equal to the one in the backup. Pure.

use serde_json::{Map, Value};

use super::compare::{SELECTORS, is_exact, is_ignored, sides};

/// The JSON merge patch after which [`super::compare::differing`] finds nothing. `ours` is mapped, cleaned and relinked. Fields of the
/// live object alone stay where that comparison allows them. The patch carries the live resourceVersion, so that a concurrent write makes
/// it a conflict.
#[must_use]
pub fn patch(resource: &str, ours: &Value, live: &Value) -> Value {
    let exact = is_exact(resource, ours);
    let (mine, theirs) = sides(resource, ours, live);
    let (Value::Object(mine), Value::Object(theirs)) = (&*mine, &*theirs) else { return Value::Object(Map::new()) };
    let mut patch = changes(mine, theirs, &|key| match key {
        "apiVersion" | "kind" | "metadata" | "status" => None,
        // Controllers add their own.
        "secrets" | "imagePullSecrets" if resource == "serviceaccounts" => None,
        key if is_ignored(resource, key, mine) => None,
        key => Some(exact || SELECTORS.contains(&key)),
    });
    keep_bundles(&mut patch, live);
    let metadata =
        |object: &Map<String, Value>| object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    let (saved, now) = (metadata(mine), metadata(theirs));
    let mut changed = changes(&saved, &now, &|key| matches!(key, "labels" | "annotations").then_some(false));
    if let Some(owners) = more_owners(saved.get("ownerReferences"), now.get("ownerReferences")) {
        changed.insert("ownerReferences".to_owned(), owners);
    }
    if let Some(version) = live.pointer("/metadata/resourceVersion") {
        changed.insert("resourceVersion".to_owned(), version.clone());
    }
    patch.insert("metadata".to_owned(), Value::Object(changed));
    Value::Object(patch)
}

/// Gives each webhook in the patch the certificate that the live one of its name has: the program that answers writes it there.
fn keep_bundles(patch: &mut Map<String, Value>, live: &Value) {
    let Some(Value::Array(webhooks)) = patch.get_mut("webhooks") else { return };
    let have = live["webhooks"].as_array();
    for webhook in webhooks {
        let same = have.into_iter().flatten().find(|live| live["name"] == webhook["name"]);
        let bundle = same.and_then(|live| live.pointer("/clientConfig/caBundle"));
        if let (Some(bundle), Some(config)) = (bundle, webhook.get_mut("clientConfig").and_then(Value::as_object_mut)) {
            config.insert("caBundle".to_owned(), bundle.clone());
        }
    }
}

/// The live owners and those of ours that are not among them; `None`: there are none of these.
fn more_owners(ours: Option<&Value>, live: Option<&Value>) -> Option<Value> {
    let mut owners = live.and_then(Value::as_array).cloned().unwrap_or_default();
    let before = owners.len();
    for owner in ours.and_then(Value::as_array).into_iter().flatten() {
        if !owners.iter().any(|live| live["uid"] == owner["uid"]) {
            owners.push(owner.clone());
        }
    }
    (owners.len() > before).then_some(Value::Array(owners))
}

/// The parts of `ours` that differ in `live`. `exact`, by key: whether fields that only `live` has are removed; `None` skips the key.
fn changes(
    ours: &Map<String, Value>,
    live: &Map<String, Value>,
    exact: &dyn Fn(&str) -> Option<bool>,
) -> Map<String, Value> {
    let mut changes = Map::new();
    for (key, value) in ours {
        let Some(exact) = exact(key) else { continue };
        let change = match (value, live.get(key)) {
            (_, Some(live)) if live == value => continue,
            (Value::Object(ours), Some(Value::Object(live))) => {
                let within = self::changes(ours, live, &|key| Some(exact || SELECTORS.contains(&key)));
                if within.is_empty() {
                    continue;
                }
                Value::Object(within)
            }
            // A list is replaced whole, as a merge patch does.
            _ => value.clone(),
        };
        changes.insert(key.clone(), change);
    }
    for key in live.keys().filter(|key| !ours.contains_key(*key) && exact(key) == Some(true)) {
        changes.insert(key.clone(), Value::Null);
    }
    changes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::reinstate::compare::differing;

    /// RFC 7386.
    fn merge(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            patch.clone_into(target);
            return;
        };
        if !target.is_object() {
            *target = json!({});
        }
        let target = target.as_object_mut().unwrap();
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }

    #[test]
    fn after_the_patch_nothing_differs() {
        let live_metadata = json!({ "name": "x", "labels": { "a": "2", "z": "" }, "resourceVersion": "7", "uid": "u" });
        let cases = [
            (
                "configmaps",
                json!({ "data": { "a": "1" } }),
                json!({ "data": { "a": "2", "b": "3" }, "binaryData": { "c": "" } }),
            ),
            (
                "deployments.apps",
                json!({ "spec": { "replicas": 1, "list": [1, 2] } }),
                json!({ "spec": { "replicas": 2, "list": [1], "paused": true } }),
            ),
            (
                "services",
                json!({ "spec": { "selector": { "a": "b" } } }),
                json!({ "spec": { "selector": { "a": "b", "c": "d" }, "clusterIP": "10.0.0.1" } }),
            ),
            (
                "widgets.example.com",
                json!({ "spec": { "a": { "b": 1 } } }),
                json!({ "spec": { "a": { "b": 1, "c": 2 }, "d": 3 }, "status": {} }),
            ),
        ];
        for (resource, mut ours, mut live) in cases {
            ours["metadata"] = json!({ "name": "x", "labels": { "a": "1" } });
            live["metadata"] = live_metadata.clone();
            assert_ne!(differing(resource, &ours, &live).count, 0, "{resource}");
            let patch = patch(resource, &ours, &live);
            assert_eq!(patch["metadata"], json!({ "labels": { "a": "1" }, "resourceVersion": "7" }));
            let mut after = live.clone();
            merge(&mut after, &patch);
            assert_eq!(differing(resource, &ours, &after).paths, Vec::<String>::new(), "{resource}: {patch}");
            assert_eq!(after["metadata"]["labels"]["z"], "", "a label that was added later stays");
        }
        let service =
            patch("services", &json!({ "spec": { "ports": [] } }), &json!({ "spec": { "clusterIP": "10.0.0.1" } }));
        assert!(service["spec"].get("clusterIP").is_none(), "{service}");
        let config = |timeout: i64, bundle: &str| {
            let client = json!({ "url": "https://a", "caBundle": bundle });
            json!({ "metadata": {}, "webhooks": [{ "name": "a.example.com", "timeoutSeconds": timeout, "clientConfig": client }] })
        };
        let kind = "validatingwebhookconfigurations.admissionregistration.k8s.io";
        let of_webhook = patch(kind, &config(5, "b2xk"), &config(10, "bGl2ZQ=="));
        assert_eq!(of_webhook["webhooks"][0]["clientConfig"]["caBundle"], "bGl2ZQ==", "{of_webhook}");
        let owned = |uids: &[&str]| {
            let owners: Vec<Value> = uids.iter().map(|uid| json!({ "uid": uid })).collect();
            json!({ "data": {}, "metadata": { "ownerReferences": owners } })
        };
        let of_owners = patch("configmaps", &owned(&["1"]), &owned(&["2"]));
        assert_eq!(of_owners["metadata"], owned(&["2", "1"])["metadata"], "owners are added");
        for odd in [json!(null), json!([1]), json!("text")] {
            assert_eq!(patch("configmaps", &odd, &odd), json!({}));
        }
    }
}
