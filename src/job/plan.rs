//! The items of one run, each with the step that it begins with.

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

/// What the sources of a job have now, in the order of the configuration; a glob's matches in the order of their paths. No two items
/// have one name.
#[derive(Default)]
pub(super) struct Plan<'a> {
    /// Capture, and settle after `after`.
    pub(super) snapshots: Vec<Planned<Capture<'a>>>,
    /// Stream.
    pub(super) streams: Vec<Planned<Open<'a>>>,
    /// No step: what was found cannot be begun.
    pub(super) failed: Vec<Planned<Failed>>,
    /// Where more items may be.
    pub(super) unlisted: Vec<Unlisted>,
    /// Warnings about sources, by the source's name.
    pub(super) warnings: Vec<(Name, String)>,
    /// The volumes that an earlier source has.
    pub(super) volumes: BTreeSet<VolumeId>,
}

pub(super) struct Planned<S> {
    pub(super) name: Name,
    pub(super) description: SourceDescription,
    pub(super) step: S,
}

/// A volume of which a snapshot is taken.
pub(super) struct Capture<'a> {
    pub(super) ebs: &'a Ebs,
    pub(super) volume: Volume,
}

/// Opens a stream. The token ends a command's process group, and the waiting for a file; the parent is for a tree.
pub(super) type Open<'a> = Box<
    dyn FnOnce(CancellationToken, Option<tree::Parent>) -> Result<Box<dyn Source>, source::Error> + Send + Sync + 'a,
>;

impl<'a> Plan<'a> {
    pub(super) fn stream<S: Source + 'static>(
        &mut self,
        name: Name,
        description: SourceDescription,
        open: impl FnOnce(CancellationToken, Option<tree::Parent>) -> Result<S, source::Error> + Send + Sync + 'a,
    ) {
        let step: Open = Box::new(|stop, parent| Ok(Box::new(open(stop, parent)?)));
        self.streams.push(Planned { name, description, step });
    }

    pub(super) fn fail(&mut self, name: Name, description: SourceDescription, error: impl Into<Failed>) {
        self.failed.push(Planned { name, description, step: error.into() });
    }

    /// Gives what has a name that is taken another one, under which it fails: the manifest has room for one item of a name.
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
            "{description} would be the item {name}, as another match or source of this job is; give its source another name"
        ));
        twice.push(Planned { name, description, step: error.into() });
    }
}
