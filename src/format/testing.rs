//! Sample backups for tests: each value is complete, and a test changes the part it is about.

use super::index::Totals;
use super::key::{BackupId, Chain, Name, ObjectKey};
use super::manifest::{Content, DataObject, IndexObject, Item, Manifest, NotEntered, SourceDescription, Stream};
use crate::checksum::crc64nvme;

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

/// The job "j" of the cluster "c".
pub(crate) fn chain(node: &str) -> Chain {
    Chain { cluster: name("c"), job: name("j"), node: name(node) }
}

pub(crate) fn object(key: ObjectKey, data: &[u8]) -> DataObject {
    let size = data.len() as u64;
    DataObject { key, size, crc64nvme: crc64nvme(data).to_be_bytes(), payload: None, live_bytes: size, version: None }
}

/// A stream that stored all of its objects itself.
pub(crate) fn stream(totals: Totals, index: IndexObject, objects: Vec<DataObject>) -> Stream {
    let stored_bytes = objects.iter().map(|object| object.live_bytes).sum();
    let Totals { chunks, files, plain_bytes, digest } = totals;
    let (new_bytes, not_entered) = (stored_bytes, NotEntered::default());
    Stream { plain_bytes, stored_bytes, new_bytes, chunks, files, digest, index, objects, not_entered }
}

pub(crate) fn item(item: &str, source: SourceDescription, stream: Option<Stream>) -> Item {
    let content = stream.map_or_else(|| Content::none(&source), |stream| Content::Stream { stream: Some(stream) });
    Item::new(name(item), source, content)
}

/// A backup of the node "n" that was begun and finished in 1970.
pub(crate) fn manifest(items: Vec<Item>) -> Manifest {
    manifest_of(chain("n"), BackupId::new(jiff::Timestamp::UNIX_EPOCH, 7), items)
}

/// A full backup that took no time.
pub(crate) fn manifest_of(chain: Chain, id: BackupId, items: Vec<Item>) -> Manifest {
    let started = id.started().unwrap();
    Manifest { items, ..Manifest::new(chain, id, started) }
}
