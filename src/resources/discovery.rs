//! What a server serves: groups, and the kinds of objects in them, from its discovery documents.
//!
//! Pure: documents in, [`Served`] out. Servers from 1.26 on answer with two documents that contain everything (the aggregated form),
//! older ones with one for each version of a group. A group whose server is down is recorded: in [`Served::stale`] if the server still
//! lists its kinds, in [`Served::missing`] if only its name is known. The documents are untrusted: names that cannot be part of a path
//! are refused, and numbers are bounded.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::cluster::{Document, Resource, Scope};

/// Far above the largest cluster (custom resource definitions end at about 5,000).
const MAX_GROUPS: usize = 10_000;
const MAX_RESOURCES: usize = 50_000;

/// Everything that discovery returned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Served {
    /// Groups with at least one version that answers; the core group is the empty name.
    pub groups: BTreeSet<String>,
    /// `GROUP/VERSION` whose own server does not answer; the list of its kinds may be outdated.
    pub stale: BTreeSet<String>,
    /// `GROUP/VERSION` that is announced, but whose kinds are unknown.
    pub missing: BTreeSet<String>,
    /// In the server's order within a group: the preferred version first.
    pub kinds: Vec<ServedKind>,
    /// The ignored entries, one sentence each: names that no server should send.
    pub odd: Vec<String>,
    known: BTreeSet<Resource>,
    /// Group and plural: the first version that has a kind is the preferred one.
    preferred: BTreeSet<(String, String)>,
}

/// A kind in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedKind {
    pub resource: Resource,
    pub verbs: BTreeSet<String>,
    /// Served in the group's preferred version, or in the first that has the kind.
    pub is_preferred: bool,
}

/// Why a document is not a discovery document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is not a discovery document: {0}")]
    Unreadable(String),
    #[error("it lists more than {0} {1}")]
    TooMany(usize, &'static str),
}

/// A group as `/apis` of the old form describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    /// `apps/v1`, the preferred one first.
    pub versions: Vec<String>,
}

