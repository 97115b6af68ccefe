//! Reads the wanted objects of a backup once, and keeps what decides the order of their creation: kinds, names, owners.
//!
//! No object's content is kept, so that memory grows by some hundred bytes for each object; [`Allowance`] limits it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::left_out::{LeftOut, left_out};
use super::owners::{is_adopted, owners};
use super::rank::rank;
use super::{Error, Options};
use crate::inventory::Allowance;
use crate::inventory::archive::{Archive, Member};
use crate::resources::place::{Filed, Place};

/// What an entry takes of memory besides its name, its places in two maps included.
const ENTRY: usize = 160;

/// What an owner reference takes.
const OWNER: usize = 64;

/// The objects of a backup that are to be restored.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) kinds: Vec<Kind>,
    pub(super) entries: Vec<Entry>,
    /// Owners by the entry that has them; few objects have any.
    owners: BTreeMap<usize, Vec<Uid>>,
    by_uid: HashMap<Uid, usize>,
    /// Namespaces that an entry is in, as the backup names them.
    pub(super) namespaces: BTreeSet<String>,
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
}

/// Half of a UID's SHA-256: a UID is whatever text the backup has.
pub(super) type Uid = [u8; 16];

pub(super) fn uid(text: &str) -> Uid {
    let whole: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let [uid, _] = whole.as_chunks().0 else { unreachable!("32 bytes are two halves") };
    *uid
}

/// The entries that are created together: each of their owners is in an earlier batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) rank: u8,
    /// Indexes of entries, in the order of their archive.
    pub(super) entries: Vec<usize>,
}

/// Reads every object that `options` asks for. Blocks.
///
/// # Errors
/// When an archive cannot be read, has an object twice, or has more names than memory holds.
pub(super) fn scan(
    archives: &[Archive],
    options: &Options,
    memory: u64,
    cancel: &CancellationToken,
) -> Result<Contents, Error> {
    let mut scan = Scan { contents: Contents::default(), memory: Allowance::of(memory), seen: HashSet::new() };
    for (index, archive) in archives.iter().enumerate() {
        let mut members = Vec::new();
        archive.list(|listed| {
            if options.wants(&listed.place) {
                scan.memory.take(size_of::<Member>())?;
                members.push(listed.member);
            }
            Ok(())
        })?;
        let mut read = members.iter();
        archive.read(&members, cancel, |object, value| {
            let member = *read.next().ok_or(crate::inventory::Error::Mismatch)?;
            if !options.wants(&object.place) {
                return Err(crate::inventory::Error::Mismatch);
            }
            if options.selector.fits(&value) {
                scan.add(index, member, object.place, &value, options.dependents)?;
            }
            Ok(())
        })?;
    }
    Ok(scan.contents)
}

struct Scan {
    contents: Contents,
    memory: Allowance,
    seen: HashSet<Uid>,
}

impl Scan {
    fn add(
        &mut self,
        archive: usize,
        member: Member,
        place: Place,
        value: &Value,
        dependents: bool,
    ) -> Result<(), crate::inventory::Error> {
        let key = place.key();
        self.memory.take(key.len() + ENTRY)?;
        if !self.seen.insert(uid(&format!("{} {key}", place.filed))) {
            let member = format!("{} {key}", place.filed);
            return Err(crate::inventory::Error::Refused { member, reason: "the backup has it twice".to_owned() });
        }
        let contents = &mut self.contents;
        let index = contents.entries.len();
        let left_out = left_out(&place.filed.resource, value, dependents);
        if left_out.is_none() {
            if !place.namespace.is_empty() && !contents.namespaces.contains(&place.namespace) {
                self.memory.take(place.namespace.len() + OWNER)?;
                contents.namespaces.insert(place.namespace.clone());
            }
            let owners: Vec<Uid> = owners(value)
                .iter()
                .filter(|owner| !is_adopted(&place.filed.resource, owner))
                .map(|owner| uid(&owner.uid))
                .collect();
            if let Some(own) = value.pointer("/metadata/uid").and_then(Value::as_str) {
                contents.by_uid.insert(uid(own), index);
            }
            if !owners.is_empty() {
                self.memory.take(owners.len() * size_of::<Uid>() + OWNER)?;
                contents.owners.insert(index, owners);
            }
        }
        let kind = contents.kind(place.filed, value);
        contents.entries.push(Entry { archive, kind, key: key.into(), member, left_out });
        Ok(())
    }
}

impl Contents {
    /// The index of the kind; the archive is sorted, so that it is nearly always the last one.
    fn kind(&mut self, filed: Filed, value: &Value) -> usize {
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
        self.entries.iter().any(|entry| {
            &*entry.key == key && entry.left_out.is_none() && self.kind_of(entry).filed.resource == resource
        })
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
    use crate::download::testing::{MIB, house};
    use crate::error::{Class, Classify as _};
    use crate::inventory::tests::{Row, VERSION, archives};

    async fn scanned(rows: &[Row<'_>], memory: u64) -> Result<Contents, Error> {
        let house = house(64 * MIB);
        let archives = archives(&house, rows).await;
        let scan = move || scan(&archives, &Options::default(), memory, &CancellationToken::new());
        tokio::task::spawn_blocking(scan).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hostile_backups_are_refused_by_path_before_anything_is_created() {
        let path = "resources/configmaps/namespaces/shop/a.json";
        let object = |namespace: &str, more: &str| {
            format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a","namespace":"{namespace}"}}{more}}}"#
            )
        };
        let (good, elsewhere) = (object("shop", ""), object("kube-system", ""));
        let deep = object("shop", &format!(r#","x":{}{}"#, "[".repeat(10_000), "]".repeat(10_000)));
        let long = object("shop", &format!(r#","x":"{}""#, "y".repeat(17 << 20)));
        let path_of = |error: Error| {
            assert_eq!(error.class(), Class::Integrity, "{error}");
            error.to_string().contains("configmaps").then_some(()).ok_or(error)
        };
        for content in [&elsewhere, &deep, &long] {
            path_of(scanned(&[VERSION, (path, content, None)], 64 * MIB).await.unwrap_err()).unwrap();
        }
        let twice = scanned(&[VERSION, (path, &good, None), (path, &good, None)], 64 * MIB).await.unwrap_err();
        assert!(twice.to_string().contains("configmaps shop/a") && twice.to_string().contains("twice"), "{twice}");
        path_of(twice).unwrap();
        assert_eq!(scanned(&[VERSION, (path, &good, None)], 64 * MIB).await.unwrap().entries.len(), 1);
        let little = scanned(&[VERSION, (path, &good, None)], 64).await.unwrap_err();
        assert_eq!(little.class(), Class::Local, "{little}");
    }

    /// Entries of these ranks, each with the indexes of its owners.
    fn contents(entries: &[(u8, &[usize])]) -> Contents {
        let mut contents = Contents::default();
        for (index, (rank, owners)) in entries.iter().enumerate() {
            let filed = Filed { scope: Scope::Namespaced, resource: format!("r{rank}"), version: String::new() };
            contents.kinds.push(Kind { filed, api_version: "v1".into(), name: "R".into(), rank: *rank });
            let member = Member { start: 0, length: 0 };
            let key = format!("n/{index}").into();
            contents.entries.push(Entry { archive: 0, kind: index, key, member, left_out: None });
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
