//! What changes a live object to be as in the backup. Pure.

use serde_json::{Map, Value};

/// Maps whose keys are the author's own: one that only the live object has was added since.
const EXACT: [&[&str]; 4] = [&["data"], &["binaryData"], &["metadata", "labels"], &["metadata", "annotations"]];

/// The JSON merge patch after which `live` has every field that `ours` (mapped, cleaned, relinked) has. Other live fields stay: they are
/// defaults and what controllers add, but in the maps of [`EXACT`], where they go. It carries the live resourceVersion, so that
/// somebody else's write in between is a conflict.
#[must_use]
pub fn patch(ours: &Value, live: &Value) -> Value {
    let mut patch = difference(ours, live).unwrap_or_else(|| Value::Object(Map::new()));
    for path in EXACT {
        remove(&mut patch, path, ours, live);
    }
    if let (Some(version), Some(patch)) = (live.pointer("/metadata/resourceVersion"), patch.as_object_mut())
        && let Some(metadata) = patch.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
    {
        metadata.insert("resourceVersion".to_owned(), version.clone());
    }
    patch
}

/// What of `ours` is not so in `live`; lists are replaced whole, as a merge patch does.
fn difference(ours: &Value, live: &Value) -> Option<Value> {
    let (Value::Object(ours), Value::Object(live)) = (ours, live) else {
        return (ours != live).then(|| ours.clone());
    };
    let changed: Map<String, Value> = ours
        .iter()
        .filter_map(|(key, value)| {
            let change = match live.get(key) {
                Some(live) => difference(value, live)?,
                None => value.clone(),
            };
            Some((key.clone(), change))
        })
        .collect();
    (!changed.is_empty()).then_some(Value::Object(changed))
}

/// Sets keys to `null` in `patch` that only `live` has in `map`.
fn remove(patch: &mut Value, map: &[&str], ours: &Value, live: &Value) {
    let at =
        |value: &Value| map.iter().try_fold(value, |value, key| value.get(*key)).and_then(Value::as_object).cloned();
    let (ours, live) = (at(ours).unwrap_or_default(), at(live).unwrap_or_default());
    let gone: Vec<&String> = live.keys().filter(|key| !ours.contains_key(*key)).collect();
    if gone.is_empty() {
        return;
    }
    let mut target = patch;
    for key in map {
        let Value::Object(fields) = target else { return };
        target = fields.entry(*key).or_insert_with(|| Value::Object(Map::new()));
    }
    if let Value::Object(fields) = target {
        fields.extend(gone.into_iter().map(|key| (key.clone(), Value::Null)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_has_what_differs_and_removes_keys_of_the_author_only() {
        let ours = json!({ "data": { "a": "1", "b": "2" }, "spec": { "replicas": 1, "list": [1, 2] }, "metadata": { "labels": { "x": "y" } } });
        let live = json!({
            "data": { "a": "1", "b": "3", "c": "4" }, "spec": { "replicas": 2, "clusterIP": "10.0.0.1", "list": [1] },
            "metadata": { "labels": { "x": "y", "z": "" }, "resourceVersion": "7", "uid": "u" }, "status": {},
        });
        let expected = json!({
            "data": { "b": "2", "c": null }, "spec": { "replicas": 1, "list": [1, 2] },
            "metadata": { "labels": { "z": null }, "resourceVersion": "7" },
        });
        assert_eq!(patch(&ours, &live), expected);
        assert_eq!(patch(&ours, &ours), json!({}));
        for odd in [json!(null), json!([1]), json!("text")] {
            let _ = patch(&ours, &odd);
            let _ = patch(&odd, &live);
        }
    }
}
