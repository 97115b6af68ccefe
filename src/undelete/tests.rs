use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::config::LockMode;
use crate::location::memory;
use crate::store::as_of::{AsOf, Moment};
use crate::store::memory::MemoryStore;
use crate::store::{Lock, Overwrite, Payload, Versions as _};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// The right version, one over it, and a marker above both, each a second later.
async fn buried(store: &MemoryStore, key: &ObjectKey, lock: Option<Lock>) -> VersionId {
    store.keep_locks();
    store.set_now(at(0));
    let put =
        |text: &'static str, lock| store.put_locked(key, Payload::new(text, store.algorithm()), Overwrite::Allow, lock);
    let right = put("right", None).await.unwrap().unwrap();
    store.set_now(at(1));
    put("wrong", lock).await.unwrap();
    store.set_now(at(2));
    store.delete(key).await.unwrap();
    right
}

async fn again(
    present: &Location,
    key: &ObjectKey,
    right: &VersionId,
    done: &mut Undeleted,
) -> Result<(), store::Error> {
    let info = present.store.head_version(key, right).await?;
    bring_back(&*present.store, present, &Wanted { key, version: right.clone(), info }, done).await
}

#[tokio::test]
async fn what_lies_above_is_removed() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let right = buried(&store, &key, None).await;
    let mut done = Undeleted::default();
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.versions_removed, done.copied), (1, 1, 0));
    assert_eq!(store.head(&key).await.unwrap().version, Some(right.clone()));
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!(done.untouched, 1, "a second run changes nothing");
}

#[tokio::test]
async fn what_is_locked_is_copied_over() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let until = at(2) + SignedDuration::from_hours(1);
    let right = buried(&store, &key, Some(Lock { mode: LockMode::Compliance, until })).await;
    let mut done = Undeleted::default();
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.versions_removed, done.copied), (1, 0, 1));
    assert_eq!(store::read(&*store, &key, 100).await.unwrap(), b"right");
    let versions = store.all_versions().len();
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!((done.untouched, done.copied, store.all_versions().len()), (1, 1, versions), "one copy is enough");
    // As long, but not the same.
    store.put(&key, Payload::new("thgir", store.algorithm()), Overwrite::Allow).await.unwrap();
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!(store::read(&*store, &key, 100).await.unwrap(), b"right");
}

/// A store that lists versions wrongly: without the wanted one, or for ever.
#[tokio::test]
async fn nothing_is_removed_before_the_right_version_was_found() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let right = buried(&store, &key, None).await;
    let before = store.all_versions();
    let info = store.head_version(&key, &right).await.unwrap();
    let absent = Wanted { key: &key, version: VersionId::new("elsewhere").unwrap(), info };
    let mut done = Undeleted::default();
    let refused = bring_back(&*present.store, &present, &absent, &mut done).await.unwrap_err();
    assert_eq!((refused.class, refused.operation), (Class::NotFound, "ListObjectVersions"), "{refused}");
    assert_eq!((store.all_versions(), done), (before, Undeleted::default()));
}

#[tokio::test]
async fn more_versions_than_can_be_removed_are_copied_over() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let right = buried(&store, &key, None).await;
    for _ in 0..=MAX_ABOVE {
        store.delete(&key).await.unwrap();
    }
    let mut done = Undeleted::default();
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.versions_removed, done.copied), (0, 0, 1));
    assert_eq!(store::read(&*store, &key, 100).await.unwrap(), b"right");
}

/// What was written before the bucket kept versions has the version `null`.
#[tokio::test]
async fn what_was_written_before_there_were_versions_is_brought_back() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let put = |text: &'static str| store.put(&key, Payload::new(text, store.algorithm()), Overwrite::Allow);
    store.set_now(at(0));
    put("right").await.unwrap();
    let mut done = Undeleted::default();
    again(&present, &key, &VersionId::null(), &mut done).await.unwrap();
    assert_eq!(done.untouched, 1);
    store.keep_versions();
    store.set_now(at(1));
    put("wrong").await.unwrap();
    store.set_now(at(2));
    store.delete(&key).await.unwrap();
    let past = AsOf::new(store.clone(), Moment::At(at(0)));
    assert_eq!(store::read(&past, &key, 100).await.unwrap(), b"right");
    assert_eq!(version_of(&past.head(&key).await.unwrap()), VersionId::null());
    again(&present, &key, &VersionId::null(), &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.versions_removed, done.copied), (1, 1, 0));
    assert_eq!(store::read(&*store, &key, 100).await.unwrap(), b"right");
}

#[tokio::test]
async fn a_marker_of_the_same_second_is_found() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    store.keep_versions();
    store.set_now(at(0));
    let payload = Payload::new("right", store.algorithm());
    let right = store.put_locked(&key, payload, Overwrite::Allow, None).await.unwrap().unwrap();
    store.delete(&key).await.unwrap();
    let mut done = Undeleted::default();
    again(&present, &key, &right, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.copied), (1, 0));
    assert_eq!(store.head(&key).await.unwrap().version, Some(right));
}
