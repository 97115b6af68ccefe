//! Renames namespaces and storage classes. Pure.

mod mention;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::fields::{EACH, each, pod_spec, text};
use crate::resources::select::Pattern;
pub use mention::{MOST_MENTIONS, mentions};

/// An option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Old names to new ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    pub namespaces: BTreeMap<String, String>,
    /// Old to new names of storage classes.
    pub classes: BTreeMap<String, String>,
}

impl Mapping {
    /// Reads `--namespace FROM[:TO]` and `--storage-class FROM:TO`; a namespace without `TO` keeps its name, and may be a glob.
    ///
    /// # Errors
    /// When an option does not have this form, a name is invalid, or two namespaces would become one.
    pub fn new(namespaces: &[String], classes: &[String]) -> Result<Self, Unusable> {
        let mut mapping = Self::default();
        for option in namespaces {
            if let Some((from, to)) = pair("namespace", option, is_label)? {
                add(&mut mapping.namespaces, "namespace", (from, to))?;
            }
        }
        for option in classes {
            let Some((from, to)) = pair("storage-class", option, is_subdomain)? else {
                return Err(Unusable(format!("--storage-class {option:?} is not of the form FROM:TO")));
            };
            add(&mut mapping.classes, "storage-class", (from, to))?;
        }
        let literal = Self::chosen(namespaces).into_iter().filter(|from| is_label(from));
        mapping.check(&literal.collect())?;
        Ok(mapping)
    }

    /// The namespaces that `--namespace FROM[:TO]` selects in the backup: each `FROM`.
    #[must_use]
    pub fn chosen(namespaces: &[String]) -> Vec<String> {
        namespaces.iter().map(|option| option.split(':').next().unwrap_or_default().to_owned()).collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.classes.is_empty()
    }

    /// Checks the namespaces of the backup: a glob may select one to which another is mapped.
    ///
    /// # Errors
    /// When two of the namespaces that are restored would become one.
    pub fn check(&self, restored: &BTreeSet<String>) -> Result<(), Unusable> {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        let mapped = self.namespaces.keys().filter(|from| !restored.contains(*from));
        for old in restored.iter().chain(mapped) {
            let new = self.namespace(old);
            if let Some(other) = taken.insert(new, old) {
                let why = format!("--namespace would merge {other:?} and {old:?} into one namespace, {new:?}");
                return Err(Unusable(why));
            }
        }
        Ok(())
    }

    /// The new name of a namespace.
    #[must_use]
    pub fn namespace<'a>(&'a self, old: &'a str) -> &'a str {
        self.namespaces.get(old).map_or(old, String::as_str)
    }

    /// The old names of namespaces, for [`mentions`].
    #[must_use]
    pub fn old_namespaces(&self) -> Vec<&str> {
        self.namespaces.iter().filter(|(from, to)| from != to).map(|(from, _)| from.as_str()).collect()
    }

    /// Renames in `object`, as saved, its own namespace and class, and those in known fields. Returns whether it renamed any: a live
    /// cluster-scoped object serves the old namespace, and an update would take it away from it.
    pub fn apply(&self, resource: &str, object: &mut Value) -> bool {
        let renamed = Cell::new(0);
        self.apply_namespaces(resource, object, &renamed);
        self.apply_classes(resource, object, &renamed);
        renamed.get() > 0
    }

    fn apply_namespaces(&self, resource: &str, object: &mut Value, renamed: &Cell<usize>) {
        let mut replace = |value: &mut Value| replace(&self.namespaces, value, renamed);
        each(object, &["metadata", "namespace"], &mut replace);
        for path in namespace_fields(resource) {
            each(object, path, &mut replace);
        }
        if matches!(
            resource,
            "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io"
        ) {
            each(object, &["subjects", EACH], &mut |subject| self.apply_subject(subject, renamed));
        }
    }

    /// A service account, one by its user name, or all accounts of a namespace.
    fn apply_subject(&self, subject: &mut Value, renamed: &Cell<usize>) {
        let prefix = match text(subject, &["kind"]) {
            "ServiceAccount" => {
                return each(subject, &["namespace"], &mut |value| replace(&self.namespaces, value, renamed));
            }
            "Group" => "system:serviceaccounts:",
            "User" => "system:serviceaccount:",
            _ => return,
        };
        let Some(rest) = text(subject, &["name"]).strip_prefix(prefix) else { return };
        let (namespace, account) = rest.split_once(':').map_or((rest, None), |(first, rest)| (first, Some(rest)));
        if let Some(new) = self.namespaces.get(namespace) {
            let account = account.map(|account| format!(":{account}")).unwrap_or_default();
            subject["name"] = format!("{prefix}{new}{account}").into();
            renamed.set(renamed.get() + 1);
        }
    }

