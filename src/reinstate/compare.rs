//! Whether a live object equals the one that would be restored. Pure; returns no value of a field.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::clean::{Context, clean};
use super::fields::{EACH, at, each, text};
use crate::inventory::cleaned::{self, Fields};

/// Kinds to whose fields the server adds nothing, so that a field of the live object alone is a difference too, except labels,
/// annotations and the exceptions below. Custom resources are treated in the same way.
const EXACT: &[&str] = &[
    "configmaps",
    "secrets",
    "limitranges",
    "resourcequotas",
    "networkpolicies.networking.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "clusterroles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "storageclasses.storage.k8s.io",
    "priorityclasses.scheduling.k8s.io",
];

/// Fields that contain a selector: there, an additional label selects other objects.
pub(super) const SELECTORS: [&str; 7] =
    ["selector", "matchLabels", "podSelector", "namespaceSelector", "objectSelector", "labelSelector", "nodeSelector"];

/// Fields of `ours` (mapped, cleaned, relinked) that `live` (as the server sent it) lacks, or has with another value. Fields of the live
/// object alone are defaults and additions of controllers, except in selectors and in kinds without such. Both objects are of one version
/// of the kind: `apiVersion` and `kind` are not compared.
#[must_use]
pub fn differing(resource: &str, ours: &Value, live: &Value) -> Fields {
    let (ours, live) = sides(resource, ours, live);
    let mut walk = Walk { path: String::new(), fields: Fields::default() };
    let none = Map::new();
    let (Some(a), Some(b)) = (ours.as_object(), live.as_object()) else {
        if ours != live {
            walk.fields.add("");
        }
        return walk.fields;
    };
    let exact = is_exact(resource, &ours);
    let skipped =
        |key: &str| matches!(key, "apiVersion" | "kind" | "metadata" | "status") || is_ignored(resource, key, a);
    let mine = a.iter().filter(|(key, _)| !skipped(key));
    for (key, value) in mine {
        walk.step(key, |walk| {
            let exact = exact || SELECTORS.contains(&key.as_str());
            if resource == "serviceaccounts" && matches!(key.as_str(), "secrets" | "imagePullSecrets") {
                // Controllers add their own.
                return walk.subset(value, b.get(key));
            }
            walk.value(value, b.get(key), exact);
        });
    }
    if exact {
        for (key, _) in b.iter().filter(|(key, value)| !skipped(key) && !a.contains_key(*key) && !is_nothing(value)) {
            walk.step(key, Walk::add);
        }
    }
    let metadata = |object: &Map<String, Value>| object.get("metadata").and_then(Value::as_object).cloned();
    let (a, b) = (metadata(a).unwrap_or(none.clone()), metadata(b).unwrap_or(none));
    walk.step("metadata", |walk| {
        // Controllers add and remove finalizers.
        for key in ["labels", "annotations"] {
            if let Some(value) = a.get(key) {
                walk.step(key, |walk| walk.value(value, b.get(key), false));
            }
        }
        if let Some(owners) = a.get("ownerReferences") {
            walk.step("ownerReferences", |walk| walk.owners(owners, b.get("ownerReferences")));
        }
    });
    walk.fields
}

/// Both objects without what is not compared.
pub(super) fn sides<'a>(resource: &str, ours: &'a Value, live: &'a Value) -> (Cow<'a, Value>, Cow<'a, Value>) {
    (prepared(resource, Cow::Borrowed(ours)), prepared(resource, cleaned_live(resource, live)))
}

/// The live object without the parts of which ours was cleaned.
fn cleaned_live<'a>(resource: &str, live: &'a Value) -> Cow<'a, Value> {
    let mut live = live.clone();
    // Ours has an address or a port only if its author set it, and only then is it compared.
    if resource != "services" {
        clean(resource, &mut live, &Context { status: false, has_volume: &|_| true });
    }
    Cow::Owned(live)
}

pub(super) fn is_exact(resource: &str, ours: &Value) -> bool {
    let group = resource.split_once('.').map_or("", |(_, group)| group);
    let is_custom = group.contains('.') && !group.ends_with(".k8s.io");
    // A controller fills in a token.
    let is_token = text(ours, &["type"]) == "kubernetes.io/service-account-token";
    (is_custom || EXACT.contains(&resource)) && !(resource == "secrets" && is_token)
}

/// A field that a controller writes as a whole.
pub(super) fn is_ignored(resource: &str, key: &str, ours: &Map<String, Value>) -> bool {
    let roles = "clusterroles.rbac.authorization.k8s.io";
    // A controller collects the rules of other roles in this field.
    resource == roles && key == "rules" && ours.get("aggregationRule").is_some_and(|rule| !rule.is_null())
}

