//! `cluster_resources = "auto"` if not every namespace is saved: selects the cluster-scoped objects to which objects in the chosen
//! namespaces refer. Pure: a function of the objects seen.
//!
//! The rule. While the namespaced kinds are listed, [`References::see`] notes what each saved object refers to. A cluster-scoped
//! object is saved ([`References::wants`]) where it is
//!
//! 1. the Namespace of a chosen namespace;
//! 2. an owner of a saved object, by its owner references;
//! 3. the CustomResourceDefinition of a kind of which an object was saved;
//! 4. a PersistentVolume that a saved claim is bound to;
//! 5. the StorageClass that a saved claim asks for, or a saved volume is of;
//! 6. the PriorityClass or RuntimeClass of a saved pod;
//! 7. the IngressClass of a saved Ingress;
//! 8. a ClusterRoleBinding one of whose subjects is a service account in a chosen namespace, or all of that namespace's;
//! 9. the ClusterRole that a saved RoleBinding or ClusterRoleBinding grants;
//! 10. a webhook configuration or APIService whose service is in a chosen namespace.
//!
//! Saved cluster-scoped objects count too, if their kind is earlier in the alphabet (a binding before its role, a volume before its
//! class). References in kinds that are not in this list, such as custom resources, are unknown.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::item::Item;
use crate::cluster::{Resource, Scope};

/// A reference is a name of some dozen bytes. Above this number, all cluster-scoped objects are saved: too many are no loss.
const MOST: usize = 200_000;

/// The references seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct References {
    namespaces: BTreeSet<String>,
    /// `plural.group` and name; the plural is empty for owners, which are known by kind.
    objects: BTreeSet<(&'static str, String)>,
    /// Group, kind and name.
    owners: BTreeSet<(String, String, String)>,
    /// `plural.group` of each kind with a saved object.
    kinds: BTreeSet<String>,
    overflowed: bool,
}

const VOLUMES: &str = "persistentvolumes";
const STORAGE_CLASSES: &str = "storageclasses.storage.k8s.io";
const PRIORITY_CLASSES: &str = "priorityclasses.scheduling.k8s.io";
const RUNTIME_CLASSES: &str = "runtimeclasses.node.k8s.io";
const INGRESS_CLASSES: &str = "ingressclasses.networking.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// The cluster-scoped kinds that the rule knows; the kinds of owners are added to them.
pub const REFERRED: [&str; 12] = [
    "namespaces",
    DEFINITIONS,
    VOLUMES,
    STORAGE_CLASSES,
    PRIORITY_CLASSES,
    RUNTIME_CLASSES,
    INGRESS_CLASSES,
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    "validatingwebhookconfigurations.admissionregistration.k8s.io",
    "apiservices.apiregistration.k8s.io",
];

