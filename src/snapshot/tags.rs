//! The tags of snapshots and volumes. Only snapshots with Penstock's own tags, which name their owner, are ever adopted or deleted.

use std::collections::BTreeMap;

use super::Owner;
use crate::config::Ebs;
use crate::disks::{Snapshot, Tags, Volume};
use crate::format::ebs::{CLUSTER_TAG, MAX_TAGS, VolumeId};
use crate::format::key::Chain;

const OWN: &str = "penstock:";
const JOB: &str = "penstock:job";
const NODE: &str = "penstock:node";
pub const BACKUP_ID: &str = "penstock:backup-id";
pub(super) const SOURCE_VOLUME: &str = "penstock:source-volume";
pub(super) const SOURCE_SNAPSHOT: &str = "penstock:source-snapshot";

/// The tags that the EBS CSI driver writes on a volume, and the labels of an item for them.
const LABELS: [(&str, &str); 3] = [
    ("kubernetes.io/created-for/pvc/namespace", "pvc_namespace"),
    ("kubernetes.io/created-for/pvc/name", "pvc_name"),
    ("kubernetes.io/created-for/pv/name", "pv_name"),
];

/// The claim of an item with these labels, `NAMESPACE/NAME`.
#[must_use]
pub fn claim(labels: &BTreeMap<String, String>) -> Option<String> {
    Some(format!("{}/{}", labels.get("pvc_namespace")?, labels.get("pvc_name")?))
}

/// The labels of a volume with these tags.
#[must_use]
pub fn labels(tags: &Tags) -> BTreeMap<String, String> {
    let label = |(tag, label): (&str, &str)| Some((label.to_owned(), tags.get(tag)?.clone()));
    LABELS.into_iter().filter_map(label).collect()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Tags {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The tags of every snapshot of a chain.
pub(super) fn of_chain(chain: &Chain) -> Tags {
    let Chain { cluster, job, node } = chain;
    pairs([(CLUSTER_TAG, cluster.as_str()), (JOB, job.as_str()), (NODE, node.as_str())])
}

/// The tags of every snapshot of a backup.
pub(super) fn of_backup(owner: &Owner) -> Tags {
    let mut tags = of_chain(&owner.chain);
    tags.extend(pairs([(BACKUP_ID, owner.id.as_str())]));
    tags
}

/// The tags that identify the snapshot of a volume in a backup.
pub(super) fn of_volume(owner: &Owner, volume: &VolumeId) -> Tags {
    let mut tags = of_backup(owner);
    tags.extend(pairs([(SOURCE_VOLUME, volume.as_str())]));
    tags
}

pub(super) fn belongs(snapshot: &Snapshot, to: &Tags) -> bool {
    to.iter().all(|(key, value)| snapshot.tags.get(key) == Some(value))
}

/// Adds to `first` as many of `more` as EC2 allows on one resource, but not AWS's own tags or Penstock's. Returns how many did
/// not fit.
pub(super) fn fill(first: Tags, more: &Tags) -> (Tags, usize) {
    let mut tags = first;
    let mut left_out = 0;
    for (key, value) in more {
        if key.to_lowercase().starts_with("aws:") || key.starts_with(OWN) || tags.contains_key(key) {
            continue;
        }
        if tags.len() < MAX_TAGS {
            tags.insert(key.clone(), value.clone());
        } else {
            left_out += 1;
        }
    }
    (tags, left_out)
}

/// The tags of a new snapshot: Penstock's own, then the configured ones, then the volume's if they are to be copied.
pub(super) fn of_new_snapshot(owner: &Owner, volume: &Volume, ebs: &Ebs) -> Tags {
    let (tags, left_out) = fill(of_volume(owner, &volume.id), &ebs.tags);
    let none = Tags::new();
    let (tags, more) = fill(tags, if ebs.copy_volume_tags { &volume.tags } else { &none });
    if left_out + more > 0 {
        tracing::warn!(volume = %volume.id, left_out = left_out + more, "snapshot gets {MAX_TAGS} tags, the most that EC2 allows: the others are left out");
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(prefix: &str, count: usize) -> Tags {
        (0..count).map(|number| (format!("{prefix}{number:03}"), "x".to_owned())).collect()
    }

    #[test]
    fn own_tags_come_first_when_there_are_too_many() {
        let first = pairs([("penstock:job", "etcd")]);
        let (tags, left_out) = fill(first.clone(), &many("t", 60));
        assert_eq!((tags.len(), left_out), (MAX_TAGS, 11));
        assert_eq!(tags["penstock:job"], "etcd");
        assert!(tags.contains_key("t000") && !tags.contains_key("t059"));
        let foreign = pairs([("aws:x", ""), ("AWS:y", ""), ("penstock:job", "other"), ("penstock:z", ""), ("a", "b")]);
        let (tags, left_out) = fill(first, &foreign);
        assert_eq!((tags, left_out), (pairs([("penstock:job", "etcd"), ("a", "b")]), 0));
    }

    #[test]
    fn a_claim_needs_both_halves() {
        let tags = pairs([
            ("kubernetes.io/created-for/pvc/namespace", "shop"),
            ("kubernetes.io/created-for/pvc/name", "db"),
            ("other", "x"),
        ]);
        let labels = labels(&tags);
        assert_eq!(claim(&labels).as_deref(), Some("shop/db"));
        assert_eq!(labels.len(), 2);
        assert_eq!(claim(&BTreeMap::new()), None);
    }
}
