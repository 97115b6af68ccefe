//! The buckets of older releases in `tests/frozen`: each of them must be listed, verified, restored bit for bit, continued and deleted.
//!
//! A bucket is never written again. `FROZEN=1.2.3 cargo test --locked --test suite -- --ignored frozen::freeze` makes the one of a release
//! (tests/frozen/README.md); it refuses a name that exists. Needs root, extended attributes and device nodes, as `tar.rs` does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binary::Penstock;
use crate::fake_ec2::{FakeEc2, FakeSnapshot};
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

const VOLUME: &str = "vol-0123456789abcdef0";

/// A server with a bucket, and a configuration for it.
struct Site {
    servers: Servers,
    s3: S3Server,
    ec2: FakeEc2,
    penstock: Penstock,
}

impl Site {
    /// TREE in `jobs` is the site's tree.
    fn new(jobs: &str) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let ec2 = FakeEc2::start(&servers, Scheme::Http);
        let head = s3.toml("node-1", &servers.folder().join("state"), &s3.url);
        let url = &ec2.server.url;
        let jobs = jobs.replace("TREE", servers.folder().join("tree").to_str().unwrap());
        let config = format!("{head}\nprefix = \"fleet\"\nec2_url = \"{url}\"\n{STATIC_KEYS}\n{jobs}");
        let penstock = Penstock::new(servers.folder(), &config);
        Self { servers, s3, ec2, penstock }
    }

    /// A copy of a frozen bucket, and of the snapshots that its manifests name.
    fn of(frozen: &Path, jobs: &str) -> Self {
        let site = Self::new(jobs);
        for (key, bytes) in objects(&frozen.join("bucket")) {
            let path = site.s3.folder().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        for (id, tags) in expected(frozen)["snapshots"].as_object().unwrap() {
            let (id, volume, tags) = (id.clone(), VOLUME.to_owned(), serde_json::from_value(tags.clone()).unwrap());
            let snapshot = FakeSnapshot { id, volume, tags, state: "completed", message: "", looks: 0 };
            site.ec2.state().snapshots.push(snapshot);
        }
        site
    }

    fn tree(&self, which: &str) {
        let script = root().join("tree.py");
        let status = Command::new("python3").arg(script).arg(which).arg(self.servers.folder().join("tree")).status();
        assert!(status.unwrap().success(), "tree.py makes device nodes and attributes: it needs root");
    }

    /// Restores a tree; what a restore must bring back of each member, a line each.
    fn members(&self, id: &str, item: &str) -> String {
        let target = tempfile::tempdir().unwrap();
        let to = target.path().join("restored");
        self.penstock.good(&["restore", id, "--item", item, "--to", to.to_str().unwrap()]);
        describe(&to)
    }

    fn bytes(&self, id: &str, item: &str) -> String {
        let output = self.penstock.run(&["cat", id, "--item", item]);
        assert!(output.status.success(), "{output:?}");
        digest(&output.stdout)
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen")
}

fn expected(frozen: &Path) -> Value {
    serde_json::from_slice(&fs::read(frozen.join("expected.json")).unwrap()).unwrap()
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The objects of a bucket by key; what the server keeps beside them begins with a dot.
fn objects(bucket: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, bucket: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, bucket, all);
            } else if !path.file_name().unwrap().as_bytes().starts_with(b".") {
                let key = path.strip_prefix(bucket).unwrap().to_str().unwrap().to_owned();
                all.insert(key, fs::read(path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(bucket, bucket, &mut all);
    all
}

/// Path, type, mode, owner, time, size or device, content or target, attributes; `=PATH` is the first path of the same inode.
fn describe(root: &Path) -> String {
    let mut lines = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        if stat.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let mut line =
            format!("{:o} {}:{} {}.{:09}", stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec());
        let kind = stat.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            write!(line, " -> {}", target.as_os_str().as_bytes().escape_ascii()).unwrap();
        } else if kind.is_char_device() || kind.is_block_device() {
            write!(line, " device {}:{}", rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev())).unwrap();
        } else if kind.is_file() {
            let holes = if stat.blocks() * 512 < stat.size() { " with holes" } else { "" };
            write!(line, " {} bytes{holes} {}", stat.size(), digest(&fs::read(&path).unwrap())).unwrap();
        }
        for (name, value) in attributes(&path) {
            write!(line, " {}={}", name.escape_ascii(), hex::encode(value)).unwrap();
        }
        lines.insert(name, (line, stat.ino()));
    }
    let mut first = BTreeMap::new();
    lines.iter().fold(String::new(), |mut all, (name, (line, inode))| {
        let same = first.entry(inode).or_insert(name);
        let link = if *same == name { String::new() } else { format!(" ={same}") };
        writeln!(all, "/{name} {line}{link}").unwrap();
        all
    })
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut names, mut value) = (vec![0; 65536], vec![0; 65536]);
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    // A label of the machine's own is no part of a backup.
    let own = |name: &&[u8]| !name.is_empty() && *name != b"security.selinux";
    let names = names[..length].split(|byte| *byte == 0).filter(own);
    let mut get = |name: &[u8]| {
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..length].to_vec()
    };
    names.map(|name| (name.to_vec(), get(name))).collect()
}

