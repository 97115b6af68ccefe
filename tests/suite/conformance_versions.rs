//! The other half of the store suite: versions, locks and holds, on every store that has them.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use penstock::checksum::Checksum;
use penstock::config::LockMode;
use penstock::error::Class;
use penstock::format::key::ObjectKey;
use penstock::store::as_of::{AsOf, Moment};
use penstock::store::{
    Deleted, Error, Hold, ListedVersion, Lock, Overwrite, PartNumber, Store, UploadHandle, VersionId, VersionKind,
};

use crate::conformance::{Backend, Quirk};

fn until(now: Timestamp, mode: LockMode, hours: i64) -> Lock {
    // Stores keep whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap();
    Lock { mode, until: now + SignedDuration::from_hours(hours) }
}

async fn versions_of(store: &dyn Store, key: &ObjectKey) -> Vec<ListedVersion> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = store.list_versions(key.as_str(), from.as_deref()).await.unwrap();
        all.extend(page.entries.into_iter().filter(|entry| entry.key == *key));
        from = page.next;
        if from.is_none() {
            return all;
        }
    }
}

async fn body(store: &dyn Store, key: &ObjectKey, version: &VersionId) -> Result<Vec<u8>, Error> {
    use futures_util::TryStreamExt as _;
    let download = store.get_version(key, version, None).await?;
    Ok(download.body.try_collect::<Vec<Bytes>>().await?.concat())
}

/// What a bucket that keeps versions does.
pub(crate) async fn keeps_versions(backend: &Backend) {
    let (store, key) = (&*backend.store, ObjectKey::new("v/one key+é"));
    let put = |text: &'static [u8]| store.put_locked(&key, backend.payload(text), Overwrite::Allow, None);
    let first = put(b"first").await.unwrap().expect("the bucket keeps versions");
    let second = put(b"the second").await.unwrap().unwrap();
    assert_ne!(first, second);
    assert_eq!(store.head(&key).await.unwrap().version.as_ref(), Some(&second));
    assert_eq!(body(store, &key, &first).await.unwrap(), b"first");
    assert_eq!(store.head_version(&key, &first).await.unwrap().size, 5);
    assert_eq!(store.delete(&key).await.unwrap(), Deleted::Hidden);
    assert_eq!(store.head(&key).await.unwrap_err().class, Class::NotFound);
    let listed = versions_of(store, &key).await;
    let kinds: Vec<_> = listed.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == VersionKind::Marker).count(), 1, "{listed:?}");
    let objects: Vec<_> = listed.iter().filter(|entry| entry.kind != VersionKind::Marker).collect();
    assert_eq!(objects.iter().map(|entry| &entry.version).collect::<Vec<_>>(), [&second, &first], "the newest first");
    assert_eq!(objects[0].kind, VersionKind::Object { size: 10 });

    // A free key is one without a current version.
    let again = store.put_locked(&key, backend.payload(&b"third"[..]), Overwrite::Refuse, None).await;
    assert!(again.is_ok(), "a marker does not take the key");
    let copied = store.copy_version(&key, &first, 5, None).await.unwrap();
    assert_eq!(backend.read(key.as_str(), None).await.unwrap(), b"first");
    let current = store.head(&key).await.unwrap().version;
    assert!(
        current
            .as_ref()
            .is_some_and(|current| *current != first && copied.as_ref().is_none_or(|copied| copied == current))
    );

    let longer = ObjectKey::new(format!("{key}.longer"));
    backend.put(longer.as_str(), &b"x"[..]).await;
    for entry in versions_of(store, &key).await {
        store.delete_version(&key, &entry.version).await.unwrap();
        store.delete_version(&key, &entry.version).await.unwrap();
    }
    assert!(versions_of(store, &key).await.is_empty());
    assert_eq!(body(store, &key, &first).await.unwrap_err().class, Class::NotFound);
    assert_eq!(store.head_version(&key, &first).await.unwrap_err().class, Class::NotFound);
    assert_eq!(versions_of(store, &longer).await.len(), 1);
    listing(backend).await;
    of_an_upload(backend).await;
}

/// A listing of more than a page, with a key's versions on both sides of the border, and the same as of now.
async fn listing(backend: &Backend) {
    let store = &*backend.store;
    let keys: Vec<_> = (0..backend.page / 2 + 2).map(|number| format!("vl/{number:05}")).collect();
    for text in [&b"old"[..], b"newer"] {
        for key in &keys {
            backend.put(key, text).await;
        }
    }
    store.delete(&ObjectKey::new(keys[0].as_str())).await.unwrap();
    let (mut all, mut from, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.list_versions("vl/", from.as_deref()).await.unwrap();
        all.extend(page.entries);
        (from, pages) = (page.next, pages + 1);
        if from.is_none() {
            break;
        }
    }
    assert!(pages > 1);
    assert_eq!(all.len(), 2 * keys.len() + 1);
    let past = AsOf::new(backend.store.clone(), Moment::BelowMarkers);
    let (mut shown, mut from) = (Vec::new(), None);
    loop {
        let page = past.list("vl/", from.as_deref()).await.unwrap();
        shown.extend(page.objects);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(shown.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), keys);
    assert!(shown.iter().all(|object| object.size == 5), "the newest of each");
}

