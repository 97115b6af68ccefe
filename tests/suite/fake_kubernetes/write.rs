//! Objects are made, changed and deleted, with the refusals of a real server (1.20; seen by the conformance suite).

use serde_json::{Value, json};

use super::{Kind, Reply, State, answer, fields, key, missing, query, refusal, text, with_kind};
use crate::servers::Seen;

/// Bytes of a request, of an object in etcd, and of a ConfigMap's or Secret's data.
const MOST_BODY: usize = 3 << 20;
const MOST_ETCD: usize = 1_572_864;
const MOST_DATA: usize = 1 << 20;

/// Who makes what a test makes past all faults.
pub(super) const NOBODY: &str = "fake";

/// A change that is asked for.
pub(super) struct Change<'a> {
    pub(super) kind: &'a Kind,
    pub(super) namespace: Option<&'a str>,
    /// Empty for a POST.
    pub(super) name: &'a str,
    pub(super) manager: String,
    pub(super) dry: bool,
    pub(super) of_status: bool,
}

impl<'a> Change<'a> {
    pub(super) fn new(kind: &'a Kind, namespace: Option<&'a str>, name: &'a str) -> Self {
        Change { kind, namespace, name, manager: NOBODY.to_owned(), dry: false, of_status: false }
    }

    fn plural(&self) -> &str {
        &self.kind.plural
    }
}

/// A Status about an object of a kind.
fn refused(kind: &Kind, name: &str, code: u16, reason: &str, message: &str) -> Reply {
    let mut status = refusal(code, reason, message);
    status["details"] = json!({ "name": name, "group": kind.group, "kind": kind.plural });
    answer(code, &status)
}

fn conflict(kind: &Kind, name: &str, why: &str) -> Reply {
    let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.key());
    refused(kind, name, 409, "Conflict", &message)
}

fn invalid(kind: &Kind, name: &str, field: &str, reason: &str, message: &str) -> Reply {
    let mut status = refusal(422, "Invalid", &format!("{} {name:?} is invalid: {field}: {message}", kind.singular));
    let causes = json!([{ "reason": reason, "message": message, "field": field }]);
    status["details"] = json!({ "name": name, "group": kind.group, "kind": kind.singular, "causes": causes });
    answer(422, &status)
}

fn bad(message: &str) -> Reply {
    answer(400, &refusal(400, "BadRequest", message))
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return target.clone_from(patch) };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

impl State {
    /// POST, PUT, PATCH and DELETE, as a request asks for them.
    pub(super) fn write(&mut self, mut change: Change<'_>, request: &Seen) -> Reply {
        if request.body.len() > MOST_BODY {
            let message = format!("Request entity too large: limit is {MOST_BODY}");
            return answer(413, &refusal(413, "RequestEntityTooLarge", &message));
        }
        let body = serde_json::from_str::<Value>(&request.body).ok();
        let agent = request.header("user-agent").unwrap_or(NOBODY).split('/').next().unwrap().to_owned();
        change.manager = query(&request.uri, "fieldManager").unwrap_or(agent);
        change.dry = query(&request.uri, "dryRun").as_deref() == Some("All");
        if request.method == "DELETE" {
            let options = body.unwrap_or_default();
            change.dry |= options["dryRun"][0] == "All";
            return self.delete(&change, options["preconditions"]["uid"].as_str());
        }
        let content_type = request.header("content-type").unwrap_or_default();
        let expected = if request.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        if content_type != expected {
            return answer(
                415,
                &refusal(415, "UnsupportedMediaType", "the body of the request was in an unknown format"),
            );
        }
        let Some(body) = body.filter(Value::is_object) else {
            let message = "the object provided is unrecognized: couldn't get version/kind; json parse error: unexpected end of JSON input";
            return bad(message);
        };
        match request.method.as_str() {
            "POST" => self.create(&change, body),
            "PUT" => self.replace(&change, body),
            _ => self.patch(&change, &body),
        }
    }