/// The form of a root document.
#[derive(Debug, PartialEq, Eq)]
pub enum RootForm {
    /// It contains everything.
    Aggregated,
    /// Each of these has a document of its own.
    Old(Vec<Group>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GroupDiscoveryList {
    kind: String,
    items: Vec<GroupDiscovery>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GroupDiscovery {
    metadata: Named,
    versions: Vec<VersionDiscovery>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct VersionDiscovery {
    version: String,
    freshness: String,
    resources: Vec<ResourceDiscovery>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ResourceDiscovery {
    resource: String,
    response_kind: Option<GroupVersionKind>,
    scope: String,
    verbs: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct GroupVersionKind {
    kind: String,
}

/// `APIVersions` of `/api`, or `APIGroupList` of `/apis`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct OldRoot {
    kind: String,
    versions: Vec<String>,
    groups: Vec<OldGroup>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct OldGroup {
    name: String,
    versions: Vec<OldVersion>,
    preferred_version: OldVersion,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "camelCase")]
struct OldVersion {
    group_version: String,
}

/// `APIResourceList` of `/apis/GROUP/VERSION`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct OldResourceList {
    kind: String,
    resources: Vec<OldResource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OldResource {
    name: String,
    namespaced: bool,
    kind: String,
    verbs: Vec<String>,
}

impl Served {
    /// Reads `/api` or `/apis`, in either form.
    ///
    /// # Errors
    /// When it is neither.
    pub fn root(&mut self, document: &Document) -> Result<RootForm, Fault> {
        let unreadable =
            |error: serde_json::Error| Fault::Unreadable(format!("{:?} at line {}", error.classify(), error.line()));
        let aggregated: GroupDiscoveryList = serde_json::from_slice(&document.bytes).map_err(unreadable)?;
        if aggregated.kind == "APIGroupDiscoveryList" {
            self.aggregated(aggregated)?;
            return Ok(RootForm::Aggregated);
        }
        let old: OldRoot = serde_json::from_slice(&document.bytes).map_err(unreadable)?;
        match old.kind.as_str() {
            "APIVersions" => Ok(RootForm::Old(vec![Group { name: String::new(), versions: old.versions }])),
            "APIGroupList" if old.groups.len() > MAX_GROUPS => Err(Fault::TooMany(MAX_GROUPS, "groups")),
            "APIGroupList" => {
                Ok(RootForm::Old(old.groups.into_iter().filter_map(|group| self.old_group(group)).collect()))
            }
            kind => Err(Fault::Unreadable(format!("its kind is {:?}", kind.chars().take(64).collect::<String>()))),
        }
    }

    fn old_group(&mut self, group: OldGroup) -> Option<Group> {
        if !is_subdomain(&group.name) {
            self.ignore(&format!("a group named {}", shown(&group.name)));
            return None;
        }
        let mut versions: Vec<String> = group.versions.into_iter().map(|version| version.group_version).collect();
        versions.retain(|version| {
            let fits = version.strip_prefix(&group.name).and_then(|rest| rest.strip_prefix('/')).is_some_and(is_label);
            if !fits {
                self.ignore(&format!("a version {} of the group {}", shown(version), group.name));
            }
            fits
        });
        // Stable: the others stay in the server's order.
        versions.sort_by_key(|version| *version != group.preferred_version.group_version);
        Some(Group { name: group.name, versions })
    }

    fn aggregated(&mut self, list: GroupDiscoveryList) -> Result<(), Fault> {
        if list.items.len() > MAX_GROUPS {
            return Err(Fault::TooMany(MAX_GROUPS, "groups"));
        }
        for group in list.items {
            let name = group.metadata.name;
            if !name.is_empty() && !is_subdomain(&name) {
                self.ignore(&format!("a group named {}", shown(&name)));
                continue;
            }
            for version in group.versions {
                if !is_label(&version.version) {
                    self.ignore(&format!("a version {} of the group {}", shown(&version.version), shown(&name)));
                    continue;
                }
                let stale = version.freshness == "Stale";
                let group_version = joined(&name, &version.version);
                match (stale, version.resources.is_empty()) {
                    (false, _) => {
                        self.groups.insert(name.clone());
                    }
                    (true, true) => {
                        self.missing.insert(group_version);
                    }
                    (true, false) => {
                        self.stale.insert(group_version);
                    }
                }
                for resource in version.resources {
                    let kind = resource.response_kind.unwrap_or_default().kind;
                    let scope = if resource.scope == "Namespaced" { Scope::Namespaced } else { Scope::Cluster };
                    let found = Found { plural: resource.resource, kind, scope, verbs: resource.verbs };
                    self.kind(&name, &version.version, found)?;
                }
            }
        }
        Ok(())
    }

    /// Reads the document of `group_version` of the old form; `None`: it could not be fetched.
    ///
    /// # Errors
    /// When it is the document of another group or version.
    pub fn version(&mut self, group: &str, group_version: &str, document: Option<&Document>) -> Result<(), Fault> {
        let Some(document) = document else {
            self.missing.insert(group_version.to_owned());
            return Ok(());
        };
        let list: OldResourceList = serde_json::from_slice(&document.bytes)
            .map_err(|error| Fault::Unreadable(format!("{:?} at line {}", error.classify(), error.line())))?;
        if list.kind != "APIResourceList" {
            return Err(Fault::Unreadable(format!("its kind is {}", shown(&list.kind))));
        }
        self.groups.insert(group.to_owned());
        let version = group_version.rsplit('/').next().unwrap_or_default();
        for resource in list.resources {
            let scope = if resource.namespaced { Scope::Namespaced } else { Scope::Cluster };
            let found = Found { plural: resource.name, kind: resource.kind, scope, verbs: resource.verbs };
            self.kind(group, version, found)?;
        }
        Ok(())
    }

    fn kind(&mut self, group: &str, version: &str, found: Found) -> Result<(), Fault> {
        let Found { plural, kind, scope, verbs } = found;
        // A subresource of the old form, `pods/log`.
        if plural.contains('/') {
            return Ok(());
        }
        if !is_subdomain(&plural) || !is_kind(&kind) {
            let place = joined(group, version);
            self.ignore(&format!("the resource {} of the kind {} in {place}", shown(&plural), shown(&kind)));
            return Ok(());
        }
        if self.kinds.len() >= MAX_RESOURCES {
            return Err(Fault::TooMany(MAX_RESOURCES, "resources"));
        }
        let resource = Resource { group: group.to_owned(), version: version.to_owned(), plural, kind, scope };
        if self.known.insert(resource.clone()) {
            let is_preferred = self.preferred.insert((resource.group.clone(), resource.plural.clone()));
            self.kinds.push(ServedKind { resource, verbs: verbs.into_iter().collect(), is_preferred });
        }
        Ok(())
    }

    fn ignore(&mut self, what: &str) {
        const MOST: usize = 100;
        if self.odd.len() < MOST {
            self.odd.push(format!("{what} is not a name that Kubernetes allows"));
        }
    }
}

struct Found {
    plural: String,
    kind: String,
    scope: Scope,
    verbs: Vec<String>,
}

fn joined(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A foreign name in a message.
fn shown(name: &str) -> String {
    format!("{:?}", name.chars().take(64).collect::<String>())
}

/// RFC 1123: a label of lower-case letters, digits and `-`.
pub(super) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.len() <= 63
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

/// RFC 1123: labels with dots between them.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

fn is_kind(text: &str) -> bool {
    text.len() <= 63 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests;