/// Whether `have` holds everything that `wanted` does: a later release may say more.
fn holds(have: &Value, wanted: &Value) -> bool {
    match (have, wanted) {
        (Value::Object(have), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| have.get(key).is_some_and(|have| holds(have, wanted)))
        }
        (Value::Array(have), Value::Array(wanted)) => {
            have.len() == wanted.len() && have.iter().zip(wanted).all(|(have, wanted)| holds(have, wanted))
        }
        _ => have == wanted,
    }
}

fn frozen() -> Vec<PathBuf> {
    let all = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let all: Vec<_> = all.filter(|path| path.join("expected.json").is_file()).collect();
    assert!(!all.is_empty(), "no frozen bucket in {}", root().display());
    all
}

fn ids(list: &Value) -> Vec<&str> {
    let mut ids: Vec<_> = list["backups"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn every_backup_of_an_older_release_is_listed_shown_verified_and_restored() {
    for frozen in frozen() {
        let (site, expected) = (Site::of(&frozen, ""), expected(&frozen));
        let before = objects(&site.s3.folder());
        assert_eq!(ids(&site.penstock.good(&["list"])), ids(&expected), "{}", frozen.display());
        for backup in expected["backups"].as_array().unwrap() {
            let id = backup["id"].as_str().unwrap();
            let shown = site.penstock.good(&["show", id]);
            assert!(holds(&shown, &backup["manifest"]), "{id}: {shown:#}");
            let (code, verified) = site.penstock.json(&["verify", id, "--data"]);
            assert_eq!(code, backup["verify"], "{id}: {verified:#}");
            for (item, members) in backup["trees"].as_object().unwrap() {
                let wanted = fs::read_to_string(frozen.join(members.as_str().unwrap())).unwrap();
                let restored = site.members(id, item);
                for (restored, wanted) in restored.lines().zip(wanted.lines()) {
                    assert_eq!(restored, wanted, "{id} {item}");
                }
                assert_eq!(restored.lines().count(), wanted.lines().count(), "{id} {item}");
            }
            for (item, wanted) in backup["streams"].as_object().unwrap() {
                assert_eq!(&site.bytes(id, item), wanted.as_str().unwrap(), "{id} {item}");
            }
        }
        assert!(objects(&site.s3.folder()) == before, "reading wrote to the bucket");
    }
}

/// The chain goes on: the next backup has the old one as its parent, needs none of the old ones that are deleted, and nothing is left behind.
#[test]
fn a_chain_of_an_older_release_is_continued_and_deleted() {
    for frozen in frozen() {
        let site = Site::of(&frozen, JOBS);
        let expected = expected(&frozen);
        let of_chain = |backup: &&Value| backup["manifest"]["job"] == "chain";
        let old: Vec<_> = expected["backups"].as_array().unwrap().iter().filter(of_chain).collect();
        let last = old.last().unwrap();
        let tree = site.servers.folder().join("tree");
        site.penstock.good(&[
            "restore",
            last["id"].as_str().unwrap(),
            "--item",
            "files",
            "--to",
            tree.to_str().unwrap(),
        ]);
        let made = site.penstock.good(&["backup", "chain"]);
        let id = made["backups"][0]["id"].as_str().unwrap();
        assert_eq!(site.penstock.good(&["show", id])["parent"], last["id"]);
        for backup in &old {
            site.penstock.good(&["delete", "--now", backup["id"].as_str().unwrap()]);
        }
        let wanted = fs::read_to_string(frozen.join(last["trees"]["files"].as_str().unwrap())).unwrap();
        assert_eq!(site.members(id, "files"), wanted);
        let all = site.penstock.good(&["list"]);
        for id in ids(&all) {
            site.penstock.good(&["delete", "--now", id]);
        }
        site.penstock.good(&["prune", "--job", "raw", "--grace", "0s"]);
        let left: Vec<_> = objects(&site.s3.folder()).into_keys().collect();
        assert_eq!(
            left,
            Vec::<String>::new(),
            "what an older release wrote and this one does not know is never deleted"
        );
        assert!(site.ec2.state().snapshots.is_empty(), "a snapshot is left");
    }
}

/// `chain`: full and incremental; `raw`: not compressed; `partial`: a failed item, a warning; `disks`: a snapshot.
const JOBS: &str = r#"
[jobs.chain]
location = "primary"
[[jobs.chain.sources]]
type = "tree"
name = "files"
path = "TREE"
[[jobs.chain.sources]]
type = "command"
name = "dump"
argv = ["seq", "9999"]
[[jobs.chain.sources]]
type = "file"
name = "one"
path = "TREE/noise"
[jobs.raw]
location = "primary"
compression = "none"
retention = { keep_last = 5 }
[[jobs.raw.sources]]
type = "tree"
name = "files"
path = "TREE/folder"
[[jobs.raw.sources]]
type = "command"
name = "dump"
argv = ["seq", "99"]
[jobs.partial]
location = "primary"
[[jobs.partial.sources]]
type = "command"
name = "broken"
argv = ["sh", "-c", "echo some; echo no such table >&2; exit 3"]
[[jobs.partial.sources]]
type = "command"
name = "left"
argv = ["sh", "-c", "sleep 20 & echo left"]
[jobs.disks]
location = "primary"
[[jobs.disks.sources]]
type = "ebs"
name = "data"
volumes = ["vol-0123456789abcdef0"]
[[jobs.disks.sources]]
type = "command"
name = "dump"
argv = ["echo", "beside a snapshot"]
"#;

/// Makes the bucket of a release: once, and never again under the same name.
#[test]
#[ignore = "makes tests/frozen/$FROZEN, once for each release"]
fn freeze() {
    let name = std::env::var("FROZEN").expect("FROZEN is the name of the release");
    let target = root().join(&name);
    assert!(!target.exists(), "{} exists, and is never written again", target.display());
    let site = Site::new(JOBS);
    site.ec2.volume(VOLUME, &[("Name", "db")]);
    let mut made = Vec::new();
    site.tree("first");
    for (job, code) in [("chain", 0), ("chain", 0), ("raw", 0), ("partial", 1), ("disks", 0), ("raw", 0)] {
        let (got, report) = site.penstock.json(&["backup", job]);
        assert_eq!(got, code, "{report:#}");
        made.push(report["backups"][0]["id"].as_str().unwrap().to_owned());
        // Ids go by seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        if made.len() == 1 {
            site.tree("second");
        }
    }
    // What a deleted backup leaves for the time of grace is part of the format too.
    site.penstock.good(&["delete", &made.remove(2)]);
    let backups: Vec<_> = made.iter().map(|id| site.record(id, &target)).collect();
    let snapshots: BTreeMap<_, _> =
        site.ec2.state().snapshots.iter().map(|one| (one.id.clone(), one.tags.clone())).collect();
    let text = serde_json::to_string_pretty(&json!({ "backups": backups, "snapshots": snapshots })).unwrap();
    fs::write(target.join("expected.json"), text + "\n").unwrap();
    for (key, bytes) in objects(&site.s3.folder()) {
        let path = target.join("bucket").join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

impl Site {
    /// What a backup must be restored to; trees in files of their own.
    fn record(&self, id: &str, target: &Path) -> Value {
        let manifest = self.penstock.good(&["show", id]);
        let (mut trees, mut streams) = (BTreeMap::new(), BTreeMap::new());
        for item in manifest["items"].as_array().unwrap() {
            let name = item["name"].as_str().unwrap();
            if item["stream"].is_null() {
                continue;
            }
            if item["source"]["type"] == "tree" {
                let file = format!("{id}.{name}.members");
                fs::create_dir_all(target).unwrap();
                fs::write(target.join(&file), self.members(id, name)).unwrap();
                trees.insert(name.to_owned(), file);
            } else {
                streams.insert(name.to_owned(), self.bytes(id, name));
            }
        }
        // A failed item is damage: 66 for `partial`.
        let (verify, _) = self.penstock.json(&["verify", id, "--data"]);
        json!({ "id": id, "manifest": manifest, "trees": trees, "streams": streams, "verify": verify })
    }
}
