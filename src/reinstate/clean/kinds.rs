//! The other kinds, most of which need only a few lines.

use serde_json::{Value, json};

use super::Context;
use crate::reinstate::fields::{EACH, at, each, is_token_name, map, remove, text};

pub(super) fn claim(object: &mut Value, context: &Context<'_>) {
    let volume = text(object, &["spec", "volumeName"]);
    if !volume.is_empty() && (context.has_volume)(volume) {
        return;
    }
    for field in ["volumeName", "dataSource", "dataSourceRef"] {
        remove(object, &["spec", field]);
    }
}

pub(super) fn namespace(object: &mut Value, _: &Context<'_>) {
    let Some(spec) = map(object, &["spec"]) else { return };
    let Some(Value::Array(finalizers)) = spec.get_mut("finalizers") else { return };
    finalizers.retain(|finalizer| finalizer != "kubernetes");
    if finalizers.is_empty() {
        spec.remove("finalizers");
    }
}

pub(super) fn definition(object: &mut Value, _: &Context<'_>) {
    const SCHEMA: &str = "openAPIV3Schema";
    if text(object, &["apiVersion"]) == "apiextensions.k8s.io/v1beta1" {
        return;
    }
    let Some(spec) = map(object, &["spec"]) else { return };
    if spec.get("preserveUnknownFields") != Some(&Value::Bool(true)) {
        return;
    }
    spec.remove("preserveUnknownFields");
    for version in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(version) = version.as_object_mut() else { continue };
        let schema = version.entry("schema").or_insert_with(|| json!({}));
        let Some(schema) = schema.as_object_mut() else { continue };
        let schema = schema.entry(SCHEMA).or_insert_with(|| json!({"type": "object"}));
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
        }
    }
}

pub(super) fn account(object: &mut Value, _: &Context<'_>) {
    let name = text(object, &["metadata", "name"]).to_owned();
    let Some(fields) = object.as_object_mut() else { return };
    let Some(Value::Array(secrets)) = fields.get_mut("secrets") else { return };
    secrets.retain(|secret| !is_token_name(&name, text(secret, &["name"])));
    if secrets.is_empty() {
        fields.remove("secrets");
    }
}

pub(super) fn token(object: &mut Value, _: &Context<'_>) {
    if text(object, &["type"]) != "kubernetes.io/service-account-token" {
        return;
    }
    for key in ["token", "ca.crt", "namespace"] {
        remove(object, &["data", key]);
    }
}

/// Makes a snapshot that the driver took a pre-provisioned one.
pub(super) fn content(object: &mut Value, _: &Context<'_>) {
    let handle = at(object, &["status", "snapshotHandle"]).filter(|handle| handle.is_string()).cloned();
    let Some(spec) = map(object, &["spec"]) else { return };
    let is_taken = spec.get("source").is_some_and(|source| source.get("volumeHandle").is_some());
    if let Some(handle) = handle.filter(|_| is_taken) {
        spec.insert("source".into(), json!({"snapshotHandle": handle}));
        spec.insert("deletionPolicy".into(), "Retain".into());
    }
}

pub(super) fn snapshot(object: &mut Value, _: &Context<'_>) {
    let content = text(object, &["status", "boundVolumeSnapshotContentName"]).to_owned();
    let Some(spec) = map(object, &["spec"]) else { return };
    let is_taken = spec.get("source").is_some_and(|source| source.get("persistentVolumeClaimName").is_some());
    if is_taken && !content.is_empty() {
        spec.insert("source".into(), json!({"volumeSnapshotContentName": content}));
    }
}

pub(super) fn targets(object: &mut Value, _: &Context<'_>) {
    let paths: [&[&str]; 3] = [
        &["subsets", EACH, "addresses", EACH, "targetRef"],
        &["subsets", EACH, "notReadyAddresses", EACH, "targetRef"],
        &["endpoints", EACH, "targetRef"],
    ];
    for path in paths {
        each(object, path, &mut |target| {
            remove(target, &["uid"]);
            remove(target, &["resourceVersion"]);
        });
    }
}

pub(super) fn ingress(object: &mut Value, _: &Context<'_>) {
    const ANNOTATION: &str = "kubernetes.io/ingress.class";
    let class = text(object, &["spec", "ingressClassName"]);
    if !class.is_empty() && class == text(object, &["metadata", "annotations", ANNOTATION]) {
        remove(object, &["metadata", "annotations", ANNOTATION]);
    }
}

pub(super) fn webhooks(object: &mut Value, _: &Context<'_>) {
    if text(object, &["apiVersion"]).ends_with("/v1beta1") {
        return;
    }
    each(object, &["webhooks", EACH, "sideEffects"], &mut |effects| {
        if matches!(effects.as_str(), Some("Unknown" | "Some")) {
            *effects = "None".into();
        }
    });
}
