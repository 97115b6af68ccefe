//! `config/rescue/penstock-cat.py` gives the same bytes as `penstock cat`, of every kind of backup, and says what is damaged.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use penstock::age::Identity;
use serde_json::Value;

use crate::binary::Penstock;
use crate::model::{noise, tick};
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/rescue/penstock-cat.py");

const JOBS: &str = r#"
[locations.primary.upload]
part_size = "5MiB"
object_size = "6MiB"
[jobs.files]
location = "primary"
incremental = true
min_live = 0.5
[[jobs.files.sources]]
type = "tree"
name = "files"
path = "TREE"
[[jobs.files.sources]]
type = "command"
name = "broken"
argv = ["sh", "-c", "exit 3"]
[jobs.raw]
location = "primary"
incremental = true
compression = "none"
[[jobs.raw.sources]]
type = "command"
name = "dump"
argv = ["seq", "400000"]
"#;

fn script(arguments: &[&str]) -> Output {
    Command::new("python3").arg(SCRIPT).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

struct Site {
    servers: Servers,
    s3: S3Server,
    penstock: Penstock,
}

impl Site {
    fn new() -> Self {
        Self::with("")
    }

    /// `more` goes into the location.
    fn with(more: &str) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let head = s3.toml("node-1", &servers.folder().join("state"), &s3.url);
        fs::create_dir(servers.folder().join("tree")).unwrap();
        let jobs = JOBS.replace("TREE", servers.folder().join("tree").to_str().unwrap());
        let config = format!("{head}\nprefix = \"fleet/west\"\n{STATIC_KEYS}\n{more}\n{jobs}");
        let penstock = Penstock::new(servers.folder(), &config);
        Self { servers, s3, penstock }
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.servers.folder().join("tree").join(name)
    }

    /// The bucket, below the prefix.
    fn copy(&self) -> PathBuf {
        self.s3.folder().join("fleet/west")
    }

    fn backup(&self, job: &str) -> Value {
        tick(self.servers.folder());
        self.penstock.json(&["backup", job]).1
    }

    /// Each item of each backup: `JOB/NODE/ID` and the item.
    fn items(&self) -> Vec<(String, String)> {
        let listed = String::from_utf8(script(&[self.copy().to_str().unwrap()]).stdout).unwrap();
        let mut items = Vec::new();
        for backup in listed.lines() {
            let listed = script(&[self.copy().join(backup).to_str().unwrap()]);
            assert_eq!(listed.status.code(), Some(0), "{}", said(&listed));
            let listed = String::from_utf8(listed.stdout).unwrap();
            items.extend(listed.lines().map(|line| (backup.to_owned(), line.split('\t').next().unwrap().to_owned())));
        }
        items
    }

    fn cat(&self, backup: &str, item: &str) -> Output {
        script(&[self.copy().join(backup).to_str().unwrap(), item])
    }
}

