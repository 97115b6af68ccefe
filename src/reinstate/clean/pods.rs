//! Pods and Jobs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Context;
use crate::reinstate::fields::{EACH, at, each, is_token_name, list, map, remove, text};
use crate::reinstate::owners::JOB_UIDS;

const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// Removes the volumes that the server added for the tokens that Kubernetes up to 1.23 made for each service account.
pub(super) fn tokens(object: &mut Value, _: &Context<'_>) {
    let account = match text(object, &["spec", "serviceAccountName"]) {
        "" => text(object, &["spec", "serviceAccount"]),
        account => account,
    };
    let is_token = |volume: &Value| {
        let name = text(volume, &["name"]);
        name == text(volume, &["secret", "secretName"]) && is_token_name(account, name)
    };
    let volumes = list(object, &["spec", "volumes"]).iter().filter(|volume| is_token(volume));
    let names: BTreeSet<String> = volumes.map(|volume| text(volume, &["name"]).to_owned()).collect();
    if names.is_empty() {
        return;
    }
    let mut drop_named = |elements: &mut Value| {
        if let Value::Array(elements) = elements {
            elements.retain(|element| !names.contains(text(element, &["name"])));
        }
    };
    each(object, &["spec", "volumes"], &mut drop_named);
    for containers in CONTAINERS {
        each(object, &["spec", containers, EACH, "volumeMounts"], &mut drop_named);
    }
}

pub(super) fn job(object: &mut Value, _: &Context<'_>) {
    if at(object, &["spec", "manualSelector"]) == Some(&Value::Bool(true)) {
        return;
    }
    for label in JOB_UIDS {
        // A job without labels of its own has its template's.
        remove(object, &["metadata", "labels", label]);
        remove(object, &["spec", "template", "metadata", "labels", label]);
        remove(object, &["spec", "selector", "matchLabels", label]);
    }
    let Some(spec) = map(object, &["spec"]) else { return };
    let is_empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
    if let Some(Value::Object(selector)) = spec.get_mut("selector") {
        if selector.get("matchLabels").is_some_and(is_empty) {
            selector.remove("matchLabels");
        }
        if selector.is_empty() {
            spec.remove("selector");
        }
    }
}
