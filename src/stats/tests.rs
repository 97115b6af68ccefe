use std::sync::Arc;

use super::*;
use crate::checksum::Algorithm;
use crate::error::{Class, Classify as _};
use crate::format::codec::Suffix;
use crate::format::index::Totals;
use crate::format::key::BackupPrefix;
use crate::format::manifest::{DataObject, IndexObject, SourceDescription};
use crate::format::testing::{chain, item, manifest_of, name, stream};
use crate::location::memory;
use crate::store::memory::MemoryStore;
use crate::store::{Overwrite, Payload, Store as _};

const FIRST: &str = "20261101T000000Z-000001";
const SECOND: &str = "20261102T000000Z-000002";
const DELETED: &str = "20261031T000000Z-000000";

async fn put(store: &MemoryStore, key: &str, data: impl Into<bytes::Bytes>) {
    let payload = Payload::new(data, Algorithm::None);
    store.put(&ObjectKey::new(key), payload, Overwrite::Refuse).await.unwrap();
}

/// Puts a manifest that names objects by key, size and live bytes, and its index of 10 bytes. Returns the manifest's size.
async fn commit(store: &MemoryStore, node: &str, id: &str, objects: &[(&str, u64, u64)]) -> u64 {
    let (chain, id): (Chain, BackupId) = (chain(node), id.parse().unwrap());
    let listed = objects.iter().map(|(key, size, live)| DataObject {
        key: ObjectKey::new(format!("c/j/{node}/{key}")),
        size: *size,
        crc64nvme: [0; 8],
        payload: None,
        live_bytes: *live,
        version: None,
    });
    let home = BackupPrefix::new("", &chain, &id);
    let index = IndexObject { key: home.index(&name("i"), Suffix::Index), size: 10, sha256: [0; 32], version: None };
    put(store, index.key.as_str(), vec![0; 10]).await;
    let totals = Totals { chunks: 1, files: 0, plain_bytes: 5000, digest: [0; 32] };
    let stream = stream(totals, index, listed.collect());
    let manifest = manifest_of(chain, id, vec![item("i", SourceDescription::Stdin, Some(stream))]).to_json();
    let size = manifest.len() as u64;
    put(store, home.manifest().as_str(), manifest).await;
    size
}

#[tokio::test]
async fn bytes_are_live_as_long_as_one_backup_needs_them() {
    let store = Arc::new(MemoryStore::new());
    store.set_now("2026-11-03T00:00:00Z".parse().unwrap());
    let key = |id: &str, number: u32| format!("{id}/i.{number:04}.zst");
    let (oldest, first, second) = (key(DELETED, 1), key(FIRST, 1), key(SECOND, 1));
    for (key, size) in [(&oldest, 1000), (&first, 400), (&second, 50)] {
        put(&store, &format!("c/j/a/{key}"), vec![0; size]).await;
    }
    // A deleted backup's manifest and index wait for their grace period, and somebody's file is not ours.
    put(&store, &format!("c/j/a/{DELETED}/deleted.json"), vec![0; 20]).await;
    put(&store, &format!("c/j/a/{DELETED}/i.index.zst"), vec![0; 10]).await;
    put(&store, "c/j/a/notes.txt", vec![0; 9999]).await;
    let mut manifests = commit(&store, "a", FIRST, &[(&oldest, 1000, 600), (&first, 400, 400)]).await;
    manifests += commit(&store, "a", SECOND, &[(&oldest, 1000, 500), (&first, 400, 100), (&second, 50, 50)]).await;
    let other = commit(&store, "b", FIRST, &[]).await;
    let catalog = Catalog::new(&memory::open(Arc::clone(&store) as _, "", 1 << 20));

    let all = stats(&catalog, Scope::default(), LookAt::Objects).await.unwrap();
    let of = |node: &str| all[&chain(node)].clone();
    let stored = 1000 + 400 + 50 + 20 + 3 * 10 + manifests;
    // The larger share of each object, the indexes and the manifests.
    let live = 600 + 400 + 50 + 2 * 10 + manifests;
    let expected = Stats {
        backups: 2,
        plain_bytes: 10_000,
        stored_bytes: stored,
        live_bytes: live,
        hidden_bytes: None,
        dead_bytes: stored - live,
        full_bytes: 500 + 100 + 50,
        newest: Some(SECOND.parse().unwrap()),
        oldest: Some(FIRST.parse().unwrap()),
        newest_taken: Some("2026-11-02T00:00:00Z".parse().unwrap()),
        oldest_taken: Some("2026-11-01T00:00:00Z".parse().unwrap()),
    };
    assert_eq!(of("a"), expected);
    assert_eq!((of("b").stored_bytes, of("b").dead_bytes), (other + 10, 0));
    // Chains that do not fit into a part of the memory are added up one by one.
    let mut least = None;
    for memory in (1000..20_000).step_by(500) {
        match stats(&catalog.clone().within(memory), Scope::default(), LookAt::Objects).await {
            Ok(found) => {
                least.get_or_insert(memory);
                assert_eq!(found, all, "{memory} bytes");
            }
            Err(error) => assert!(least.is_none() && error.class() == Class::Local, "{memory} bytes: {error}"),
        }
    }
    assert!(least.unwrap() < 6000, "{least:?}");
    let sum = total(all.values());
    assert_eq!((sum.backups, sum.stored_bytes, sum.full_bytes), (3, stored + other + 10, 650));
    assert_eq!((sum.oldest, sum.newest), (expected.oldest, expected.newest));
    let node = name("b");
    assert_eq!(stats(&catalog, Scope { job: None, node: Some(&node) }, LookAt::Objects).await.unwrap().len(), 1);

    put(&store, &format!("c/j/b/{SECOND}/manifest.json"), "{").await;
    assert_eq!(stats(&catalog, Scope::default(), LookAt::Objects).await.unwrap_err().class(), Class::Integrity);
}