/// The fields of all these kinds that name another object; each kind has a few of them.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    spec: Spec,
    role_ref: RoleRef,
    subjects: Vec<Subject>,
    webhooks: Vec<Webhook>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    volume_name: Option<String>,
    storage_class_name: Option<String>,
    priority_class_name: Option<String>,
    runtime_class_name: Option<String>,
    ingress_class_name: Option<String>,
    service: Option<Service>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Webhook {
    client_config: ClientConfig,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ClientConfig {
    service: Option<Service>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Service {
    namespace: String,
}

impl References {
    #[must_use]
    pub fn new(namespaces: impl IntoIterator<Item = String>) -> Self {
        Self { namespaces: namespaces.into_iter().collect(), ..Self::default() }
    }

    /// A saved object, of any scope.
    pub fn see(&mut self, resource: &Resource, item: &Item) {
        if self.overflowed {
            return;
        }
        let name = resource.name();
        if !self.kinds.contains(&name) {
            self.kinds.insert(name.clone());
        }
        let namespace = &item.metadata.namespace;
        if !namespace.is_empty() && !self.namespaces.contains(namespace) {
            self.namespaces.insert(namespace.clone());
        }
        for owner in &item.metadata.owner_references {
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            self.owners.insert((group.to_owned(), owner.kind.clone(), owner.name.clone()));
        }
        if refers(&name) {
            self.see_body(&name, item);
        }
        self.overflowed = self.objects.len() + self.owners.len() > MOST;
    }

    fn see_body(&mut self, name: &str, item: &Item) {
        // An object that cannot be parsed has no references that could be found.
        let Ok(Body { spec, role_ref, .. }) = serde_json::from_slice(&item.bytes) else { return };
        let mut note = |to: &'static str, name: Option<String>| {
            if let Some(name) = name.filter(|name| !name.is_empty()) {
                self.objects.insert((to, name));
            }
        };
        match name {
            "persistentvolumeclaims" => {
                note(VOLUMES, spec.volume_name);
                note(STORAGE_CLASSES, spec.storage_class_name);
            }
            VOLUMES => note(STORAGE_CLASSES, spec.storage_class_name),
            "pods" => {
                note(PRIORITY_CLASSES, spec.priority_class_name);
                note(RUNTIME_CLASSES, spec.runtime_class_name);
            }
            "ingresses.networking.k8s.io" => note(INGRESS_CLASSES, spec.ingress_class_name),
            _ if role_ref.kind == "ClusterRole" => note(CLUSTER_ROLES, Some(role_ref.name)),
            _ => {}
        }
    }

    /// Whether any object of the cluster-scoped kind may be saved: other kinds need not be listed.
    #[must_use]
    pub fn may_want(&self, resource: &Resource) -> bool {
        let owns = |(group, kind, _): &(String, String, String)| *group == resource.group && *kind == resource.kind;
        self.overflowed || REFERRED.contains(&resource.name().as_str()) || self.owners.iter().any(owns)
    }

    /// Whether the cluster-scoped `item` is saved.
    #[must_use]
    pub fn wants(&self, resource: &Resource, item: &Item) -> bool {
        debug_assert_eq!(resource.scope, Scope::Cluster);
        let metadata = &item.metadata;
        let name = resource.name();
        let owner = (resource.group.clone(), resource.kind.clone(), metadata.name.clone());
        if self.overflowed || self.owners.contains(&owner) {
            return true;
        }
        match name.as_str() {
            "namespaces" => self.namespaces.contains(&metadata.name),
            // Its name is `plural.group`.
            DEFINITIONS => self.kinds.contains(&metadata.name),
            CLUSTER_ROLE_BINDINGS => self.grants(item),
            "mutatingwebhookconfigurations.admissionregistration.k8s.io"
            | "validatingwebhookconfigurations.admissionregistration.k8s.io"
            | "apiservices.apiregistration.k8s.io" => self.serves(item),
            _ => {
                let known =
                    [VOLUMES, STORAGE_CLASSES, PRIORITY_CLASSES, RUNTIME_CLASSES, INGRESS_CLASSES, CLUSTER_ROLES];
                let kind = known.into_iter().find(|known| *known == name);
                kind.is_some_and(|kind| self.objects.contains(&(kind, metadata.name.clone())))
            }
        }
    }

    fn grants(&self, item: &Item) -> bool {
        let Ok(Body { subjects, .. }) = serde_json::from_slice(&item.bytes) else { return false };
        subjects.iter().any(|subject| match subject.kind.as_str() {
            "ServiceAccount" => self.namespaces.contains(&subject.namespace),
            "Group" => {
                let of = subject.name.strip_prefix("system:serviceaccounts:");
                of.is_some_and(|namespace| self.namespaces.contains(namespace))
            }
            _ => false,
        })
    }

    fn serves(&self, item: &Item) -> bool {
        let Ok(Body { spec, webhooks, .. }) = serde_json::from_slice(&item.bytes) else { return false };
        let of_webhooks = webhooks.into_iter().filter_map(|webhook| webhook.client_config.service);
        spec.service.into_iter().chain(of_webhooks).any(|service| self.namespaces.contains(&service.namespace))
    }
}

/// The kinds whose content is searched for references.
fn refers(name: &str) -> bool {
    matches!(
        name,
        "persistentvolumeclaims"
            | "pods"
            | "ingresses.networking.k8s.io"
            | "rolebindings.rbac.authorization.k8s.io"
            | VOLUMES
            | CLUSTER_ROLE_BINDINGS
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::item::{self, Kind};

    fn resource(name: &str, kind: &str, scope: Scope) -> Resource {
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        Resource { group: group.into(), version: "v1".into(), plural: plural.into(), kind: kind.into(), scope }
    }

    fn item(json: &str) -> Item {
        item::read(json.as_bytes(), &Kind { api_version: "v1".into(), kind: "K".into() }).unwrap()
    }

    /// What was saved in the namespace `shop`.
    fn references() -> References {
        let mut references = References::new(["shop".to_owned()]);
        let mut see = |name: &str, json: &str| references.see(&resource(name, "K", Scope::Namespaced), &item(json));
        see(
            "persistentvolumeclaims",
            r#"{"metadata":{"name":"c"},"spec":{"volumeName":"pv-1","storageClassName":"fast"}}"#,
        );
        see("persistentvolumeclaims", r#"{"metadata":{"name":"d"},"spec":{}}"#);
        see("pods", r#"{"metadata":{"name":"p"},"spec":{"priorityClassName":"high","runtimeClassName":"gvisor"}}"#);
        see("ingresses.networking.k8s.io", r#"{"metadata":{"name":"i"},"spec":{"ingressClassName":"nginx"}}"#);
        see(
            "rolebindings.rbac.authorization.k8s.io",
            r#"{"metadata":{"name":"r"},"roleRef":{"kind":"ClusterRole","name":"view"}}"#,
        );
        see(
            "rolebindings.rbac.authorization.k8s.io",
            r#"{"metadata":{"name":"r"},"roleRef":{"kind":"Role","name":"own"}}"#,
        );
        see(
            "widgets.example.com",
            r#"{"metadata":{"name":"w","ownerReferences":[{"apiVersion":"example.com/v1","kind":"Fleet","name":"f1","uid":"u"}]},"spec":{"volumeName":"pv-9"}}"#,
        );
        see("pods", r#"{"metadata":{"name":"odd"},"spec":{"priorityClassName":7}}"#);
        references
    }

    #[test]
    fn each_clause_of_the_rule_and_its_opposite() {
        let mut references = references();
        let binding = r#"{"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"deployer"},"subjects":[{"kind":"User","name":"x"},{"kind":"ServiceAccount","name":"ci","namespace":"shop"}]}"#;
        let rows: [(&str, &str, &str, bool); 25] = [
            ("namespaces", "Namespace", r#"{"metadata":{"name":"shop"}}"#, true),
            ("namespaces", "Namespace", r#"{"metadata":{"name":"other"}}"#, false),
            ("fleets.example.com", "Fleet", r#"{"metadata":{"name":"f1"}}"#, true),
            ("fleets.example.com", "Fleet", r#"{"metadata":{"name":"f2"}}"#, false),
            ("fleets.other.com", "Fleet", r#"{"metadata":{"name":"f1"}}"#, false),
            (DEFINITIONS, "K", r#"{"metadata":{"name":"widgets.example.com"}}"#, true),
            (DEFINITIONS, "K", r#"{"metadata":{"name":"gadgets.example.com"}}"#, false),
            (VOLUMES, "K", r#"{"metadata":{"name":"pv-1"}}"#, true),
            (VOLUMES, "K", r#"{"metadata":{"name":"pv-9"}}"#, false),
            (STORAGE_CLASSES, "K", r#"{"metadata":{"name":"fast"}}"#, true),
            (STORAGE_CLASSES, "K", r#"{"metadata":{"name":"slow"}}"#, false),
            (PRIORITY_CLASSES, "K", r#"{"metadata":{"name":"high"}}"#, true),
            (PRIORITY_CLASSES, "K", r#"{"metadata":{"name":"low"}}"#, false),
            (RUNTIME_CLASSES, "K", r#"{"metadata":{"name":"gvisor"}}"#, true),
            (INGRESS_CLASSES, "K", r#"{"metadata":{"name":"nginx"}}"#, true),
            (CLUSTER_ROLE_BINDINGS, "K", binding, true),
            (
                CLUSTER_ROLE_BINDINGS,
                "K",
                r#"{"subjects":[{"kind":"Group","name":"system:serviceaccounts:shop"}]}"#,
                true,
            ),
            (
                CLUSTER_ROLE_BINDINGS,
                "K",
                r#"{"subjects":[{"kind":"ServiceAccount","name":"a","namespace":"other"}]}"#,
                false,
            ),
            (CLUSTER_ROLES, "K", r#"{"metadata":{"name":"view"}}"#, true),
            (CLUSTER_ROLES, "K", r#"{"metadata":{"name":"own"}}"#, false),
            (
                "apiservices.apiregistration.k8s.io",
                "K",
                r#"{"spec":{"service":{"namespace":"shop","name":"s"}}}"#,
                true,
            ),
            ("apiservices.apiregistration.k8s.io", "K", r#"{"spec":{"service":null}}"#, false),
            (
                "validatingwebhookconfigurations.admissionregistration.k8s.io",
                "K",
                r#"{"webhooks":[{"clientConfig":{"url":"https://x"}},{"clientConfig":{"service":{"namespace":"shop"}}}]}"#,
                true,
            ),
            (
                "mutatingwebhookconfigurations.admissionregistration.k8s.io",
                "K",
                r#"{"webhooks":[{"clientConfig":{"service":{"namespace":"other"}}}]}"#,
                false,
            ),
            ("nodes", "Node", r#"{"metadata":{"name":"n"}}"#, false),
        ];
        for (name, kind, json, expected) in rows {
            let resource = resource(name, kind, Scope::Cluster);
            assert_eq!(references.wants(&resource, &item(json)), expected, "{name} {json}");
            assert!(!expected || references.may_want(&resource), "{name} would not be listed");
        }
        assert!(!references.may_want(&resource("nodes", "Node", Scope::Cluster)));
        // A saved binding brings its role.
        let role = item(r#"{"metadata":{"name":"deployer"}}"#);
        assert!(!references.wants(&resource(CLUSTER_ROLES, "K", Scope::Cluster), &role));
        references.see(&resource(CLUSTER_ROLE_BINDINGS, "K", Scope::Cluster), &item(binding));
        assert!(references.wants(&resource(CLUSTER_ROLES, "K", Scope::Cluster), &role));
    }

    #[test]
    fn too_many_references_are_everything() {
        let mut references = References::new(["shop".to_owned()]);
        let pods = resource("pods", "Pod", Scope::Namespaced);
        for number in 0..=MOST {
            let owner = format!(
                r#"{{"metadata":{{"ownerReferences":[{{"apiVersion":"a/v1","kind":"Own","name":"o{number}"}}]}}}}"#
            );
            references.see(&pods, &item(&owner));
        }
        assert!(references.wants(&resource("nodes", "Node", Scope::Cluster), &item("{}")));
    }
}