    fn apply_classes(&self, resource: &str, object: &mut Value, renamed: &Cell<usize>) {
        let mut claim = |claim: &mut Value| {
            let mut replace = |value: &mut Value| replace(&self.classes, value, renamed);
            each(claim, &["spec", "storageClassName"], &mut replace);
            each(claim, &["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"], &mut replace);
        };
        match resource {
            "persistentvolumeclaims" | "persistentvolumes" => claim(object),
            "statefulsets.apps" => each(object, &["spec", "volumeClaimTemplates", EACH], &mut claim),
            _ => {}
        }
        if let Some(spec) = pod_spec(resource) {
            let path = [spec, &["volumes", EACH, "ephemeral", "volumeClaimTemplate"]].concat();
            each(object, &path, &mut claim);
        }
    }
}

/// Fields of a kind that name a namespace, besides the object's own.
fn namespace_fields(resource: &str) -> &'static [&'static [&'static str]] {
    match resource {
        "namespaces" => &[&["metadata", "name"], &["metadata", "labels", "kubernetes.io/metadata.name"]],
        "persistentvolumes" => &[&["spec", "claimRef", "namespace"]],
        "persistentvolumeclaims" => &[&["spec", "dataSourceRef", "namespace"]],
        "volumesnapshotcontents.snapshot.storage.k8s.io" => &[&["spec", "volumeSnapshotRef", "namespace"]],
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            &[&["webhooks", EACH, "clientConfig", "service", "namespace"]]
        }
        "validatingadmissionpolicybindings.admissionregistration.k8s.io"
        | "mutatingadmissionpolicybindings.admissionregistration.k8s.io" => &[&["spec", "paramRef", "namespace"]],
        "customresourcedefinitions.apiextensions.k8s.io" => {
            &[&["spec", "conversion", "webhook", "clientConfig", "service", "namespace"]]
        }
        "apiservices.apiregistration.k8s.io" => &[&["spec", "service", "namespace"]],
        "ingressclasses.networking.k8s.io" => &[&["spec", "parameters", "namespace"]],
        "endpoints" => &[
            &["subsets", EACH, "addresses", EACH, "targetRef", "namespace"],
            &["subsets", EACH, "notReadyAddresses", EACH, "targetRef", "namespace"],
        ],
        "endpointslices.discovery.k8s.io" => &[&["endpoints", EACH, "targetRef", "namespace"]],
        _ => &[],
    }
}

fn replace(names: &BTreeMap<String, String>, value: &mut Value, renamed: &Cell<usize>) {
    if let Some(new) = value.as_str().and_then(|old| names.get(old)) {
        *value = new.as_str().into();
        renamed.set(renamed.get() + 1);
    }
}

/// Splits `FROM:TO`; `None` if there is no `TO`.
fn pair(option: &str, text: &str, is_name: fn(&str) -> bool) -> Result<Option<(String, String)>, Unusable> {
    let refuse = |why: String| Err(Unusable(format!("--{option} {text:?} {why}")));
    let Some((from, to)) = text.split_once(':') else {
        return if text.is_empty() { refuse("is empty".into()) } else { Ok(None) };
    };
    if Pattern::new(from).is_ok_and(|pattern| !pattern.is_literal()) {
        return refuse("maps a glob; name each namespace".into());
    }
    for (what, name) in [("FROM", from), ("TO", to)] {
        if !is_name(name) {
            return refuse(format!("is not of the form FROM:TO: {what} is not a name"));
        }
    }
    Ok(Some((from.to_owned(), to.to_owned())))
}

fn add(names: &mut BTreeMap<String, String>, option: &str, (from, to): (String, String)) -> Result<(), Unusable> {
    match names.insert(from.clone(), to.clone()) {
        Some(other) if other != to => Err(Unusable(format!("--{option} maps {from:?} to {other:?} and to {to:?}"))),
        _ => Ok(()),
    }
}

/// RFC 1123, as Kubernetes requires for namespaces.
fn is_label(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.len() <= 63 && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}
