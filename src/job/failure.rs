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
    #[error("could not reserve the memory of one stream: {0}")]
    Memory(#[from] TooSmall),
    #[error("could not {action}: {error}")]
    Local {
        action: &'static str,
        #[source]
        error: std::io::Error,
    },
    #[error("job {job}: no source matches anything: {patterns}")]
    Nothing { job: Name, patterns: String },
    #[error("the `{when}` command {argv:?} {outcome}{}", hooks::quoted(output))]
    Hook { when: &'static str, argv: Vec<String>, class: Class, outcome: String, output: String },
    /// The manifest was sent, but not confirmed: the objects that it names must stay.
    #[error("could not confirm {key}, so the backup may or may not be committed: {why}")]
    Undecided { key: ObjectKey, class: Class, why: String },
    #[error("cancelled; nothing was committed")]
    Cancelled,
    #[error("could not save the volume {volume} within its claim_timeout of {limit:?}")]
    Late { volume: String, limit: Duration },
    #[error("job {job} did not finish within its timeout of {limit:?}; nothing was committed")]
    Timeout { job: Name, limit: Duration },
}

/// Why one item failed. The other items go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error(transparent)]
    Snapshot(Box<snapshot::Error>),
    /// A pod's volume, whose own backup failed.
    #[error("{}", .0.message)]
    Volume(Box<Report>),
}

impl From<snapshot::Error> for Failed {
    fn from(error: snapshot::Error) -> Self {
        Self::Snapshot(Box::new(error))
    }
}

impl Error {
    /// Whether the run was cancelled.
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_final() && self.class() == Class::Cancelled
    }

    /// Whether it is certain that nothing was committed.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Undecided { .. })
    }
}

/// The failure of an item, without the item's name.
pub(super) fn of_item(error: &Failed) -> Report {
    match error {
        Failed::Source(error) => error.report(),
        Failed::Snapshot(error) => error.report(),
        Failed::Volume(report) => (**report).clone(),
    }
}

/// Describes what the store has in place of a manifest whose PUT it confirmed.
pub(super) fn unconfirmed(found: Result<ObjectInfo, store::Error>, size: u64) -> Report {
    let odd = |what: String| {
        let message = format!("the store confirmed the PUT, but {what}: does a proxy or gateway answer in its place?");
        Report::new(Class::Compat, message)
    };
    match found {
        Ok(ObjectInfo { size: found, .. }) if found != size => odd(format!("the object has {found} bytes, not {size}")),
        Ok(_) => odd("the object has another checksum".to_owned()),
        Err(missing) if missing.class == Class::NotFound => odd("there is no such object".to_owned()),
        Err(error) => error.report(),
    }
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Item { error, .. } => Report { message: self.to_string(), ..of_item(error) },
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
                "`penstock list` shows the backup if it is committed; otherwise `penstock prune` deletes its objects after the grace period",
            ),
            Self::Cancelled => Report::new(Class::Cancelled, self.to_string()),
            Self::Late { .. } => Report::new(Class::Timeout, self.to_string())
                .remedy("raise claim_timeout if the volume is that large; if its file system hangs, mount it again"),
            Self::Timeout { .. } => Report::new(Class::Timeout, self.to_string()).remedy("raise the job's timeout"),
        }
    }
}