/// Without the parts that programs write into the object with a different value each time.
fn prepared<'a>(resource: &str, object: Cow<'a, Value>) -> Cow<'a, Value> {
    // The webhook's own program writes its certificate there.
    let bundle: &[&str] = match resource {
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => &["webhooks", EACH, "clientConfig"],
        "apiservices.apiregistration.k8s.io" => &["spec"],
        "customresourcedefinitions.apiextensions.k8s.io" => &["spec", "conversion", "webhook", "clientConfig"],
        "pods" => return Cow::Owned(without_tokens(object.into_owned())),
        _ => return object,
    };
    let mut object = object.into_owned();
    each(&mut object, bundle, &mut |config| {
        if let Some(config) = config.as_object_mut() {
            config.remove("caBundle");
        }
    });
    Cow::Owned(object)
}

/// A pod without the volume that the server adds for its token, and without the mounts of it.
fn without_tokens(mut pod: Value) -> Value {
    let is_token = |element: &Value| text(element, &["name"]).starts_with("kube-api-access-");
    let mut prune = |elements: &mut Value| {
        if let Value::Array(elements) = elements {
            elements.retain(|element| !is_token(element));
        }
    };
    each(&mut pod, &["spec", "volumes"], &mut prune);
    for containers in ["containers", "initContainers"] {
        each(&mut pod, &["spec", containers, EACH, "volumeMounts"], &mut prune);
    }
    pod
}

/// Whether the value equals a missing field.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        // Servers up to 1.33 write a template's `creationTimestamp: null`.
        Value::Object(fields) => fields.values().all(Value::is_null),
        Value::Array(elements) => elements.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

struct Walk {
    path: String,
    fields: Fields,
}

impl Walk {
    fn step(&mut self, key: &str, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        cleaned::step(&mut self.path, key);
        then(self);
        self.path.truncate(length);
    }

    fn element(&mut self, index: usize, then: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        write!(self.path, "[{index}]").expect("a string takes all");
        then(self);
        self.path.truncate(length);
    }

    fn add(&mut self) {
        self.fields.add(&self.path);
    }

    fn value(&mut self, ours: &Value, live: Option<&Value>, exact: bool) {
        let live = live.unwrap_or(&Value::Null);
        match (ours, live) {
            (Value::Null, _) if !exact => {}
            // In a selector or a rule, `{}` and `[]` say something: all pods, no rules.
            _ if exact && is_nothing(ours) != is_nothing(live) => self.add(),
            _ if exact && ours.is_null() != live.is_null() => self.add(),
            _ if is_nothing(ours) && is_nothing(live) => {}
            _ if is_nothing(ours) || is_nothing(live) => self.add(),
            (Value::Object(a), Value::Object(b)) => {
                for (key, value) in a {
                    let exact = exact || SELECTORS.contains(&key.as_str());
                    self.step(key, |walk| walk.value(value, b.get(key), exact));
                }
                for (key, _) in b.iter().filter(|(key, value)| exact && !a.contains_key(*key) && !value.is_null()) {
                    self.step(key, Self::add);
                }
            }
            (Value::Array(a), Value::Array(b)) => {
                for index in 0..a.len().max(b.len()) {
                    self.element(index, |walk| match (a.get(index), b.get(index)) {
                        (Some(a), Some(b)) => walk.value(a, Some(b), exact),
                        _ => walk.add(),
                    });
                }
            }
            (Value::Number(a), Value::Number(b)) if a == b || a.as_f64() == b.as_f64() => {}
            _ if ours == live => {}
            _ => self.add(),
        }
    }

    /// Each element of our list occurs in the live one.
    fn subset(&mut self, ours: &Value, live: Option<&Value>) {
        let none = Vec::new();
        let have = live.and_then(Value::as_array).unwrap_or(&none);
        for (index, _) in ours.as_array().unwrap_or(&none).iter().enumerate().filter(|(_, value)| !have.contains(value))
        {
            self.element(index, Self::add);
        }
    }

    /// Each of our owners is an owner of the live object.
    fn owners(&mut self, ours: &Value, live: Option<&Value>) {
        let none = Vec::new();
        let have = live.and_then(Value::as_array).unwrap_or(&none);
        let is_there = |owner: &Value| have.iter().any(|other| at(other, &["uid"]) == at(owner, &["uid"]));
        for (index, owner) in ours.as_array().unwrap_or(&none).iter().enumerate() {
            if !is_there(owner) {
                self.element(index, Self::add);
            }
        }
    }
}
