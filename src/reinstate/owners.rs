//! Gives owner references the UIDs of the new owners. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields;

/// Labels in which the Job controller keeps the UID of a pod's job.
pub(super) const JOB_UIDS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// An owner reference in an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// `apps/v1`.
    pub api_version: String,
    pub kind: String,
    pub name: String,
    /// The UID in the old cluster.
    pub uid: String,
    pub controller: bool,
}

impl Owner {
    /// Empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        fields::group(&self.api_version)
    }

    fn of(reference: &Value) -> Option<Self> {
        let text = |key: &str| fields::text(reference, &[key]).to_owned();
        let controller = reference.get("controller").and_then(Value::as_bool) == Some(true);
        let owner = Self {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller,
        };
        (!owner.uid.is_empty()).then_some(owner)
    }
}

/// A missing owner: the reference to it was dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unlinked {
    pub kind: String,
    pub name: String,
    pub uid: String,
    /// The owner was the controller: no controller manages the object now.
    pub controller: bool,
}

/// The owners that `object` names; a reference without a UID is ignored.
#[must_use]
pub fn owners(object: &Value) -> Vec<Owner> {
    fields::list(object, &["metadata", "ownerReferences"]).iter().filter_map(Owner::of).collect()
}

/// Whether the built-in controller behind `owner` adopts an object of the kind `resource` that has no owner and matches its selector or
/// its name. Such an object is created before its owner and without the reference: created later, it would find a new object of its name.
#[must_use]
pub fn is_adopted(resource: &str, owner: &Owner) -> bool {
    let is_workload = matches!(owner.group(), "apps" | "extensions");
    if resource == "persistentvolumeclaims" {
        return is_workload && owner.kind == "StatefulSet";
    }
    owner.controller
        && match (resource, owner.kind.as_str()) {
            ("pods", "ReplicationController") => owner.group().is_empty(),
            ("pods", "ReplicaSet" | "StatefulSet" | "DaemonSet")
            | ("replicasets.apps", "Deployment")
            | ("controllerrevisions.apps", "StatefulSet" | "DaemonSet") => is_workload,
            _ => false,
        }
}

/// Drops the references to owners that adopt the object ([`is_adopted`]).
pub fn leave_to_adopters(resource: &str, object: &mut Value) {
    let Some(metadata) = fields::map(object, &["metadata"]) else { return };
    if let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") {
        references.retain(|reference| Owner::of(reference).is_none_or(|owner| !is_adopted(resource, &owner)));
    }
}

/// Replaces the old UID in each owner reference by the owner's new one. A reference to an owner without a new UID is dropped and
/// returned; `controller` and `blockOwnerDeletion` stay. The labels in which the Job controller keeps its job's UID change with it.
pub fn relink(object: &mut Value, new_uid: impl Fn(&str) -> Option<String>) -> Vec<Unlinked> {
    let Some(metadata) = fields::map(object, &["metadata"]) else { return Vec::new() };
    // Any other value names no owner that could be found.
    let Some(Value::Array(references)) = metadata.remove("ownerReferences") else { return Vec::new() };
    let (mut linked, mut unlinked, mut have) = (Vec::new(), Vec::new(), BTreeSet::new());
    for mut reference in references {
        let Some(owner) = Owner::of(&reference) else {
            unlinked.push(dropped(&reference));
            continue;
        };
        let Some(uid) = new_uid(&owner.uid) else {
            unlinked.push(dropped(&reference));
            continue;
        };
        follow(metadata, &owner.uid, &uid);
        if have.insert(uid.clone()) {
            reference["uid"] = uid.into();
            linked.push(reference);
        }
    }
    if !linked.is_empty() {
        metadata.insert("ownerReferences".into(), linked.into());
    }
    unlinked
}

fn dropped(reference: &Value) -> Unlinked {
    let text = |key: &str| fields::text(reference, &[key]).to_owned();
    let controller = reference.get("controller").and_then(Value::as_bool) == Some(true);
    Unlinked { kind: text("kind"), name: text("name"), uid: text("uid"), controller }
}

