//! Finds out which name is wrong where nothing was found: that of the cluster, of the job or of the node.
//!
//! Lists the names of one level at a time, not what is stored under them: a request for each thousand names. Whatever cannot be listed (the
//! policy may end at the cluster) only means that no better name is known.

use std::collections::BTreeSet;

use super::{Catalog, Error, Scope};
use crate::format::claim::Chained;
use crate::format::key::Name;
use crate::nearest::nearest;
use crate::store::Folders;

/// Pages of names that are read of one level. Where there are more, nothing is said of them.
const MAX_PAGES: usize = 50;

/// Jobs in which a node is looked for.
const MAX_JOBS: usize = 50;

/// Names that exist though nothing may be stored of them: the configuration's.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Whether the cluster is.
    pub cluster: bool,
    pub jobs: BTreeSet<String>,
    pub nodes: BTreeSet<String>,
}

impl Catalog {
    /// An error that says which name of `scope` is not known, for a caller that found nothing there. `None` where all are, or it cannot be
    /// told.
    pub async fn unknown(&self, scope: Scope<'_>, known: &Known) -> Option<Error> {
        let cluster = &self.location.cluster;
        let home = self.home();
        let mut jobs = self.names(&home).await?;
        if jobs.is_empty() && !known.cluster {
            let above = home.strip_suffix(&format!("{cluster}/"))?;
            let clusters = self.names(above).await.unwrap_or_default();
            let place = format!("the location {}", self.location.name());
            return Some(missing("the cluster", cluster.as_str(), place, clusters));
        }
        let stored: Vec<String> = jobs.iter().cloned().collect();
        jobs.extend(known.jobs.iter().cloned());
        let place = format!("cluster {cluster}");
        if let Some(job) = scope.job.filter(|job| !jobs.contains(job.as_str())) {
            return Some(missing("the job", job.as_str(), place, jobs));
        }
        let node = scope.node.filter(|node| !known.nodes.contains(node.as_str()))?;
        let looked_at = scope.job.map_or(stored, |job| vec![job.to_string()]);
        if looked_at.len() > MAX_JOBS {
            return None;
        }
        let mut nodes = known.nodes.clone();
        for job in looked_at {
            nodes.extend(self.names(&format!("{home}{job}/")).await?);
        }
        if nodes.contains(node.as_str()) {
            return None;
        }
        let place = scope.job.map_or_else(|| place.clone(), |job| format!("the job {job} in {place}"));
        // Of a claim the nearest claim is meant, as it is written in --claim.
        let shown = |node: &str| Some(Chained::of(&Name::new(node).ok()?)?.to_string());
        Some(match Chained::of(node) {
            Some(Chained::Claim(claim)) => {
                let claims = nodes.iter().filter_map(|node| shown(node)).collect();
                missing("the claim", &claim.to_string(), place, claims)
            }
            _ => missing("the node", node.as_str(), place, nodes),
        })
    }

    /// The names between `prefix` and the next slash. `None` where they cannot be listed, or are too many.
    pub(super) async fn names(&self, prefix: &str) -> Option<BTreeSet<String>> {
        let (mut names, mut from) = (BTreeSet::new(), None);
        for _ in 0..MAX_PAGES {
            let Folders { names: page, next } = match self.location.store.folders(prefix, from.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(prefix, %error, "could not list the names that exist");
                    return None;
                }
            };
            names.extend(page.into_iter().filter(|name| Name::new(name.as_str()).is_ok()));
            from = next;
            if from.is_none() {
                return Some(names);
            }
        }
        None
    }
}

fn missing(what: &'static str, name: &str, place: String, names: BTreeSet<String>) -> Error {
    Error::Unknown { what, name: name.to_owned(), place, nearest: nearest(name, names) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checksum::Algorithm;
    use crate::format::key::ObjectKey;
    use crate::location::memory;
    use crate::store::memory::MemoryStore;
    use crate::store::{Overwrite, Payload, Store as _};

    async fn catalog(cluster: &str) -> Catalog {
        let store = Arc::new(MemoryStore::with_limits(5 << 20, 2));
        for chain in ["c/etcd/ip-10-0-0-7", "c/etcd/ip-10-0-0-8", "c/pods/claim.shop.data", "prod-eu-1/etcd/n"] {
            for id in ["20261122T221300Z-4f9a2c", "20261123T221300Z-4f9a2c"] {
                let key = ObjectKey::new(format!("fleet/{chain}/{id}/manifest.json"));
                store.put(&key, Payload::new("x", Algorithm::None), Overwrite::Refuse).await.unwrap();
            }
        }
        let mut catalog = Catalog::new(&memory::open(store, "fleet", 1 << 20));
        catalog.location.cluster = Name::new(cluster).unwrap();
        catalog
    }

    async fn said(catalog: &Catalog, job: Option<&str>, node: Option<&str>, known: &Known) -> Option<String> {
        let name = |text: &str| Name::new(text).unwrap();
        let (job, node) = (job.map(name), node.map(name));
        let scope = Scope { job: job.as_ref(), node: node.as_ref() };
        catalog.unknown(scope, known).await.map(|error| error.to_string())
    }

    #[tokio::test]
    async fn the_wrong_name_is_said_with_the_one_that_was_meant() {
        let catalog = catalog("c").await;
        let nothing = Known::default();
        for (job, node, expected) in [
            (Some("etcdd"), None, Some("of the job etcdd in cluster c; did you mean etcd?")),
            (Some("zzz"), None, Some("of the job zzz in cluster c")),
            (
                Some("etcd"),
                Some("ip-10-0-0-9"),
                Some("of the node ip-10-0-0-9 in the job etcd in cluster c; did you mean ip-10-0-0-"),
            ),
            (None, Some("ip-10-0-0-77"), Some("did you mean ip-10-0-0-7?")),
            (None, Some("claim.shop.dato"), Some("of the claim shop/dato in cluster c; did you mean shop/data?")),
            (Some("etcd"), Some("ip-10-0-0-7"), None),
            (Some("etcd"), None, None),
            (None, None, None),
        ] {
            let found = said(&catalog, job, node, &nothing).await;
            let fits = match (&found, expected) {
                (Some(found), Some(expected)) => found.contains(expected),
                (found, expected) => found.is_none() && expected.is_none(),
            };
            assert!(fits, "{job:?} {node:?}: {found:?}");
        }
        let known = Known { cluster: true, jobs: ["disks".to_owned()].into(), nodes: ["n1".to_owned()].into() };
        assert_eq!(said(&catalog, Some("disks"), Some("n1"), &known).await, None, "a job without a backup so far");
        let found = said(&catalog, Some("disk"), None, &known).await;
        assert!(found.is_some_and(|found| found.ends_with("did you mean disks?")));
    }

    #[tokio::test]
    async fn an_unknown_cluster_is_no_empty_one() {
        let catalog = catalog("prod-eu1").await;
        let found = said(&catalog, Some("etcd"), None, &Known::default()).await.unwrap();
        assert!(found.contains("of the cluster prod-eu1") && found.ends_with("did you mean prod-eu-1?"), "{found}");
        let own = Known { cluster: true, ..Known::default() };
        assert_eq!(said(&catalog, None, None, &own).await, None, "the configuration's own may be new");
    }
}
