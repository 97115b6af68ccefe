//! Locks over weeks, with the real binary: what the daemon does by itself, and a hundred thousand objects.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use penstock::config::LockMode;
use penstock::format::codec::Suffix;
use penstock::format::key::{BackupId, BackupPrefix, Chain, Name, ObjectKey};
use penstock::format::manifest::{
    Content, DataObject, IndexObject, Item, Manifest, NotEntered, SourceDescription, Stream,
};
use penstock::store::memory::MemoryStore;
use penstock::store::{Lock, Overwrite, Payload, Store as _, VersionId};

use crate::daemon_site::{Daemon, get, wait_for};
use crate::ransomware::{Clock, later, stand_in};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The value of a metric whose line begins with this.
fn metric(address: &str, begins: &str) -> Option<f64> {
    let body = get(address, "/metrics", "").body;
    body.lines().find(|line| line.starts_with(begins))?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn the_daemon_extends_locks_and_says_when_the_first_one_ends() {
    let (s3, node) = stand_in(Clock::Stands);
    node.back_up("one");
    node.back_up("two");
    later(&s3.memory, 10 * DAY);
    let daemon = Daemon::start(node.command(&["--log-format", "json", "run"]), node.folder().join("log"));
    // The host's clock stays behind the store's, whose dates count.
    daemon.allow_log("WARN", "this host's clock is");
    let address = node.admin();
    let first_end = "penstock_object_lock_oldest_expiry_timestamp_seconds{location=\"primary\"}";
    let end = wait_for("the end of the first lock", Duration::from_secs(60), || metric(&address, first_end));
    let (now, period) = (s3.memory.now(), 14 * DAY);
    let least = (now + period + 2 * DAY - SignedDuration::from_mins(10)).as_duration().as_secs_f64();
    assert!(end >= least, "{end}");
    let extended = "penstock_object_lock_extensions_total{location=\"primary\",outcome=\"success\"}";
    // Two data objects, two indexes, two manifests.
    assert_eq!(metric(&address, extended), Some(6.0));
    assert_eq!(metric(&address, "penstock_object_lock_period_seconds{location=\"primary\"}"), Some(1_209_600.0));
    assert_eq!(daemon.stop(), Some(0));

    // A refusal is counted and logged, and the metric says how long there is.
    later(&s3.memory, 10 * DAY);
    s3.deny(&["PutObjectRetention"]);
    let daemon = Daemon::start(node.command(&["--log-format", "json", "run"]), node.folder().join("log"));
    daemon.allow_log("WARN", "this host's clock is");
    daemon.allow_log("ERROR", "could not extend its lock");
    let address = node.admin();
    let failed = "penstock_object_lock_extensions_total{location=\"primary\",outcome=\"failure\"}";
    wait_for("failures", Duration::from_secs(60), || {
        metric(&address, failed).filter(|count| (5.9..6.1).contains(count))
    });
    let left = wait_for("the end", Duration::from_secs(60), || metric(&address, first_end))
        - s3.memory.now().as_duration().as_secs_f64();
    assert!((5.9 * 86_400.0..6.1 * 86_400.0).contains(&left), "{left}");
    assert!(daemon.log().contains("is locked until 20"), "{}", daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

const BACKUPS: u32 = 1000;
const OBJECTS: u32 = 98;

/// Puts a thousand backups of a hundred objects each, all locked for sixteen days.
async fn fill(store: &MemoryStore) {
    let name = |name: &str| Name::new(name).unwrap();
    let chain = Chain { cluster: name("test"), job: name("files"), node: name("node-1") };
    let now = store.now();
    let lock = Some(Lock { mode: LockMode::Governance, until: now + 16 * DAY });
    let put = async |key: &ObjectKey, data: Vec<u8>| -> Option<VersionId> {
        store.put_locked(key, Payload::new(data, store.algorithm()), Overwrite::Allow, lock).await.unwrap()
    };
    for number in 0..BACKUPS {
        let started = now - SignedDuration::from_mins(i64::from(BACKUPS - number));
        let id = BackupId::new(started, number);
        let home = BackupPrefix::new("fleet", &chain, &id);
        let mut objects = Vec::new();
        for part in 1..=OBJECTS {
            let key = home.data(&name("tree"), part, Suffix::TarZst);
            let version = put(&key, vec![1]).await;
            objects.push(DataObject { key, size: 1, crc64nvme: [0; 8], payload: None, live_bytes: 1, version });
        }
        let key = home.index(&name("tree"), Suffix::Index);
        let version = put(&key, vec![1]).await;
        let index = IndexObject { key, size: 1, sha256: [0; 32], version };
        let bytes = u64::from(OBJECTS);
        let (plain_bytes, stored_bytes, new_bytes, chunks, files) = (bytes, bytes, bytes, 1, 1);
        let (digest, not_entered) = ([0; 32], NotEntered::default());
        let stream =
            Stream { plain_bytes, stored_bytes, new_bytes, chunks, files, digest, index, objects, not_entered };
        let content = Content::Stream { stream: Some(stream) };
        let item = Item::new(name("tree"), SourceDescription::Tree { path: "/".into() }, content);
        let manifest = Manifest { items: vec![item], ..Manifest::new(chain.clone(), id, started) };
        put(&home.manifest(), manifest.to_json()).await;
    }
}

/// What the process has taken of memory at most, in KiB.
fn peak(child: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// A killed extension goes on where it was, in the memory that there is.
#[test]
#[ignore = "long"]
fn soak_a_hundred_thousand_locks_are_extended_once() {
    let (s3, node) = stand_in(Clock::Stands);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(fill(&Arc::clone(&s3.memory)));
    node.keep_last(BACKUPS);
    let all = usize::try_from(BACKUPS * (OBJECTS + 2)).unwrap();
    let start = || {
        let mut command = node.command(&["prune", "--job", "files"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    later(&s3.memory, 9 * DAY);
    let began = Instant::now();
    let mut child = start();
    while s3.count("PutObjectRetention") < all / 3 {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_mins(10));
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut child = start();
    let mut most = 0;
    let status = loop {
        most = peak(&child).map_or(most, |peak| peak.max(most));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let requests = s3.count("PutObjectRetention");
    println!("{requests} extensions of {all} objects in {:?}, {most} KiB at most", began.elapsed());
    assert!(status.success());
    assert!((all..all + 300).contains(&requests), "{requests}");
    assert!(most < 128 << 10, "{most} KiB");
    node.done(&["prune", "--job", "files"]);
    assert_eq!(s3.count("PutObjectRetention"), requests, "nothing is due");
    let newest: Timestamp = s3.memory.now() + 16 * DAY - SignedDuration::from_mins(1);
    for entry in s3.memory.all_versions().iter().step_by(997) {
        use penstock::store::Versions as _;
        let lock = runtime.block_on(s3.memory.lock(&entry.key, Some(&entry.version))).unwrap().unwrap();
        assert!(lock.until > newest, "{}", entry.key);
    }
}
