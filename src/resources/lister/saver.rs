//! Decides for each object of a list whether it is saved, and passes the saved ones to the outlet.

use std::sync::atomic::Ordering;

use super::{Run, is_namespaces};
use crate::cluster::Scope;
use crate::format::cluster::{MOST_NAMES, ResourceRecord};
use crate::resources::item::Item;
use crate::resources::list::Entry;
use crate::resources::outlet::Closed;
use crate::resources::pages::Sink;
use crate::resources::select::Listed;
use crate::resources::skip::{Skipped, path, skipped};

/// Receives the objects of one list.
pub(super) struct Saver<'a, 'b> {
    pub(super) run: &'a mut Run<'b>,
    pub(super) listed: &'a Listed,
    pub(super) namespace: Option<&'a str>,
    pub(super) tally: &'a mut ResourceRecord,
}

/// Whether an object is saved.
enum Decision {
    Saved(String),
    Skipped(Skipped),
    /// Not selected, and not counted.
    Elsewhere,
}

impl Saver<'_, '_> {
    fn decide(&self, item: &Item) -> Decision {
        let (resource, metadata) = (&self.listed.resource, &item.metadata);
        let namespaced = resource.scope == Scope::Namespaced;
        if namespaced == metadata.namespace.is_empty()
            || self.namespace.is_some_and(|wanted| wanted != metadata.namespace)
        {
            return Decision::Skipped(Skipped::UnusableName);
        }
        let namespace = if namespaced { &metadata.namespace } else { &metadata.name };
        if (namespaced || is_namespaces(resource)) && !self.run.is_chosen(namespace) {
            return Decision::Elsewhere;
        }
        if let Some(reason) = skipped(resource, item) {
            return Decision::Skipped(reason);
        }
        if !namespaced && self.run.references.as_ref().is_some_and(|references| !references.wants(resource, item)) {
            return Decision::Skipped(Skipped::NotReferred);
        }
        match path(resource, self.listed.folder, &metadata.namespace, &metadata.name) {
            Some(path) => Decision::Saved(path),
            None => Decision::Skipped(Skipped::UnusableName),
        }
    }
}

#[async_trait::async_trait]
impl Sink for Saver<'_, '_> {
    async fn accept(&mut self, entry: Entry) -> Result<(), Closed> {
        let item = match entry {
            Entry::Object(item) => item,
            Entry::TooLarge { namespace, name, .. } => {
                // If the namespace is unknown, it may be a chosen one.
                if namespace.is_empty() || self.run.is_chosen(&namespace) {
                    skip(self.tally, Skipped::TooLarge, &namespace, &name);
                }
                return Ok(());
            }
        };
        let path = match self.decide(&item) {
            Decision::Saved(path) => path,
            Decision::Skipped(reason) => {
                skip(self.tally, reason, &item.metadata.namespace, &item.metadata.name);
                return Ok(());
            }
            Decision::Elsewhere => return Ok(()),
        };
        let bytes = item.bytes.len() as u64;
        if let Some(references) = &mut self.run.references {
            references.see(&self.listed.resource, &item);
        }
        if !item.metadata.namespace.is_empty() && !self.run.saved.contains(&item.metadata.namespace) {
            self.run.saved.insert(item.metadata.namespace);
        }
        self.run.outlet.put(path, item.bytes).await?;
        self.tally.objects += 1;
        self.tally.bytes += bytes;
        self.run.lister.progress.objects.fetch_add(1, Ordering::Relaxed);
        self.run.lister.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

fn skip(tally: &mut ResourceRecord, reason: Skipped, namespace: &str, name: &str) {
    *tally.skipped.entry(reason.as_str().to_owned()).or_default() += 1;
    if reason.is_loss() {
        tally.lost += 1;
        if tally.lost_names.len() < MOST_NAMES {
            let short = |text: &str| text.chars().take(80).collect::<String>();
            tally.lost_names.push(format!(
                "{:?}: {}",
                format!("{}/{}", short(namespace), short(name)),
                reason.as_str()
            ));
        }
    }
}
