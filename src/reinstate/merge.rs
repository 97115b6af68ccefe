//! Adds to a service account that the server created before the restore what it lacks. Pure.

use serde_json::{Map, Value, json};

use super::fields::{at, list, text};

/// The JSON merge patch that adds to `live` the labels, annotations, secrets and image pull secrets of `ours` (cleaned) that it lacks;
/// `None`: it lacks none. Where both have a value, the live one stays. The patch carries the live resourceVersion: it replaces lists
/// whole, so a write between reading and patching makes it a conflict.
#[must_use]
pub fn lacking(ours: &Value, live: &Value) -> Option<Value> {
    let mut metadata = Map::new();
    let mut patch = Map::new();
    for key in ["labels", "annotations"] {
        let place = ["metadata", key];
        let have = at(live, &place).and_then(Value::as_object);
        let lacks = |name: &String| have.is_none_or(|have| !have.contains_key(name));
        let ours = at(ours, &place).and_then(Value::as_object).into_iter().flatten();
        // A null would delete the field.
        let added: Map<String, Value> = ours
            .filter(|(name, value)| lacks(name) && !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !added.is_empty() {
            metadata.insert(key.into(), added.into());
        }
    }
    for key in ["secrets", "imagePullSecrets"] {
        let have = list(live, &[key]);
        let lacks = |secret: &&Value| !have.iter().any(|other| text(other, &["name"]) == text(secret, &["name"]));
        let added: Vec<&Value> = list(ours, &[key]).iter().filter(lacks).collect();
        if !added.is_empty() {
            patch.insert(key.into(), have.iter().chain(added).cloned().collect());
        }
    }
    let automount = "automountServiceAccountToken";
    if let Some(ours) = ours.get(automount).filter(|ours| ours.is_boolean() && live.get(automount).is_none()) {
        patch.insert(automount.into(), ours.clone());
    }
    if metadata.is_empty() && patch.is_empty() {
        return None;
    }
    if let Some(version) = at(live, &["metadata", "resourceVersion"]) {
        metadata.insert("resourceVersion".into(), version.clone());
    }
    patch.insert("metadata".into(), json!(metadata));
    Some(patch.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_added_and_nothing_else_changes() {
        let ours = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"role": "arn", "gone": null}},
            "secrets": [{"name": "mine"}], "imagePullSecrets": [{"name": "registry"}, {"name": "old"}],
            "automountServiceAccountToken": false});
        let live = json!({"metadata": {"resourceVersion": "7", "labels": {"a": "other"}},
            "secrets": [{"name": "default-token-x7k2z"}], "imagePullSecrets": [{"name": "old"}]});
        let expected = json!({"metadata": {"resourceVersion": "7", "labels": {"b": "2"}, "annotations": {"role": "arn"}},
            "secrets": [{"name": "default-token-x7k2z"}, {"name": "mine"}],
            "imagePullSecrets": [{"name": "old"}, {"name": "registry"}], "automountServiceAccountToken": false});
        assert_eq!(lacking(&ours, &live), Some(expected));
    }

    #[test]
    fn an_account_that_has_everything_is_left_alone() {
        let bare = json!({"metadata": {"name": "default"}});
        let live = json!({"metadata": {"name": "default", "resourceVersion": "7"}, "secrets": [{"name": "x"}]});
        for ours in [bare, live.clone(), json!(null), json!({"metadata": [1], "secrets": "x"})] {
            assert_eq!(lacking(&ours, &live), None);
        }
    }
}
