//! Items that a run cannot know of, because what would show them cannot be looked at.
//!
//! Retention keeps the last copy of each item that the newest backup names as failed. One that the newest backup does not name was taken out
//! of the job, so that its copies go by the rules. An item below a directory that cannot be listed is neither: it fails under the name that
//! the backup before has for it, and so from backup to backup until the directory can be listed again.
//!
//! Costs one listing and one manifest, and only where something could not be listed.

use std::path::PathBuf;
use std::sync::Arc;

use super::parent::{Ancestor, Ancestors, Policy, Reuse};
use super::{Error, Run};
use crate::error::{Class, Classify as _, Report};
use crate::format::ebs::VolumeId;
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, Outcome, SourceDescription};
use crate::source::glob;

/// Where items of a source may be.
#[derive(Debug)]
pub(super) struct Unlisted {
    pub(super) source: Name,
    pub(super) place: Place,
    pub(super) why: String,
}

#[derive(Debug)]
pub(super) enum Place {
    Below(PathBuf),
    /// Among the volumes of the account.
    Volumes,
}

impl Unlisted {
    fn may_have(&self, item: &Item) -> bool {
        match (&self.place, &item.source) {
            (Place::Below(directory), SourceDescription::Tree { path }) => {
                // The manifest has paths as they are shown.
                let directory = directory.to_string_lossy().into_owned();
                glob::may_be_of(&self.source, &item.name) && std::path::Path::new(path).starts_with(directory)
            }
            (Place::Volumes, SourceDescription::Ebs { .. }) => {
                let volume = item.name.as_str().strip_prefix(self.source.as_str());
                let volume = volume.and_then(|rest| rest.strip_prefix('-'));
                volume.is_some_and(|volume| volume.parse::<VolumeId>().is_ok())
            }
            _ => false,
        }
    }
}

/// The items of the backup before that are neither found nor known to be gone, as items that failed.
fn lost(unlisted: &[Unlisted], before: &Manifest, found: &[Item]) -> Vec<Item> {
    let lost = |item: &Item| {
        let place = unlisted.iter().find(|unlisted| unlisted.may_have(item))?;
        if found.iter().any(|found| found.name == item.name) {
            return None;
        }
        let content = match item.content {
            Content::Stream { .. } => Content::Stream { stream: None },
            Content::EbsSnapshot { .. } => Content::EbsSnapshot { snapshot: None },
        };
        let message = format!("it is in the backup {} and could not be looked for: {}", before.id, place.why);
        let error =
            Report::new(Class::Source, message).remedy("its last copy is kept until it can be looked for again");
        Some(Item { outcome: Outcome::Failure, error: Some(error), content, ..item.clone() })
    };
    before.items.iter().filter_map(lost).collect()
}

impl Run<'_> {
    /// Adds what may be lost to the items of `manifest`.
    pub(super) async fn add_lost(&mut self, unlisted: &[Unlisted], manifest: &mut Manifest) -> Result<(), Error> {
        let Some(first) = unlisted.first() else { return Ok(()) };
        let chain = manifest.chain();
        // Also where the next backup is a full one.
        let policy = Policy { reuse: Reuse::Chunks, full_every: None, ..self.spec.parent };
        let mut ancestors = Ancestors::new(&self.location.until(&self.stop), &chain, policy, manifest.started);
        let before: Option<Arc<Ancestor>> = match ancestors.newest().await {
            Ok(before) => before,
            Err(error) if super::parent::excusable(error.class()) => {
                let message = format!("items that could not be looked for may be missing here without a word: {error}");
                self.warn(&first.source, &ancestors.home(), message, &mut manifest.warnings);
                None
            }
            Err(error) => return Err(error.into()),
        };
        let Some(before) = before else { return Ok(()) };
        let mut lost = lost(unlisted, &before.manifest, &manifest.items);
        if !lost.is_empty() {
            tracing::error!(items = lost.len(), before = %before.manifest.id, "items of the backup before could not be looked for: they count as failed");
        }
        manifest.items.append(&mut lost);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