#[tokio::test]
async fn objects_of_every_suffix_are_counted() {
    let store = Arc::new(MemoryStore::new());
    let chain = chain("a");
    let home = BackupPrefix::new("", &chain, &FIRST.parse().unwrap());
    for suffix in Suffix::ALL {
        put(&store, home.data(&name("i"), 1, *suffix).as_str(), "x").await;
    }
    let catalog = Catalog::new(&memory::open(store, "", 1 << 20));
    let all = stats(&catalog, Scope::default(), LookAt::Objects).await.unwrap();
    assert_eq!(all[&chain].stored_bytes, Suffix::ALL.len() as u64);
}

#[tokio::test]
async fn the_newest_is_the_one_that_was_taken_last() {
    const AHEAD: &str = "20361101T000000Z-000000";
    let store = Arc::new(MemoryStore::new());
    for (node, id, size, stored) in [
        ("a", AHEAD, 7, "2026-11-01T12:00:00Z"),
        ("a", SECOND, 5, "2026-11-02T00:01:00Z"),
        ("b", FIRST, 3, "2026-11-01T00:01:00Z"),
    ] {
        store.set_now(stored.parse().unwrap());
        let key = format!("{id}/i.0001.zst");
        put(&store, &format!("c/j/{node}/{key}"), vec![0; size]).await;
        commit(&store, node, id, &[(&key, size as u64, size as u64), (&format!("{id}/lost.0001.zst"), 100, 50)]).await;
    }
    let catalog = Catalog::new(&memory::open(Arc::clone(&store) as _, "", 1 << 20));
    let all = stats(&catalog, Scope::default(), LookAt::Objects).await.unwrap();
    let of = |node: &str| all[&chain(node)].clone();
    let id = |id: &str| Some(id.parse().unwrap());
    assert_eq!((of("a").newest, of("a").oldest, of("a").full_bytes), (id(SECOND), id(AHEAD), 55));
    assert_eq!(of("a").dead_bytes, 0, "what is lost is not live, and not dead either");
    assert_eq!((total(all.values()).newest, total(all.values()).oldest), (id(SECOND), id(FIRST)));
    let poor = catalog.within(2000);
    assert_eq!(stats(&poor, Scope::default(), LookAt::Objects).await.unwrap_err().class(), Class::Local);
}

/// A chain of which a bucket with versions shows nothing any more is stored all the same.
#[tokio::test]
async fn a_chain_that_is_hidden_whole_is_counted() {
    let store = Arc::new(MemoryStore::new());
    store.keep_versions();
    for node in ["a", "b"] {
        put(&store, &format!("c/j/{node}/{FIRST}/i.0001.zst"), vec![0; 100]).await;
    }
    let of_a = commit(&store, "a", FIRST, &[]).await + 110;
    let gone = store.keys().into_iter().filter(|key| key.as_str().starts_with("c/j/b/"));
    for key in gone {
        store.delete(&key).await.unwrap();
    }
    put(&store, &format!("c/j/a/{FIRST}/i.0002.zst"), vec![0; 7]).await;
    store.delete(&ObjectKey::new(format!("c/j/a/{FIRST}/i.0002.zst"))).await.unwrap();
    let catalog = Catalog::new(&memory::open(Arc::clone(&store) as _, "", 1 << 20));
    let all = stats(&catalog, Scope::default(), LookAt::Versions).await.unwrap();
    let of = |node: &str| (all[&chain(node)].stored_bytes, all[&chain(node)].hidden_bytes);
    assert_eq!((of("a"), of("b")), ((of_a, Some(7)), (0, Some(100))));
    let node = name("a");
    let one = stats(&catalog, Scope { job: None, node: Some(&node) }, LookAt::Versions).await.unwrap();
    assert_eq!(one.keys().collect::<Vec<_>>(), [&chain("a")]);
}
