//! What can go wrong in a restore.

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
        /// Why the archive could not be read, where that is it.
        download: Option<Box<download::Error>>,
    },
    #[error("the target {} is not empty", target.display())]
    NotEmpty { target: PathBuf },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Usage(String),
    #[error("{action} {}: {error}", path.display())]
    Local {
        action: &'static str,
        path: PathBuf,
        #[source]
        error: io::Error,
    },
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
            Self::NotFound(_) => Class::NotFound,
            Self::Usage(_) => Class::Config,
            Self::Local { error, .. } => return refusal::report(self.to_string(), error),
        };
        Report::new(class, self.to_string())
    }
}

pub(super) fn local(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().to_owned();
    move |error| Error::Local { action, path, error }
}
