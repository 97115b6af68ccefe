//! `penstock validate` of a location that locks its objects, with the real binary: which bucket will do, and which permission is missing.

use std::thread;

use jiff::SignedDuration;
use penstock::config::LockMode;
use serde_json::Value;

use crate::locking_s3::{Ignores, LockingS3};
use crate::ransomware::{Clock, Node, stand_in};

/// The check of that name.
fn check<'a>(proof: &'a Value, name: &str) -> &'a Value {
    let checks = proof["locations"][0]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {proof}"))
}

fn text(check: &Value) -> String {
    let of = |key: &str| check[key].as_str().unwrap_or_default();
    format!("{}: {} ({}) {}", of("state"), of("message"), of("class"), of("remedy"))
}

fn prove(node: &Node) -> (i32, Value) {
    node.json(&["validate", "--skip", "ec2"])
}

/// Runs each case in a thread: the clean-up waits for the ends of locks.
fn each<T: Send + Sync>(cases: &[T], case: impl Fn(&T, &LockingS3, &Node) + Sync) {
    thread::scope(|scope| {
        for one in cases {
            let case = &case;
            scope.spawn(move || {
                let (s3, node) = stand_in(Clock::Runs);
                case(one, &s3, &node);
            });
        }
    });
}

#[test]
fn a_bucket_that_locks_passes_and_nothing_is_left() {
    let (s3, node) = stand_in(Clock::Runs);
    let (code, proof) = prove(&node);
    assert_eq!(code, 0, "{proof}");
    for (name, words) in [
        ("object lock", "written with a lock in governance mode"),
        ("s3:GetObjectRetention", "locked until 20"),
        ("s3:PutObjectRetention", "a lock was made longer"),
        ("lock of an upload", "an object of parts is locked too"),
        ("s3:GetObjectVersion", "a version was read"),
        ("s3:ListBucketVersions", "allowed"),
        ("s3:GetObjectLegalHold", "allowed"),
        ("default retention", "none"),
        ("locked versions stay", "could not delete a locked one"),
        ("s3:DeleteObjectVersion", "granted"),
    ] {
        let told = text(check(&proof, name));
        assert!(told.starts_with("passed") && told.contains(words), "{name}: {told}");
    }
    assert_eq!(s3.memory.all_versions(), []);
}

#[test]
fn each_permission_that_is_missing_is_named() {
    let cases = [
        ("PutObject with a lock", "object lock", "failed", "grant s3:PutObjectRetention"),
        ("GetObjectRetention", "s3:GetObjectRetention", "failed", "grant s3:GetObjectRetention"),
        ("PutObjectRetention", "s3:PutObjectRetention", "failed", "grant s3:PutObjectRetention"),
        ("GetObjectVersion", "s3:GetObjectVersion", "failed", "grant s3:GetObjectVersion"),
        ("ListBucketVersions", "s3:ListBucketVersions", "failed", "grant s3:ListBucketVersions"),
        ("GetObjectLegalHold", "s3:GetObjectLegalHold", "failed", "grant s3:GetObjectLegalHold"),
        ("DeleteObjectVersion", "s3:DeleteObjectVersion", "passed", "not granted, which is as it may be"),
    ];
    each(&cases, |(denied, name, state, words), s3, node| {
        s3.deny(&[denied]);
        let (code, proof) = prove(node);
        let told = text(check(&proof, name));
        assert!(told.starts_with(state) && told.contains(words), "{denied}: {told}");
        assert_eq!(code, if *state == "failed" { 77 } else { 0 }, "{denied}: {proof}");
        if *denied == "DeleteObjectVersion" {
            assert!(text(check(&proof, "locked versions stay")).contains("nor any other"));
            assert!(text(check(&proof, "s3:DeleteObject")).contains("hidden, not removed"));
        }
    });
}

#[derive(Debug)]
enum Bucket {
    Plain,
    Versions,
    DefaultRetention,
    IgnoresLocks,
    IgnoresLocksOfUploads,
    DeletesLocked,
}

#[test]
fn each_bucket_that_will_not_do_is_said_to() {
    use Bucket::{DefaultRetention, DeletesLocked, IgnoresLocks, IgnoresLocksOfUploads, Plain, Versions};
    let no_lock = "Bucket is missing Object Lock Configuration";
    let cases = [
        (Plain, "object lock", "failed", no_lock, 78),
        (Versions, "object lock", "failed", no_lock, 78),
        (DefaultRetention, "default retention", "warning", "compliance mode for 3 days", 0),
        (IgnoresLocks, "s3:GetObjectRetention", "failed", "ignored it: the object is not locked", 78),
        (IgnoresLocksOfUploads, "lock of an upload", "warning", "ignores the lock of multipart uploads", 0),
        (DeletesLocked, "locked versions stay", "failed", "s3:BypassGovernanceRetention", 78),
    ];
    each(&cases, |(bucket, name, state, words, code), s3, node| {
        match bucket {
            Plain => s3.memory.keep_nothing(),
            Versions => s3.memory.keep_versions(),
            DefaultRetention => s3.memory.lock_by_default(LockMode::Compliance, SignedDuration::from_hours(72)),
            IgnoresLocks => s3.ignore(Ignores::Locks),
            IgnoresLocksOfUploads => s3.ignore(Ignores::LocksOfUploads),
            // As a role that bypasses governance is answered.
            DeletesLocked => s3.refuse(|seen| {
                let deletes =
                    seen.method == "DELETE" && seen.uri.contains("versionId") && seen.uri.contains("/locked?");
                deletes.then(|| (204, String::new()))
            }),
        }
        let (found, proof) = prove(node);
        let told = text(check(&proof, name));
        assert!(told.starts_with(state) && told.contains(words), "{bucket:?}: {told}");
        assert_eq!(found, *code, "{bucket:?}: {proof}");
    });
}

/// What the daemon's role needs is what `policy` prints, and only where objects are locked.
#[test]
fn the_policy_has_the_permissions_of_locks_where_objects_are_locked() {
    let (_s3, node) = stand_in(Clock::Stands);
    let (code, policy) = node.json(&["policy"]);
    assert_eq!(code, 0);
    let text = policy.to_string();
    for action in ["s3:PutObjectRetention", "s3:GetObjectRetention", "s3:GetObjectVersion", "s3:ListBucketVersions"] {
        assert!(text.contains(action), "{action}: {text}");
    }
    for action in ["s3:DeleteObjectVersion", "s3:PutObjectLegalHold", "s3:BypassGovernanceRetention"] {
        assert!(!text.contains(action), "{action}: {text}");
    }
    node.without_locks();
    let (_, policy) = node.json(&["policy"]);
    for word in ["Retention", "LegalHold", "GetObjectVersion", "ListBucketVersions"] {
        assert!(!policy.to_string().contains(word), "{word}: {policy}");
    }
}
