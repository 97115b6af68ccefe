//! Puts a backup's API objects back into a cluster, or plans it.
//!
//! 1. [`scan`] reads every wanted object once and keeps names, kinds and owners; [`left_out`] says which are not restored.
//! 2. [`preflight`] looks for what would refuse objects: webhooks without endpoints, full quotas, namespaces that are being deleted.
//! 3. [`run`] goes through the objects in batches: by [`rank`], owners before what they own; within a batch in parallel, at the server's
//!    [`pace`]. A [`step`] restores one object. A plan makes the same requests with `dryRun=All`.
//!    With `--with-volumes`, [`data`] fills the claims before what uses them is restored.
//! 4. [`hold`] waits for workloads, and looks at every object once more.
//!
//! What becomes of one object is decided without I/O, each decision a table or a function of the object alone, in this order:
//! [`mapping`] (namespaces and storage classes under other names), [`clean`] (what is not sent, kind by kind), [`owners`] (their new
//! UIDs: the garbage collector deletes within a second what has an owner that is not there), [`needs`] (names of objects that it cannot do
//! without), [`volumes`] (whether a volume that is there is the claim's), and, where the object exists, [`compare`], [`merge`], [`update`].
//!
//! # What it promises
//! Run twice, the second run changes nothing; killed at any point and run again, it ends in the same state, because an object that exists
//! and is as in the backup is left alone. Nothing is changed without [`Existing::Update`] and nothing deleted without
//! [`Existing::Recreate`]; what the server has made by itself in a new namespace is completed. Objects are untrusted: whatever shape a
//! field has, nothing here panics. No field's value is in an error, a log line or a report: names and field paths only.
//!
//! # What it costs
//! Some hundred bytes of memory for each object, within half of `limits.memory`; a quarter of it for objects on their way. One request
//! for each new object, one more to give it back its field managers, two for one that exists.

pub mod clean;
pub mod compare;
mod contents;
mod data;
mod definitions;
mod fields;
mod hold;
mod labels;
pub mod left_out;
pub mod mapping;
pub mod merge;
pub mod needs;
pub mod owners;
mod pace;
mod preflight;
mod prepare;
pub mod rank;
mod run;
mod scan;
mod step;
mod target;
pub mod update;
pub mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

pub use self::data::{AsOf, Chosen, Data, Jobs, Outcome, Volume};
pub use self::labels::Selector;
use self::mapping::Mapping;
pub use self::run::{Progress, Restore};
pub use self::step::Verdict;
use crate::cluster::{self, Scope};
use crate::error::{Class, Classify, Report};
use crate::inventory::{self, Filter};
use crate::resources::place::{Filed, Place};
use crate::resources::select::Pattern;

/// What happens to an object that exists and is not as in the backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    #[default]
    Keep,
    Update,
    Recreate,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub filter: Filter,
    /// Kinds that stay out, by `plural.group` or plural.
    pub exclude: Vec<Pattern>,
    pub selector: Selector,
    pub mapping: Mapping,
    pub existing: Existing,
    /// Restore the status too.
    pub status: bool,
    /// Restore what a controller would make again from its owner.
    pub dependents: bool,
    /// The UID of the cluster that the backup is of, if that is another one and existing objects are to be changed all the same.
    pub from_cluster: Option<String>,
    /// Claims are filled: [`Restore::data`].
    pub volumes: bool,
    /// Afterwards, wait so long for workloads, and look whether the objects are still there.
    pub wait: Option<Duration>,
}

impl Options {
    fn wants(&self, place: &Place) -> bool {
        self.wants_kind(place) && self.filter.fits(place)
    }

    fn wants_kind(&self, place: &Place) -> bool {
        let resource = &place.filed.resource;
        let excluded = self.exclude.iter().any(|pattern| pattern.fits(resource) || pattern.fits(place.filed.plural()));
        // A version beside the preferred one is the same object once more.
        place.filed.version.is_empty() && !excluded && self.filter.fits_resource(resource)
    }

    /// Not every object of the backup is chosen: those of the cluster's scope are chosen by what the others refer to.
    fn is_narrowed(&self) -> bool {
        !self.filter.namespaces.is_empty() || !self.selector.is_empty()
    }

