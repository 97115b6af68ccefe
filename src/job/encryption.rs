//! What encryption decides of a run: to whom, which earlier backups it may be incremental to, and what of the manifest is sealed.
//!
//! A backup is encrypted whole or not at all: switching encryption on or off begins with a full backup. Off is refused while the chain's
//! last backup is encrypted, unless the operator allows it: a lost line of the configuration must not put plain data into the bucket.

use std::sync::Arc;

use super::parent::{Ancestor, excusable};
use super::{Error, Run};
use crate::age::{Fingerprint, Recipient};
use crate::error::Classify as _;
use crate::format::codec;
use crate::format::manifest::Manifest;
use crate::format::sealed::Encryption;
use crate::location::{Location, keys};

/// The encryption of one run.
pub(super) struct Keys {
    pub(super) recipients: keys::Recipients,
    /// Who can read all objects that the run's items refer to.
    readers: Vec<Fingerprint>,
}

impl Keys {
    pub(super) fn of(location: &Location) -> Result<Option<Self>, Error> {
        let Some(config) = &location.config.client_encryption else { return Ok(None) };
        Ok(Some(Self::new(keys::Recipients::of(config)?)))
    }

    fn new(recipients: keys::Recipients) -> Self {
        let readers = recipients.data.iter().map(Recipient::fingerprint).collect();
        Self { recipients, readers }
    }

    /// For another backup of the same run.
    pub(super) fn again(&self) -> Self {
        Self::new(self.recipients.clone())
    }

    /// Notes that an item refers to objects of an earlier backup.
    pub(super) fn refers_to(&mut self, earlier: &Manifest) {
        self.readers.retain(|reader| reads_all(earlier, *reader));
    }

    /// Whether somebody could read this backup with one identity if it referred to that one.
    fn may_refer_to(&self, earlier: &Manifest) -> bool {
        self.readers.iter().any(|reader| reads_all(earlier, *reader))
    }
}

fn reads_all(manifest: &Manifest, reader: Fingerprint) -> bool {
    manifest.encryption.as_ref().is_some_and(|encryption| encryption.readers.contains(&reader))
}

impl Run<'_> {
    /// Why the run's items cannot be incremental to that backup; `None` if they can.
    pub(super) fn unrelated(&self, earlier: &Ancestor) -> Option<&'static str> {
        match (&self.keys, &earlier.manifest.encryption) {
            (None, None) => None,
            (Some(_), None) => Some("the last backup is not encrypted and this one is"),
            (None, Some(_)) => Some("the last backup is encrypted and this one is not"),
            (Some(keys), Some(_)) if keys.may_refer_to(&earlier.manifest) => None,
            (Some(_), Some(_)) => Some("none of the recipients can read the objects of the last backup"),
        }
    }

    /// Refuses a plain backup after an encrypted one, before anything of it is stored. Asks the tables that this node keeps, and then the chain,
    /// also where the run is to be a full backup.
    ///
    /// # Errors
    /// When it would be one, and is not allowed; or when the chain cannot be read for a reason that would fail the run too.
    pub(super) async fn check_plain(&mut self) -> Result<(), Error> {
        if self.keys.is_some() || self.spec.allow_plain {
            return Ok(());
        }
        let refused = |last| Err(Error::Plain { job: self.spec.job.clone(), last });
        if let Some(last) = self.tables.last() {
            return refused(last);
        }
        match self.ancestors.newest().await {
            Ok(Some(last)) if last.manifest.encryption.is_some() => refused(last.manifest.id.clone()),
            Ok(_) => Ok(()),
            Err(error) if excusable(error.class()) => {
                tracing::warn!(%error, "could not read the last backup: whether it is encrypted, so that this one must be too, is not known");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The location, to read manifests and indexes of earlier backups.
    pub(super) fn reading(&self) -> Location {
        let location = self.location.until(&self.stop);
        match &self.keys {
            Some(keys) => location.with_identities(Arc::clone(&keys.recipients.index_identity)),
            None => location,
        }
    }

    /// Overwrites what zstd and the compression threads keep of an encrypted run's chunks. What Rust frees is zeroed by the program's
    /// allocator.
    pub(super) async fn forget(&self) {
        if self.keys.is_some() {
            let pool = Arc::clone(&self.pool);
            // Waits for the threads' present work.
            let forgotten = tokio::task::spawn_blocking(move || pool.broadcast(|_| codec::forget()));
            if let Err(error) = forgotten.await {
                tracing::warn!(%error, "could not overwrite what the compression threads keep in memory");
            }
        }
    }

    /// Seals what is secret of the manifest.
    pub(super) fn seal(&self, manifest: &mut Manifest) -> Result<(), Error> {
        let Some(Keys { recipients, readers }) = &self.keys else { return Ok(()) };
        let encryption = Encryption::new(&recipients.data, readers.clone(), recipients.index_recipient());
        manifest.seal(encryption, &recipients.index).map_err(|error| Error::Local {
            action: "encrypt the manifest's sealed part",
            error: std::io::Error::other(error),
        })
    }
}
