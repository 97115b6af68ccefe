//! Access to the fields of an object of any shape. Pure.

use serde_json::{Map, Value};

/// `*` in a path: each element of a list.
pub(super) const EACH: &str = "*";

pub(super) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(*key))
}

pub(super) fn at_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, key| value.get_mut(*key))
}

/// The object at `path`, if there is one.
pub(super) fn map<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    at_mut(value, path)?.as_object_mut()
}

/// The text at `path`; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of the list at `path`.
pub(super) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Calls `change` with each value at `path`, which may contain [`EACH`].
pub(super) fn each(value: &mut Value, path: &[&str], change: &mut dyn FnMut(&mut Value)) {
    match path.split_first() {
        None => change(value),
        Some((&EACH, rest)) => {
            for element in value.as_array_mut().into_iter().flatten() {
                each(element, rest, change);
            }
        }
        Some((key, rest)) => {
            if let Some(field) = value.get_mut(*key) {
                each(field, rest, change);
            }
        }
    }
}

/// Removes the field at `path`, which may contain [`EACH`]; returns the first removed value.
pub(super) fn remove(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut removed = None;
    each(value, parents, &mut |parent| {
        if let Some(old) = parent.as_object_mut().and_then(|fields| fields.remove(*last)) {
            removed.get_or_insert(old);
        }
    });
    removed
}

/// Where an object of the kind `resource` has the specification of its pods.
pub(super) fn pod_spec(resource: &str) -> Option<&'static [&'static str]> {
    match resource {
        "pods" => Some(&["spec"]),
        "podtemplates" => Some(&["template", "spec"]),
        "replicationcontrollers"
        | "replicasets.apps"
        | "deployments.apps"
        | "statefulsets.apps"
        | "daemonsets.apps"
        | "jobs.batch" => Some(&["spec", "template", "spec"]),
        "cronjobs.batch" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

/// A name from the token controller of Kubernetes up to 1.23: `ACCOUNT-token-x7k2z`.
pub(super) fn is_token_name(account: &str, name: &str) -> bool {
    // Kubernetes's generator of names leaves out vowels, and characters that resemble others.
    const SUFFIX: &str = "bcdfghjklmnpqrstvwxz2456789";
    let suffix = name.strip_prefix(account).and_then(|rest| rest.strip_prefix("-token-"));
    !account.is_empty() && suffix.is_some_and(|suffix| suffix.len() == 5 && suffix.chars().all(|c| SUFFIX.contains(c)))
}

/// The group and the version of `apps/v1`; the core group is empty.
pub(super) fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}
