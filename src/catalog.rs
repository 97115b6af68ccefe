//! Lists backups, finds the one that a user names, and dates them ([`date`]).
//!
//! Everything kept of a listing is counted ([`Memory`]): beyond `limits.memory` it is an error. Finding one backup, or the newest of each
//! chain, keeps nothing else.

mod cache;
pub mod date;
mod manifests;
mod memory;
mod names;
mod select;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;

use crate::error::{Class, Classify, Report};
use crate::format::key::{BackupId, BackupPrefix, Chain, DAMAGED, Kind, Name, ObjectKey, chain_prefix, cluster_prefix};
use crate::format::manifest::ManifestError;
use crate::location::Location;
use crate::store;
use cache::Cache;
pub use memory::Memory;
pub use names::Known;
pub use select::Selector;
pub use walk::Pages;

/// The memory of an [`Entry`] in a list.
pub const ENTRY: usize = 512;

/// One cluster's backups in one location.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub location: Location,
    /// How many bytes the data kept of a listing may take.
    pub memory: u64,
    /// Manifests that were read before; `None`: each is read from the store.
    cache: Option<Cache>,
}

/// Which of the cluster's chains to look at: the fewer, the fewer requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    pub job: Option<&'a Name>,
    pub node: Option<&'a Name>,
}

impl<'a> Scope<'a> {
    /// The scope of one chain.
    #[must_use]
    pub const fn of(chain: &'a Chain) -> Self {
        Self { job: Some(&chain.job), node: Some(&chain.node) }
    }

    pub(crate) fn holds(&self, chain: &Chain) -> bool {
        self.job.is_none_or(|job| *job == chain.job) && self.node.is_none_or(|node| *node == chain.node)
    }
}

/// An object that Penstock wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: ObjectKey,
    pub chain: Chain,
    pub id: BackupId,
    pub kind: Kind,
    pub size: u64,
    pub modified: Timestamp,
    /// Of a manifest.
    pub etag: Option<String>,
}

impl Found {
    /// The backup of this manifest or tombstone.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            key: self.key.clone(),
            chain: self.chain.clone(),
            id: self.id.clone(),
            size: self.size,
            modified: self.modified,
            etag: self.etag.clone(),
        }
    }
}

/// A committed backup, found by its manifest's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: ObjectKey,
    pub chain: Chain,
    pub id: BackupId,
    size: u64,
    modified: Timestamp,
    etag: Option<String>,
}

impl Entry {
    /// When the backup was taken: see [`date`].
    #[must_use]
    pub fn taken(&self) -> Timestamp {
        date::taken(self.started(), self.modified)
    }

    /// Whether the node's clock was ahead: [`Entry::taken`] is earlier than the id says.
    #[must_use]
    pub fn dated_ahead(&self) -> bool {
        date::is_ahead(self.started(), self.modified)
    }

    /// The larger, the newer: the order of backups wherever one is chosen.
    #[must_use]
    pub fn age(&self) -> (Timestamp, &BackupId, &Chain) {
        (self.taken(), &self.id, &self.chain)
    }

    fn started(&self) -> Timestamp {
        self.id.started().unwrap_or(self.modified)
    }

    /// Where the record of the backup's damage is, if there is one.
    #[must_use]
    pub fn damaged(&self) -> ObjectKey {
        let home = self.key.as_str().rsplit_once('/').map_or("", |(home, _)| home);
        ObjectKey::new(format!("{home}/{DAMAGED}"))
    }

    /// The manifest's size.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When the store took the manifest, by its own clock.
    #[must_use]
    pub fn modified(&self) -> Timestamp {
        self.modified
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{key} {error}")]
    Manifest {
        key: ObjectKey,
        #[source]
        error: ManifestError,
    },
    #[error("no backup {what} in cluster {cluster}")]
    NotFound { what: String, cluster: Name },
    #[error("{what} is the beginning of {count} ids of backups: {}", Candidates(candidates, *count))]
    Ambiguous { what: String, count: usize, candidates: Vec<String> },
    #[error("nothing is stored of {what} {name} in {place}{}", Meant(nearest.as_deref()))]
    Unknown { what: &'static str, name: String, place: String, nearest: Option<String> },
    #[error("the listing has more backups and objects than fit into the {total} bytes of limits.memory")]
    Memory { total: u64 },
}

/// The ids that a shortened one may stand for.
struct Candidates<'a>(&'a [String], usize);

impl fmt::Display for Candidates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(named, count) = self;
        f.write_str(&named.join(", "))?;
        if *count > named.len() { write!(f, " and {} more", count - named.len()) } else { Ok(()) }
    }
}

struct Meant<'a>(Option<&'a str>);

impl fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, "; did you mean {name}?"))
    }
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Store(error) => error.report(),
            Self::Manifest { error: ManifestError::Version(_) | ManifestError::Feature(_), .. } => {
                Report::new(Class::Compat, self.to_string())
            }
            Self::Manifest { .. } => Report::new(Class::Integrity, self.to_string())
                .remedy("this backup cannot be used; `penstock list` shows the others"),
            Self::NotFound { .. } => Report::new(Class::NotFound, self.to_string())
                .remedy("`penstock list` shows the backups that exist; --cluster and --location look elsewhere"),
            Self::Ambiguous { .. } => Report::new(Class::NotFound, self.to_string())
                .remedy("give more of the id, or all of it; JOB@ID and JOB/NODE@ID look at fewer backups"),
            Self::Unknown { .. } => Report::new(Class::NotFound, self.to_string()).remedy(
                "`penstock stats` shows the jobs and nodes that have backups; --cluster and --location look elsewhere",
            ),
            Self::Memory { .. } => Report::new(Class::Local, self.to_string())
                .remedy("raise limits.memory, or ask for less with --job and --node"),
        }
    }
}

