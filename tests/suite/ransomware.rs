//! The attack drill: somebody with the agent's own credentials deletes everything, puts other objects over it, and tries to end the locks.
//! Then the backups are read as of a time before, and brought back, with the real binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use penstock::config::{self, LockMode};
use penstock::error::Class;
use penstock::format::key::ObjectKey;
use penstock::store::memory::MemoryStore;
use penstock::store::{Lock, Overwrite, Payload, Store, VersionKind};
use serde_json::Value;

use crate::aws_client::connect;
use crate::locking_s3::{BUCKET, Ignores, LockingS3};
use crate::model::noise;
use crate::servers::{ACCESS_KEY, SECRET_KEY, Scheme, Servers};

/// A bucket that locks, and the keys to it.
struct Place<'a> {
    url: &'a str,
    bucket: &'a str,
    region: &'a str,
    keys: (&'a str, &'a str),
}

/// A node with one job, whose location locks its objects.
pub(crate) struct Node {
    servers: Servers,
    location: config::Location,
    config: PathBuf,
    tree: PathBuf,
    /// Of the daemon's admin server.
    admin: String,
}

impl Node {
    fn new(servers: Servers, place: &Place<'_>) -> Self {
        let (folder, Place { url, bucket, region, keys: (key, secret) }) = (servers.folder().to_owned(), place);
        let tree = folder.join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        // More than one part, so that it is a multipart upload.
        fs::write(tree.join("sub/large"), noise(7 << 20, 1)).unwrap();
        // Free a moment ago; another test of this process takes another.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let admin = format!("127.0.0.1:{port}");
        let text = format!(
            r#"cluster = "test"
node = "node-1"
state_dir = "{state}"
[limits]
memory = "64MiB"
[locations.primary]
provider = "aws"
bucket = "{bucket}"
region = "{region}"
s3_url = "{url}"
force_path_style = true
prefix = "fleet"
[locations.primary.credentials]
source = "static"
access_key_id = "{key}"
secret_access_key = "{secret}"
[locations.primary.object_lock]
mode = "governance"
period = "14d"
[locations.primary.upload]
part_size = "5MiB"
[admin]
listen = "{admin}"
socket = "{state}/control.sock"
[jobs.files]
location = "primary"
retention = {{ keep_last = 3 }}
[[jobs.files.sources]]
type = "tree"
name = "tree"
path = "{tree}"
"#,
            admin = admin,
            state = folder.join("state").display(),
            tree = tree.display(),
        );
        let config = folder.join("penstock.toml");
        fs::write(&config, text).unwrap();
        let secret_of = |value: &str| config::SecretSource::Inline(config::Secret::new(value.to_owned()));
        let location = config::Location {
            bucket: (*bucket).to_owned(),
            region: (*region).to_owned(),
            s3_url: Some((*url).to_owned()),
            credentials: config::Credentials::Static {
                access_key_id: secret_of(key),
                secret_access_key: secret_of(secret),
                session_token: None,
            },
            ..servers.s3(Scheme::Http).location()
        };
        Self { servers, location, config, tree, admin }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.servers.folder()
    }

    pub(crate) fn admin(&self) -> String {
        self.admin.clone()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.output(&[&["--output", "json"], arguments].concat());
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), value)
    }

    pub(crate) fn done(&self, arguments: &[&str]) -> Value {
        let (code, value) = self.json(arguments);
        assert_eq!(code, 0, "{arguments:?}: {value}");
        value
    }

    /// Takes `object_lock` out of the configuration.
    pub(crate) fn without_locks(&self) {
        let text = fs::read_to_string(&self.config).unwrap();
        let (head, rest) = text.split_once("[locations.primary.object_lock]").unwrap();
        let (_, rest) = rest.split_once("[locations.primary.upload]").unwrap();
        fs::write(&self.config, format!("{head}[locations.primary.upload]{rest}")).unwrap();
    }

    /// Changes how many backups are kept.
    pub(crate) fn keep_last(&self, count: u32) {
        let text = fs::read_to_string(&self.config).unwrap();
        fs::write(&self.config, text.replace("keep_last = 3", &format!("keep_last = {count}"))).unwrap();
    }

    /// A backup in which `version` says this; its id.
    pub(crate) fn back_up(&self, version: &str) -> String {
        fs::write(self.tree.join("version"), version).unwrap();
        self.done(&["backup", "files"])["backups"][0]["id"].as_str().unwrap().to_owned()
    }

    fn ids(&self, arguments: &[&str]) -> Vec<String> {
        let list = self.done(&[&["list"], arguments].concat());
        let mut ids: Vec<_> = list["backups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|backup| backup["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }

    /// Restores a backup and compares it, bit for bit.
    fn holds(&self, id: &str, version: &str, arguments: &[&str]) {
        let target = tempfile::tempdir_in(self.servers.folder()).unwrap();
        self.done(&[&["restore", id, "--to", target.path().to_str().unwrap()], arguments].concat());
        assert_eq!(fs::read_to_string(target.path().join("version")).unwrap(), version);
        assert!(fs::read(target.path().join("sub/large")).unwrap() == noise(7 << 20, 1), "{id}");
    }

    /// A store with the agent's own credentials.
    fn attacker(&self) -> Arc<dyn Store> {
        connect(&self.location).store()
    }
}

