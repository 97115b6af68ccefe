use std::sync::Arc;

use proptest::prelude::*;

use super::select::Choice;
use super::*;
use crate::checksum::Algorithm;
use crate::location::memory;
use crate::store::memory::MemoryStore;
use crate::store::{Overwrite, Payload, Store as _};

const NEW: &str = "20261123T221300Z-4f9a2c";
const OLD: &str = "20261122T221300Z-4f9a2c";
/// Made on the morning of the 23rd, with a clock ten years ahead.
const AHEAD: &str = "20361123T090000Z-4f9a2c";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn found(job: &str, node: &str, id: &str, kind: Kind, modified: &str) -> Found {
    let chain = Chain { cluster: name("c"), job: name(job), node: name(node) };
    let key = ObjectKey::new(id);
    Found { key, chain, id: id.parse().unwrap(), kind, size: 1, modified: modified.parse().unwrap(), etag: None }
}

#[test]
fn selectors() {
    let manifest = |job, node, id, modified| found(job, node, id, Kind::Manifest, modified);
    let listed = [
        manifest("etcd", "b", AHEAD, "2026-11-23T09:00:00Z"),
        manifest("etcd", "b", NEW, "2026-11-23T22:14:00Z"),
        // Copied here later than all others were made.
        manifest("etcd", "a", OLD, "2026-12-24T00:00:00Z"),
        manifest("pods", "a", OLD, "2026-11-22T22:14:00Z"),
        found("pods", "a", NEW, Kind::Deleted, "2026-11-23T22:14:00Z"),
    ];
    let find = |text: &str, node: &str| {
        let (selector, node) = (text.parse().unwrap(), name(node));
        let mut choice = Choice::new(&selector, &node);
        for found in &listed {
            choice.consider(found);
        }
        let entry = choice.made().unwrap()?;
        Some(format!("{}/{}@{}", entry.chain.job, entry.chain.node, entry.id))
    };
    assert_eq!(find("etcd@latest", "a"), Some(format!("etcd/a@{OLD}")), "this node's own comes first");
    assert_eq!(
        find("etcd@latest", "fresh"),
        Some(format!("etcd/b@{NEW}")),
        "a fresh machine gets the newest of any, not the one whose clock was ahead"
    );
    assert_eq!(find("etcd/b@latest", "a"), Some(format!("etcd/b@{NEW}")));
    assert_eq!(find(&format!("etcd@{AHEAD}"), "a"), Some(format!("etcd/b@{AHEAD}")));
    assert_eq!(find(&format!("pods@{OLD}"), "x"), Some(format!("pods/a@{OLD}")));
    assert_eq!(find(NEW, "a"), Some(format!("etcd/b@{NEW}")));
    assert_eq!(find("pods@latest", "z"), Some(format!("pods/a@{OLD}")), "a deleted one is none");
    assert_eq!(find("none@latest", "a"), None);
    for bad in ["latest", "", "@latest", "a@b", "A@latest", "a/b/c@latest"] {
        assert!(bad.parse::<Selector>().is_err(), "{bad}");
    }
}

proptest! {
    /// A beginning stands for the one id that begins so, whichever chains are asked; and never for one of several.
    #[test]
    fn a_shortened_id_is_the_only_one_that_begins_so(
        ids in proptest::collection::btree_set("2026112[23]T22130[01]Z-4f9a[0-3]c", 1..6),
        at in any::<prop::sample::Index>(),
        length in 4_usize..=23,
    ) {
        let ids: Vec<String> = ids.into_iter().collect();
        let begin = &at.get(&ids)[..length];
        let selector: Selector = format!("etcd@{begin}").parse().unwrap();
        let node = name("a");
        let mut choice = Choice::new(&selector, &node);
        for id in &ids {
            choice.consider(&found("etcd", "b", id, Kind::Manifest, "2026-11-23T22:14:00Z"));
            choice.consider(&found("pods", "b", id, Kind::Manifest, "2026-11-23T22:14:00Z"));
            choice.consider(&found("etcd", "b", id, Kind::Data, "2026-11-23T22:14:00Z"));
        }
        let fitting: Vec<&String> = ids.iter().filter(|id| id.starts_with(begin)).collect();
        match choice.made() {
            Ok(entry) => {
                let id = entry.unwrap().id.to_string();
                prop_assert_eq!(fitting, [&id]);
            }
            Err(error) => {
                prop_assert!(fitting.len() > 1, "{error}");
                let text = error.to_string();
                prop_assert!(fitting.iter().all(|id| text.contains(&format!("etcd/b@{id}"))), "{text}");
                prop_assert!(!text.contains("pods/"));
            }
        }
    }
}

#[test]
fn what_may_be_no_beginning_of_an_id_is_refused() {
    for bad in ["202", "2026112x", "20261123t22", "20261123T221300Z-4f9a2c0", "4f9a2c", "etcd@202", "etcd@"] {
        assert!(bad.parse::<Selector>().is_err(), "{bad}");
    }
    for good in ["2026", "20261123T", "etcd@20261123T2213", "etcd/n@20261123T221300Z-4f9a2"] {
        let selector: Selector = good.parse().unwrap();
        assert!(selector.is_shortened() && selector.to_string() == good, "{good}");
    }
    assert!(!NEW.parse::<Selector>().unwrap().is_shortened());
}

