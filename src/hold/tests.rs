use std::sync::Arc;

use super::*;
use crate::format::codec::Suffix;
use crate::format::index::Totals;
use crate::format::key::{BackupId, BackupPrefix};
use crate::format::manifest::{IndexObject, SourceDescription};
use crate::format::testing::{item, manifest_of, name, object, stream};
use crate::location::memory;
use crate::store::memory::MemoryStore;
use crate::store::{Overwrite, Payload, Versions as _};

/// Somebody deletes the backup's objects after it was listed.
#[tokio::test]
async fn what_was_deleted_meanwhile_is_held_below_its_markers() {
    let store = Arc::new(MemoryStore::new());
    store.keep_locks();
    let catalog = Catalog::new(&memory::open(store.clone(), "", 1 << 20));
    let chain = catalog.location.chain(&name("j"));
    let home = BackupPrefix::new("", &chain, &"20261101T000000Z-000001".parse::<BackupId>().unwrap());
    let put = async |key: &ObjectKey, data: Vec<u8>| {
        let payload = Payload::new(data, store.algorithm());
        store.put_locked(key, payload, Overwrite::Allow, None).await.unwrap()
    };
    let [data, index] = [home.data(&name("i"), 1, Suffix::Bin), home.index(&name("i"), Suffix::Index)];
    let version = put(&index, vec![1; 10]).await;
    let index = IndexObject { key: index, size: 10, sha256: [0; 32], version };
    put(&data, vec![7; 10]).await;
    // Its version was not recorded.
    let totals = Totals { chunks: 1, files: 0, plain_bytes: 5000, digest: [0; 32] };
    let stream = stream(totals, index.clone(), vec![object(data.clone(), &[7; 10])]);
    let id = "20261101T000000Z-000001".parse().unwrap();
    let manifest = manifest_of(chain.clone(), id, vec![item("i", SourceDescription::Stdin, Some(stream))]);
    put(&home.manifest(), manifest.to_json()).await;
    let entry = catalog.entries(Scope::of(&chain)).await.unwrap().remove(0);
    let keys = [data.clone(), index.key, home.manifest()];
    let versions = store.all_versions();
    for key in &keys {
        store.delete(key).await.unwrap();
    }

    for wanted in [Hold::On, Hold::Off] {
        let done = hold(&catalog, &entry, wanted).await.unwrap();
        assert_eq!(done, Done { objects: 3, shared: 0 });
        for entry in &versions {
            assert_eq!(store.hold(&entry.key, Some(&entry.version)).await.unwrap(), wanted, "{entry:?}");
        }
    }
    // Gone for good: a release has nothing to do, and a hold says so.
    let gone = versions.iter().find(|entry| entry.key == data).unwrap();
    store.delete_version(&data, &gone.version).await.unwrap();
    hold(&catalog, &entry, Hold::Off).await.unwrap();
    let refused = hold(&catalog, &entry, Hold::On).await.unwrap_err();
    assert!(refused.to_string().contains("cannot be held whole"), "{refused}");
}