impl Error {
    /// The name that was probably meant.
    #[must_use]
    pub fn meant(&self) -> Option<&str> {
        if let Self::Unknown { nearest, .. } = self { nearest.as_deref() } else { None }
    }
}

impl Catalog {
    /// A catalog that may use all of `limits.memory`.
    #[must_use]
    pub fn new(location: &Location) -> Self {
        Self { location: location.clone(), memory: location.process.budget.total(), cache: None }
    }

    /// The same, within so many bytes.
    #[must_use]
    pub fn within(self, memory: u64) -> Self {
        Self { memory, ..self }
    }

    /// The same, with manifests that were read before, if there is a place for them.
    #[must_use]
    pub fn cached(self) -> Self {
        let Location { process, config, .. } = &self.location;
        let cache = Cache::open(&process.state_dir, config);
        Self { cache, ..self }
    }

    /// Every committed backup, newest first.
    ///
    /// # Errors
    /// When listing fails, or there is not enough memory.
    pub async fn entries(&self, scope: Scope<'_>) -> Result<Vec<Entry>, Error> {
        let (mut memory, mut entries) = (Memory::new(self.memory), Vec::new());
        let manifest = |found: Found| {
            if found.kind == Kind::Manifest {
                memory.take(ENTRY)?;
                entries.push(found.entry());
            }
            Ok(())
        };
        self.walk(scope, manifest).await?;
        entries.sort_by(|a, b| b.age().cmp(&a.age()));
        Ok(entries)
    }

    /// The newest backup of each chain, newest first.
    ///
    /// # Errors
    /// As [`Catalog::entries`].
    pub async fn newest(&self, scope: Scope<'_>) -> Result<Vec<Entry>, Error> {
        let mut memory = Memory::new(self.memory);
        let mut newest: BTreeMap<Chain, Entry> = BTreeMap::new();
        let manifest = |found: Found| {
            if found.kind != Kind::Manifest {
                return Ok(());
            }
            match newest.get_mut(&found.chain) {
                Some(entry) if entry.age() < found.entry().age() => *entry = found.entry(),
                Some(_) => {}
                None => {
                    memory.take(2 * ENTRY)?;
                    newest.insert(found.chain.clone(), found.entry());
                }
            }
            Ok(())
        };
        self.walk(scope, manifest).await?;
        let mut entries: Vec<Entry> = newest.into_values().collect();
        entries.sort_by(|a, b| b.age().cmp(&a.age()));
        Ok(entries)
    }

    /// The chains in `scope` that have an object, in order.
    ///
    /// # Errors
    /// As [`Catalog::entries`].
    pub async fn chains(&self, scope: Scope<'_>) -> Result<BTreeSet<Chain>, Error> {
        let (mut memory, mut chains) = (Memory::new(self.memory), BTreeSet::new());
        let chain = |found: Found| {
            if !chains.contains(&found.chain) {
                memory.take(ENTRY)?;
                chains.insert(found.chain);
            }
            Ok(())
        };
        self.walk(scope, chain).await?;
        Ok(chains)
    }

    /// Visits every object of the chains in `scope` that Penstock wrote, once each, until `visit` fails.
    ///
    /// # Errors
    /// When listing fails, and the errors of `visit`.
    pub async fn walk(&self, scope: Scope<'_>, mut visit: impl FnMut(Found) -> Result<(), Error>) -> Result<(), Error> {
        let jobs = self.jobs(scope).await;
        let narrow = jobs.iter().flatten().map(|job| Scope { job: Some(job), ..scope });
        for scope in narrow.chain(jobs.is_none().then_some(scope)) {
            let mut pages = self.pages(scope);
            while let Some(page) = pages.next().await? {
                page.into_iter().try_for_each(&mut visit)?;
            }
        }
        Ok(())
    }

    /// The jobs to look at one by one, where that spares listing every other node's objects; `None`: the scope is one prefix.
    async fn jobs(&self, scope: Scope<'_>) -> Option<Vec<Name>> {
        if scope.job.is_some() || scope.node.is_none() {
            return None;
        }
        let names = self.names(&self.home()).await?;
        Some(names.into_iter().filter_map(|name| Name::new(name).ok()).collect())
    }

    /// As [`Catalog::walk`], page by page.
    #[must_use]
    pub fn pages<'a>(&'a self, scope: Scope<'a>) -> Pages<'a> {
        Pages::new(self, scope, self.prefix(scope))
    }

    /// The prefix of all that is in `scope`, and maybe of more.
    pub(crate) fn prefix(&self, scope: Scope<'_>) -> String {
        match (scope.job, scope.node) {
            (Some(job), Some(node)) => {
                let chain = Chain { node: node.clone(), ..self.location.chain(job) };
                chain_prefix(self.location.prefix(), &chain)
            }
            (Some(job), None) => format!("{}{job}/", self.home()),
            (None, _) => self.home(),
        }
    }

    /// The prefix of the cluster's backups.
    fn home(&self) -> String {
        cluster_prefix(self.location.prefix(), &self.location.cluster)
    }

    /// The objects of one backup, page by page.
    #[must_use]
    pub fn pages_of<'a>(&'a self, chain: &Chain, id: &BackupId) -> Pages<'a> {
        Pages::new(self, Scope::default(), BackupPrefix::new(self.location.prefix(), chain, id).as_str().to_owned())
    }
}

#[cfg(test)]
mod tests;
