//! Reads backups' manifests.

use futures_util::{Stream, StreamExt as _, stream};

use super::{Catalog, Entry, Error};
use crate::format::manifest::{self, Manifest, ManifestError};
use crate::store::{self, READS, VersionId};

/// The memory for reading a manifest, as a multiple of its length: its text and the parsed form, while vectors grow.
const PARSED: u64 = 12;

impl Catalog {
    /// Reads and checks one backup's manifest, or takes it from those that were read before.
    ///
    /// # Errors
    /// When it cannot be read, or is not valid.
    pub async fn manifest(&self, entry: &Entry) -> Result<Manifest, Error> {
        check_size(entry)?;
        let bytes = self.bytes(entry).await?;
        self.parse(entry, &bytes)
    }

    /// Reads and checks a manifest in this version, or the newest. Returns the version that was read.
    ///
    /// # Errors
    /// As [`Catalog::manifest`].
    pub async fn manifest_of(
        &self,
        entry: &Entry,
        version: Option<&VersionId>,
    ) -> Result<(Manifest, Option<VersionId>), Error> {
        check_size(entry)?;
        let store = &self.location.store;
        let download = match version {
            Some(version) => store.get_version(&entry.key, version, None).await?,
            None => store.get(&entry.key, None).await?,
        };
        let version = download.version.clone();
        let bytes = store::collect(download, &entry.key, entry.size).await?;
        Ok((self.parse(entry, &bytes)?, version))
    }

    fn parse(&self, entry: &Entry, bytes: &[u8]) -> Result<Manifest, Error> {
        let refused = |error| Error::Manifest { key: entry.key.clone(), error };
        let manifest = Manifest::parse(bytes, &entry.chain, &entry.id, &self.home()).map_err(refused)?;
        for (key, version) in manifest.versions() {
            if let Some(version) = version {
                self.location.store.recorded(key, version);
            }
        }
        Ok(manifest)
    }

    /// Reads a manifest without checking it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn bytes(&self, entry: &Entry) -> Result<Vec<u8>, store::Error> {
        let Some(cache) = self.cache.clone().filter(|_| entry.etag.is_some()) else {
            return store::read(&*self.location.store, &entry.key, entry.size).await;
        };
        let (cached, of) = (cache.clone(), entry.clone());
        if let Ok(Some(bytes)) = tokio::task::spawn_blocking(move || cached.get(&of)).await {
            return Ok(bytes);
        }
        let bytes = store::read(&*self.location.store, &entry.key, entry.size).await?;
        let (of, kept) = (entry.clone(), bytes.clone());
        // A failure is logged there.
        let _ = tokio::task::spawn_blocking(move || cache.put(&of, &kept)).await;
        Ok(bytes)
    }

    /// How many of these manifests may be read at a time: they may take an eighth of the memory.
    pub(crate) fn parallel<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> usize {
        let largest = entries.into_iter().map(Entry::size).max().unwrap_or(0).max(1);
        let fit = self.memory / 8 / PARSED.saturating_mul(largest);
        usize::try_from(fit).unwrap_or(READS).clamp(1, READS)
    }

    /// Reads the manifests of `entries`, in order, each with its own error. Only those being read are in memory.
    pub fn manifests<'a>(&'a self, entries: &'a [Entry]) -> impl Stream<Item = (&'a Entry, Result<Manifest, Error>)> {
        let read = move |entry: &'a Entry| async move { (entry, self.manifest(entry).await) };
        stream::iter(entries).map(read).buffered(self.parallel(entries))
    }
}

fn check_size(entry: &Entry) -> Result<(), Error> {
    let refused = |error| Error::Manifest { key: entry.key.clone(), error };
    if entry.size > manifest::MAX_SIZE { Err(refused(ManifestError::TooLarge(entry.size))) } else { Ok(()) }
}
