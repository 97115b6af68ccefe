//! Somebody with the agent's credentials hides or overwrites manifests, so that nothing seems to need the objects that are locked.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio_util::sync::CancellationToken;

use super::locks::{HOUR, World, at};
use crate::catalog::Scope;
use crate::config::Retention;
use crate::format::claim::ClaimName;
use crate::format::key::{Chain, Name, ObjectKey};
use crate::object_lock::{Extended, Keeper, When, abandoned, chains, earliest, keep};
use crate::prune::{self, Rules};
use crate::store::{Overwrite, Payload, Store as _, VersionKind, Versions as _};

const DAY: i64 = 24 * HOUR;

impl World {
    async fn kept(&self) -> Extended {
        keep(&self.catalog(), &self.chain(), When::IfDue).await.unwrap().unwrap()
    }

    async fn manifests(&self) -> Vec<ObjectKey> {
        let entries = self.catalog().entries(Scope::of(&self.chain())).await.unwrap();
        entries.into_iter().map(|entry| entry.key).collect()
    }

    async fn write(&self, key: &ObjectKey, data: Vec<u8>) {
        self.store.put(key, Payload::new(data, self.store.algorithm()), Overwrite::Allow).await.unwrap();
    }

    async fn read(&self, key: &ObjectKey) -> Vec<u8> {
        crate::store::read(&*self.store, key, 1 << 20).await.unwrap()
    }

