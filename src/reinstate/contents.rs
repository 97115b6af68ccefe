//! The objects of a backup that are to be restored, as far as they are kept, and the order of their creation. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::data::Placement;
use super::left_out::LeftOut;
use super::rank::rank;
use crate::checksum::fingerprint;
use crate::inventory::archive::Member;
use crate::resources::place::Filed;

/// The objects of a backup that are to be restored.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) kinds: Vec<Kind>,
    pub(super) entries: Vec<Entry>,
    /// Owners by the entry that has them; few objects have any.
    pub(super) owners: BTreeMap<usize, Vec<Uid>>,
    pub(super) by_uid: HashMap<Uid, usize>,
    /// Kind and name of each object that is not left out.
    pub(super) restored: HashSet<Uid>,
    /// What the operator should read of the backup.
    pub(super) notes: Vec<String>,
    /// Namespaces that an entry is in, as the backup names them.
    pub(super) namespaces: BTreeSet<String>,
    /// Where the pods of claims may run, by the claim's key; empty if claims are not filled.
    pub(super) users: BTreeMap<String, Placement>,
    /// Claims that no agent saves; empty if claims are not filled.
    pub(super) excluded: BTreeSet<String>,
}

/// A kind of the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) filed: Filed,
    /// `apps/v1`, as the objects have it.
    pub(super) api_version: String,
    /// `Deployment`.
    pub(super) name: String,
    pub(super) rank: u8,
}

/// An object, as far as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The index of its archive.
    pub(super) archive: usize,
    /// The index of its kind.
    pub(super) kind: usize,
    /// `shop/web`, or the name alone.
    pub(super) key: Box<str>,
    pub(super) member: Member,
    pub(super) left_out: Option<LeftOut>,
    /// It cannot be parsed: its JSON is nested deeper than 128 levels, or damaged.
    pub(super) unreadable: bool,
}

/// Half of a UID's SHA-256: a UID is whatever text the backup has.
pub(super) type Uid = [u8; 16];

pub(super) fn uid(text: &str) -> Uid {
    fingerprint(text.as_bytes())
}

/// The entries that are created together: each of their owners is in an earlier batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) rank: u8,
    /// Indexes of entries, in the order of their archive.
    pub(super) entries: Vec<usize>,
}

