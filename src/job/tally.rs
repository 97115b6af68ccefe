//! Counts an item's progress, at once for the progress bar, the metrics and the manifest.

use std::sync::atomic::{AtomicU64, Ordering};

use super::failure::Failed;
use super::{Error, Progress, Run};
use crate::format::cluster::{Record, Unknown};
use crate::format::key::Name;
use crate::format::manifest::{Warning, Warnings};
use crate::metrics;

pub(super) struct Tally<'a> {
    pub(super) item: Name,
    progress: &'a Progress,
    metrics: metrics::Job,
    /// This item's warnings.
    pub(super) warnings: Warnings,
    /// Of a cluster's objects.
    pub(super) record: Option<Box<Record>>,
}

impl<'a> Run<'a> {
    pub(super) fn tally(&self, item: &Name) -> Tally<'a> {
        let (item, metrics) = (item.clone(), self.metrics.clone());
        Tally { item, progress: self.progress, metrics, warnings: Warnings::default(), record: None }
    }
}

impl Tally<'_> {
    /// Warns of a problem that does not fail the item.
    pub(super) fn warn(&mut self, path: &str, message: String) {
        add(&self.progress.warnings, 1);
        self.metrics.warning();
        tracing::warn!(item = %self.item, path, "{message}");
        self.warnings.push(Warning { item: self.item.clone(), path: path.to_owned(), message });
    }

    /// Makes the failure of the item.
    pub(super) fn failed(&self, error: impl Into<Failed>) -> Error {
        Error::Item { item: self.item.clone(), error: error.into() }
    }

    /// Takes the record of a cluster's objects. A loss, and a configured name that matches nothing, is a warning. What the parent had
    /// and this backup has not is a note, because somebody may have deleted it.
    pub(super) fn record(&mut self, mut record: Box<Record>, before: Option<&Record>) {
        for loss in record.losses() {
            self.warn("", loss);
        }
        for Unknown { key, pattern, nearest } in &record.unknown {
            let nearest = nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean {nearest:?}?"));
            self.warn("", format!("{key}: nothing in the cluster is called {pattern:?}{nearest}"));
        }
        let gone = before.map(|before| record.gone_since(before)).unwrap_or_default();
        record.notes.extend(gone);
        for note in &record.notes {
            tracing::warn!(item = %self.item, "{note}");
        }
        self.metrics.listed(&record);
        self.record = Some(record);
    }

    /// Adds to the plain bytes that the stream is expected to have.
    pub(super) fn expected(&self, plain: u64) {
        add(&self.progress.expected, plain);
    }

    /// Counts a member of a tree.
    pub(super) fn file(&self) {
        add(&self.progress.files, 1);
        self.metrics.file();
    }

    /// Counts a chunk that was read, and is stored in `stored` bytes.
    pub(super) fn stored(&self, plain: u64, stored: u64) {
        add(&self.progress.plain, plain);
        self.metrics.read(plain);
        self.metrics.stored(stored);
    }

    /// Counts a chunk that was read and is referenced.
    pub(super) fn deduplicated(&self, plain: u64) {
        self.metrics.read(plain);
        self.unread(plain);
    }

    /// Counts a chunk that is referenced, of a file that was not read.
    pub(super) fn unread(&self, plain: u64) {
        add(&self.progress.plain, plain);
        self.metrics.deduplicated(plain);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