    /// The earliest end of the locks of the first `count` versions, which the node wrote.
    async fn first_end(&self, count: usize) -> Timestamp {
        let mut all = self.store.all_versions();
        all.retain(|entry| matches!(entry.kind, VersionKind::Object { .. }));
        all.sort_by(|a, b| a.version.cmp(&b.version));
        let mut ends = Vec::new();
        for entry in &all[..count] {
            ends.push(self.store.lock(&entry.key, Some(&entry.version)).await.unwrap().unwrap().until);
        }
        ends.into_iter().min().unwrap()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    Hide,
    HideAll,
    Junk,
    /// A valid manifest that names nothing of worth.
    Other,
}

/// Two backups, of eight versions.
async fn attacked(attack: Attack) -> (World, Vec<ObjectKey>) {
    let mut world = World::new();
    world.store.set_now(at(0));
    world.back_up(at(0), 1, 0).await;
    world.back_up(at(60), 2, 0).await;
    assert_eq!(world.kept().await.failures.count, 0);
    let manifests = world.manifests().await;
    world.store.set_now(at(2 * DAY));
    let attacked = if attack == Attack::HideAll { &manifests[..] } else { &manifests[..1] };
    for key in attacked {
        match attack {
            Attack::Hide | Attack::HideAll => drop(world.store.delete(key).await.unwrap()),
            Attack::Junk => world.write(key, b"pay us".to_vec()).await,
            Attack::Other => {
                let text = String::from_utf8(world.read(key).await).unwrap();
                let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
                manifest["items"] = serde_json::json!([]);
                world.write(key, serde_json::to_vec(&manifest).unwrap()).await;
            }
        }
    }
    (world, manifests)
}

/// The alert is told each hour, and the locks roll on, for as long as the agent lives.
#[tokio::test]
async fn a_manifest_that_is_hidden_or_overwritten_is_a_failure_and_its_backup_stays_locked() {
    for attack in [Attack::Hide, Attack::HideAll, Attack::Junk, Attack::Other] {
        let (world, manifests) = attacked(attack).await;
        let suspects = if attack == Attack::HideAll { 2 } else { 1 };
        for day in 2..40 {
            world.store.set_now(at(day * DAY));
            let kept = world.kept().await;
            assert_eq!(kept.failures.count, suspects, "{attack:?}, day {day}");
            let first = world.first_end(8).await;
            assert!(first >= at((day + 5) * DAY), "{attack:?}, day {day}: {first}");
            assert_eq!(kept.earliest, Some(first), "{attack:?}, day {day}");
        }
        // `undelete`: the right version above all, once as a copy.
        for key in &manifests {
            let versions = world.store.all_versions();
            let of_it = || versions.iter().filter(|entry| entry.key == *key);
            let right = of_it().next_back().unwrap();
            if of_it().count() > 1 && attack == Attack::Hide {
                world
                    .store
                    .copy_version(key, &right.version, 0, world.location.new_lock().await.unwrap())
                    .await
                    .unwrap();
            } else {
                for entry in of_it().filter(|entry| entry.version != right.version) {
                    world.store.delete_version(key, &entry.version).await.unwrap();
                }
            }
        }
        for day in 40..45 {
            world.store.set_now(at(day * DAY));
            assert_eq!(world.kept().await.failures.count, 0, "{attack:?}, day {day}");
        }
    }
}

/// Without the permission to list versions nothing can be extended: then the end of the locks shows it.
#[tokio::test]
async fn what_cannot_be_found_any_more_keeps_the_earliest_end() {
    let (world, _) = attacked(Attack::Hide).await;
    world.client.script(|operation, key, _| {
        (operation == "ListObjectVersions").then(|| {
            let key = ObjectKey::new(key);
            let refused = crate::store::Error::local(operation, key, crate::error::Class::AccessDenied, "no");
            crate::store::memory::Fault::Refuse(refused)
        })
    });
    let end = world.first_end(8).await;
    for day in [2, 6, 11] {
        world.store.set_now(at(day * DAY));
        let kept = world.kept().await;
        assert_eq!((kept.failures.count, kept.earliest), (1, Some(end)), "day {day}");
    }
    // There is nothing left to protect.
    world.store.set_now(at(13 * DAY));
    assert_eq!(world.kept().await.failures.count, 0);
}

/// A walk that fails as a whole says when the locks end that were known.
#[tokio::test]
async fn a_walk_that_fails_keeps_the_earliest_end() {
    let (world, _) = attacked(Attack::Hide).await;
    let end = world.first_end(8).await;
    world.client.script(|operation, key, _| {
        (operation == "ListObjectsV2").then(|| {
            let refused =
                crate::store::Error::local(operation, ObjectKey::new(key), crate::error::Class::AccessDenied, "no");
            crate::store::memory::Fault::Refuse(refused)
        })
    });
    assert!(keep(&world.catalog(), &world.chain(), When::IfDue).await.is_err());
    assert_eq!(earliest(&world.location, &world.chain()), Some(end));
}

/// What retention deletes leaves a tombstone, and is missed by nobody.
#[tokio::test]
async fn what_penstock_deletes_is_not_missed() {
    let mut world = World::new();
    let retention = Some(Retention { keep_last: Some(1), ..Retention::default() });
    let rules = Rules { retention, zone: TimeZone::UTC };
    for day in 0..30 {
        world.store.set_now(at(day * DAY));
        world.back_up(at(day * DAY), u32::try_from(day).unwrap(), 0).await;
        let context = prune::Context { catalog: world.catalog(), grace: Duration::from_hours(24) };
        prune::prune(&context, &world.chain(), &rules, at(day * DAY), &CancellationToken::new()).await.unwrap();
        assert_eq!(world.kept().await.failures.count, 0, "day {day}");
    }
}

/// One object that is refused, alone in its group, does not end a walk; many do (`a_refusal_names_what_will_be_unlocked_and_when`).
#[tokio::test]
async fn one_refused_object_does_not_end_a_walk() {
    let mut world = World::new();
    world.store.set_now(at(0));
    world.back_up(at(0), 1, 0).await;
    world.store.set_now(at(8 * DAY));
    let [refused, other] = world.newest.as_slice() else { panic!() };
    let key = refused.key.clone();
    world.client.script(move |operation, at, _| {
        (operation == "PutObjectRetention" && at == key.as_str()).then(|| {
            let no = crate::store::Error::local(operation, key.clone(), crate::error::Class::AccessDenied, "no");
            crate::store::memory::Fault::Refuse(no)
        })
    });
    let mut keeper = Keeper::open(&world.location, &world.chain()).unwrap();
    let now = world.store.now();
    let first = keeper.extend(&[(&refused.key, refused.version.as_ref())], now).await;
    assert_eq!((first.failures.count, first.extended), (1, 0));
    let second = keeper.extend(&[(&other.key, other.version.as_ref())], now).await;
    assert_eq!((second.failures.count, second.extended), (0, 1));
}

/// The chain of a claim that this node never saved is found in the bucket, once nobody writes to it any more; and forgotten when it is empty.
#[tokio::test]
async fn the_chain_of_a_claim_that_is_gone_is_found_in_the_bucket() {
    let mut world = World::new();
    world.store.set_now(at(0));
    world.node = ClaimName::new("shop", "db").unwrap().chain();
    world.back_up(at(0), 1, 0).await;
    std::fs::remove_dir_all(world.location.process.state_dir.join("locks")).unwrap();
    let job = Name::new("j").unwrap();
    assert_eq!(abandoned(&world.catalog(), &job).await.unwrap(), []);
    world.store.set_now(at(3 * DAY));
    let found: Vec<Chain> = abandoned(&world.catalog(), &job).await.unwrap();
    assert_eq!(found, [world.chain()]);
    assert!(!chains(&world.location, &job).contains(&world.chain()));
    assert_eq!(world.kept().await.extended, 4);
    assert!(chains(&world.location, &job).contains(&world.chain()));

    let rules = Rules { retention: None, zone: TimeZone::UTC };
    let context = prune::Context { catalog: world.catalog(), grace: Duration::ZERO };
    let ids = [world.catalog().entries(Scope::of(&world.chain())).await.unwrap().remove(0).id];
    let now = at(3 * DAY);
    prune::delete(&context, &world.chain(), &ids, prune::Reclaim::AtOnce, now, &CancellationToken::new())
        .await
        .unwrap();
    for day in 3..40 {
        world.store.set_now(at(day * DAY));
        prune::prune(&context, &world.chain(), &rules, at(day * DAY), &CancellationToken::new()).await.unwrap();
        world.kept().await;
    }
    assert!(!chains(&world.location, &job).contains(&world.chain()), "nothing is left of it");
}
