//! What a listing saved, and what it did not: the manifest's side of a cluster backup.
//!
//! Everything in it is bounded by the number of kinds and namespaces, not of objects. [`Record::losses`] is the one place that says
//! whether a backup is complete.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::skip::Skipped;
use crate::error::Report;

/// Objects that are named in a record; more are only counted.
pub const MOST_NAMES: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Record {
    /// `v1.36.4`.
    pub server_version: String,
    /// The UID of the namespace kube-system: which cluster this is. Empty where it could not be read.
    pub cluster_uid: String,
    pub groups: Groups,
    /// Those that were saved.
    pub namespaces: BTreeSet<String>,
    /// By `plural.group`, with `/version` where a kind is saved in several.
    pub resources: BTreeMap<String, ResourceRecord>,
    /// Kinds that are served and were not listed, by reason.
    pub unlisted: BTreeMap<&'static str, BTreeSet<String>>,
    /// What the configuration names and the cluster does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Unknown>,
    /// What else the operator should read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Groups {
    pub served: BTreeSet<String>,
    /// `GROUP/VERSION` whose server does not answer; its kinds were tried all the same.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub stale: BTreeSet<String>,
    /// `GROUP/VERSION` that is announced, and of which nothing is known.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub missing: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ResourceRecord {
    pub version: String,
    pub objects: u64,
    pub bytes: u64,
    /// The state of the cluster in which the list was taken: more than one where it is not of one instant (410, or a list for each
    /// namespace).
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub list_versions: BTreeSet<String>,
    pub pages: u64,
    /// Continue tokens that expired in mid-list.
    #[serde(skip_serializing_if = "is_zero")]
    pub expired: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<Skipped, u64>,
    /// The first of those that are a loss, as `namespace/name: reason`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<String>,
    /// Why the list is not whole, or not there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Report>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A name or pattern of the configuration that fits nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// `resources`, `namespaces`.
    pub key: &'static str,
    pub pattern: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

impl ResourceRecord {
    pub(super) fn skip(&mut self, reason: Skipped, namespace: &str, name: &str) {
        *self.skipped.entry(reason).or_default() += 1;
        if reason.is_loss() && self.lost.len() < MOST_NAMES {
            let short = |text: &str| text.chars().take(80).collect::<String>();
            self.lost.push(format!("{:?}: {}", format!("{}/{}", short(namespace), short(name)), reason.as_str()));
        }
    }
}

impl Record {
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.resources.values().map(|resource| resource.objects).sum()
    }

    #[must_use]
    pub fn skipped(&self) -> BTreeMap<Skipped, u64> {
        let mut all = BTreeMap::new();
        for (reason, count) in self.resources.values().flat_map(|resource| &resource.skipped) {
            *all.entry(*reason).or_default() += count;
        }
        all
    }

    /// What is missing, a sentence each; empty: the backup is complete.
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
            let lost = resource.skipped.iter().filter(|(reason, _)| reason.is_loss()).map(move |(reason, count)| {
                format!("{count} of {name} are not saved ({}): {}", reason.as_str(), resource.lost.join(", "))
            });
            failures.chain(lost)
        });
        missing.chain(stale).chain(kinds).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn only_what_is_missing_is_a_loss() {
        let mut record = Record::default();
        let mut pods = ResourceRecord { objects: 3, ..ResourceRecord::default() };
        pods.skip(Skipped::BeingDeleted, "shop", "p");
        record.resources.insert("pods".into(), pods);
        assert_eq!(record.losses(), Vec::<String>::new());
        assert_eq!(record.skipped()[&Skipped::BeingDeleted], 1);

        let mut widgets = ResourceRecord::default();
        widgets.failures.push(Report::new(Class::Transient, "list /apis/x: no backend"));
        record.resources.insert("widgets.example.com".into(), widgets);
        record.groups.missing.insert("metrics.k8s.io/v1beta1".into());
        let mut maps = ResourceRecord { objects: 1, ..ResourceRecord::default() };
        for number in 0..100 {
            maps.skip(Skipped::TooLarge, "shop", &format!("big-{number}"));
        }
        record.resources.insert("configmaps".into(), maps);
        let losses = record.losses();
        assert_eq!(losses.len(), 3, "{losses:?}");
        assert!(losses[0].contains("metrics.k8s.io/v1beta1"));
        assert!(
            losses[1].starts_with("100 of configmaps are not saved (too-large): \"shop/big-0\"")
                && losses[1].len() < 2000
        );
        assert_eq!(losses[2], "widgets.example.com are not saved: list /apis/x: no backend");
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["resources"]["configmaps"]["skipped"]["too-large"], 100);
    }
}