fn follow(metadata: &mut Map<String, Value>, old: &str, new: &str) {
    let Some(Value::Object(labels)) = metadata.get_mut("labels") else { return };
    for label in JOB_UIDS {
        if let Some(value) = labels.get_mut(label).filter(|value| value.as_str() == Some(old)) {
            *value = new.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn new_uid(old: &str) -> Option<String> {
        (!old.starts_with("gone")).then(|| format!("new-{old}"))
    }

    #[test]
    fn owners_get_their_new_uids_and_those_that_are_not_there_are_named() {
        let mut object = json!({"metadata": {"labels": {"controller-uid": "j", "batch.kubernetes.io/controller-uid": "j", "a": "j"},
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j", "controller": true, "blockOwnerDeletion": true},
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "gone", "blockOwnerDeletion": false},
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "d"}, 7,
            {"apiVersion": "batch/v1beta1", "kind": "Job", "name": "j", "uid": "j"},
        ]}});
        let unlinked = |kind: &str, name: &str, uid: &str| Unlinked {
            kind: kind.into(),
            name: name.into(),
            uid: uid.into(),
            controller: false,
        };
        assert_eq!(owners(&object).len(), 3);
        let dropped = relink(&mut object, new_uid);
        assert_eq!(dropped, [unlinked("ConfigMap", "c", "gone"), unlinked("ConfigMap", "d", ""), unlinked("", "", "")]);
        let expected = json!({"metadata": {"labels": {"controller-uid": "new-j", "batch.kubernetes.io/controller-uid": "new-j", "a": "j"},
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "new-j", "controller": true, "blockOwnerDeletion": true},
        ]}});
        assert_eq!(object, expected);
    }

    #[test]
    fn an_object_without_owners_stays_as_it_is() {
        for (before, after) in [
            (json!({"metadata": {"ownerReferences": []}}), json!({"metadata": {}})),
            (json!({"metadata": {"ownerReferences": "x"}}), json!({"metadata": {}})),
            (json!({"metadata": {"name": "x"}}), json!({"metadata": {"name": "x"}})),
            (json!(null), json!(null)),
            (json!({"metadata": [1]}), json!({"metadata": [1]})),
        ] {
            let mut object = before;
            assert_eq!(relink(&mut object, new_uid), []);
            assert_eq!(object, after);
        }
    }

    #[test]
    fn what_a_built_in_controller_adopts() {
        let owner = |api_version: &str, kind: &str, controller| Owner {
            api_version: api_version.into(),
            kind: kind.into(),
            name: "x".into(),
            uid: "u".into(),
            controller,
        };
        assert!(is_adopted("pods", &owner("apps/v1", "ReplicaSet", true)));
        assert!(is_adopted("replicasets.apps", &owner("extensions/v1beta1", "Deployment", true)));
        assert!(is_adopted("pods", &owner("v1", "ReplicationController", true)));
        assert!(!is_adopted("pods", &owner("apps/v1", "ReplicaSet", false)));
        assert!(!is_adopted("pods", &owner("batch/v1", "Job", true)), "its selector is its UID");
        assert!(!is_adopted("jobs.batch", &owner("batch/v1", "CronJob", true)));
        assert!(!is_adopted("replicasets.apps", &owner("argoproj.io/v1alpha1", "Rollout", true)));
        assert!(!is_adopted("pods", &owner("example.com/v1", "StatefulSet", true)));
        assert!(is_adopted("persistentvolumeclaims", &owner("apps/v1", "StatefulSet", false)));
        assert!(!is_adopted("persistentvolumeclaims", &owner("example.com/v1", "Cluster", true)));
        let mut pod = json!({ "metadata": { "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "1", "controller": true },
            { "apiVersion": "example.com/v1", "kind": "App", "name": "a", "uid": "2" } ] } });
        leave_to_adopters("pods", &mut pod);
        assert_eq!(owners(&pod).len(), 1, "{pod}");
    }

    proptest! {
        #[test]
        fn no_old_uid_is_sent(uids in prop::collection::vec("(gone)?[a-c]{1,2}", 0..8)) {
            let references: Vec<Value> = uids.iter().map(|uid| json!({"kind": "K", "name": uid, "uid": uid})).collect();
            let mut object = json!({"metadata": {"ownerReferences": references}});
            let unlinked = relink(&mut object, new_uid);
            prop_assert_eq!(unlinked.len(), uids.iter().filter(|uid| uid.starts_with("gone")).count());
            let left = owners(&object);
            let is_new = |owner: &Owner| owner.uid == format!("new-{}", owner.name);
            prop_assert!(left.iter().all(is_new));
            let distinct: BTreeSet<_> = uids.iter().filter(|uid| !uid.starts_with("gone")).collect();
            prop_assert_eq!(left.len(), distinct.len());
        }
    }
}
