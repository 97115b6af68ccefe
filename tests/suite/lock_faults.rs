//! Locks, holds and deletions when something is refused or somebody interferes, with the real binary.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use penstock::format::key::ObjectKey;
use penstock::store::memory::MemoryStore;
use penstock::store::{Overwrite, Payload, Store as _, VersionKind, Versions as _};

use crate::daemon_site::{Daemon, get, wait_for};
use crate::locking_s3::{Ignores, LockingS3, operation};
use crate::ransomware::{Clock, Node, later, stand_in};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// The end of the lock of the newest version whose key ends so.
fn lock(memory: &MemoryStore, end: &str) -> Timestamp {
    let versions = memory.all_versions();
    let is_it = |kind| matches!(kind, VersionKind::Object { .. });
    let mut found: Vec<_> =
        versions.iter().filter(|entry| is_it(entry.kind) && entry.key.as_str().ends_with(end)).collect();
    found.sort_by(|a, b| a.version.cmp(&b.version));
    let newest = found.last().unwrap();
    let lock = runtime().block_on(memory.lock(&newest.key, Some(&newest.version))).unwrap();
    lock.map_or(Timestamp::MIN, |lock| lock.until)
}

fn manifest(id: &str) -> ObjectKey {
    ObjectKey::new(format!("fleet/test/files/node-1/{id}/manifest.json"))
}

/// The daemon misses a manifest that somebody has overwritten, and says until when the locks hold.
#[test]
fn the_daemon_misses_an_overwritten_manifest() {
    let (s3, node) = stand_in(Clock::Stands);
    let id = node.back_up("one");
    let junk = Payload::new("pay us", s3.memory.algorithm());
    later(&s3.memory, 10 * DAY);
    runtime().block_on(s3.memory.put(&manifest(&id), junk, Overwrite::Allow)).unwrap();
    let daemon = Daemon::start(node.command(&["--log-format", "json", "run"]), node.folder().join("log"));
    daemon.allow_log("WARN", "this host's clock is");
    daemon.allow_log("ERROR", "could not extend its lock");
    let value = |begins: &str| {
        let body = get(&node.admin(), "/metrics", "").body;
        body.lines().find(|line| line.starts_with(begins))?.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let end = wait_for("the end of the first lock", Duration::from_secs(60), || {
        value("penstock_object_lock_oldest_expiry_timestamp_seconds{location=\"primary\"}")
    });
    // What the right manifest names was extended: data, index and the manifest itself.
    let least = s3.memory.now() + 15 * DAY;
    assert!(end >= least.as_duration().as_secs_f64(), "{end}");
    assert_eq!(value("penstock_object_lock_extensions_total{location=\"primary\",outcome=\"failure\"}"), Some(1.0));
    assert_eq!(value("penstock_object_lock_extensions_total{location=\"primary\",outcome=\"success\"}"), Some(3.0));
    assert_eq!(daemon.stop(), Some(0));
}

/// A run that took days commits with a lock from then on.
#[test]
fn the_manifest_is_locked_from_the_commit_on() {
    let (s3, node) = stand_in(Clock::Stands);
    let (memory, began) = (Arc::clone(&s3.memory), s3.memory.now());
    s3.refuse(move |seen| {
        if seen.method == "PUT" && seen.uri.contains("index.zst") {
            memory.set_now(began + 5 * DAY);
        }
        None
    });
    node.back_up("one");
    assert!(lock(&s3.memory, "/manifest.json") >= began + (5 + 14) * DAY);
    assert!(lock(&s3.memory, ".index.zst") < began + 17 * DAY);
}

/// That nobody may read the lock of an index does not hide that data is not locked at all.
#[test]
fn what_is_known_outweighs_what_is_not() {
    let (s3, node) = stand_in(Clock::Stands);
    s3.ignore(Ignores::LocksOfUploads);
    s3.refuse(|seen| {
        let denied = operation(seen) == "GetObjectRetention" && seen.uri.contains("index.zst");
        denied.then(|| (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>".to_owned()))
    });
    node.back_up("one");
    assert!(lock(&s3.memory, ".tar.zst") > s3.memory.now() + 14 * DAY, "it is locked afterwards");
}

/// Without the right to read holds a backup may be held: it is not deleted, and the right is named.
#[test]
fn what_may_be_held_is_not_deleted() {
    let (s3, node) = stand_in(Clock::Stands);
    let ids = ["one", "two", "three", "four"].map(|version| {
        later(&s3.memory, SignedDuration::from_secs(60));
        node.back_up(version)
    });
    s3.deny(&["GetObjectLegalHold"]);
    let (code, refused) = node.json(&["delete", &ids[0]]);
    assert_eq!((code, refused["error"]["class"].as_str()), (77, Some("access-denied")), "{refused}");
    assert!(refused["error"]["remedy"].as_str().unwrap().contains("s3:GetObjectLegalHold"), "{refused}");
    let pruned = node.done(&["prune", "--job", "files", "--grace", "0s"])["chains"][0].clone();
    assert_eq!((&pruned["deleted"], &pruned["kept"]), (&0.into(), &4.into()), "{pruned}");
}

#[test]
fn a_location_without_locks_holds_nothing() {
    let (s3, node) = stand_in(Clock::Stands);
    let id = node.back_up("one");
    node.without_locks();
    for arguments in [&["hold", &id][..], &["hold", &id, "--release"]] {
        let (code, refused) = node.json(arguments);
        assert_eq!(code, 78, "{refused}");
        assert!(refused["error"]["remedy"].as_str().unwrap().contains("object_lock"), "{refused}");
    }
    assert_eq!(s3.count("PutObjectLegalHold"), 0);
}

/// Extension fails after the deletions: both are reported.
#[test]
fn a_prune_that_cannot_extend_says_what_it_deleted() {
    let (s3, node) = stand_in(Clock::Stands);
    for version in ["one", "two", "three", "four"] {
        later(&s3.memory, SignedDuration::from_secs(60));
        node.back_up(version);
    }
    let listings = AtomicUsize::new(0);
    // The plan and the garbage take a listing each.
    s3.refuse(move |seen| {
        let denied = operation(seen) == "ListBucket" && listings.fetch_add(1, Ordering::Relaxed) >= 2;
        denied.then(|| (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>".to_owned()))
    });
    let (code, pruned) = node.json(&["prune", "--job", "files", "--grace", "0s"]);
    assert_eq!((code, &pruned["chains"][0]["deleted"]), (77, &1.into()), "{pruned}");
    let message = pruned["errors"][0]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("could not extend the locks of the job files"), "{message}");
}

#[test]
fn the_rescue_script_is_locked() {
    let (s3, node): (LockingS3, Node) = stand_in(Clock::Stands);
    node.done(&["backup", "files", "--rescue"]);
    assert!(lock(&s3.memory, "/penstock-cat.py") > s3.memory.now() + 14 * DAY);
    fs::metadata(node.folder()).unwrap();
}
