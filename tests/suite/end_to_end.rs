//! The real binary, as a user runs it: AssumeRole with an external ID, S3 over HTTPS with a private CA, back and forth.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::servers::{
    ACCESS_KEY, Answer, S3Server, SECRET_KEY, SESSION_ACCESS_KEY, SESSION_SECRET_KEY, Scheme, Scripted, Seen, Servers,
};

const EXTERNAL_ID: &str = "external-id-canary";

/// A site: servers, a configuration and a tree to save.
struct Site {
    servers: Servers,
    s3: S3Server,
    sts: Scripted,
    config: PathBuf,
    tree: PathBuf,
}

fn session() -> Answer {
    let body = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
         <AccessKeyId>{SESSION_ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SESSION_SECRET_KEY}</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult></AssumeRoleResponse>"
    );
    (200, body)
}

impl Site {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Https);
        let sts = servers.scripted(Scheme::Https, |request, _| {
            assert!(request.body.contains(EXTERNAL_ID), "{}", request.body);
            session()
        });
        let folder = servers.folder().to_owned();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let tree = folder.join("tree");
        make_tree(&tree);
        let config = format!(
            r#"{head}
prefix = "fleet"
sts_url = "{sts}"
certificate = "{ca}"
certificate_mode = "only"
[locations.primary.credentials]
source = "static"
access_key_id_file = "{key}"
secret_access_key_file = "{secret}"
[[locations.primary.assume_role]]
role_arn = "arn:aws:iam::222222222222:role/BackupWriter"
external_id_file = "{external_id}"
[locations.primary.upload]
part_size = "5MiB"
object_size = "8MiB"
[jobs.site]
location = "primary"
[[jobs.site.sources]]
type = "tree"
name = "files"
path = "{tree}"
exclude = ["**/*.tmp"]
[[jobs.site.sources]]
type = "command"
name = "dump"
argv = ["sh", "-c", "echo the dump"]
[jobs.broken]
location = "primary"
[[jobs.broken.sources]]
type = "command"
name = "dump"
argv = ["sh", "-c", "head -c 20000000 /dev/urandom; echo no such table >&2; exit 3"]
[jobs.endless]
location = "primary"
compression = "none"
[[jobs.endless.sources]]
type = "command"
name = "dump"
argv = ["cat", "/dev/zero"]
"#,
            head = s3.toml("node-1", &folder.join("state"), &s3.url),
            sts = sts.url,
            ca = servers.ca_path().display(),
            key = write("key", ACCESS_KEY).display(),
            secret = write("secret", SECRET_KEY).display(),
            external_id = write("external-id", &format!("{EXTERNAL_ID}\n")).display(),
            tree = tree.display(),
        );
        let config = write("penstock.toml", &config);
        Self { servers, s3, sts, config, tree }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        // What a developer's shell may export must decide nothing.
        for name in
            ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NODE_NAME"]
        {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let arguments: Vec<&str> = ["--output", "json"].iter().chain(arguments).copied().collect();
        let output = self.run(&arguments);
        let parsed = serde_json::from_slice(&output.stdout);
        let value = parsed.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), value)
    }

    fn objects(&self) -> Vec<String> {
        let bucket = self.s3.folder();
        let mut found: Vec<String> = walk(&bucket)
            .into_iter()
            .map(|path| path.strip_prefix(&bucket).unwrap().to_string_lossy().into_owned())
            .filter(|name| name.rsplit('/').next().is_some_and(|name| !name.starts_with('.')))
            .collect();
        found.sort();
        found
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn make_tree(tree: &Path) {
    fs::create_dir_all(tree.join("etc/app")).unwrap();
    fs::write(tree.join("etc/app/app.conf"), "port = 1\n").unwrap();
    fs::write(tree.join("etc/app/left-out.tmp"), "no").unwrap();
    // Incompressible and larger than two objects, so that parts, roll-over and ranged reads all happen.
    fs::write(tree.join("big.bin"), noise(21 << 20, 9)).unwrap();
    fs::hard_link(tree.join("big.bin"), tree.join("etc/linked.bin")).unwrap();
    std::os::unix::fs::symlink("../big.bin", tree.join("etc/link")).unwrap();
    let sparse = fs::File::create(tree.join("sparse.img")).unwrap();
    sparse.set_len(1 << 30).unwrap();
}

fn same(left: &Path, right: &Path, exclude: &str) {
    let output =
        Command::new("diff").arg("-r").arg("--no-dereference").args(["-x", exclude]).arg(left).arg(right).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_backup_restores_bit_for_bit() {
    let site = Site::new();
    let (code, backup) = site.json(&["backup", "site"]);
    assert_eq!(code, Some(0), "{backup}");
    let id = backup["backups"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(backup["backups"][0]["items"], serde_json::json!(["files", "dump"]));
    assert_eq!(site.sts.seen().len(), 1, "one AssumeRole serves the whole backup");
    assert!(site.s3.seen().iter().all(|request| request.header("authorization").unwrap().contains(SESSION_ACCESS_KEY)));
    assert!(site.objects().iter().any(|key| key.ends_with("/files.0003.tar.zst")), "{:?}", site.objects());
    assert_eq!(site.s3.uploads_in_progress(), 0);

    let (code, list) = site.json(&["list"]);
    assert_eq!((code, list["backups"][0]["id"].as_str()), (Some(0), Some(id.as_str())));
    let text = String::from_utf8(site.run(&["list"]).stdout).unwrap();
    let (header, row) = text.split_once('\n').unwrap();
    for (title, value) in [("ID", id.as_str()), ("JOB", "site "), ("NODE", "node-1 "), ("STARTED", &id[..4])] {
        assert!(row[header.find(title).unwrap()..].starts_with(value), "{title} is not above its column:\n{text}");
    }
    let (code, shown) = site.json(&["show", "site@latest", "--files"]);
    assert_eq!((code, shown["outcome"].as_str()), (Some(0), Some("success")));
    let paths: Vec<&str> =
        shown["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"etc/app/app.conf") && !paths.iter().any(|path| path.contains("left-out")), "{paths:?}");
    for arguments in [&["verify", "--all"][..], &["verify", &id, "--data"]] {
        let (code, verified) = site.json(arguments);
        assert_eq!((code, &verified["ok"]), (Some(0), &Value::Bool(true)), "{verified}");
    }

    let target = site.servers.folder().join("restored");
    let to = target.to_str().unwrap();
    let (code, restored) = site.json(&["restore", &id, "--to", to]);
    assert_eq!(code, Some(0), "{restored}");
    same(&site.tree, &target.join("files"), "*.tmp");
    assert_eq!(fs::read(target.join("dump/dump")).unwrap(), b"the dump\n");
    let (code, refused) = site.json(&["restore", &id, "--to", to]);
    assert_eq!((code, refused["error"]["class"].as_str()), (Some(73), Some("conflict")), "a target that is not empty");

    let part = site.servers.folder().join("part");
    let arguments =
        ["restore", "site@latest", "--item", "files", "--include", "etc/app", "--to", part.to_str().unwrap()];
    let (code, restored) = site.json(&arguments);
    assert_eq!(code, Some(0), "{restored}");
    same(&site.tree.join("etc/app"), &part.join("etc/app"), "*.tmp");
    assert!(!part.join("big.bin").exists());

    let cat = site.run(&["cat", &id, "--item", "dump"]);
    assert_eq!((cat.status.code(), cat.stdout.as_slice()), (Some(0), &b"the dump\n"[..]), "{cat:?}");
}

#[test]
fn the_objects_of_a_full_backup_are_a_plain_archive() {
    let site = Site::new();
    assert_eq!(site.json(&["backup", "site"]).0, Some(0));
    let bucket = site.s3.folder();
    let mut archive = zstd::Decoder::new(Parts::new(
        site.objects().into_iter().filter(|key| key.contains("/files.0")).map(|key| bucket.join(key)),
    ))
    .unwrap();
    let target = site.servers.folder().join("by-tar");
    fs::create_dir(&target).unwrap();
    let mut tar = Command::new("tar").args(["-x", "-p", "-C"]).arg(&target).stdin(Stdio::piped()).spawn().unwrap();
    std::io::copy(&mut archive, tar.stdin.as_mut().unwrap()).unwrap();
    assert!(tar.wait().unwrap().success());
    same(&site.tree, &target, "*.tmp");
}

/// Files read one after the other.
struct Parts(Box<dyn std::io::Read>);

impl Parts {
    fn new(paths: impl Iterator<Item = PathBuf>) -> Self {
        let empty: Box<dyn std::io::Read> = Box::new(std::io::empty());
        Self(paths.fold(empty, |before, path| Box::new(std::io::Read::chain(before, fs::File::open(path).unwrap()))))
    }
}

impl std::io::Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

#[test]
fn standard_input_and_a_command_ad_hoc() {
    let site = Site::new();
    let data = noise(12 << 20, 5);
    let mut child = site.command(&["backup", "--name", "piped", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&data).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(site.run(&["cat", "adhoc@latest"]).stdout == data);
    let (code, _) = site.json(&["backup", "--name", "said", "--", "printf", "%s", "hello"]);
    assert_eq!(code, Some(0));
    let (_, list) = site.json(&["list", "--job", "adhoc"]);
    assert_eq!(list["backups"].as_array().unwrap().len(), 2);
}

#[test]
fn a_failing_command_commits_nothing_and_says_why() {
    let site = Site::new();
    let (code, failed) = site.json(&["backup", "broken"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (Some(74), Some("source")), "{failed}");
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("no such table") && message.contains('3'), "{message}");
    assert_eq!(site.objects(), Vec::<String>::new(), "nothing half is left");
    assert_eq!(site.s3.uploads_in_progress(), 0);
}

#[test]
fn a_signal_aborts_what_is_in_flight() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let site = Site::new();
        let child = site.command(&["--output", "json", "backup", "endless"]).stdout(Stdio::piped()).spawn().unwrap();
        // Not a sleep: the next line waits for the server to have seen a part.
        while !site.s3.seen().iter().any(|request| request.uri.contains("partNumber=2")) {
            std::thread::yield_now();
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(75), "{output:?}");
        let failed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(failed["error"]["class"], "cancelled");
        assert_eq!(site.s3.uploads_in_progress(), 0);
        assert_eq!(site.objects(), Vec::<String>::new());
    }
}

/// Not a list of every manifest that was not read any more.
#[test]
fn a_signal_ends_a_list_with_one_error() {
    let site = Site::new();
    for _ in 0..3 {
        assert_eq!(site.json(&["backup", "site"]).0, Some(0));
    }
    let read = |request: &Seen| request.method == "GET" && request.uri.contains("manifest.json");
    let slow_down = "<Error><Code>SlowDown</Code><Message>m</Message></Error>";
    site.s3.refuse(move |request| read(request).then(|| (503, slow_down.to_owned())));
    let before = site.s3.requests();
    let mut list = site.command(&["--output", "json", "list"]);
    let child = list.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !site.s3.seen()[before..].iter().any(read) {
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&ended["error"]["class"], &ended["errors"]), (&"cancelled".into(), &Value::Null), "{ended}");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn damage_is_found_and_named() {
    let site = Site::new();
    assert_eq!(site.json(&["backup", "site"]).0, Some(0));
    let bucket = site.s3.folder();
    let key = site.objects().into_iter().find(|key| key.ends_with("/files.0002.tar.zst")).unwrap();
    let mut data = fs::read(bucket.join(&key)).unwrap();
    data[1_000_000] ^= 0x10;
    fs::write(bucket.join(&key), data).unwrap();
    let (code, verified) = site.json(&["verify", "--data"]);
    assert_eq!(code, Some(65), "{verified}");
    assert!(verified.to_string().contains(&key), "{verified}");
}

/// A restore past damage, and the way back to whole backups.
#[test]
fn damage_costs_only_what_is_damaged() {
    let site = Site::new();
    let backup = || {
        let (code, saved) = site.json(&["backup", "site"]);
        assert_eq!(code, Some(0), "{saved}");
        format!("site@{}", saved["backups"][0]["id"].as_str().unwrap())
    };
    let restore = |backup: &str, to: &str, more: &[&str]| {
        let target = site.servers.folder().join(to);
        let (code, told) = site.json(&[&["restore", backup, "--to", target.to_str().unwrap()], more].concat());
        (code.unwrap(), told, target)
    };
    let first = backup();
    let key = site.objects().into_iter().find(|key| key.ends_with("/files.0002.tar.zst")).unwrap();
    let object = site.s3.folder().join(&key);
    let mut data = fs::read(&object).unwrap();
    data[1_000_000] ^= 0x10;
    fs::write(&object, data).unwrap();

    let (code, told, target) = restore(&first, "first", &[]);
    assert_eq!((code, told["error"]["class"].as_str()), (65, Some("integrity")), "{told}");
    let damaged = |told: &Value, field: &str| -> Vec<(String, Value)> {
        let list = told["damage"].as_array().unwrap();
        list.iter().map(|file| (file["path"].as_str().unwrap().to_owned(), file[field].clone())).collect()
    };
    let both = |value: Value| vec![("big.bin".to_owned(), value.clone()), ("etc/linked.bin".to_owned(), value)];
    assert_eq!(damaged(&told, "outcome"), both("left-out".into()));
    assert_eq!(damaged(&told, "found_in"), both(Value::Null));
    assert_eq!(fs::read(target.join("dump/dump")).unwrap(), b"the dump\n", "an item behind the damage");
    assert_eq!(fs::read(target.join("files/etc/app/app.conf")).unwrap(), b"port = 1\n");
    assert!(!target.join("files/big.bin").exists() && target.join("files/sparse.img").exists());

    // Without a record the next backup refers to the damage again; with one it stores what is lost.
    let (code, verified) = site.json(&["verify", &backup(), "--data"]);
    assert_eq!((code, &verified["backups"][0]["damage_recorded"]), (Some(65), &Value::Bool(true)), "{verified}");
    let whole = backup();
    let (code, told, target) = restore(&whole, "whole", &["--verify"]);
    // Three files and the dump; a further name of a file is not read again.
    assert_eq!((code, told["read_back"].as_u64()), (0, Some(4)), "{told}");
    same(&site.tree, &target.join("files"), "left-out.tmp");

    let (code, told, _) = restore(&first, "again", &[]);
    let id = whole.strip_prefix("site@").unwrap();
    assert_eq!((code, damaged(&told, "found_in")), (65, both(id.into())), "{told}");
    let (code, told, target) = restore(&first, "healed", &["--heal-from", &whole]);
    assert_eq!((code, damaged(&told, "healed_from")), (1, both(id.into())), "{told}");
    same(&site.tree, &target.join("files"), "left-out.tmp");

    let (code, told, target) = restore(&first, "zeros", &["--damaged", "zero-fill"]);
    assert_eq!((code, &damaged(&told, "outcome")[..]), (65, &[("big.bin".to_owned(), "zero-filled".into())][..]));
    let zeros = &damaged(&told, "zeros")[0].1[0];
    let range = ["start", "end"].map(|end| usize::try_from(zeros[end].as_u64().unwrap()).unwrap());
    let mut expected = noise(21 << 20, 9);
    expected[range[0]..range[1]].fill(0);
    assert!(fs::read(target.join("files/etc/linked.bin")).unwrap() == expected);
    let mut mark = [0; 64];
    let length = rustix::fs::getxattr(target.join("files/big.bin"), "user.penstock.damaged", &mut mark).unwrap();
    assert_eq!(mark[..length], *format!("{}-{}", range[0], range[1] - 1).as_bytes());
}

#[test]
fn a_selection_is_shown_and_leaves_nothing_when_it_is_empty() {
    let site = Site::new();
    assert_eq!(site.json(&["backup", "site"]).0, Some(0));
    let target = site.servers.folder().join("there");
    let restore = |more: &[&str]| {
        let (code, told) = site.json(&[&["restore", "site@latest", "--to", target.to_str().unwrap()], more].concat());
        (code.unwrap(), told)
    };
    let (code, told) = restore(&["--include", "*.conf", "--dry-run"]);
    assert_eq!((code, told["files"].as_u64(), target.exists()), (0, Some(1), false), "{told}");
    for more in [&["--include", "nonesuch"][..], &["--include", "nonesuch", "--dry-run"], &["--exclude", "*"]] {
        let (code, told) = restore(&[more, &["--item", "files"]].concat());
        // `--exclude '*'` leaves the root, which is not called by any name.
        let expected = if more[0] == "--exclude" { 0 } else { 66 };
        assert_eq!((code, target.exists()), (expected, expected == 0), "{told}");
    }
    fs::remove_dir(&target).unwrap();
    let (code, told) = restore(&["--item", "files", "--exclude", "files/etc/app", "--exclude", "big.bin"]);
    assert_eq!((code, told["left_out"].as_u64()), (0, Some(0)), "{told}");
    let mut there: Vec<_> = walk(&target).iter().map(|path| path.strip_prefix(&target).unwrap().to_owned()).collect();
    there.sort();
    assert_eq!(there, ["etc/link", "etc/linked.bin", "sparse.img"].map(PathBuf::from));
    assert_eq!(fs::read(target.join("etc/linked.bin")).unwrap(), noise(21 << 20, 9));
}

#[test]
fn mistakes_get_a_clear_answer() {
    let site = Site::new();
    assert_eq!(site.run(&["backup"]).status.code(), Some(2));
    assert_eq!(site.run(&["backup", "nonesuch"]).status.code(), Some(2));
    let (code, missing) = site.json(&["restore", "site@latest", "--to", "/nonexistent/x"]);
    assert_eq!((code, missing["error"]["class"].as_str()), (Some(66), Some("not-found")));
    fs::write(&site.config, "cluster = 1\nclutser = \"a\"\n").unwrap();
    let (code, refused) = site.json(&["config", "check"]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert_eq!(code, Some(78));
    assert!(message.contains(":1:") && message.contains(":2:") && message.contains("cluster"), "{message}");
}
