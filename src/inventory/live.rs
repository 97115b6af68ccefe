//! Receives the live objects of one kind, and compares each with the backup's.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::archive::{Archive, Member};
use super::cleaned::{self, Fields, clean, differing};
use super::diff::{BATCH, Difference, Objects, Output, Row, Summary};
use crate::cluster::{Resource, Scope};
use crate::resources::item::Item;
use crate::resources::list::{Entry, MAX_OBJECT};
use crate::resources::outlet::Closed;
use crate::resources::pages::Sink;
use crate::resources::place::{Filed, Place};
use crate::resources::skip::{Folder, path, skipped};

/// The most differing objects that wait, however small they are.
const MOST_WAITING: usize = 1000;

/// A live object that differs, until the backup's object is read.
struct Waiting {
    member: Member,
    key: String,
    bytes: Bytes,
}

pub(super) struct Live<'a> {
    archive: &'a Archive,
    filed: &'a Filed,
    resource: &'a Resource,
    namespaces: &'a BTreeSet<String>,
    /// The backup's objects not yet seen in the cluster.
    saved: &'a mut Objects,
    /// Whether an object that only the cluster has is a difference.
    whole: bool,
    output: &'a mut dyn Output,
    summary: &'a mut Summary,
    cancel: &'a CancellationToken,
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    pub(super) failure: Option<Error>,
}

impl<'a> Live<'a> {
    pub(super) fn new(
        (archive, filed, resource): (&'a Archive, &'a Filed, &'a Resource),
        namespaces: &'a BTreeSet<String>,
        saved: &'a mut Objects,
        whole: bool,
        (output, summary): (&'a mut dyn Output, &'a mut Summary),
        cancel: &'a CancellationToken,
    ) -> Self {
        let (waiting, waiting_bytes, failure) = (Vec::new(), 0, None);
        Self {
            archive,
            filed,
            resource,
            namespaces,
            saved,
            whole,
            output,
            summary,
            cancel,
            waiting,
            waiting_bytes,
            failure,
        }
    }

    /// Compares the objects that still wait.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.flush().await
    }

    /// The object's key, if the backup may have it.
    fn key(&self, namespace: &str, name: &str) -> Option<String> {
        if (self.resource.scope == Scope::Namespaced) == namespace.is_empty() {
            return None;
        }
        let place = Place::of(path(self.resource, Folder::Plain, namespace, name)?.as_bytes())?;
        place.within().is_none_or(|namespace| self.namespaces.contains(namespace)).then(|| place.key())
    }

    async fn take(&mut self, entry: Entry) -> Result<(), Error> {
        let item = match entry {
            Entry::Object(item) => item,
            Entry::TooLarge { namespace, name, .. } => return self.too_large(&namespace, &name),
        };
        let Some(key) = self.key(&item.metadata.namespace, &item.metadata.name) else { return Ok(()) };
        let Some(saved) = self.saved.remove(key.as_str()) else { return self.only_in_cluster(&key, &item) };
        self.summary.compared += 1;
        let mut value = parsed(&item.bytes);
        clean(&mut value);
        if cleaned::digest_of(&value, &item.bytes) != saved.digest {
            self.waiting_bytes += item.bytes.len();
            self.waiting.push(Waiting { member: saved.member, key, bytes: item.bytes });
        }
        if self.waiting_bytes >= BATCH || self.waiting.len() >= MOST_WAITING {
            self.flush().await?;
        }
        Ok(())
    }

    fn only_in_cluster(&mut self, key: &str, item: &Item) -> Result<(), Error> {
        if self.whole && skipped(self.resource, item).is_none() {
            self.summary.only_in_cluster += 1;
            self.say(key, &Difference::OnlyInCluster)?;
        }
        Ok(())
    }

    fn too_large(&mut self, namespace: &str, name: &str) -> Result<(), Error> {
        let size = MAX_OBJECT >> 20;
        let Some(key) = self.key(namespace, name) else {
            let note =
                format!("an object of {} in the cluster is larger than {size} MiB; it is not compared", self.filed);
            self.summary.notes.push(note);
            return Ok(());
        };
        let difference = if self.saved.remove(key.as_str()).is_some() {
            self.summary.compared += 1;
            self.summary.changed += 1;
            Difference::Changed(Fields { paths: vec![format!("(larger than {size} MiB)")], count: 1 })
        } else if self.whole {
            self.summary.only_in_cluster += 1;
            Difference::OnlyInCluster
        } else {
            return Ok(());
        };
        self.say(&key, &difference)
    }

    /// Reads the backup's objects for those that wait, and reports in which fields they differ.
    async fn flush(&mut self) -> Result<(), Error> {
        self.waiting_bytes = 0;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_by_key(|waiting| waiting.member.start);
        let cancel = self.cancel.clone();
        let compared = self.archive.blocking(move |archive| {
            let members: Vec<Member> = waiting.iter().map(|waiting| waiting.member).collect();
            let (mut live, mut compared) = (waiting.into_iter(), Vec::new());
            archive.read(&members, &cancel, |object, mut saved| {
                let Waiting { key, bytes, .. } = live.next().ok_or(Error::Mismatch)?;
                if object.place.key() != key {
                    return Err(Error::Mismatch);
                }
                let mut other = parsed(&bytes);
                clean(&mut saved);
                clean(&mut other);
                compared.push((key, differing(&saved, &other)));
                Ok(())
            })?;
            Ok(compared)
        });
        for (key, fields) in compared.await? {
            self.summary.changed += 1;
            self.say(&key, &Difference::Changed(fields))?;
        }
        Ok(())
    }

    fn say(&mut self, key: &str, difference: &Difference) -> Result<(), Error> {
        Ok(self.output.difference(Row { item: &self.archive.item, filed: self.filed, key, difference })?)
    }
}

/// `null` if it is nested too deep.
fn parsed(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_default()
}

#[async_trait::async_trait]
impl Sink for Live<'_> {
    async fn accept(&mut self, entry: Entry) -> Result<(), Closed> {
        self.take(entry).await.map_err(|error| {
            self.failure = Some(error);
            Closed
        })
    }
}