fn objects(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_backup_is_read_without_penstock() {
    let site = Site::new();
    fs::write(site.tree("noise"), noise(15_000_000, 1)).unwrap();
    fs::write(site.tree("text"), "words ".repeat(400_000)).unwrap();
    site.backup("files");
    fs::write(site.tree("more"), noise(200_000, 2)).unwrap();
    site.backup("files");
    // Most of the first objects is dead now: the backup after that stores what is left of them again.
    fs::write(site.tree("noise"), noise(2_000_000, 1)).unwrap();
    site.backup("files");
    let compacted = site.backup("files");
    site.backup("raw");
    site.backup("raw");

    let (mut streams, mut referring, mut failed) = (0, 0, 0);
    for (backup, item) in site.items() {
        let found = site.cat(&backup, &item);
        let [_, job, node, id] = backup.split('/').collect::<Vec<_>>()[..] else { panic!("{backup}") };
        if item == "broken" {
            failed += 1;
            assert_eq!(found.status.code(), Some(1), "{}", said(&found));
            assert!(said(&found).contains("status 3") && said(&found).contains("partial"), "{}", said(&found));
            continue;
        }
        assert_eq!(found.status.code(), Some(0), "{}", said(&found));
        let expected = site.penstock.run(&["cat", &format!("{job}/{node}@{id}"), "--item", &item]);
        assert_eq!(expected.status.code(), Some(0), "{expected:?}");
        assert!(found.stdout == expected.stdout, "{backup} {item}");
        let manifest = fs::read(site.copy().join(&backup).join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let of = manifest["items"].as_array().unwrap().iter().find(|one| one["name"] == *item).unwrap();
        let of = of["stream"]["objects"].as_array().unwrap();
        referring += usize::from(of.iter().any(|object| !object["key"].as_str().unwrap().contains(id)));
        streams += 1;
    }
    assert_eq!((streams, failed), (6, 4));
    assert!(referring >= 3, "{referring} streams refer to objects of older backups");
    let stored = compacted["backups"][0]["new_bytes"].as_u64();
    assert!(stored.is_some_and(|stored| stored > 1_000_000), "nothing was compacted: {compacted:#}");
}

#[test]
fn an_encrypted_backup_needs_its_identity() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::generate().unwrap();
    let file = folder.path().join("identity");
    fs::write(&file, identity.to_file("now").as_bytes()).unwrap();
    let recipient = identity.recipient();
    let site = Site::with(&format!("[locations.primary.client_encryption]\nrecipients = [\"{recipient}\"]"));
    fs::write(site.tree("noise"), noise(9_000_000, 1)).unwrap();
    site.backup("files");
    fs::write(site.tree("more"), noise(200_000, 2)).unwrap();
    site.backup("files");
    let (backup, item) = &site.items()[2];
    assert!(fs::read_to_string(site.copy().join(backup).join("manifest.json")).unwrap().contains("\"base\""));
    let locked = site.cat(backup, item);
    assert_eq!((locked.status.code(), locked.stdout.len()), (Some(1), 0), "{}", said(&locked));
    assert!(said(&locked).contains("--identity"), "{}", said(&locked));
    let path = site.copy().join(backup);
    let found = script(&[path.to_str().unwrap(), item, "--identity", file.to_str().unwrap()]);
    assert_eq!(found.status.code(), Some(0), "{}", said(&found));
    let penstock = site.penstock.clone().with("PENSTOCK_IDENTITY_FILE", file.to_str().unwrap());
    let expected = penstock.run(&["cat", "files@latest", "--item", item]);
    assert_eq!(expected.status.code(), Some(0), "{expected:?}");
    assert!(found.stdout == expected.stdout);

    // What a child says that fails is told, also where it did not read what it was given.
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    // It decrypts the index, and reads nothing of the data.
    let path_variable = std::env::var("PATH").unwrap();
    let real = std::env::split_paths(&path_variable).map(|folder| folder.join("age")).find(|file| file.exists());
    let fake = "#!/bin/sh\n[ -e \"$0.once\" ] && echo boom >&2 && exit 3\n: >\"$0.once\"\nexec REAL \"$@\"\n";
    fs::write(bin.join("age"), fake.replace("REAL", real.unwrap().to_str().unwrap())).unwrap();
    fs::set_permissions(bin.join("age"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let paths = format!("{}:{path_variable}", bin.display());
    let mut failing = Command::new("python3");
    failing.args([SCRIPT, path.to_str().unwrap(), item, "--identity", file.to_str().unwrap()]).env("PATH", paths);
    let found = failing.output().unwrap();
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    assert!(said(&found).contains("boom"), "{}", said(&found));
}

#[test]
fn the_script_is_put_beside_the_backups_and_reads_them_from_there() {
    let site = Site::new();
    let (code, _) = site.penstock.json(&["backup", "raw", "--rescue"]);
    assert_eq!(code, 0);
    let stored = site.copy().join("test/penstock-cat.py");
    assert_eq!(fs::read(&stored).unwrap(), fs::read(SCRIPT).unwrap());
    // It is no backup, and nothing that prune would delete.
    site.penstock.good(&["prune", "--job", "raw"]);
    assert_eq!(site.penstock.good(&["list"])["backups"].as_array().unwrap().len(), 1);
    assert!(stored.exists());
    assert_eq!(site.items().len(), 1);

    // Also when the only job fails.
    fs::remove_file(&stored).unwrap();
    site.s3.deny(|request| request.method != "GET" && request.uri.contains("/raw/"));
    let (code, said) = site.penstock.json(&["backup", "raw", "--rescue"]);
    assert_eq!((code, said["error"]["class"].as_str()), (77, Some("access-denied")), "{said:#}");
    assert!(stored.exists());

    site.s3.deny(|request| request.method == "PUT" && request.uri.contains("penstock-cat.py"));
    let (code, said) = site.penstock.json(&["backup", "raw", "--rescue"]);
    assert_eq!(code, 77, "{said:#}");
    assert_eq!(
        (said["backups"].as_array().unwrap().len(), &said["errors"][0]["location"]),
        (1, &"primary".into()),
        "{said:#}"
    );
}

#[test]
fn what_is_damaged_or_missing_is_said_and_nothing_wrong_is_written() {
    let site = Site::new();
    fs::write(site.tree("noise"), noise(5_000_000, 1)).unwrap();
    site.backup("files");
    let backup = site.items()[0].0.clone();
    let folder = site.copy().join(&backup);
    let whole = site.cat(&backup, "files").stdout;
    let find = |end: &str| objects(&folder).into_iter().find(|path| path.to_str().unwrap().ends_with(end)).unwrap();
    for (object, at, expected) in
        [(find("0001.tar.zst"), 4_000_000, "not the chunk"), (find("files.index.zst"), 40, "size and SHA-256")]
    {
        let right = fs::read(&object).unwrap();
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        fs::write(&object, wrong).unwrap();
        let found = site.cat(&backup, "files");
        assert_eq!(found.status.code(), Some(65), "{}", said(&found));
        assert!(
            said(&found).contains("damaged") && said(&found).contains(object.file_name().unwrap().to_str().unwrap())
        );
        assert!(said(&found).contains(expected) || said(&found).contains("not a zstd frame"), "{}", said(&found));
        assert!(found.stdout.len() < whole.len() && whole.starts_with(&found.stdout));

        fs::remove_file(&object).unwrap();
        let found = site.cat(&backup, "files");
        assert_eq!(found.status.code(), Some(65), "{}", said(&found));
        assert!(said(&found).contains("does not exist"), "{}", said(&found));
        fs::write(&object, right).unwrap();
    }
    assert!(site.cat(&backup, "files").stdout == whole);
    let found = site.cat(&backup, "file");
    assert_eq!(found.status.code(), Some(2));
    assert!(said(&found).contains("no item file; the backup has files, broken"), "{}", said(&found));
}

/// Changes the manifest of a copy.
fn change(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn what_makes_no_sense_is_damage() {
    let site = Site::new();
    site.backup("raw");
    let backup = site.items()[0].0.clone();
    let folder = site.copy().join(&backup);
    let right = fs::read(folder.join("manifest.json")).unwrap();
    // An object that lies outside of the chain, which is there.
    let outside = site.copy().join("test/raw/node-1/secret/dump.0001.bin");
    fs::create_dir(outside.parent().unwrap()).unwrap();
    let data = objects(&folder).into_iter().find(|path| path.to_str().unwrap().ends_with("0001.bin")).unwrap();
    fs::copy(data, &outside).unwrap();
    for key in ["fleet/west/test/raw/node-1/secret/dump.0001.bin", "fleet/west/test/raw/node-1/../secret/dump.0001.bin"]
    {
        change(&folder, |manifest| manifest["items"][0]["stream"]["objects"][0]["key"] = key.into());
        let found = site.cat(&backup, "dump");
        assert_eq!(found.status.code(), Some(65), "{}", said(&found));
        assert!(said(&found).contains("not an object of test/raw/node-1"), "{}", said(&found));
    }
    for spoil in [
        |manifest: &mut Value| manifest["items"] = 1.into(),
        |manifest: &mut Value| {
            drop(manifest.as_object_mut().unwrap().remove("outcome"));
        },
    ] {
        change(&folder, spoil);
        let found = site.cat(&backup, "dump");
        assert_eq!(found.status.code(), Some(65), "{}", said(&found));
        fs::write(folder.join("manifest.json"), &right).unwrap();
    }
    let nowhere = script(&["/nowhere/at/all"]);
    assert_eq!(nowhere.status.code(), Some(2), "{}", said(&nowhere));
    assert_eq!(script(&[]).status.code(), Some(2));
}

/// A frame of a gigabyte that is said to be ten bytes.
#[test]
fn a_chunk_is_not_decompressed_beyond_its_size() {
    let site = Site::new();
    site.backup("raw");
    let backup = site.items()[0].0.clone();
    let folder = site.copy().join(&backup);
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1).unwrap();
    let varint = |mut value: usize| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    };
    let framed = |record: Vec<u8>| [u32::try_from(record.len()).unwrap().to_le_bytes().to_vec(), record].concat();
    let chunk = [vec![0], vec![7; 32], vec![10, 1, 0, 0], varint(bomb.len())].concat();
    let index = [b"PSTKIDX1".to_vec(), framed(chunk), framed(vec![2, 1, 0, 10])].concat();
    let index = zstd::encode_all(&index[..], 1).unwrap();
    let of = |end: &str| objects(&folder).into_iter().find(|path| path.to_str().unwrap().ends_with(end)).unwrap();
    fs::write(of("0001.bin"), &bomb).unwrap();
    fs::write(of("index.zst"), &index).unwrap();
    change(&folder, |manifest| {
        let stream = &mut manifest["items"][0]["stream"];
        stream["index"]["size"] = index.len().into();
        stream["index"]["sha256"] = hex::encode(penstock::checksum::sha256([&index[..]])).into();
        (stream["chunks"], stream["files"], stream["plain_bytes"]) = (1.into(), 0.into(), 10.into());
        stream["digest"] = hex::encode(penstock::checksum::sha256([&[7; 32][..]])).into();
    });
    let limited = "ulimit -v 400000; exec python3 \"$@\"";
    let path = folder.to_str().unwrap().to_owned();
    let found = Command::new("sh").args(["-c", limited, "sh", SCRIPT, &path, "dump"]).output().unwrap();
    assert_eq!(found.status.code(), Some(65), "{}", said(&found));
    assert!(said(&found).contains("not the chunk that the index names"), "{}", said(&found));
}

#[test]
fn the_example_in_the_format_is_an_index() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/format.md")).unwrap();
    let example = page.split("An example, `").nth(1).unwrap();
    let example = &example[..example.find("## The archive").unwrap()];
    let lines = example.lines().filter_map(|line| line.strip_prefix("    "));
    let byte = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
    let described: Vec<u8> = lines.flat_map(|line| line.split_whitespace().map_while(byte)).collect();
    let index = "tests/frozen/0.1.0/bucket/fleet/test/chain/node-1/20261129T131940Z-248937/one.index.zst";
    let stored = fs::read(root.join(index)).unwrap();
    assert_eq!(described, zstd::decode_all(&stored[..]).unwrap());
}

#[test]
fn the_script_stays_short_enough_to_be_read() {
    let lines = fs::read_to_string(SCRIPT).unwrap().lines().count();
    assert!(lines < 250, "{lines}");
}
