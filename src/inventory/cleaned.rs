//! Removes from an object what the server owns, and finds the fields in which two objects differ. Pure; returns no value of a field.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::checksum::fingerprint;

/// Fields that are not compared, with the reason. `*` is each element of a list.
pub const SERVER_OWNED: [(&[&str], &str); 8] = [
    (&["metadata", "uid"], "the server gives each object a new one"),
    (&["metadata", "resourceVersion"], "it changes with each write"),
    (&["metadata", "creationTimestamp"], "the server sets it when an object is created"),
    (&["metadata", "generation"], "the server counts the changes of the other fields"),
    (&["metadata", "managedFields"], "it records who wrote the other fields, and when"),
    (&["metadata", "ownerReferences", "*", "uid"], "a restored owner has a new one"),
    (&["metadata", "selfLink"], "servers up to 1.19 derive it from the name"),
    (&["status"], "controllers write what they observe"),
];

/// The most differing fields of one object that are named; more are only counted.
pub const MOST_PATHS: usize = 20;

/// The most characters of a path that are shown.
const MOST_CHARACTERS: usize = 200;

/// The first half of a SHA-256: enough to tell two objects apart.
pub type Digest = [u8; 16];

/// Removes the fields that the server owns.
pub fn clean(object: &mut Value) {
    for (path, _) in SERVER_OWNED {
        remove(object, path);
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    match (value, path) {
        (Value::Array(list), ["*", rest @ ..]) => list.iter_mut().for_each(|value| remove(value, rest)),
        (Value::Object(fields), [last]) => drop(fields.remove(*last)),
        (Value::Object(fields), [key, rest @ ..]) => {
            if let Some(value) = fields.get_mut(*key) {
                remove(value, rest);
            }
        }
        _ => {}
    }
}

/// The digest of a cleaned object; independent of the order of its keys.
#[must_use]
pub fn digest(object: &Value) -> Digest {
    let text = serde_json::to_vec(object).expect("a parsed object has only string keys and finite numbers");
    fingerprint(&text)
}

/// The same; of an object that cannot be parsed (`null`), of its bytes.
#[must_use]
pub fn digest_of(object: &Value, bytes: &[u8]) -> Digest {
    if object.is_null() { digest(&Value::from(String::from_utf8_lossy(bytes))) } else { digest(object) }
}

/// Fields in which two objects differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// The first of them: `spec.template.spec.containers[0].image`.
    pub paths: Vec<String>,
    pub count: u64,
}

impl Fields {
    /// Counts the field at `path`, and names it unless there are many.
    pub(crate) fn add(&mut self, path: &str) {
        self.count += 1;
        if self.paths.len() < MOST_PATHS {
            let mut shown: String = path.chars().take(MOST_CHARACTERS).collect();
            if shown.len() < path.len() {
                shown.push('…');
            }
            self.paths.push(shown);
        }
    }
}

/// Finds fields that differ, or that only one object has.
#[must_use]
pub fn differing(one: &Value, other: &Value) -> Fields {
    let mut fields = Fields::default();
    compare(one, other, &mut String::new(), &mut fields);
    fields
}

fn compare(one: &Value, other: &Value, path: &mut String, fields: &mut Fields) {
    let length = path.len();
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                step(path, key);
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => compare(a, b, path, fields),
                    _ => fields.add(path),
                }
                path.truncate(length);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for index in 0..a.len().max(b.len()) {
                write!(path, "[{index}]").expect("a string takes all");
                match (a.get(index), b.get(index)) {
                    (Some(a), Some(b)) => compare(a, b, path, fields),
                    _ => fields.add(path),
                }
                path.truncate(length);
            }
        }
        _ if one == other => {}
        _ => fields.add(path),
    }
}

/// A key with special characters is quoted, so that it cannot send control characters to a terminal.
pub(crate) fn step(path: &mut String, key: &str) {
    let is_word = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if !is_word {
        write!(path, "[{key:?}]").expect("a string takes all");
        return;
    }
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_owns_makes_no_difference_and_everything_else_does() {
        let object = json!({
            "kind": "Pod", "metadata": {
                "name": "web", "labels": {"a": "b"}, "uid": "1", "resourceVersion": "2", "creationTimestamp": "3", "generation": 4,
                "managedFields": [{}], "selfLink": "5", "ownerReferences": [{"name": "o", "uid": "6"}],
            },
            "spec": {"uid": "kept", "status": "kept"}, "status": {"phase": "Running"},
        });
        let mut cleaned = object.clone();
        clean(&mut cleaned);
        let expected = json!({"kind": "Pod", "metadata": {"name": "web", "labels": {"a": "b"}, "ownerReferences": [{"name": "o"}]}, "spec": {"uid": "kept", "status": "kept"}});
        assert_eq!(cleaned, expected);
        let other: Value = serde_json::from_str(
            r#"{"spec":{"status":"kept","uid":"kept"},"metadata":{"labels":{"a":"b"},"name":"web","ownerReferences":[{"name":"o"}]},"kind":"Pod"}"#,
        )
        .unwrap();
        assert_eq!(digest(&cleaned), digest(&other));
        assert_ne!(digest(&cleaned), digest(&object));
        // Not an object.
        for mut odd in [json!(null), json!([1]), json!({"metadata": "text"}), json!({"metadata": [1]})] {
            let before = odd.clone();
            clean(&mut odd);
            assert_eq!(odd, before);
        }
    }

    #[test]
    fn differences_are_paths_and_never_values() {
        let one = json!({
            "data": {"password": "hunter2", "same": "x"}, "metadata": {"annotations": {"example.com/a\u{1b}": "1"}},
            "spec": {"containers": [{"image": "a"}, {"image": "b"}], "replicas": 1, "gone": {"deep": 1}},
        });
        let other = json!({
            "data": {"password": "hunter3", "same": "x"}, "metadata": {"annotations": {"example.com/a\u{1b}": "2"}},
            "spec": {"containers": [{"image": "a"}, {"image": "c"}, {}], "replicas": 1, "new": null},
        });
        let fields = differing(&one, &other);
        let expected = [
            "data.password",
            "metadata.annotations[\"example.com/a\\u{1b}\"]",
            "spec.containers[1].image",
            "spec.containers[2]",
            "spec.gone",
            "spec.new",
        ];
        assert_eq!(fields, Fields { paths: expected.map(str::to_owned).to_vec(), count: 6 });
        assert_eq!(differing(&one, &one), Fields::default());
    }

    #[test]
    fn what_is_shown_of_differences_is_bounded() {
        let many: serde_json::Map<String, Value> = (0..1000).map(|n| (format!("{n:0>500}"), json!(n))).collect();
        let fields = differing(&Value::Object(many), &json!({}));
        assert_eq!((fields.count, fields.paths.len()), (1000, MOST_PATHS));
        assert!(fields.paths.iter().all(|path| path.chars().count() == MOST_CHARACTERS + 1));
    }
}
