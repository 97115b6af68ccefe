//! From configured sources to the items of one run.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{Error, Spec};
use crate::config::{self, Ebs, SourceKind};
use crate::format::key::Name;
use crate::format::manifest::SourceDescription;
use crate::source::command::CommandSource;
use crate::source::file::FileSource;
use crate::source::stdin::StdinSource;
use crate::source::tree::{self, TreeSource};
use crate::source::{self, Source, glob};

#[derive(Debug)]
pub(super) struct PlannedItem<'a> {
    pub(super) name: Name,
    pub(super) description: SourceDescription,
    origin: Origin<'a>,
}

#[derive(Debug)]
enum Origin<'a> {
    Tree { root: PathBuf, exclude: &'a [String], one_file_system: bool },
    File(PathBuf),
    Command(&'a [String]),
    Stdin,
}

/// The items in the order of the configuration; a glob's matches in the order of their paths.
pub(super) fn items(spec: &Spec) -> Result<Vec<PlannedItem<'_>>, Error> {
    let mut items = Vec::new();
    for source in &spec.sources {
        expand(source, &mut items)?;
    }
    if items.is_empty() && volumes(spec).is_empty() {
        let patterns = spec.sources.iter().map(|source| source.name.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::Nothing { job: spec.job.clone(), patterns });
    }
    Ok(items)
}

/// The sources that are EBS volumes: their items are snapshots, not streams.
pub(super) fn volumes(spec: &Spec) -> Vec<(&Name, &Ebs)> {
    let ebs = spec.sources.iter().filter_map(|source| match &source.kind {
        SourceKind::Ebs(ebs) => Some((&source.name, ebs)),
        SourceKind::Tree { .. } | SourceKind::File { .. } | SourceKind::Command { .. } | SourceKind::Stdin => None,
    });
    ebs.collect()
}

fn expand<'a>(source: &'a config::Source, items: &mut Vec<PlannedItem<'a>>) -> Result<(), Error> {
    let name = source.name.clone();
    let (description, origin) = match &source.kind {
        SourceKind::Tree { path, exclude, one_file_system } => {
            let matches = glob::expand(&name, path).map_err(|error| Error::Source { item: name.clone(), error })?;
            if matches.is_empty() {
                tracing::warn!(source = %name, %path, "no directory matches");
            }
            items.extend(matches.into_iter().map(|(name, root)| PlannedItem {
                name,
                description: SourceDescription::Tree { path: root.to_string_lossy().into_owned() },
                origin: Origin::Tree { root, exclude, one_file_system: *one_file_system },
            }));
            return Ok(());
        }
        SourceKind::File { path } => {
            (SourceDescription::File { path: path.to_string_lossy().into_owned() }, Origin::File(path.clone()))
        }
        SourceKind::Command { argv } => (SourceDescription::Command { argv: argv.clone() }, Origin::Command(argv)),
        SourceKind::Stdin => (SourceDescription::Stdin, Origin::Stdin),
        SourceKind::Ebs(_) => return Ok(()),
    };
    items.push(PlannedItem { name, description, origin });
    Ok(())
}

impl PlannedItem<'_> {
    /// Opens the source; `parent` is for a tree. `stop` ends a command's process group, and the waiting for a file.
    pub(super) fn open(
        &self,
        stop: CancellationToken,
        parent: Option<tree::Parent>,
    ) -> Result<Box<dyn Source>, source::Error> {
        Ok(match &self.origin {
            Origin::Tree { root, exclude, one_file_system } => {
                let options = tree::Options { exclude: exclude.to_vec(), one_file_system: *one_file_system };
                Box::new(TreeSource::new(root, &options, parent)?.stopped_by(stop))
            }
            Origin::File(path) => Box::new(FileSource::open(path)?.stopped_by(stop)),
            Origin::Command(argv) => Box::new(CommandSource::spawn(argv, stop)?),
            Origin::Stdin => Box::new(StdinSource::new()),
        })
    }
}
