//! `metadata.managedFields`: who set which field, as the server keeps it.

use serde_json::{Map, Value, json};

use super::{Kind, text};

/// The fields that a manager can own, as `fieldsV1`. A list is one field: the fake knows no schema.
fn of(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut tree: Map<String, Value> =
                fields.iter().map(|(name, value)| (format!("f:{name}"), of(value))).collect();
            tree.insert(".".to_owned(), json!({}));
            Value::Object(tree)
        }
        _ => json!({}),
    }
}

/// Those of an object: neither its identity nor what the server sets.
fn owned(object: &Value) -> Map<String, Value> {
    let mut tree = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            tree.insert(format!("f:{name}"), of(value));
        }
    }
    let set = ["labels", "annotations", "finalizers", "ownerReferences"];
    let set = set.iter().filter_map(|name| Some((format!("f:{name}"), of(object["metadata"].get(name)?))));
    let metadata: Map<String, Value> = set.collect();
    if !metadata.is_empty() {
        tree.insert("f:metadata".to_owned(), Value::Object(metadata));
    }
    tree
}

/// The fields in which `new` differs from `old`.
fn changed(old: &Value, new: &Value) -> Value {
    let mut differing = new.clone();
    prune(&mut differing, old);
    differing
}

fn prune(new: &mut Value, old: &Value) {
    let Some(fields) = new.as_object_mut() else { return };
    fields.retain(|name, value| old.get(name) != Some(value));
    for (name, value) in fields {
        prune(value, &old[name.as_str()]);
    }
}

/// Takes from `tree` what `taken` has and what `there` has no more.
fn subtract(tree: &mut Map<String, Value>, taken: &Map<String, Value>, there: &Map<String, Value>) {
    let empty = Map::new();
    tree.retain(|name, fields| {
        let Some(still) = there.get(name) else { return false };
        let Some(inner) = fields.as_object_mut().filter(|inner| !inner.is_empty()) else {
            return !taken.contains_key(name);
        };
        let taken = taken.get(name).and_then(Value::as_object).unwrap_or(&empty);
        subtract(inner, taken, still.as_object().unwrap_or(&empty));
        inner.keys().any(|name| name != ".")
    });
}

fn unite(tree: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (name, fields) in more {
        let inner = tree.entry(name.clone()).or_insert_with(|| json!({}));
        if let (Some(inner), Some(fields)) = (inner.as_object_mut(), fields.as_object()) {
            unite(inner, fields);
        }
    }
}

/// Sets `new`'s managed fields: those that it brings or else `old`'s, and what changed is `manager`'s alone.
pub(super) fn settle(kind: &Kind, manager: &str, old: &Value, new: &mut Value) {
    let brought = new["metadata"]["managedFields"].as_array().filter(|brought| !brought.is_empty()).cloned();
    let kept = brought.or_else(|| old["metadata"]["managedFields"].as_array().cloned()).unwrap_or_default();
    let (differing, there) = (owned(&changed(old, new)), owned(new));
    // One empty entry means that there shall be none, and fields that nobody manages stay so.
    let unmanaged = kept.iter().all(|entry| entry.get("fieldsV1").is_none()) && !old.is_null();
    let mut entries = Vec::new();
    let mut mine = Map::new();
    for mut entry in kept {
        let is_mine = text(&entry, "/manager") == manager && text(&entry, "/operation") == "Update";
        let Some(tree) = entry["fieldsV1"].as_object_mut() else { continue };
        subtract(tree, &differing, &there);
        if is_mine {
            mine.clone_from(tree);
        } else if !tree.is_empty() {
            entries.push(entry);
        }
    }
    unite(&mut mine, &differing);
    if !mine.is_empty() && !unmanaged {
        entries.push(json!({ "manager": manager, "operation": "Update", "apiVersion": kind.api_version(),
            "time": "2026-11-29T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": mine }));
    }
    let metadata = new["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    if !entries.is_empty() {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}
