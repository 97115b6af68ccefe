//! What is certain of an entry's file: that records are in it, and that its key no longer is.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use super::Error;
use crate::state;

/// Records on their way to the disk.
#[derive(Debug)]
pub struct Recorded {
    told: oneshot::Receiver<()>,
    path: PathBuf,
}

impl Recorded {
    pub(super) fn new(told: oneshot::Receiver<()>, path: PathBuf) -> Self {
        Self { told, path }
    }

    /// Returns when they and all that was queued before are durable.
    ///
    /// # Errors
    /// When the disk does not take them, or did not take an earlier record. No byte of those chunks may be sent then.
    pub async fn durable(self) -> Result<(), Error> {
        let lost = || io::Error::other("an earlier record was not written");
        self.told.await.map_err(|_| state::Error::Io { action: "write", path: self.path, error: lost() }.into())
    }
}

/// Overwrites a file in its place.
pub(super) fn overwrite(path: &Path) -> io::Result<()> {
    // Not the entry's own descriptor, which appends whatever the offset.
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(length), &mut file)?;
    file.sync_data()
}
