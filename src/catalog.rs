//! Lists backups, finds the one that a user names, and dates them ([`date`]).
//!
//! Everything kept of a listing is counted ([`Memory`]): beyond `limits.memory` it is an error. Finding one backup, or the newest of each
//! chain, keeps nothing else.

pub mod date;
mod manifests;
mod memory;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::error::{Class, Classify, Report};
use crate::format::claim::Chained;
use crate::format::key::{BackupId, BackupPrefix, Chain, Kind, Name, ObjectKey, chain_prefix, cluster_prefix};
use crate::format::manifest::ManifestError;
use crate::location::Location;
use crate::store;
pub use memory::Memory;
pub use walk::Pages;

/// The memory of an [`Entry`] in a list.
pub const ENTRY: usize = 512;

/// One cluster's backups in one location.
#[derive(Debug, Clone)]
pub struct Catalog {
    pub location: Location,
    /// How many bytes the data kept of a listing may take.
    pub memory: u64,
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

/// How a user names a backup: `ID`, `JOB@ID`, `JOB@latest` or `JOB/NODE@latest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    job: Option<Name>,
    node: Option<Name>,
    /// `None` is `latest`.
    id: Option<BackupId>,
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((chain, id)) = text.rsplit_once('@') else {
            let id = text.parse().map_err(|error| format!("{error}, JOB@latest, JOB@ID or JOB/NODE@latest"))?;
            return Ok(Self { job: None, node: None, id: Some(id) });
        };
        let name = |what: &str, text: &str| Name::new(text).map_err(|error| format!("the {what} {text:?} {error}"));
        let (job, node) = match chain.split_once('/') {
            None => (name("job", chain)?, None),
            Some((job, node)) => (name("job", job)?, Some(name("node", node)?)),
        };
        let id = if id == "latest" {
            None
        } else {
            Some(id.parse().map_err(|error: crate::format::key::BackupIdError| error.to_string())?)
        };
        Ok(Self { job: Some(job), node, id })
    }
}

impl Selector {
    /// The newest backup of any job.
    pub const NEWEST: Self = Self { job: None, node: None, id: None };

    /// The same of `node`, and of `job` where it names none.
    #[must_use]
    pub fn of_node(self, node: Name, job: Option<&Name>) -> Self {
        Self { job: self.job.or_else(|| job.cloned()), node: Some(node), id: self.id }
    }

    /// The job it names.
    #[must_use]
    pub fn job(&self) -> Option<&Name> {
        self.job.as_ref()
    }

    /// The node it names.
    #[must_use]
    pub fn node(&self) -> Option<&Name> {
        self.node.as_ref()
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
    #[error("the listing has more backups and objects than fit into the {total} bytes of limits.memory")]
    Memory { total: u64 },
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
            Self::Memory { .. } => Report::new(Class::Local, self.to_string())
                .remedy("raise limits.memory, or ask for less with --job and --node"),
        }
    }
}

impl Catalog {
    /// A catalog that may use all of `limits.memory`.
    #[must_use]
    pub fn new(location: &Location) -> Self {
        Self { location: location.clone(), memory: location.process.budget.total() }
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
        let mut pages = self.pages(scope);
        while let Some(page) = pages.next().await? {
            page.into_iter().try_for_each(&mut visit)?;
        }
        Ok(())
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

    /// Finds the backup that `selector` names. If the selector names no node, `latest` means that of `node`; other nodes' backups are
    /// considered only if it has none.
    ///
    /// # Errors
    /// When listing fails or there is no such backup.
    pub async fn resolve(&self, selector: &Selector, node: &Name) -> Result<Entry, Error> {
        let here = Scope { job: selector.job.as_ref(), node: Some(selector.node.as_ref().unwrap_or(node)) };
        let anywhere = Scope { job: selector.job.as_ref(), node: selector.node.as_ref() };
        // Without a job the shortest listing is the whole one.
        let scopes =
            if selector.job.is_some() && selector.node.is_none() { vec![here, anywhere] } else { vec![anywhere] };
        for scope in scopes {
            let mut choice = Choice { selector, node, best: None };
            self.walk(scope, |found| {
                choice.consider(&found);
                Ok(())
            })
            .await?;
            if let Some(entry) = choice.best {
                return Ok(entry);
            }
        }
        Err(Error::NotFound { what: selector.to_string(), cluster: self.location.cluster.clone() })
    }
}

/// The best match for a selector so far: this node's newest, or else the newest of any node.
struct Choice<'a> {
    selector: &'a Selector,
    node: &'a Name,
    best: Option<Entry>,
}

impl Choice<'_> {
    fn consider(&mut self, found: &Found) {
        let Selector { job, node, id } = self.selector;
        let scope = Scope { job: job.as_ref(), node: node.as_ref() };
        let fits = scope.holds(&found.chain) && id.as_ref().is_none_or(|id| *id == found.id);
        if found.kind != Kind::Manifest || !fits {
            return;
        }
        let entry = found.entry();
        let rank = |entry: &Entry| {
            let (taken, id, chain) = entry.age();
            (entry.chain.node == *self.node, taken, id.clone(), chain.clone())
        };
        if self.best.as_ref().is_none_or(|best| rank(best) < rank(&entry)) {
            self.best = Some(entry);
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.job, &self.node) {
            (Some(job), Some(node)) => write!(f, "{job}/{node}@")?,
            (Some(job), None) => write!(f, "{job}@")?,
            (None, Some(node)) => match Chained::of(node) {
                Some(volume) => write!(f, "{volume}@")?,
                None => write!(f, "{node}@")?,
            },
            (None, None) => {}
        }
        match &self.id {
            Some(id) => write!(f, "{id}"),
            None => f.write_str("latest"),
        }
    }
}

#[cfg(test)]
mod tests;