/// The checksum of an object of one part: SHA-256 has none.
fn whole(backend: &Backend) -> Option<Checksum> {
    backend.algorithm.compute(b"part").filter(|sum| !matches!(sum, Checksum::Sha256(_)))
}

async fn of_an_upload(backend: &Backend) {
    let (store, key) = (&*backend.store, ObjectKey::new("v/upload"));
    let id = store.create_upload(&key).await.unwrap();
    let upload = UploadHandle { key: key.clone(), id };
    let part = store.upload_part(&upload, PartNumber::FIRST, backend.payload(&b"part"[..])).await.unwrap();
    let version = backend.complete(&upload, &[part], 4, whole(backend)).await;
    let current = store.head(&key).await.unwrap().version;
    assert!(current.is_some() && version.is_none_or(|version| current == Some(version)));
}

/// What a bucket with Object Lock does.
pub(crate) async fn keeps_locks(backend: &Backend, now: Timestamp) {
    let (store, key) = (&*backend.store, ObjectKey::new("vk/locked"));
    let short = until(now, LockMode::Governance, 2);
    let version = store.put_locked(&key, backend.payload(&b"kept"[..]), Overwrite::Allow, Some(short)).await;
    let version = version.unwrap().expect("a lock needs versions");
    let of = Some(&version);
    assert_eq!(store.lock(&key, of).await.unwrap(), Some(short));
    assert_eq!(store.lock(&key, None).await.unwrap(), Some(short));
    let refused = store.delete_version(&key, &version).await.unwrap_err();
    assert_eq!(refused.class, Class::AccessDenied, "{refused}");
    assert_eq!(store.delete(&key).await.unwrap(), Deleted::Hidden, "a marker over a locked object");
    assert_eq!(body(store, &key, &version).await.unwrap(), b"kept");
    let longer = until(now, LockMode::Governance, 5);
    store.set_lock(&key, of, longer).await.unwrap();
    assert_eq!(store.lock(&key, of).await.unwrap(), Some(longer));
    assert_eq!(store.set_lock(&key, of, short).await.unwrap_err().class, Class::AccessDenied, "shorter");
    assert_eq!(store.lock(&key, of).await.unwrap(), Some(longer));

    let plain = ObjectKey::new("vk/plain");
    let free = store.put_locked(&plain, backend.payload(&b"free"[..]), Overwrite::Allow, None).await.unwrap().unwrap();
    assert_eq!(store.lock(&plain, Some(&free)).await.unwrap(), None);
    assert_eq!(store.hold(&plain, Some(&free)).await.unwrap(), Hold::Off);
    store.set_hold(&plain, Some(&free), Hold::On).await.unwrap();
    assert_eq!(store.hold(&plain, Some(&free)).await.unwrap(), Hold::On);
    assert_eq!(store.delete_version(&plain, &free).await.unwrap_err().class, Class::AccessDenied, "held");
    store.set_hold(&plain, Some(&free), Hold::Off).await.unwrap();
    store.delete_version(&plain, &free).await.unwrap();

    let over = until(now, LockMode::Governance, -1);
    let refused = store.put_locked(&plain, backend.payload(&b"x"[..]), Overwrite::Allow, Some(over)).await;
    assert!(refused.is_err(), "a lock that is over already");
    let missing = store.set_lock(&ObjectKey::new("vk/nothing"), None, longer).await.unwrap_err();
    assert_eq!(missing.class, Class::NotFound, "{missing}");

    let upload = ObjectKey::new("vk/upload");
    let id = store.create_locked(&upload, Some(short)).await.unwrap();
    let handle = UploadHandle { key: upload.clone(), id };
    let part = store.upload_part(&handle, PartNumber::FIRST, backend.payload(&b"part"[..])).await.unwrap();
    backend.complete(&handle, &[part], 4, whole(backend)).await;
    let kept = if backend.lacks(Quirk::IgnoresLocksOfUploads) { None } else { Some(short) };
    assert_eq!(store.lock(&upload, None).await.unwrap(), kept, "the lock of an upload");
    store.set_lock(&upload, None, longer).await.unwrap();
    assert_eq!(store.lock(&upload, None).await.unwrap(), Some(longer), "a lock that is set afterwards");
    let copied = store.copy_version(&key, &version, 4, Some(longer)).await.unwrap();
    assert_eq!(store.lock(&key, copied.as_ref()).await.unwrap(), Some(longer), "the lock of a copy");
}
