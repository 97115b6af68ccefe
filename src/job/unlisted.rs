//! Items that a run cannot find, because the place where they would be cannot be listed.
//!
//! Retention keeps the last copy of each item that the newest backup names as failed. An item that the newest backup does not name was
//! removed from the job, and its copies age out. An item below a directory that cannot be listed is neither: it fails under the name that
//! it has in the previous backup, in every backup until the directory can be listed again.
//!
//! Costs one listing and one manifest at most, and only where something could not be listed.

use std::sync::Arc;

use super::parent::Ancestor;
use super::{Error, Run};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::Name;
use crate::format::manifest::{Content, Item, Manifest, Outcome};

/// A place of a source that could not be listed.
pub(super) struct Unlisted {
    source: Name,
    why: String,
    /// Whether an item of the previous backup may be there.
    may_have: Box<dyn Fn(&Item) -> bool + Send + Sync>,
}

impl Unlisted {
    pub(super) fn new(source: Name, why: String, may_have: impl Fn(&Item) -> bool + Send + Sync + 'static) -> Self {
        Self { source, why, may_have: Box::new(may_have) }
    }
}

/// The items of the previous backup that are neither found nor known to be gone, as failed items.
fn lost(unlisted: &[Unlisted], before: &Manifest, found: &[Item]) -> Vec<Item> {
    let lost = |item: &Item| {
        let place = unlisted.iter().find(|unlisted| (unlisted.may_have)(item))?;
        if found.iter().any(|found| found.name == item.name) {
            return None;
        }
        let message = format!("could not look for the item, which is in the backup {}: {}", before.id, place.why);
        let error =
            Report::new(Class::Source, message).remedy("its last copy is kept until its place can be listed again");
        Some(Item {
            outcome: Outcome::Failure,
            error: Some(error),
            content: Content::none(&item.source),
            ..item.clone()
        })
    };
    before.items.iter().filter_map(lost).collect()
}

impl Run<'_> {
    /// Adds items that may be lost to `manifest`, as failed.
    pub(super) async fn add_lost(&mut self, unlisted: &[Unlisted], manifest: &mut Manifest) -> Result<(), Error> {
        let Some(first) = unlisted.first() else { return Ok(()) };
        let before: Option<Arc<Ancestor>> = match self.ancestors.newest().await {
            Ok(before) => before,
            Err(error) if super::parent::excusable(error.class()) => {
                let message = format!("could not read the previous backup: its items may be missing here: {error}");
                let mut tally = self.tally(&first.source);
                tally.warn(&self.ancestors.home(), message);
                manifest.warnings.append(tally.warnings);
                None
            }
            Err(error) => return Err(error.into()),
        };
        let Some(before) = before else { return Ok(()) };
        let mut lost = lost(unlisted, &before.manifest, &manifest.items);
        if !lost.is_empty() {
            tracing::error!(items = lost.len(), before = %before.manifest.id, "could not look for items of the previous backup: they count as failed");
        }
        manifest.items.append(&mut lost);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
