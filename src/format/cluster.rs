//! What a backup of a cluster's API objects saved, and what it did not, as its manifest records it.
//!
//! Its size is bounded by the number of kinds and namespaces, not of objects. [`Record::losses`] is the one place that decides whether a
//! backup is complete; [`Record::gone_since`] compares it with the previous one. Values that another version writes are kept unchanged.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::Class;

/// The most objects, or failures, that a record names; more are only counted.
pub const MOST_NAMES: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// `v1.36.4`.
    pub server_version: String,
    /// The UID of the namespace kube-system: it identifies the cluster. Empty if it could not be read.
    pub cluster_uid: String,
    pub groups: Groups,
    /// The label selector by which objects were chosen.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The namespaces that were saved.
    pub namespaces: BTreeSet<String>,
    /// By `plural.group`, with `/version` where a kind is saved in several.
    pub resources: BTreeMap<String, ResourceRecord>,
    /// Every kind that was listed, empty ones too, as `plural.group/version`.
    pub listed: BTreeSet<String>,
    /// Kinds that are served and were not listed, by reason.
    pub unlisted: BTreeMap<String, BTreeSet<String>>,
    /// What the configuration names and the cluster does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Unknown>,
    /// Other notes for the operator.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Groups {
    pub served: BTreeSet<String>,
    /// `GROUP/VERSION` whose server does not answer; Penstock tried to list its kinds anyway.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub stale: BTreeSet<String>,
    /// `GROUP/VERSION` that is announced, but whose kinds are unknown.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub missing: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceRecord {
    pub version: String,
    pub objects: u64,
    pub bytes: u64,
    /// The state of the cluster in which the list was taken: more than one if it is not of one instant (410, or a list for each
    /// namespace).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub list_versions: BTreeSet<String>,
    pub pages: u64,
    /// Continue tokens that expired during the list.
    #[serde(skip_serializing_if = "is_zero")]
    pub expired: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// Objects that a restore would need and that could not be saved; they count among the skipped.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// The first of them, as `namespace/name: reason`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost_names: Vec<String>,
    /// Why the list is incomplete or missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failed>,
}