/// Many that fit are counted, and the newest are named.
#[test]
fn an_error_names_the_newest_of_many() {
    let (selector, node) = ("2026".parse().unwrap(), name("a"));
    let mut choice = Choice::new(&selector, &node);
    for number in 0..100 {
        choice.consider(&found(
            "etcd",
            "a",
            &format!("20261123T2213{:02}Z-0000{number:02}", number % 60),
            Kind::Manifest,
            "2026-11-23T22:14:00Z",
        ));
    }
    let error = choice.made().unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("2026 is the beginning of 100 ids") && text.ends_with(" and 92 more"), "{text}");
    assert!(text.contains("etcd/a@20261123T221359Z-000059") && !text.contains("221300Z"), "{text}");
    assert_eq!(error.report().class, Class::NotFound);
}

/// Backups of one job on two nodes, each stored when `stored` says.
async fn catalog(backups: &[(&str, &str, &str)]) -> Catalog {
    let store = Arc::new(MemoryStore::with_limits(5 << 20, 2));
    for (node, id, stored) in backups {
        store.set_now(stored.parse().unwrap());
        let payload = Payload::new("x", Algorithm::None);
        for file in ["manifest.json", "i.0001.zst"] {
            let key = ObjectKey::new(format!("c/etcd/{node}/{id}/{file}"));
            store.put(&key, payload.clone(), Overwrite::Refuse).await.unwrap();
        }
    }
    Catalog::new(&memory::open(store, "", 1 << 20))
}

#[tokio::test]
async fn a_clock_that_was_ahead_once_makes_no_backup_the_newest_for_ever() {
    let catalog = catalog(&[
        ("a", AHEAD, "2026-11-23T09:00:00Z"),
        ("a", OLD, "2026-11-22T22:14:00Z"),
        ("a", NEW, "2026-11-23T22:14:00Z"),
        ("b", OLD, "2026-11-22T22:14:00Z"),
    ])
    .await;
    let shown = |entries: Vec<Entry>| {
        let show = |entry: Entry| format!("{}@{} {}", entry.chain.node, entry.id, entry.dated_ahead());
        entries.into_iter().map(show).collect::<Vec<_>>()
    };
    let all = catalog.entries(Scope::default()).await.unwrap();
    let expected =
        [format!("a@{NEW} false"), format!("a@{AHEAD} true"), format!("b@{OLD} false"), format!("a@{OLD} false")];
    assert_eq!(shown(all), expected);
    let newest = catalog.newest(Scope::default()).await.unwrap();
    assert_eq!(shown(newest), [format!("a@{NEW} false"), format!("b@{OLD} false")]);
    let latest = catalog.resolve(&"etcd@latest".parse().unwrap(), &name("a")).await.unwrap();
    assert_eq!(latest.id.as_str(), NEW);
}

/// Two in one second: the one whose own clock says when goes before the one of which only the store knows, whatever their ids are.
#[tokio::test]
async fn in_one_second_a_right_clock_is_newer() {
    let right = "20261123T090000Z-4f9a2c";
    let catalog = catalog(&[("a", AHEAD, "2026-11-23T09:00:00Z"), ("a", right, "2026-11-23T09:00:00Z")]).await;
    let latest = catalog.resolve(&"etcd@latest".parse().unwrap(), &name("a")).await.unwrap();
    assert_eq!(latest.id.as_str(), right);
}

#[tokio::test]
async fn a_manifest_is_asked_for_once_and_again_when_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new());
    let mut location = memory::open(Arc::clone(&store) as _, "", 1 << 20);
    location.process.state_dir = dir.path().to_owned();
    let key = ObjectKey::new(format!("c/etcd/a/{NEW}/manifest.json"));
    let put = async |text: &'static str| {
        store.put(&key, Payload::new(text, Algorithm::Crc64nvme), Overwrite::Allow).await.unwrap();
    };
    // As a process of its own.
    let read = async || {
        let catalog = Catalog::new(&location).cached();
        let entries = catalog.entries(Scope::default()).await.unwrap();
        let bytes = catalog.bytes(entries.first()?).await.unwrap();
        Some(String::from_utf8(bytes).unwrap())
    };
    put("one").await;
    for _ in 0..3 {
        assert_eq!(read().await.as_deref(), Some("one"));
    }
    assert_eq!(store.requests("GetObject"), 1);
    put("two").await;
    assert_eq!((read().await.as_deref(), read().await.as_deref()), (Some("two"), Some("two")));
    assert_eq!(store.requests("GetObject"), 2);
    store.delete(&key).await.unwrap();
    assert_eq!(read().await, None, "gone at once");
}

#[tokio::test]
async fn the_memory_of_a_listing_is_bounded() {
    let ids: Vec<String> = (0..100).map(|n| format!("20261123T2213{:02}Z-00{n:04x}", n % 60)).collect();
    let backups: Vec<_> = ids.iter().map(|id| ("a", id.as_str(), "2026-11-23T22:14:00Z")).collect();
    let catalog = catalog(&backups).await;
    let with = |memory| Catalog { memory, ..catalog.clone() };
    let error = with(99 * ENTRY as u64).entries(Scope::default()).await.unwrap_err();
    let report = error.report();
    assert_eq!(report.class, Class::Local);
    assert!(report.remedy.is_some_and(|remedy| remedy.contains("limits.memory")));
    assert_eq!(with(100 * ENTRY as u64).entries(Scope::default()).await.unwrap().len(), 100);
    // One of each chain is all that is kept for these.
    let poor = with(2 * ENTRY as u64);
    assert_eq!(poor.newest(Scope::default()).await.unwrap()[0].id.as_str(), ids.iter().max().unwrap());
    assert!(poor.resolve(&"etcd@latest".parse().unwrap(), &name("a")).await.is_ok());
}
