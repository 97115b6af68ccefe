//! The items of one run, each with its first step.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use super::failure::Failed;
use super::unlisted::Unlisted;
use crate::config::Ebs;
use crate::disks::Volume;
use crate::format::ebs::VolumeId;
use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::source::glob;
use crate::source::tree;
use crate::source::{self, Source};

/// The current items of a job's sources, in the order of the configuration; matches of a glob in the order of their paths. Names are unique.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// Captured first, complete after `after`.
    pub(super) snapshots: Vec<Planned<Capture<'a>>>,
    /// Streamed.
    pub(super) streams: Vec<Planned<Open<'a>>>,
    /// Items that cannot be begun.
    pub(super) failed: Vec<Planned<Failed>>,
    /// Where more items may be that could not be listed.
    pub(super) unlisted: Vec<Unlisted>,
    /// Warnings about sources, by the source's name.
    pub(super) warnings: Vec<(Name, String)>,
    /// The volumes of earlier sources.
    pub(super) volumes: BTreeSet<VolumeId>,
}

pub(super) struct Planned<S> {
    pub(super) name: Name,
    pub(super) description: SourceDescription,
    pub(super) step: S,
}

/// A volume to take a snapshot of.
pub(super) struct Capture<'a> {
    pub(super) ebs: &'a Ebs,
    pub(super) volume: Volume,
}

/// Opens a stream, and may be asked to do it again. The token ends the source; the parent is for a tree.
pub(super) type Open<'a> =
    Box<dyn Fn(CancellationToken, Option<tree::Parent>) -> Result<Box<dyn Source>, source::Error> + Send + Sync + 'a>;

impl<'a> Plan<'a> {
    pub(super) fn stream<S: Source + 'static>(
        &mut self,
        name: Name,
        description: SourceDescription,
        open: impl Fn(CancellationToken, Option<tree::Parent>) -> Result<S, source::Error> + Send + Sync + 'a,
    ) {
        let step: Open = Box::new(move |stop, parent| Ok(Box::new(open(stop, parent)?)));
        self.streams.push(Planned { name, description, step });
    }

    pub(super) fn fail(&mut self, name: Name, description: SourceDescription, error: impl Into<Failed>) {
        self.failed.push(Planned { name, description, step: error.into() });
    }

    /// Gives items with a duplicate name another one, under which they fail: names in a manifest are unique.
    pub(super) fn rename(&mut self) {
        let (mut taken, mut twice) = (BTreeSet::new(), Vec::new());
        keep_first(&mut self.snapshots, &mut taken, &mut twice);
        keep_first(&mut self.streams, &mut taken, &mut twice);
        self.failed.append(&mut twice);
        for item in &mut self.failed {
            let mut of = item.description.to_string();
            while !taken.insert(item.name.clone()) {
                item.name = glob::with_digits(item.name.as_str(), of.as_bytes());
                of.push('+');
            }
        }
    }
}

fn keep_first<S>(items: &mut Vec<Planned<S>>, taken: &mut BTreeSet<Name>, twice: &mut Vec<Planned<Failed>>) {
    for item in std::mem::take(items) {
        if taken.insert(item.name.clone()) {
            items.push(item);
            continue;
        }
        let Planned { name, description, .. } = item;
        let error = source::Error::Invalid(format!(
            "{description} has the item name {name}, which another match or source of this job has too; give its source another name"
        ));
        twice.push(Planned { name, description, step: error.into() });
    }
}
