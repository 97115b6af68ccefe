//! Which backups there are, and which one a user means.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::error::{Class, Classify, Report};
use crate::format::key::{BackupId, BackupPrefix, Chain, Kind, Name, ObjectKey, chain_prefix, cluster_prefix};
use crate::format::manifest::{self, Manifest, ManifestError};
use crate::retry::with_retries;
use crate::store::{self, ListedObject, Store};

/// Manifests fetched at a time.
const PARALLEL: usize = 16;

/// One cluster's backups in one location.
#[derive(Clone)]
pub struct Catalog {
    pub store: Arc<dyn Store>,
    pub prefix: String,
    pub cluster: Name,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("prefix", &self.prefix).field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Which of the cluster's chains to look at: the fewer, the fewer requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope<'a> {
    pub job: Option<&'a Name>,
    pub node: Option<&'a Name>,
}

impl Scope<'_> {
    fn holds(&self, chain: &Chain) -> bool {
        self.job.is_none_or(|job| *job == chain.job) && self.node.is_none_or(|node| *node == chain.node)
    }
}

/// An object that Penstock wrote, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: ObjectKey,
    pub chain: Chain,
    pub id: BackupId,
    pub kind: Kind,
    pub size: u64,
    pub modified: jiff::Timestamp,
}

impl Found {
    /// The backup whose manifest, deleted or not, this object is.
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

/// A backup that is there, by its manifest's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: ObjectKey,
    pub chain: Chain,
    pub id: BackupId,
    size: u64,
    modified: jiff::Timestamp,
}

impl Entry {
    /// The manifest's.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// When the store took the manifest, by its own clock.
    #[must_use]
    pub fn modified(&self) -> jiff::Timestamp {
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

#[derive(Debug, thiserror::Error)]
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
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Store(error) => error.report(),
            Self::Manifest { error: ManifestError::Version(_), .. } => Report::new(Class::Compat, self.to_string()),
            Self::Manifest { .. } => Report::new(Class::Integrity, self.to_string())
                .remedy("this backup cannot be used; `penstock list` shows the others"),
            Self::NotFound { .. } => Report::new(Class::NotFound, self.to_string())
                .remedy("`penstock list` shows what there is; --cluster and --location look elsewhere"),
        }
    }
}