    /// Whether the object is wanted, or will be if an object of a chosen namespace refers to it.
    fn may_want(&self, place: &Place) -> bool {
        self.wants_kind(place) && (place.filed.scope == Scope::Cluster || self.filter.fits(place))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Backup(#[from] inventory::Error),
    #[error(transparent)]
    Cluster(#[from] cluster::Failure),
    #[error(
        "the backup is of the cluster with the UID {saved:?}, and this cluster has {live:?}: existing objects are not changed"
    )]
    OtherCluster { saved: String, live: String },
    #[error(transparent)]
    Mapping(#[from] mapping::Unusable),
    /// The data of claims cannot be restored at all.
    #[error("{}", .0.message)]
    Data(Box<Report>),
    #[error("could not write the result: {0}")]
    Output(#[source] io::Error),
    #[error("cancelled")]
    Cancelled,
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Backup(error) => error.report(),
            Self::Cluster(failure) => failure.report(),
            Self::OtherCluster { saved, .. } => {
                let remedy = format!(
                    "check --context; to change this cluster to be as that one was, add --from-cluster {saved}"
                );
                Report::new(Class::Config, self.to_string()).remedy(remedy)
            }
            Self::Data(report) => (**report).clone(),
            Self::Mapping(_) => Report::new(Class::Config, self.to_string()),
            Self::Output(_) => Report::new(Class::Local, self.to_string()),
            Self::Cancelled => Report::new(Class::Cancelled, self.to_string())
                .remedy("run the same command again: what was restored is left alone, and the rest follows"),
        }
    }
}

/// One object and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The item of the backup that has it.
    pub item: &'a str,
    pub filed: &'a Filed,
    /// `shop/web` as in the backup, or the name alone.
    pub key: &'a str,
    pub verdict: &'a Verdict,
    pub notes: &'a [String],
}

/// Takes results as they come.
pub trait Output: Send {
    /// # Errors
    /// When it cannot be written.
    fn row(&mut self, row: Row<'_>) -> io::Result<()>;

    /// What became of the data of a claim.
    ///
    /// # Errors
    /// When it cannot be written.
    fn volume(&mut self, volume: Volume<'_>) -> io::Result<()>;

    /// An object that was restored and is not there any more, or not as it was restored.
    ///
    /// # Errors
    /// When it cannot be written.
    fn undone(&mut self, item: &str, filed: &Filed, key: &str, why: &str) -> io::Result<()>;
}

/// How a restore or its plan went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects by rank, kind and [`Verdict::word`].
    pub counts: BTreeMap<(u8, Filed, &'static str), u64>,
    /// Objects that differ from the backup and stay as they are, or were refused.
    pub conflicts: u64,
    /// Objects with a note: what they need and nobody has, an owner that is gone, an old namespace's name.
    pub noted: u64,
    /// Claims by [`Outcome::word`].
    pub volumes: BTreeMap<&'static str, u64>,
    /// Claims that do not have all of their data.
    pub losses: u64,
    pub unready: u64,
    pub undone: u64,
    /// What else the operator should read.
    pub notes: Vec<String>,
    /// Objects that were created, or would be, by the namespace's name in the cluster and kind.
    creates: BTreeMap<(String, String), u64>,
    /// Entries that are not in the cluster as in the backup: nothing to wait for.
    absent: BTreeSet<usize>,
}

impl Summary {
    fn count(&mut self, (index, rank): (usize, u8), filed: &Filed, verdict: &Verdict, notes: &[String]) {
        *self.counts.entry((rank, filed.clone(), verdict.word())).or_default() += 1;
        self.noted += u64::from(!notes.is_empty());
        match verdict {
            Verdict::Refused(_) | Verdict::Keep(_) => {
                self.conflicts += 1;
                self.absent.insert(index);
            }
            Verdict::LeftOut(_) | Verdict::Leave(_) => {
                self.absent.insert(index);
            }
            // It has other addresses or ports than in the backup: there is nothing to compare it with.
            Verdict::Create if filed.resource == "services" && !notes.is_empty() => {
                self.absent.insert(index);
            }
            _ => {}
        }
    }

    /// Everything is, or would be, in the cluster as in the backup.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.conflicts == 0
            && self.losses == 0
            && self.noted == 0
            && self.notes.is_empty()
            && self.unready == 0
            && self.undone == 0
    }
}