/// Whether the clock of a stand-in is the system's, or stands still until it is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Runs,
    Stands,
}

pub(crate) fn stand_in(clock: Clock) -> (LockingS3, Node) {
    let servers = Servers::start();
    let s3 = LockingS3::start(&servers);
    s3.memory.keep_locks();
    if clock == Clock::Stands {
        s3.memory.set_now(Timestamp::now());
    }
    let keys = (ACCESS_KEY, SECRET_KEY);
    let node = Node::new(servers, &Place { url: &s3.url, bucket: BUCKET, region: "us-east-1", keys });
    (s3, node)
}

pub(crate) fn later(memory: &MemoryStore, time: SignedDuration) {
    memory.set_now(memory.now() + time);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Junk {
    Unlocked,
    /// Locked for a year, so that it cannot be removed.
    Locked,
}

fn is_manifest(key: &ObjectKey) -> bool {
    key.as_str().ends_with("/manifest.json")
}

/// Everything that the agent's credentials allow.
async fn attack(store: &dyn Store, junk: Junk, now: Timestamp) {
    let mut versions = Vec::new();
    let mut from = None;
    loop {
        let page = store.list_versions("fleet/", from.as_deref()).await.unwrap();
        versions.extend(page.entries);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert!(versions.len() >= 9, "{versions:?}");
    let shorter = Lock { mode: LockMode::Governance, until: now + SignedDuration::from_mins(5) };
    for entry in &versions {
        let (key, version) = (&entry.key, Some(&entry.version));
        let refused = store.set_lock(key, version, shorter).await.unwrap_err();
        assert_eq!(refused.class, Class::AccessDenied, "a lock was shortened: {refused}");
        let refused = store.delete_version(key, &entry.version).await.unwrap_err();
        assert_eq!(refused.class, Class::AccessDenied, "a version was deleted: {refused}");
    }
    let year = Lock { mode: LockMode::Compliance, until: now + SignedDuration::from_hours(24 * 365) };
    let lock = (junk == Junk::Locked).then_some(year);
    for entry in &versions {
        let text = if is_manifest(&entry.key) { "{\"version\": 1, \"pay\": \"us\"}" } else { "encrypted" };
        let payload = Payload::new(text, store.algorithm());
        store.put_locked(&entry.key, payload, Overwrite::Allow, lock).await.unwrap();
    }
    for (number, entry) in versions.iter().enumerate() {
        // Some keys are left overwritten, some hidden, some both.
        if number % 3 != 0 {
            store.delete(&entry.key).await.unwrap();
        }
    }
}

/// `pass` lets the store's clock pass a second at least.
fn drill(node: &Node, junk: Junk, pass: &dyn Fn()) {
    let versions = ["one", "two", "three"];
    let ids: Vec<String> = versions
        .iter()
        .map(|version| {
            let id = node.back_up(version);
            pass();
            id
        })
        .collect();
    let mut sorted = ids.clone();
    sorted.sort();
    let (runtime, store) = (runtime(), node.attacker());
    let manifest = format!("fleet/test/files/node-1/{}/manifest.json", ids[2]);
    let modified = runtime.block_on(store.list(&manifest, None)).unwrap().objects[0].modified;
    let before = modified.to_string();
    let as_of = ["--as-of", &before];
    pass();
    runtime.block_on(attack(&*store, junk, modified));
    pass();

    let (_, list) = node.json(&["list"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), 0, "{list}");
    assert_eq!(node.ids(&as_of), sorted);
    node.done(&[&["verify", "--all", "--data"][..], &as_of].concat());
    for (id, version) in ids.iter().zip(versions) {
        node.holds(id, version, &as_of);
    }
    node.done(&[&["show", &ids[0], "--files"][..], &as_of].concat());
    let tar = node.output(&[&["cat", &ids[1]][..], &as_of].concat());
    assert!(tar.status.success() && tar.stdout.len() > 7 << 20);
    let other = node.output(&["list", "--as-of", "2001-01-01"]);
    assert!(other.status.success() && !String::from_utf8_lossy(&other.stdout).contains(&ids[0]));

    // Without a time, what was put over a manifest is taken for it, and said to be none.
    let (code, refused) = node.json(&["undelete", &ids[0]]);
    assert_eq!(code, 65, "{refused}");
    assert!(refused["error"]["remedy"].as_str().unwrap().contains("--as-of"), "{refused}");
    for id in &ids {
        let done = node.done(&[&["undelete", id][..], &as_of].concat());
        assert!(done["objects"].as_u64().unwrap() >= 3, "{done}");
        assert_eq!(
            done["copied"].as_u64().unwrap() > 0,
            junk == Junk::Locked && done["untouched"] != done["objects"],
            "{done}"
        );
        let again = node.done(&[&["undelete", id][..], &as_of].concat());
        assert_eq!(again["markers_removed"], 0, "{again}");
        assert_eq!(again["untouched"], again["objects"], "{again}");
    }
    assert_eq!(node.ids(&[]), sorted);
    node.done(&["verify", "--all", "--data"]);
    for (id, version) in ids.iter().zip(versions) {
        node.holds(id, version, &[]);
    }
    // And the job goes on.
    let next = node.back_up("four");
    node.holds(&next, "four", &[]);
}

#[test]
fn everything_comes_back_after_an_attack() {
    for junk in [Junk::Unlocked, Junk::Locked] {
        let (s3, node) = stand_in(Clock::Stands);
        drill(&node, junk, &|| later(&s3.memory, SignedDuration::from_secs(60)));
    }
}

/// `make radosgw` starts the server and runs this.
#[test]
#[ignore = "needs Ceph: make radosgw"]
fn radosgw() {
    let url = std::env::var("PENSTOCK_RADOSGW").expect("PENSTOCK_RADOSGW is the server's URL");
    for (number, junk) in (0..).zip([Junk::Unlocked, Junk::Locked]) {
        let bucket = format!("ransomware-{number}");
        let keys = ("RGWAK", "RGWSK");
        runtime().block_on(crate::conformance::make_bucket(
            &url,
            "default",
            keys,
            &bucket,
            crate::conformance::Locks::Kept,
        ));
        let node = Node::new(Servers::start(), &Place { url: &url, bucket: &bucket, region: "default", keys });
        // The store's dates have whole seconds.
        drill(&node, junk, &|| std::thread::sleep(std::time::Duration::from_millis(2100)));
    }
}

/// An object that was replaced before the time asked for is read as the manifest recorded it.
#[test]
fn a_replacement_that_nobody_noticed_is_passed_over() {
    let (s3, node) = stand_in(Clock::Stands);
    let id = node.back_up("one");
    later(&s3.memory, SignedDuration::from_secs(60));
    let (runtime, store) = (runtime(), node.attacker());
    for key in s3.memory.keys().into_iter().filter(|key| !is_manifest(key)) {
        runtime.block_on(store.put(&key, Payload::new("rubbish", store.algorithm()), Overwrite::Allow)).unwrap();
    }
    later(&s3.memory, SignedDuration::from_secs(60));
    let (code, _) = node.json(&["verify", &id]);
    assert_eq!(code, 65);
    let now = s3.memory.now().to_string();
    node.done(&["verify", &id, "--data", "--as-of", &now]);
    node.holds(&id, "one", &["--as-of", &now]);
    // Nothing was deleted, so the newest manifest is right, and what it recorded decides.
    let done = node.done(&["undelete", &id]);
    assert!(done["versions_removed"].as_u64().unwrap() > 0, "{done}");
    node.done(&["verify", &id, "--data"]);
}

fn locks(s3: &LockingS3) -> BTreeMap<ObjectKey, Timestamp> {
    use penstock::store::Versions as _;
    let runtime = runtime();
    let mut locks = BTreeMap::new();
    for entry in s3.memory.all_versions() {
        if let VersionKind::Object { .. } = entry.kind {
            let lock = runtime.block_on(s3.memory.lock(&entry.key, Some(&entry.version))).unwrap();
            locks.insert(entry.key, lock.map_or(Timestamp::MIN, |lock| lock.until));
        }
    }
    locks
}

#[test]
fn each_run_extends_what_it_refers_to_and_a_refusal_is_said() {
    let (s3, node) = stand_in(Clock::Stands);
    node.back_up("one");
    assert_eq!(s3.count("PutObjectRetention"), 0);
    let day = SignedDuration::from_hours(24);
    let least = s3.memory.now() + 16 * day - SignedDuration::from_mins(5);
    assert!(locks(&s3).values().all(|until| *until >= least), "{:?}", locks(&s3));
    node.back_up("two");
    assert_eq!(s3.count("PutObjectRetention"), 0, "nothing is due");

    // Nine days later seven are left, which is half of the period.
    later(&s3.memory, 9 * day);
    s3.deny(&["PutObjectRetention"]);
    fs::write(node.tree.join("version"), "three").unwrap();
    let (code, backup) = node.json(&["backup", "files"]);
    assert_eq!(code, 1, "{backup}");
    let id = backup["backups"][0]["id"].as_str().unwrap().to_owned();
    let manifest = node.done(&["show", &id]);
    assert_eq!(manifest["outcome"], "partial");
    let warning = manifest["warnings"]["list"][0]["message"].as_str().unwrap();
    assert!(warning.contains("is locked until 20") && warning.contains("could not extend its lock"), "{warning}");
    assert!(manifest["warnings"]["list"][0]["path"].as_str().unwrap().ends_with(".tar.zst"), "{manifest}");

    s3.refuse(|_| None);
    let before = s3.count("PutObjectRetention");
    let id = node.back_up("four");
    assert!(s3.count("PutObjectRetention") > before);
    let after = s3.count("PutObjectRetention");
    node.back_up("five");
    assert_eq!(s3.count("PutObjectRetention"), after, "once in half a period");
    let manifest = node.done(&["show", &id]);
    let half = s3.memory.now() + 7 * day;
    for object in manifest["items"][0]["stream"]["objects"].as_array().unwrap() {
        let key = ObjectKey::new(object["key"].as_str().unwrap());
        assert!(locks(&s3)[&key] > half, "{key}");
        assert!(object["version"].as_str().unwrap().starts_with('v'), "{object}");
    }
}

#[test]
fn a_store_that_ignores_locks_is_said_to() {
    let (s3, node) = stand_in(Clock::Stands);
    s3.ignore(Ignores::LocksOfUploads);
    let id = node.back_up("one");
    let manifest = node.done(&["show", &id]);
    assert_eq!(manifest["outcome"], "success", "what an upload did not lock is locked afterwards: {manifest}");
    assert!(locks(&s3).values().all(|until| *until > s3.memory.now()), "{:?}", locks(&s3));

    s3.ignore(Ignores::Locks);
    fs::write(node.tree.join("version"), "two").unwrap();
    let (code, backup) = node.json(&["backup", "files"]);
    assert_eq!(code, 1, "{backup}");
    let id = backup["backups"][0]["id"].as_str().unwrap();
    let warning = node.done(&["show", id])["warnings"]["list"][0]["message"].as_str().unwrap().to_owned();
    assert!(warning.contains("the store ignores the locks of new objects: this backup can be deleted"), "{warning}");
}

#[test]
fn prune_waits_for_locks_and_then_frees_or_hides() {
    for (denied, freed) in [(&[][..], true), (&["DeleteObjectVersion"][..], false)] {
        let (s3, node) = stand_in(Clock::Stands);
        let first = node.back_up("one");
        for version in ["two", "three", "four"] {
            later(&s3.memory, SignedDuration::from_secs(60));
            node.back_up(version);
        }
        s3.deny(denied);
        let chain = |value: &Value| value["chains"][0].clone();
        let pruned = chain(&node.done(&["prune", "--job", "files", "--grace", "0s"]));
        assert_eq!((&pruned["deleted"], &pruned["failed"]), (&1.into(), &0.into()), "{pruned}");
        assert_eq!(pruned["removed"]["objects"], 0, "{pruned}");
        // The index and the tombstone; the data is needed by later backups.
        assert_eq!(pruned["locked"]["objects"], 2, "{pruned}");
        assert!(pruned["hidden"]["bytes"].as_u64().unwrap() > 0, "the manifest is hidden: {pruned}");
        let text = node.output(&["prune", "--job", "files", "--grace", "0s"]);
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("that nothing needs any more and that are locked until 20"), "{text}");
        let asked = s3.count("DeleteObjectVersion");
        node.done(&["prune", "--job", "files", "--grace", "0s"]);
        assert_eq!(s3.count("DeleteObjectVersion"), asked, "a known lock costs no request");

        later(&s3.memory, SignedDuration::from_hours(24 * 17));
        let pruned = chain(&node.done(&["prune", "--job", "files", "--grace", "0s"]));
        let figures = [&pruned["removed"], &pruned["hidden"]].map(|of| of["objects"].as_u64().unwrap());
        assert_eq!(figures, if freed { [2, 0] } else { [0, 2] }, "{pruned}");
        assert_eq!(pruned["locked"]["objects"], 0);
        let left = s3.memory.all_versions();
        let index = left
            .iter()
            .filter(|entry| entry.key.as_str().contains(&first) && entry.key.as_str().ends_with("index.zst"));
        assert_eq!(index.count(), if freed { 0 } else { 2 }, "{left:?}");
        let stats = node.done(&["stats"]);
        let hidden = stats["total"]["hidden_bytes"].as_u64().unwrap();
        assert!(hidden > 0, "the manifest's version: {stats}");
        node.done(&["verify", "--all", "--data"]);
    }
}

#[test]
fn a_held_backup_stays() {
    let (s3, node) = stand_in(Clock::Stands);
    let first = node.back_up("one");
    node.done(&["hold", &first]);
    for version in ["two", "three", "four", "five"] {
        later(&s3.memory, SignedDuration::from_hours(24 * 20));
        node.back_up(version);
    }
    let pruned = node.done(&["prune", "--job", "files", "--grace", "0s"])["chains"][0].clone();
    assert_eq!(pruned["deleted"], 1, "{pruned}");
    let held = pruned["backups"].as_array().unwrap().iter().find(|backup| backup["id"] == first.as_str()).unwrap();
    assert_eq!(held["reasons"][0], "held", "{held}");
    let (code, refused) = node.json(&["delete", &first]);
    assert_eq!((code, refused["error"]["class"].as_str()), (73, Some("conflict")), "{refused}");
    assert!(refused["error"]["remedy"].as_str().unwrap().contains("--release"), "{refused}");
    node.holds(&first, "one", &[]);
    let (runtime, store) = (runtime(), node.attacker());
    for entry in s3.memory.all_versions().iter().filter(|entry| entry.key.as_str().contains(&first)) {
        if let VersionKind::Object { .. } = entry.kind {
            assert!(runtime.block_on(store.delete_version(&entry.key, &entry.version)).is_err(), "{entry:?}");
        }
    }
    node.done(&["hold", &first, "--release"]);
    let pruned = node.done(&["prune", "--job", "files", "--grace", "0s"])["chains"][0].clone();
    assert_eq!(pruned["deleted"], 1, "{pruned}");
    assert!(!node.ids(&[]).contains(&first));
}

/// The agent does nothing for locks that it was not told to do.
#[test]
fn without_a_lock_no_request_is_made_for_one() {
    let (s3, node) = stand_in(Clock::Stands);
    node.without_locks();
    for version in ["one", "two", "three", "four"] {
        node.back_up(version);
    }
    node.done(&["prune", "--job", "files", "--grace", "0s"]);
    node.done(&["verify", "--all"]);
    for name in [
        "PutObject with a lock",
        "PutObjectRetention",
        "GetObjectRetention",
        "GetObjectLegalHold",
        "ListBucketVersions",
    ] {
        assert_eq!(s3.count(name), 0, "{name}");
    }
    assert!(!Path::new(&node.servers.folder().join("state/locks")).exists());
}