impl Contents {
    /// The index of the kind; the archive is sorted, so that it is nearly always the last one.
    pub(super) fn kind(&mut self, filed: Filed, value: &Value) -> usize {
        if let Some(index) = self.kinds.iter().rposition(|kind| kind.filed == filed) {
            return index;
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let rank = rank(&filed.resource);
        self.kinds.push(Kind { filed, api_version: text("apiVersion"), name: text("kind"), rank });
        self.kinds.len() - 1
    }

    pub(super) fn kind_of(&self, entry: &Entry) -> &Kind {
        &self.kinds[entry.kind]
    }

    /// Of [`Contents::owner_uids`], those of objects that are restored too.
    pub(super) fn restored_owners(&self) -> HashSet<Uid> {
        self.owner_uids().into_iter().filter(|uid| self.by_uid.contains_key(uid)).collect()
    }

    /// UIDs that some entry names as its owner.
    pub(super) fn owner_uids(&self) -> HashSet<Uid> {
        self.owners.values().flatten().copied().collect()
    }

    /// Whether an object of this kind and name is restored.
    pub(super) fn has(&self, resource: &str, key: &str) -> bool {
        self.restored.contains(&uid(&format!("{resource} {key}")))
    }

    /// The objects to create, owners before what they own and otherwise by rank.
    pub(super) fn batches(&self) -> Vec<Batch> {
        let mut levels: Vec<Option<(u8, u32)>> = vec![None; self.entries.len()];
        let mut batches: BTreeMap<(u8, u32), Vec<usize>> = BTreeMap::new();
        for index in 0..self.entries.len() {
            if self.entries[index].left_out.is_none() {
                let level = self.level(index, &mut levels);
                batches.entry(level).or_default().push(index);
            }
        }
        batches.into_iter().map(|((rank, _), entries)| Batch { rank, entries }).collect()
    }

    /// The rank of an entry, or of its last owner if that is later, and how many owners of that rank are before it. Owners that own each
    /// other in a circle are not before each other. Without recursion: a hostile backup has chains of any length.
    fn level(&self, index: usize, levels: &mut [Option<(u8, u32)>]) -> (u8, u32) {
        let mut stack = vec![index];
        let mut on_stack = HashSet::from([index]);
        while let Some(current) = stack.last().copied() {
            let own = (self.kind_of(&self.entries[current]).rank, 0);
            let owners =
                self.owners.get(&current).into_iter().flatten().filter_map(|uid| self.by_uid.get(uid).copied());
            let mut level = own;
            let mut waits = None;
            for owner in owners {
                match levels[owner] {
                    Some(of_owner) if of_owner.0 >= level.0 => level = level.max((of_owner.0, of_owner.1 + 1)),
                    Some(_) => {}
                    None if on_stack.contains(&owner) => {}
                    None => waits = waits.or(Some(owner)),
                }
            }
            if let Some(owner) = waits {
                on_stack.insert(owner);
                stack.push(owner);
            } else {
                levels[current] = Some(level);
                on_stack.remove(&current);
                stack.pop();
            }
        }
        levels[index].unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Scope;

    /// Entries of these ranks, each with the indexes of its owners.
    fn contents(entries: &[(u8, &[usize])]) -> Contents {
        let mut contents = Contents::default();
        for (index, (rank, owners)) in entries.iter().enumerate() {
            let filed = Filed { scope: Scope::Namespaced, resource: format!("r{rank}"), version: String::new() };
            contents.kinds.push(Kind { filed, api_version: "v1".into(), name: "R".into(), rank: *rank });
            let member = Member { start: 0, length: 0 };
            let key = format!("n/{index}").into();
            contents.entries.push(Entry { archive: 0, kind: index, key, member, left_out: None, unreadable: false });
            contents.by_uid.insert(uid(&index.to_string()), index);
            if !owners.is_empty() {
                contents.owners.insert(index, owners.iter().map(|owner| uid(&owner.to_string())).collect());
            }
        }
        contents
    }

    fn order(entries: &[(u8, &[usize])]) -> Vec<(u8, Vec<usize>)> {
        contents(entries).batches().into_iter().map(|batch| (batch.rank, batch.entries)).collect()
    }

    #[test]
    fn owners_come_before_what_they_own_whatever_the_ranks() {
        assert_eq!(order(&[(5, &[]), (3, &[]), (5, &[])]), [(3, vec![1]), (5, vec![0, 2])]);
        // A Secret that a custom resource owns waits for it.
        assert_eq!(order(&[(5, &[1]), (9, &[])]), [(9, vec![1]), (9, vec![0])]);
        assert_eq!(order(&[(9, &[]), (13, &[0])]), [(9, vec![0]), (13, vec![1])]);
        assert_eq!(order(&[(5, &[1, 2]), (9, &[2]), (9, &[])]), [(9, vec![2]), (9, vec![1]), (9, vec![0])]);
        // An owner that is not in the backup.
        assert_eq!(order(&[(5, &[7])]), [(5, vec![0])]);
    }

    #[test]
    fn owners_in_a_circle_end() {
        let all: usize = order(&[(5, &[1]), (5, &[0]), (5, &[2])]).iter().map(|(_, entries)| entries.len()).sum();
        assert_eq!(all, 3);
        let chain: Vec<(u8, Vec<usize>)> = (0..50_000).map(|n| (5, vec![n + 1])).collect();
        let chain: Vec<(u8, &[usize])> = chain.iter().map(|(rank, owners)| (*rank, owners.as_slice())).collect();
        assert_eq!(contents(&chain).batches().len(), 50_000);
    }
}
