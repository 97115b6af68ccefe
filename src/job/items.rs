//! The items of a run, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{self, FailedItem};
use super::unlisted::Unlisted;
use super::{Error, Run, parent};
use crate::error::Classify as _;
use crate::format::key::{BackupPrefix, Name};
use crate::format::manifest::{Content, Item, Manifest, Outcome, SourceDescription, Stream};

impl Run<'_> {
    /// Every stream, as an item of `manifest`, and whatever may be lost, there or where `unlisted` says. The first failure of a source.
    pub(super) async fn items(
        &mut self,
        backup: &BackupPrefix,
        manifest: &mut Manifest,
        mut unlisted: Vec<Unlisted>,
    ) -> Result<Option<Error>, Error> {
        let mut first_error = None;
        let taken: BTreeSet<Name> = manifest.items.iter().map(|item| item.name.clone()).collect();
        let mut plan = plan::plan(self.spec, taken)?;
        for planned in plan.items {
            let result = self.item(backup, &planned, &mut manifest.warnings).await;
            let item = match result {
                Ok((stream, warnings)) => {
                    let outcome = if warnings == 0 { Outcome::Success } else { Outcome::Partial };
                    Item { outcome, ..item(planned.name, planned.description, Some(stream)) }
                }
                Err(error @ Error::Source { .. }) => failed(planned.name, planned.description, error, &mut first_error),
                Err(error) => return Err(error),
            };
            manifest.items.push(item);
        }
        for FailedItem { name, description, error } in plan.failed {
            let error = Error::Source { item: name.clone(), error };
            manifest.items.push(failed(name, description, error, &mut first_error));
        }
        unlisted.append(&mut plan.unlisted);
        self.add_lost(&unlisted, manifest).await?;
        manifest.parent = self.parent.as_ref().map(|parent| parent.manifest.id.clone());
        manifest.base = self.parent.as_ref().map(|parent| parent::base(&parent.manifest).clone());
        Ok(first_error)
    }
}

fn item(name: Name, source: SourceDescription, stream: Option<Stream>) -> Item {
    let (outcome, labels, content) = (Outcome::Success, BTreeMap::new(), Content::Stream { stream });
    Item { name, source, outcome, error: None, labels, content }
}

fn failed(name: Name, source: SourceDescription, error: Error, first: &mut Option<Error>) -> Item {
    let report = error.report();
    tracing::error!(item = %name, class = %report.class, remedy = report.remedy, %error, "the item failed; nothing of it is kept");
    first.get_or_insert(error);
    Item { outcome: Outcome::Failure, error: Some(report), ..item(name, source, None) }
}
