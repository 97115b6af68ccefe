//! The errors of a restore.

use std::io;
use std::path::{Path, PathBuf};

use super::{extract, refusal};
use crate::download;
use crate::error::{Class, Classify, Report};
use crate::format::key::Name;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Download(#[from] download::Error),
    #[error("the item {item}: {error}")]
    Extract {
        item: Name,
        #[source]
        error: extract::Error,
        /// The download's error, if it made the archive unreadable.
        download: Option<Box<download::Error>>,
    },
    #[error("the target {} is not empty; expected an empty directory", target.display())]
    NotEmpty { target: PathBuf },
    #[error("the volume {} is not fresh: {found}", target.display())]
    NotFresh { target: PathBuf, found: String },
    #[error("the volume {} was filled in part from the backup {found}; expected {backup}", target.display())]
    OtherBackup { target: PathBuf, found: String, backup: String },
    #[error("the device {} has {size} bytes; expected at least the backup's {length}", target.display())]
    TooSmall { target: PathBuf, size: u64, length: u64 },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("could not {action} {}: {error}", path.display())]
    Local {
        action: &'static str,
        path: PathBuf,
        #[source]
        error: io::Error,
    },
}

impl Error {
    /// Whether the reader of the pipe that is written to has closed it.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Local { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Classify for Error {
    fn report(&self) -> Report {
        let class = match self {
            Self::Download(error) => return error.report(),
            Self::Extract { error, download, .. } => {
                let report = download.as_ref().map_or_else(|| error.report(), |error| error.report());
                return Report { message: self.to_string(), ..report };
            }
            Self::NotEmpty { .. } => {
                let remedy = "restore into an empty directory, or replace what is there with --overwrite";
                return Report::new(Class::Conflict, self.to_string()).remedy(remedy);
            }
            Self::NotFresh { .. } => {
                let remedy = "its data stays as it is: fill a new volume, or write into this one with --overwrite in place of --fill";
                return Report::new(Class::Conflict, self.to_string()).remedy(remedy);
            }
            Self::OtherBackup { found, .. } => {
                let remedy = format!("go on with that one, {found}, or fill a new volume");
                return Report::new(Class::Conflict, self.to_string()).remedy(remedy);
            }
            Self::TooSmall { .. } => {
                return Report::new(Class::Local, self.to_string())
                    .remedy("restore onto a device of the original's size");
            }
            Self::NotFound(_) => Class::NotFound,
            Self::Usage(_) => Class::Config,
            Self::Local { error, .. } => return refusal::report(self.to_string(), error),
        };
        Report::new(class, self.to_string())
    }
}

/// A failure to write the output.
#[must_use]
pub fn written(error: io::Error) -> Error {
    local("write to", "the output")(error)
}

pub(super) fn local(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().to_owned();
    move |error| Error::Local { action, path, error }
}
