//! Why an object was not uploaded.

use super::journal;
use crate::age;
use crate::error::{Class, Classify, Report};
use crate::format::key::ObjectKey;
use crate::store::{self, PartNumber};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("{key}: could not complete the upload: {what} is {found}; expected {expected}")]
    Review { key: ObjectKey, what: &'static str, expected: String, found: String },
    #[error(
        "{key}: could not confirm the completed upload: its answer was lost, and the object has {found}; expected {expected}"
    )]
    OtherObject { key: ObjectKey, expected: String, found: String },
    #[error("{key}: could not upload the object: it needs more than {} parts", PartNumber::MAX)]
    TooManyParts { key: ObjectKey },
    /// The object must be given up, and another begun from its first byte.
    #[error(
        "could not resume the upload of {key}: the source has changed since: byte {plain} and what follows are encrypted to other bytes"
    )]
    Diverged { key: ObjectKey, plain: u64 },
    #[error("could not encrypt {key}: {error}")]
    Random { key: ObjectKey, error: age::Failed },
    #[error("could not upload {key}: a task failed: {reason}")]
    Task { key: ObjectKey, reason: String },
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Store(error) => error.report(),
            Self::Journal(error) => error.report(),
            Self::Review { .. } => Report::new(Class::Integrity, self.to_string())
                .remedy("nothing was committed; run the backup again, and if it happens again check the store and the network between"),
            Self::OtherObject { .. } => Report::new(Class::Integrity, self.to_string()).remedy(
                "the backup was not committed; run it again, and if it happens again check the store, the network between, and what else writes to this key",
            ),
            Self::TooManyParts { .. } => {
                Report::new(Class::Config, self.to_string()).remedy("raise upload.part_size or lower upload.object_size")
            }
            Self::Diverged { .. } => {
                Report::new(Class::Source, self.to_string()).remedy("run the job again: it begins the object anew")
            }
            Self::Random { .. } => {
                Report::new(Class::Local, self.to_string()).remedy("the system must give random bytes: see getrandom(2)")
            }
            Self::Task { .. } => {
                Report::new(Class::Internal, self.to_string()).remedy("this is a bug in Penstock: please report it")
            }
        }
    }
}