    pub(super) fn create(&mut self, change: &Change<'_>, mut object: Value) -> Reply {
        let Change { kind, namespace, .. } = *change;
        if namespace.is_none() && kind.namespaced {
            let message = "the server does not allow this method on the requested resource";
            return answer(405, &refusal(405, "MethodNotAllowed", message));
        }
        let name = text(&object, "/metadata/name").to_owned();
        if let Some(reply) = self.objection(change, &object, &name) {
            return reply;
        }
        let objects = self.objects.entry(kind.key()).or_default();
        if let Some(there) = objects.get(&key(namespace, &name)) {
            let going = there["metadata"]["deletionTimestamp"].is_string();
            let prefix = if going { "object is being deleted: " } else { "" };
            let message = format!("{prefix}{} {name:?} already exists", kind.key());
            return refused(kind, &name, 409, "AlreadyExists", &message);
        }
        self.revision += 1;
        let fields = object.as_object_mut().unwrap();
        fields.remove("kind");
        fields.remove("apiVersion");
        if kind.has_status {
            fields.remove("status");
        }
        fields::settle(kind, &change.manager, &Value::Null, &mut object);
        if kind.plural == "namespaces" {
            object["spec"] = json!({ "finalizers": ["kubernetes"] });
            object["status"] = json!({ "phase": "Active" });
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        if let Some(namespace) = namespace {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        if kind.counts {
            metadata.insert("generation".to_owned(), json!(1));
        }
        metadata.insert("uid".to_owned(), json!(format!("uid-{}", self.revision)));
        metadata.insert("creationTimestamp".to_owned(), json!("2026-11-29T00:00:00Z"));
        for unset in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            metadata.remove(unset);
        }
        if change.dry {
            return answer(201, &with_kind(kind, &object));
        }
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.objects.entry(kind.key()).or_default().insert(key(namespace, &name), object.clone());
        self.register(kind, &object);
        answer(201, &with_kind(kind, &object))
    }

    /// Why an object cannot be made.
    fn objection(&self, change: &Change<'_>, object: &Value, name: &str) -> Option<Reply> {
        let Change { kind, namespace, dry, .. } = *change;
        let claimed = text(object, "/metadata/namespace");
        if !claimed.is_empty() && Some(claimed) != namespace {
            return Some(bad("the namespace of the provided object does not match the namespace sent on the request"));
        }
        if !text(object, "/metadata/resourceVersion").is_empty() {
            // As it comes: without a reason.
            return Some(answer(500, &refusal(500, "", "resourceVersion should not be set on objects to be created")));
        }
        if kind.is_custom() && object["kind"] != kind.singular {
            return Some(bad(&format!("{0} in version {1:?} cannot be handled as a {0}", kind.singular, kind.version)));
        }
        if name.is_empty() {
            let message = "Required value: name or generateName is required";
            return Some(invalid(kind, name, "metadata.name", "FieldValueRequired", message));
        }
        if let Some(within) = namespace.filter(|_| change.manager != NOBODY) {
            let namespaces = self.objects.get("namespaces").and_then(|all| all.get(&key(None, within)));
            let Some(there) = namespaces else {
                let message = format!("namespaces {within:?} not found");
                let mut status = refusal(404, "NotFound", &message);
                status["details"] = json!({ "name": within, "kind": "namespaces" });
                return Some(answer(404, &status));
            };
            if there["metadata"]["deletionTimestamp"].is_string() {
                return Some(terminating(kind, name, within));
            }
        }
        let sized = ["configmaps", "secrets"].contains(&change.plural());
        let size = |value: &Value| {
            value.as_object().map_or(0, |data| data.values().map(|v| v.as_str().map_or(0, str::len)).sum())
        };
        if sized && size(&object["data"]) > MOST_DATA {
            let message = "Too long: must have at most 1048576 bytes";
            return Some(invalid(kind, name, "[]", "FieldValueTooLong", message));
        }
        // etcd is not asked in a dry run.
        let too_large = !dry && change.manager != NOBODY && object.to_string().len() > MOST_ETCD;
        too_large.then(|| answer(500, &refusal(500, "", "etcdserver: request is too large")))
    }

    fn replace(&mut self, change: &Change<'_>, object: Value) -> Reply {
        let name = text(&object, "/metadata/name");
        if name != change.name {
            let message =
                format!("the name of the object ({name}) does not match the name on the URL ({})", change.name);
            return bad(&message);
        }
        if change.kind.is_custom() && text(&object, "/metadata/resourceVersion").is_empty() {
            let message = "Invalid value: 0x0: must be specified for an update";
            return invalid(change.kind, name, "metadata.resourceVersion", "FieldValueInvalid", message);
        }
        let Some(old) = self.at(change) else { return missing(change.kind, change.name) };
        let uid = text(&object, "/metadata/uid");
        if !uid.is_empty() && uid != old["metadata"]["uid"] {
            return conflict(change.kind, change.name, "StorageError: invalid object: Precondition failed: UID");
        }
        self.update(change, &old, object)
    }

    fn patch(&mut self, change: &Change<'_>, patch: &Value) -> Reply {
        let Some(old) = self.at(change) else { return missing(change.kind, change.name) };
        let mut object = old.clone();
        merge(&mut object, patch);
        if object["metadata"]["uid"] != old["metadata"]["uid"] {
            let message = format!("Invalid value: {}: field is immutable", object["metadata"]["uid"]);
            return invalid(change.kind, change.name, "metadata.uid", "FieldValueInvalid", &message);
        }
        self.update(change, &old, object)
    }

    pub(super) fn at(&self, change: &Change<'_>) -> Option<Value> {
        self.objects.get(&change.kind.key())?.get(&key(change.namespace, change.name)).cloned()
    }

    /// `object` in place of `old`: what the server owns stays, and nothing is written where nothing differs.
    fn update(&mut self, change: &Change<'_>, old: &Value, mut object: Value) -> Reply {
        let kind = change.kind;
        let given = text(&object, "/metadata/resourceVersion");
        if !given.is_empty() && given != old["metadata"]["resourceVersion"] {
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return conflict(kind, change.name, why);
        }
        let fields = object.as_object_mut().unwrap();
        fields.remove("kind");
        fields.remove("apiVersion");
        if change.of_status {
            let status = object["status"].take();
            let managed = object["metadata"]["managedFields"].take();
            object = old.clone();
            object["status"] = status;
            if !is_empty(&managed) {
                object["metadata"]["managedFields"] = managed;
            }
        } else if kind.has_status {
            object.as_object_mut().unwrap().remove("status");
            if let Some(status) = old.get("status") {
                object["status"] = status.clone();
            }
        }
        let of_server = [
            "uid",
            "namespace",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "resourceVersion",
        ];
        let metadata = object["metadata"].as_object_mut().unwrap();
        for name in of_server {
            match old["metadata"].get(name) {
                Some(value) => drop(metadata.insert(name.to_owned(), value.clone())),
                None => drop(metadata.remove(name)),
            }
        }
        if kind.counts && object["spec"] != old["spec"] {
            object["metadata"]["generation"] = json!(old["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        }
        fields::settle(kind, &change.manager, old, &mut object);
        if object == *old || change.dry {
            return answer(200, &with_kind(kind, &object));
        }
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let objects = self.objects.get_mut(&kind.key()).unwrap();
        // What was only held by its finalizers goes with the last of them.
        if object["metadata"]["deletionTimestamp"].is_string() && is_empty(&object["metadata"]["finalizers"]) {
            objects.remove(&key(change.namespace, change.name));
        } else {
            objects.insert(key(change.namespace, change.name), object.clone());
        }
        answer(200, &with_kind(kind, &object))
    }

    pub(super) fn delete(&mut self, change: &Change<'_>, uid: Option<&str>) -> Reply {
        let Change { kind, namespace, name, .. } = *change;
        let Some(object) = self.at(change) else { return missing(kind, name) };
        if uid.is_some_and(|uid| object["metadata"]["uid"] != uid) {
            return conflict(kind, name, "the UID in the precondition does not match the UID in record");
        }
        let details = json!({ "name": name, "kind": kind.plural, "uid": object["metadata"]["uid"] });
        let success =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
        if change.dry {
            return answer(200, &success);
        }
        self.revision += 1;
        if !is_empty(&object["metadata"]["finalizers"]) {
            let object = self.objects.get_mut(&kind.key()).unwrap().get_mut(&key(namespace, name)).unwrap();
            object["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:00:00Z");
            object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
            return answer(200, &with_kind(kind, object));
        }
        self.objects.get_mut(&kind.key()).unwrap().remove(&key(namespace, name));
        if kind.plural == "namespaces" {
            self.empty(object);
        }
        answer(200, &success)
    }

    /// What the controller does in a while to a deleted namespace. Held back by a finalizer, an object holds it back as well.
    fn empty(&mut self, mut namespace: Value) {
        let name = text(&namespace, "/metadata/name").to_owned();
        let within = format!("{name}/");
        let mut held = false;
        for all in self.objects.values_mut() {
            all.retain(|key, object| !key.starts_with(&within) || !is_empty(&object["metadata"]["finalizers"]));
            for (_, object) in all.range_mut(within.clone()..).take_while(|(key, _)| key.starts_with(&within)) {
                object["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:00:00Z");
                held = true;
            }
        }
        if held {
            namespace["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:00:00Z");
            namespace["status"] = json!({ "phase": "Terminating" });
            self.objects.get_mut("namespaces").unwrap().insert(key(None, &name), namespace);
        }
    }

    /// The garbage collector: objects go whose owners are all gone, and what they own.
    pub(crate) fn collect(&mut self) {
        loop {
            let uids: Vec<String> = self
                .objects
                .values()
                .flat_map(|all| all.values())
                .map(|object| text(object, "/metadata/uid").to_owned())
                .collect();
            let orphaned = |object: &Value| {
                let owners = object["metadata"]["ownerReferences"].as_array();
                owners.is_some_and(|owners| {
                    !owners.is_empty() && owners.iter().all(|owner| !uids.contains(&text(owner, "/uid").to_owned()))
                })
            };
            let before: usize = self.objects.values().map(std::collections::BTreeMap::len).sum();
            self.objects.values_mut().for_each(|all| all.retain(|_, object| !orphaned(object)));
            if self.objects.values().map(std::collections::BTreeMap::len).sum::<usize>() == before {
                return;
            }
        }
    }

    /// A definition makes a kind, an APIService whose service is nowhere a dead group.
    fn register(&mut self, kind: &Kind, object: &Value) {
        match kind.plural.as_str() {
            "customresourcedefinitions" => self.kinds.push(Kind {
                group: text(object, "/spec/group").into(),
                version: text(object, "/spec/versions/0/name").into(),
                plural: text(object, "/spec/names/plural").into(),
                singular: text(object, "/spec/names/kind").into(),
                namespaced: text(object, "/spec/scope") == "Namespaced",
                has_status: object["spec"]["versions"][0]["subresources"]["status"].is_object(),
                counts: true,
                verbs: super::ALL,
            }),
            "apiservices" => {
                self.dead.push(format!("{}/{}", text(object, "/spec/group"), text(object, "/spec/version")));
            }
            _ => {}
        }
    }
}

fn terminating(kind: &Kind, name: &str, namespace: &str) -> Reply {
    let message = format!(
        "{} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
        kind.key()
    );
    let mut status = refusal(403, "Forbidden", &message);
    let why = format!("namespace {namespace} is being terminated");
    let causes = json!([{ "reason": "NamespaceTerminating", "message": why, "field": "metadata.namespace" }]);
    status["details"] = json!({ "name": name, "kind": kind.plural, "causes": causes });
    answer(403, &status)
}

/// What a server says when a webhook refuses an object.
pub(crate) fn denial(webhook: &str, why: &str) -> Value {
    refusal(400, "", &format!("admission webhook {webhook:?} denied the request: {why}"))
}
