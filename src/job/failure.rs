//! Why a run committed nothing.

use std::time::Duration;

use super::hooks;
use crate::budget::TooSmall;
use crate::error::{Class, Classify, Report};
use crate::format::key::{Name, ObjectKey};
use crate::store::ObjectInfo;
use crate::stream::encode;
use crate::{catalog, download, snapshot, source, store, upload};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("item {item}: {error}")]
    Item {
        item: Name,
        #[source]
        error: Failed,
    },
    #[error(transparent)]
    Snapshots(snapshot::Error),
    #[error(transparent)]
    Stream(encode::Error),
    #[error(transparent)]
    Upload(#[from] upload::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    #[error(transparent)]
    Parent(#[from] download::Error),
    #[error("not enough memory for one stream: {0}")]
    Memory(#[from] TooSmall),
    #[error("{action}: {error}")]
    Local {
        action: &'static str,
        #[source]
        error: std::io::Error,
    },
    #[error("job {job}: no source matched anything: {patterns}")]
    Nothing { job: Name, patterns: String },
    #[error("the `{when}` command {argv:?} {outcome}{}", hooks::quoted(output))]
    Hook { when: &'static str, argv: Vec<String>, class: Class, outcome: String, output: String },
    /// The manifest was sent, and whether it arrived was not confirmed: what it names must stay.
    #[error("whether the backup is committed is not known, since {key} was not confirmed: {why}")]
    Undecided { key: ObjectKey, class: Class, why: String },
    #[error("cancelled; nothing was committed")]
    Cancelled,
    #[error("job {job} did not finish within its timeout of {limit:?}; nothing was committed")]
    Timeout { job: Name, limit: Duration },
}

/// Why an item failed that leaves the others as they are.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error(transparent)]
    Snapshot(Box<snapshot::Error>),
}

impl From<snapshot::Error> for Failed {
    fn from(error: snapshot::Error) -> Self {
        Self::Snapshot(Box::new(error))
    }
}

impl Error {
    /// Whether the run was told to stop, wherever it heard of that first.
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_final() && self.class() == Class::Cancelled
    }

    /// Whether nothing is committed, for certain.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Undecided { .. })
    }
}

/// The store took the manifest, and `found` is not what was sent.
pub(super) fn unconfirmed(found: Result<ObjectInfo, store::Error>, size: u64) -> Report {
    let odd = |what: String| {
        let message =
            format!("the PUT was answered as done, but {what}: does a proxy or gateway answer in the store's place?");
        Report::new(Class::Compat, message)
    };
    match found {
        Ok(ObjectInfo { size: found, .. }) if found != size => odd(format!("{found} bytes lie there, expected {size}")),
        Ok(_) => odd("the object there has another checksum".to_owned()),
        Err(missing) if missing.class == Class::NotFound => odd("there is no such object".to_owned()),
        Err(error) => error.report(),
    }
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Item { error: Failed::Source(error), .. } => Report { message: self.to_string(), ..error.report() },
            Self::Item { error: Failed::Snapshot(error), .. } => Report { message: self.to_string(), ..error.report() },
            Self::Snapshots(error) => error.report(),
            Self::Stream(error) => error.report(),
            Self::Upload(error) => error.report(),
            Self::Store(error) => error.report(),
            Self::Catalog(error) => error.report(),
            Self::Parent(error) => error.report(),
            Self::Memory(_) => Report::new(Class::Config, self.to_string())
                .remedy("raise limits.memory, or lower upload.part_size or limits.compression_threads"),
            Self::Local { .. } => Report::new(Class::Local, self.to_string()),
            Self::Nothing { .. } => {
                Report::new(Class::Source, self.to_string()).remedy("check the paths of the job's sources on this node")
            }
            Self::Hook { class, .. } => Report::new(*class, self.to_string()),
            Self::Undecided { class, .. } => Report::new(*class, self.to_string()).remedy(
                "`penstock list` shows it if it is; if it is not, `penstock prune` removes what it stored after the grace period",
            ),
            Self::Cancelled => Report::new(Class::Cancelled, self.to_string()),
            Self::Timeout { .. } => Report::new(Class::Timeout, self.to_string()).remedy("raise the job's timeout"),
        }
    }
}