/// A list that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub class: Class,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A name or pattern of the configuration that matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unknown {
    /// `resources`, `namespaces`.
    pub key: String,
    pub pattern: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl Record {
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.resources.values().map(|resource| resource.objects).sum()
    }

    /// Objects that are not saved, by reason.
    #[must_use]
    pub fn skipped(&self) -> BTreeMap<&str, u64> {
        let mut all: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, count) in self.resources.values().flat_map(|resource| &resource.skipped) {
            *all.entry(reason).or_default() += count;
        }
        all
    }

    /// The losses, one sentence each; empty: the backup is complete.
    #[must_use]
    pub fn losses(&self) -> Vec<String> {
        let missing = self
            .groups
            .missing
            .iter()
            .map(|group| format!("the API group {group} does not answer: none of its objects are saved"));
        let stale = self.groups.stale.iter().map(|group| {
            format!("the API group {group} is stale: kinds that its server has now and discovery does not know are not saved")
        });
        let kinds = self.resources.iter().flat_map(|(name, resource)| {
            let failures = resource.failures.iter().map(move |failure| {
                let extent = if resource.objects == 0 { "not saved" } else { "saved in part" };
                format!("{name} are {extent}: {}", failure.message)
            });
            let lost = (resource.lost > 0)
                .then(|| format!("{} of {name} are not saved: {}", resource.lost, resource.lost_names.join(", ")));
            failures.chain(lost)
        });
        missing.chain(stale).chain(kinds).collect()
    }

    /// What to do about the [losses](Self::losses), one sentence each.
    #[must_use]
    pub fn remedies(&self) -> Vec<String> {
        let groups = self.groups.missing.iter().chain(&self.groups.stale).map(|group| {
            format!(
                "{group}: what to do: `kubectl get apiservices` names its backend; repair it, or remove the APIService"
            )
        });
        let kinds = self.resources.iter().flat_map(|(name, resource)| {
            resource.failures.iter().filter_map(move |failure| {
                let remedy = failure.remedy.as_ref()?;
                Some(format!("{name} ({}): what to do: {remedy}", failure.class))
            })
        });
        groups.chain(kinds).collect()
    }

    /// What `parent`, the previous backup, has and this one does not, one sentence each. It may have been deleted on purpose, which is no
    /// loss.
    #[must_use]
    pub fn gone_since(&self, parent: &Self) -> Vec<String> {
        let unlisted: BTreeSet<&String> = self.unlisted.values().flatten().collect();
        let kinds =
            parent.resources.iter().filter(|(_, resource)| resource.objects > 0).filter_map(|(name, resource)| {
                let plain = name.split('/').next().unwrap_or(name);
                let is_served = self
                    .listed
                    .iter()
                    .chain(unlisted.iter().copied())
                    .any(|kind| kind.split('/').next() == Some(plain));
                (!is_served).then(|| {
                    format!("{name} are no longer served; the previous backup has {} of them", resource.objects)
                })
            });
        let namespaces = parent.namespaces.difference(&self.namespaces);
        let namespaces =
            namespaces.map(|name| format!("the namespace {name} is in the previous backup and not in this one"));
        let other =
            (!parent.cluster_uid.is_empty() && !self.cluster_uid.is_empty() && parent.cluster_uid != self.cluster_uid)
                .then(|| {
                    "the previous backup is of another cluster: the UID of its namespace kube-system differs".to_owned()
                });
        other.into_iter().chain(kinds).chain(namespaces).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(objects: u64) -> ResourceRecord {
        ResourceRecord { objects, ..ResourceRecord::default() }
    }

    #[test]
    fn only_what_is_missing_is_a_loss() {
        let mut record = Record::default();
        let mut pods = resource(3);
        pods.skipped.insert("being-deleted".into(), 1);
        record.resources.insert("pods".into(), pods);
        assert_eq!(record.losses(), Vec::<String>::new());
        assert_eq!(record.skipped()["being-deleted"], 1);
        assert_eq!(record.objects(), 3);

        let failed =
            Failed { class: Class::Transient, message: "list /apis/x: no backend".into(), code: None, remedy: None };
        let widgets = ResourceRecord { failures: vec![failed], ..resource(0) };
        record.resources.insert("widgets.example.com".into(), widgets);
        record.groups.missing.insert("metrics.k8s.io/v1beta1".into());
        record.groups.stale.insert("half.example.com/v1".into());
        let maps = ResourceRecord { lost: 7, lost_names: vec!["\"shop/big\": too-large".into()], ..resource(1) };
        record.resources.insert("configmaps".into(), maps);
        let losses = record.losses();
        assert_eq!(losses.len(), 4, "{losses:?}");
        assert!(losses[0].contains("metrics.k8s.io/v1beta1") && losses[1].contains("half.example.com/v1"));
        assert_eq!(losses[2], "7 of configmaps are not saved: \"shop/big\": too-large");
        assert_eq!(losses[3], "widgets.example.com are not saved: list /apis/x: no backend");
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
    }

    #[test]
    fn a_backup_is_compared_with_the_one_before() {
        let mut parent = Record { cluster_uid: "u1".into(), ..Record::default() };
        for name in ["pods", "widgets.example.com", "gadgets.example.com/v1beta1", "events", "gone.example.com"] {
            parent.resources.insert(name.into(), resource(5));
        }
        parent.resources.insert("empty.example.com".into(), resource(0));
        parent.namespaces = ["shop", "old"].map(str::to_owned).into();
        let mut record = Record { cluster_uid: "u1".into(), ..Record::default() };
        record.listed = ["pods/v1", "widgets.example.com/v2", "gadgets.example.com/v1"].map(str::to_owned).into();
        record.unlisted.insert("excluded".into(), ["events/v1".to_owned()].into());
        record.namespaces = ["shop", "new"].map(str::to_owned).into();
        let gone = record.gone_since(&parent);
        assert_eq!(
            gone,
            [
                "gone.example.com are no longer served; the previous backup has 5 of them",
                "the namespace old is in the previous backup and not in this one"
            ]
        );
        record.cluster_uid = "u2".into();
        assert!(record.gone_since(&parent)[0].contains("another cluster"));
        assert_eq!(parent.gone_since(&Record::default()), Vec::<String>::new());
    }
}