impl Catalog {
    /// Every committed backup, newest first.
    ///
    /// # Errors
    /// When listing fails.
    pub async fn entries(&self, scope: Scope<'_>) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let manifest = |found: Found| {
            if found.kind == Kind::Manifest {
                entries.push(found.entry());
            }
        };
        self.walk(scope, manifest).await?;
        entries.sort_by(|a, b| (&b.id, &b.chain).cmp(&(&a.id, &a.chain)));
        Ok(entries)
    }

    /// Every object of the chains in `scope` that Penstock wrote, in the order of the keys.
    ///
    /// # Errors
    /// When listing fails.
    pub async fn walk(&self, scope: Scope<'_>, mut visit: impl FnMut(Found)) -> Result<(), Error> {
        let prefix = match (scope.job, scope.node) {
            (Some(job), Some(node)) => {
                let chain = Chain { cluster: self.cluster.clone(), job: job.clone(), node: node.clone() };
                chain_prefix(&self.prefix, &chain)
            }
            (Some(job), None) => format!("{}{job}/", cluster_prefix(&self.prefix, &self.cluster)),
            (None, _) => cluster_prefix(&self.prefix, &self.cluster),
        };
        let whole = ObjectKey::new(prefix.clone());
        let mut from: Option<String> = None;
        loop {
            let page = with_retries("ListObjectsV2", &whole, || self.store.list(&prefix, from.as_deref())).await?;
            for ListedObject { key, size, modified } in page.objects {
                match BackupPrefix::parse_object(&self.prefix, &self.cluster, &key) {
                    Some((chain, id, kind)) if scope.holds(&chain) => {
                        visit(Found { key, chain, id, kind, size, modified });
                    }
                    _ => {}
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// One backup's manifest, checked.
    ///
    /// # Errors
    /// When it cannot be read, or is refused.
    pub async fn manifest(&self, entry: &Entry) -> Result<Manifest, Error> {
        let refused = |error| Error::Manifest { key: entry.key.clone(), error };
        if entry.size > manifest::MAX_SIZE {
            return Err(refused(ManifestError::TooLarge(entry.size)));
        }
        let bytes = self.bytes(entry).await?;
        let home = cluster_prefix(&self.prefix, &self.cluster);
        Manifest::parse(&bytes, &entry.chain, &entry.id, &home).map_err(refused)
    }

    /// A manifest as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn bytes(&self, entry: &Entry) -> Result<Vec<u8>, store::Error> {
        with_retries("GetObject", &entry.key, || self.download(entry)).await
    }

    async fn download(&self, entry: &Entry) -> Result<Vec<u8>, store::Error> {
        let download = self.store.get(&entry.key, None).await?;
        let limit = usize::try_from(entry.size).unwrap_or(usize::MAX);
        let mut body = download.body;
        let mut bytes = Vec::with_capacity(limit);
        while let Some(piece) = body.try_next().await? {
            if bytes.len() + piece.len() > limit {
                let message = format!("the manifest is longer than the {limit} bytes that the listing says");
                return Err(store::Error::local("GetObject", &entry.key, Class::Integrity, message));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// The manifests of `entries`, in their order, each with its own failure.
    pub async fn manifests(&self, entries: &[Entry]) -> Vec<Result<Manifest, Error>> {
        stream::iter(entries).map(|entry| self.manifest(entry)).buffered(PARALLEL).collect().await
    }

    /// The entry that `selector` means. `node` is preferred by `latest` where the selector names none; another node's backup is
    /// looked for only where this one has none.
    ///
    /// # Errors
    /// When listing fails or there is no such backup.
    pub async fn resolve(&self, selector: &Selector, node: &Name) -> Result<Entry, Error> {
        let here = Scope { job: selector.job.as_ref(), node: Some(selector.node.as_ref().unwrap_or(node)) };
        let anywhere = Scope { job: selector.job.as_ref(), node: selector.node.as_ref() };
        // Without a job there is no shorter listing than the whole one.
        let scopes =
            if selector.job.is_some() && selector.node.is_none() { vec![here, anywhere] } else { vec![anywhere] };
        for scope in scopes {
            if let Some(entry) = choose(&self.entries(scope).await?, selector, node) {
                return Ok(entry.clone());
            }
        }
        Err(Error::NotFound { what: selector.to_string(), cluster: self.cluster.clone() })
    }
}

/// `entries` are newest first.
fn choose<'a>(entries: &'a [Entry], selector: &Selector, node: &Name) -> Option<&'a Entry> {
    let scope = Scope { job: selector.job.as_ref(), node: selector.node.as_ref() };
    let matches = |entry: &&Entry| scope.holds(&entry.chain) && selector.id.as_ref().is_none_or(|id| *id == entry.id);
    let here = entries.iter().filter(matches).find(|entry| entry.chain.node == *node);
    here.or_else(|| entries.iter().find(matches))
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(job) = &self.job {
            write!(f, "{job}")?;
            if let Some(node) = &self.node {
                write!(f, "/{node}")?;
            }
            f.write_str("@")?;
        }
        match &self.id {
            Some(id) => write!(f, "{id}"),
            None => f.write_str("latest"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(job: &str, node: &str, id: &str) -> Entry {
        let name = |text: &str| Name::new(text).unwrap();
        let chain = Chain { cluster: name("c"), job: name(job), node: name(node) };
        Entry {
            key: ObjectKey::new(id),
            chain,
            id: id.parse().unwrap(),
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn selectors() {
        const NEW: &str = "20261123T221300Z-4f9a2c";
        const OLD: &str = "20261122T221300Z-4f9a2c";
        let entries = [entry("etcd", "b", NEW), entry("etcd", "a", OLD), entry("pods", "a", OLD)];
        let find = |text: &str, node: &str| {
            let entry = choose(&entries, &text.parse().unwrap(), &Name::new(node).unwrap())?;
            Some(format!("{}/{}@{}", entry.chain.job, entry.chain.node, entry.id))
        };
        assert_eq!(find("etcd@latest", "a"), Some(format!("etcd/a@{OLD}")), "this node's own comes first");
        assert_eq!(
            find("etcd@latest", "fresh"),
            Some(format!("etcd/b@{NEW}")),
            "a fresh machine gets the newest of any"
        );
        assert_eq!(find("etcd/b@latest", "a"), Some(format!("etcd/b@{NEW}")));
        assert_eq!(find(&format!("pods@{OLD}"), "x"), Some(format!("pods/a@{OLD}")));
        assert_eq!(find(NEW, "a"), Some(format!("etcd/b@{NEW}")));
        assert_eq!(find("pods@latest", "z"), Some(format!("pods/a@{OLD}")));
        assert_eq!(find("none@latest", "a"), None);
        for bad in ["latest", "", "@latest", "a@b", "A@latest", "a/b/c@latest"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
