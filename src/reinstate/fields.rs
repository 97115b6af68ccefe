//! Reaching into an object of any shape. Pure.

use serde_json::{Map, Value};

/// The object at `path`, where there is one.
pub(super) fn map<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    path.iter().try_fold(value, |value, key| value.get_mut(*key))?.as_object_mut()
}

/// The text at `path`; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    path.iter().try_fold(value, |value, key| value.get(*key)).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of the list at `path`.
pub(super) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    path.iter().try_fold(value, |value, key| value.get(*key)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
