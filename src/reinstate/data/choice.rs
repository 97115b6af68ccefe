//! Which backup of a claim its new volume is filled from: the nearest at or before a time, else the first after it.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use crate::catalog::{Catalog, ENTRY, Entry, Error, Memory, Scope, Selector};
use crate::error::{Class, Classify as _};
use crate::format::claim::ClaimName;
use crate::format::key::{BackupId, Chain, Kind, Name};
use crate::format::manifest::Manifest;

/// Backups of one claim that are looked at for one that has the data.
const LOOKED_AT: usize = 20;

/// Claims that are looked up at a time.
const PARALLEL: usize = 8;

/// As of when the data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsOf {
    Time(Timestamp),
    Latest,
}

/// The backup of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// `volumes/claim.shop.data@20261123T221300Z-4f9a2c`, as every command takes it.
    pub backup: String,
    pub taken: Timestamp,
    pub bytes: u64,
    /// The content of a block device, not files.
    pub is_device: bool,
    /// What the operator should read of the choice.
    pub notes: Vec<String>,
}

fn named(entry: &Entry) -> String {
    let Chain { job, node, .. } = &entry.chain;
    format!("{job}/{node}@{}", entry.id)
}

/// Looks for backups of `claims`, of whichever job, in one listing of the cluster's backups. By claim as in the backup, `shop/data`.
///
/// # Errors
/// When the location cannot be read, or has more backups of claims than memory.
pub(super) async fn choose(
    catalog: &Catalog,
    claims: impl Iterator<Item = ClaimName>,
    as_of: AsOf,
) -> Result<BTreeMap<String, Chosen>, Error> {
    let claims: BTreeMap<Name, String> = claims.map(|claim| (claim.chain(), claim.to_string())).collect();
    let mut found: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
    let mut memory = Memory::new(catalog.memory);
    catalog
        .walk(Scope::default(), |object| {
            if let (Kind::Manifest, Some(claim)) = (object.kind, claims.get(&object.chain.node)) {
                memory.take(ENTRY)?;
                found.entry(claim).or_default().push(object.entry());
            }
            Ok(())
        })
        .await?;
    let each = found.into_iter().map(|(claim, entries)| async move { one(catalog, claim, entries, as_of).await });
    let done: Vec<_> = stream::iter(each).buffered(PARALLEL).try_collect().await?;
    Ok(done.into_iter().flatten().collect())
}

async fn one(
    catalog: &Catalog,
    claim: &str,
    entries: Vec<Entry>,
    as_of: AsOf,
) -> Result<Option<(String, Chosen)>, Error> {
    let mut notes = Vec::new();
    for entry in ordered(entries, as_of, Entry::taken).into_iter().take(LOOKED_AT) {
        let manifest = match catalog.manifest(&entry).await {
            Ok(manifest) => manifest,
            Err(error) if matches!(error.class(), Class::Integrity | Class::Compat | Class::NotFound) => {
                notes.push(format!("{claim}: the backup {} is passed over: {error}", named(&entry)));
                continue;
            }
            Err(error) => return Err(error),
        };
        // A backup in which the claim failed.
        let Some(mut chosen) = of(&manifest, &entry) else { continue };
        if let AsOf::Time(time) = as_of
            && chosen.taken > time
        {
            notes.push(format!(
                "{claim}: its first backup is of {}, after the objects' one: its data is of then",
                chosen.taken
            ));
        }
        chosen.notes = notes;
        return Ok(Some((claim.to_owned(), chosen)));
    }
    Ok(None)
}

/// Whether a text names one backup of this claim, in full. Whoever may change the claim may have written it.
pub(super) fn is_own(backup: &str, claim: &str) -> bool {
    let own = || {
        let (chain, id) = backup.rsplit_once('@')?;
        let (job, node) = chain.split_once('/')?;
        let claim: ClaimName = claim.parse().ok()?;
        Name::new(job).ok()?;
        Some(node == claim.chain().as_str() && id.parse::<BackupId>().is_ok())
    };
    own().unwrap_or(false)
}

/// The backup with the name that a claim's annotation has, of which [`is_own`] is true.
///
/// # Errors
/// When there is none, or it has no data.
pub(super) async fn named_as(catalog: &Catalog, backup: &str) -> Result<Chosen, Error> {
    let missing = || Error::NotFound { what: backup.to_owned(), cluster: catalog.location.cluster.clone() };
    let selector: Selector = backup.parse().map_err(|_| missing())?;
    let entry = catalog.resolve(&selector, &catalog.location.node).await?;
    let manifest = catalog.manifest(&entry).await?;
    of(&manifest, &entry).ok_or_else(missing)
}

fn of(manifest: &Manifest, entry: &Entry) -> Option<Chosen> {
    let (item, stream) = manifest.streams().next()?;
    Some(Chosen {
        backup: named(entry),
        taken: entry.taken(),
        bytes: stream.plain_bytes,
        is_device: !item.source.is_tree(),
        notes: Vec::new(),
    })
}

/// In the order of preference: the newest first of those at or before the time, then the oldest first of the others.
fn ordered<T>(mut all: Vec<T>, as_of: AsOf, taken: impl Fn(&T) -> Timestamp) -> Vec<T> {
    all.sort_by_key(|one| std::cmp::Reverse(taken(one)));
    let AsOf::Time(time) = as_of else { return all };
    let before = all.split_off(all.partition_point(|one| taken(one) > time));
    before.into_iter().chain(all.into_iter().rev()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_annotation_names_one_backup_of_the_claim_itself_or_none() {
        assert!(is_own("volumes/claim.shop.data@20261123T221300Z-4f9a2c", "shop/data"));
        for other in [
            "volumes/claim.bank.ledger@20261123T221300Z-4f9a2c",
            "volumes/claim.shop.data.x@20261123T221300Z-4f9a2c",
            "volumes/claim.shop.data@latest",
            "volumes/node-1@20261123T221300Z-4f9a2c",
            "claim.shop.data@20261123T221300Z-4f9a2c",
            "/claim.shop.data@20261123T221300Z-4f9a2c",
            "../claim.shop.data@20261123T221300Z-4f9a2c",
            "20261123T221300Z-4f9a2c",
            "--identity",
            "",
        ] {
            assert!(!is_own(other, "shop/data"), "{other}");
        }
    }

    proptest! {
        #[test]
        fn the_first_choice_is_the_nearest_at_or_before(mut times in prop::collection::vec(0..100_i64, 1..20), time in 0..100_i64) {
            let all: Vec<Timestamp> = times.iter().map(|second| at(*second)).collect();
            let order = ordered(all.clone(), AsOf::Time(at(time)), |time| *time);
            times.sort_unstable();
            let before = times.iter().rev().find(|second| **second <= time);
            let expected = before.or(times.first()).unwrap();
            prop_assert_eq!(order[0], at(*expected));
            prop_assert_eq!(order.len(), times.len());
            prop_assert_eq!(ordered(all, AsOf::Latest, |time| *time)[0], at(*times.last().unwrap()));
        }
    }
}
