use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::config::LockMode;
use crate::location::memory;
use crate::store::memory::MemoryStore;
use crate::store::{Lock, Overwrite, Payload, Store as _};

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

#[tokio::test]
async fn what_lies_above_is_removed() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let right = buried(&store, &key, None).await;
    let mut done = Undeleted::default();
    bring_back(&present, &key, &right, 5, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.versions_removed, done.copied), (1, 1, 0));
    assert_eq!(store.head(&key).await.unwrap().version, Some(right.clone()));
    bring_back(&present, &key, &right, 5, &mut done).await.unwrap();
    assert_eq!(done.untouched, 1, "a second run changes nothing");
}

#[tokio::test]
async fn what_is_locked_is_copied_over() {
    let (store, key) = (Arc::new(MemoryStore::new()), ObjectKey::new("k"));
    let present = memory::open(store.clone(), "", 1 << 20);
    let until = at(2) + SignedDuration::from_hours(1);
    let right = buried(&store, &key, Some(Lock { mode: LockMode::Compliance, until })).await;
    let mut done = Undeleted::default();
    bring_back(&present, &key, &right, 5, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.versions_removed, done.copied), (1, 0, 1));
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
    bring_back(&present, &key, &right, 5, &mut done).await.unwrap();
    assert_eq!((done.markers_removed, done.copied), (1, 0));
    assert_eq!(store.head(&key).await.unwrap().version, Some(right));
}
