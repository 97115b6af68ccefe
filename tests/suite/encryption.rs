//! Encrypted backups with the real binary: who can read them and who cannot, with Penstock and without.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::cluster_backup;
use crate::fake_kubernetes::{ADMIN, FakeKubernetes};
use crate::model::noise;
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};
use crate::tar::facts;

/// A node that has public keys, and a desk that has a private one.
pub(crate) struct Vault {
    pub(crate) servers: Servers,
    pub(crate) s3: S3Server,
    /// Of the two recipients.
    pub(crate) keys: [PathBuf; 2],
    pub(crate) recipients: [String; 2],
    pub(crate) fingerprints: [String; 2],
    pub(crate) tree: PathBuf,
}

impl Vault {
    pub(crate) fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let folder = servers.folder();
        let anywhere = Penstock::new(folder, "");
        let generate = |name: &str| {
            let path = folder.join(name);
            let key = anywhere.good(&["key", "generate", path.to_str().unwrap()]);
            (path, key["recipient"].as_str().unwrap().to_owned(), key["fingerprint"].as_str().unwrap().to_owned())
        };
        let pairs = [generate("operations.txt"), generate("break-glass.txt")];
        let tree = folder.join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("small-name-canary.txt"), "content-canary-of-the-tree").unwrap();
        fs::write(tree.join("large"), noise(9_000_000, 1)).unwrap();
        fs::write(tree.join("empty"), "").unwrap();
        for number in 0..40 {
            fs::write(tree.join(format!("file-{number}")), noise(30_000 + number, 100 + number as u64)).unwrap();
        }
        Self {
            keys: pairs.each_ref().map(|(path, ..)| path.clone()),
            recipients: pairs.each_ref().map(|(_, recipient, _)| recipient.clone()),
            fingerprints: pairs.map(|(.., fingerprint)| fingerprint),
            servers,
            s3,
            tree,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.servers.folder()
    }

    /// The node, whose location has `encryption`.
    pub(crate) fn node_with(&self, encryption: &str) -> Penstock {
        let folder = self.folder().join("node");
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            r#"{head}
{STATIC_KEYS}
{encryption}
[locations.primary.upload]
part_size = "5MiB"
object_size = "7MiB"
[admin]
listen = "127.0.0.1:0"
socket = "{socket}"
[jobs.site]
location = "primary"
[[jobs.site.sources]]
type = "tree"
name = "files"
path = "{tree}"
[[jobs.site.sources]]
type = "command"
name = "dump"
argv = ["sh", "-c", "echo command-canary"]
"#,
            head = self.s3.toml("node-1", &folder.join("state"), &self.s3.url),
            socket = folder.join("control.sock").display(),
            tree = self.tree.display(),
        );
        Penstock::new(&folder, &config)
    }

    /// The node as it should be.
    pub(crate) fn node(&self) -> Penstock {
        let list = self.recipients.each_ref().map(|key| format!("\"{key}\"")).join(", ");
        self.node_with(&format!("[locations.primary.client_encryption]\nrecipients = [{list}]"))
    }

    /// A machine that never made backups, with `first` at the top of its configuration.
    pub(crate) fn desk(&self, first: &str) -> Penstock {
        let folder = self.folder().join("desk");
        fs::create_dir_all(&folder).unwrap();
        let head = self.s3.toml("desk", &folder.join("state"), &self.s3.url);
        Penstock::new(&folder, &format!("{first}\n{head}\n{STATIC_KEYS}\n"))
    }

    pub(crate) fn key(&self) -> &str {
        self.keys[0].to_str().unwrap()
    }

    /// Restores a backup of the tree with these further arguments, and compares.
    fn restored(&self, desk: &Penstock, backup: &str, more: &[&str]) {
        let target = self.folder().join("restored");
        let target_text = target.to_str().unwrap();
        let done = desk.run(&[&["restore", backup, "--item", "files", "--to", target_text], more].concat());
        assert!(done.status.success(), "{done:?}");
        assert_eq!(facts(&target), facts(&self.tree));
        fs::remove_dir_all(target).unwrap();
    }

    /// The files of the bucket whose names end so, sorted.
    pub(crate) fn objects(&self, ending: &str) -> Vec<PathBuf> {
        let found = all_files(&self.s3.folder());
        found.into_iter().filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
    }
}

/// Every file below a folder, sorted.
pub(crate) fn all_files(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => left.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn message(value: &Value) -> (&str, &str) {
    (value["error"]["class"].as_str().unwrap_or("-"), value["error"]["message"].as_str().unwrap_or("-"))
}

#[test]
fn with_either_key_everything_comes_back_and_without_one_the_failure_names_them() {
    let vault = Vault::new();
    vault.node().good(&["backup", "site"]);
    let (desk, key) = (vault.desk(""), vault.key());
    vault.restored(&desk, "site@latest", &["--identity", key]);
    vault.restored(&desk.clone().with("PENSTOCK_IDENTITY_FILE", vault.keys[1].to_str().unwrap()), "site@latest", &[]);
    vault.restored(&vault.desk(&format!("identity_file = \"{key}\"")), "site@latest", &[]);
    let desk = vault.desk("");
    let cat = desk.run(&["cat", "site@latest", "--item", "dump", "--identity", key]);
    assert_eq!(String::from_utf8_lossy(&cat.stdout), "command-canary\n");

    let stranger = vault.folder().join("stranger.txt");
    let made = desk.good(&["key", "generate", stranger.to_str().unwrap()]);
    let stranger = stranger.to_str().unwrap();
    let target = vault.folder().join("never").to_str().unwrap().to_owned();
    for reading in [
        &["restore", "site@latest", "--to", &target][..],
        &["cat", "site@latest", "--item", "dump"],
        &["show", "site@latest", "--files"],
    ] {
        for (more, held) in [(&[][..], "no identity was given"), (&["--identity", stranger], "does not open it")] {
            let (code, value) = desk.json(&[reading, more].concat());
            let (class, message) = message(&value);
            assert_eq!((code, class), (77, "identity"), "{value}");
            assert!(message.contains(held), "{message}");
            assert!(vault.fingerprints.iter().all(|key| message.contains(key)), "{message}");
            assert!(value["error"]["remedy"].as_str().unwrap().contains("--identity"), "{value}");
        }
    }
    assert!(!Path::new(&target).exists());
    let (_, value) = desk.json(&["cat", "site@latest", "--item", "dump", "--identity", stranger]);
    assert!(message(&value).1.contains(made["fingerprint"].as_str().unwrap()), "{value}");
    // A file that is none.
    let (code, value) = desk.json(&["cat", "site@latest", "--item", "dump", "--identity", "/nonexistent"]);
    assert_eq!((code, message(&value).0), (77, "identity"), "{value}");
}

#[test]
fn without_a_key_one_sees_that_there_is_a_backup_and_no_more() {
    let vault = Vault::new();
    vault.node().good(&["backup", "site"]);
    let (desk, key) = (vault.desk(""), vault.key());
    let listed = desk.good(&["list"]);
    let backup = &listed["backups"][0];
    assert_eq!(backup["recipients"], json!(vault.fingerprints));
    let shown = desk.run(&["show", "site@latest"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("(encrypted)") && text.contains(&vault.fingerprints[1]), "{text}");
    assert!(!text.contains("canary") && !text.contains(vault.tree.to_str().unwrap()), "{text}");
    let shown = desk.run(&["show", "site@latest", "--identity", key]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains(vault.tree.to_str().unwrap()) && text.contains("command-canary"), "{text}");
    let files = desk.good(&["show", "site@latest", "--files", "--identity", key]);
    let paths: Vec<&str> = files["files"].as_array().unwrap().iter().filter_map(|file| file["path"].as_str()).collect();
    assert!(paths.contains(&"small-name-canary.txt"), "{paths:?}");

    let checked = desk.good(&["verify", "site@latest"]);
    let backup = &checked["backups"][0];
    assert_eq!((&backup["ok"], &backup["encrypted"]), (&true.into(), &true.into()), "{checked}");
    let items: Vec<_> = backup["not_proven"].as_array().unwrap().iter().map(|row| &row["item"]).collect();
    assert_eq!(items, ["files", "dump"]);
    let text = String::from_utf8(desk.run(&["verify", "site@latest"]).stdout).unwrap();
    assert!(
        text.contains("ok as far as it can be seen without the key\n  not proven: the content of files: "),
        "{text}"
    );
    let (code, checked) = desk.json(&["verify", "site@latest", "--data"]);
    assert_eq!((code, &checked["ok"]), (77, &false.into()), "{checked}");
    let text = String::from_utf8(desk.run(&["verify", "site@latest", "--data"]).stdout).unwrap();
    assert!(text.contains(": NOT PROVEN\n") && text.contains(&vault.fingerprints[0]), "{text}");
    for more in [&[][..], &["--data"]] {
        let checked = desk.good(&[&["verify", "site@latest", "--identity", key], more].concat());
        assert_eq!(checked["backups"][0]["not_proven"], json!([]));
    }
    for command in [&["stats"][..], &["delete", "site@latest", "--dry-run", "--node", "node-1"]] {
        let done = desk.run(command);
        assert!(done.status.success(), "{done:?}");
    }
}

/// `age`, `zstd` and `tar`, as in the restore drill.
#[test]
fn a_full_backup_is_restored_by_age_zstd_and_tar() {
    let vault = Vault::new();
    vault.node().good(&["backup", "site"]);
    let objects = vault.objects(".tar.zst.age");
    assert!(objects.len() >= 2, "{objects:?}");
    for key in &vault.keys {
        let target = vault.folder().join("by-hand");
        fs::create_dir(&target).unwrap();
        let script = r#"set -euo pipefail; key=$1 target=$2; shift 2
            for object; do cat "$object" | age -d -i "$key"; done | zstd -d | tar -xpC "$target" --xattrs --xattrs-include='*' --numeric-owner"#;
        let done =
            Command::new("bash").args(["-c", script, "bash"]).args([key, &target]).args(&objects).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(facts(&target), facts(&vault.tree));
        fs::remove_dir_all(target).unwrap();
    }
    let [dump] = &vault.objects("dump.0001.zst.age")[..] else { panic!("{:?}", vault.objects("")) };
    let script = r#"set -o pipefail; age -d -i "$1" "$2" | zstd -d"#;
    let done = Command::new("bash").args(["-c", script, "bash"]).args([&vault.keys[0], dump]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "command-canary\n", "{done:?}");
}

#[test]
fn one_file_of_an_encrypted_backup_costs_few_requests() {
    let vault = Vault::new();
    vault.node().good(&["backup", "site"]);
    let (desk, target) = (vault.desk(""), vault.folder().join("one"));
    let before = vault.s3.requests();
    let include = ["--include", "file-7", "--to", target.to_str().unwrap(), "--identity", vault.key()];
    desk.good(&[&["restore", "site@latest", "--item", "files"][..], &include].concat());
    let requests = vault.s3.requests() - before;
    assert_eq!(fs::read(target.join("file-7")).unwrap(), fs::read(vault.tree.join("file-7")).unwrap());
    assert!(requests <= 12, "{requests}");
}

#[test]
fn chains_that_were_switched_are_restored_whole() {
    let vault = Vault::new();
    let (plain, encrypted, desk) = (vault.node_with(""), vault.node(), vault.desk(""));
    // One file of configuration: the last that was made is in force.
    let mut kept = Vec::new();
    let mut save = |node: &Penstock, number: u64, more: &[&str]| {
        fs::write(vault.tree.join("changes"), noise(50_000, number)).unwrap();
        let saved = node.good(&[&["backup", "site"], more].concat());
        let id = saved["backups"][0]["id"].as_str().or(saved["id"].as_str()).unwrap().to_owned();
        let manifest = desk.good(&["show", &id]);
        kept.push((id, facts(&vault.tree)));
        manifest
    };
    vault.node_with("");
    save(&plain, 1, &[]);
    let second = save(&plain, 2, &[]);
    assert!(second["parent"].is_string());
    vault.node();
    let third = save(&encrypted, 3, &[]);
    assert!(third["parent"].is_null() && third["encryption"]["recipients"].is_array(), "{third:#}");
    let fourth = save(&encrypted, 4, &[]);
    assert_eq!(fourth["parent"], third["id"]);
    vault.node_with("");
    let (code, refused) = plain.json(&["backup", "site"]);
    assert!(code != 0 && refused.to_string().contains("--allow-plain"), "{refused}");
    let fifth = save(&plain, 5, &["--allow-plain"]);
    assert!(fifth["parent"].is_null() && fifth["encryption"].is_null());
    vault.node();
    save(&encrypted, 6, &[]);
    for (id, expected) in kept {
        let target = vault.folder().join(&id);
        let to = ["--item", "files", "--to", target.to_str().unwrap(), "--identity", vault.key()];
        desk.good(&[&["restore", &id][..], &to].concat());
        assert_eq!(facts(&target), expected, "{id}");
    }
    let checked = desk.good(&["verify", "--all", "--data", "--identity", vault.key()]);
    assert_eq!(checked["backups"].as_array().unwrap().len(), 6);
}

#[test]
fn what_was_changed_in_the_bucket_is_found() {
    let vault = Vault::new();
    vault.node().good(&["backup", "site"]);
    let (desk, objects) = (vault.desk(""), vault.objects(".tar.zst.age"));
    let contents: Vec<Vec<u8>> = objects.iter().map(|path| fs::read(path).unwrap()).collect();
    let prefix = contents[0].windows(5).position(|window| window == b"\n--- ").unwrap() + 1 + 48 + 16;
    let chunk = 65_552;
    let mut swapped = contents[0].clone();
    swapped[prefix..prefix + 2 * chunk].rotate_left(chunk);
    let mut bit = contents[0].clone();
    bit[prefix + 3 * chunk] ^= 1;
    for (what, data) in [
        ("cut", contents[0][..contents[0].len() - 1].to_vec()),
        ("cut at a chunk", contents[0][..prefix + chunk].to_vec()),
        ("swapped chunks", swapped),
        ("another object of the backup", contents[1].clone()),
        ("another object's payload", [&contents[0][..prefix], &contents[1][prefix..]].concat()),
        ("a bit", bit),
        ("a header that does not end", [b"age-encryption.org/v1\n-> ".to_vec(), vec![b'a'; 200_000]].concat()),
    ] {
        fs::write(&objects[0], data).unwrap();
        let target = vault.folder().join("damaged");
        let to = ["--item", "files", "--to", target.to_str().unwrap(), "--identity", vault.key()];
        let (code, value) = desk.json(&[&["restore", "site@latest"][..], &to].concat());
        assert_eq!((code, message(&value).0), (65, "integrity"), "{what}: {value}");
        let (code, _) = desk.json(&["verify", "site@latest", "--data", "--identity", vault.key()]);
        assert_eq!(code, 65, "{what}");
        fs::remove_dir_all(target).unwrap();
    }
    fs::write(&objects[0], &contents[0]).unwrap();
    vault.restored(&desk, "site@latest", &["--identity", vault.key()]);
}

/// API objects are a stream too: `kubernetes objects`, `diff`, `plan` and `restore` read it with a key and say whose is missing without.
#[test]
fn the_objects_of_a_cluster_are_encrypted_too() {
    let vault = Vault::new();
    let fake = FakeKubernetes::start(&vault.servers);
    let kubeconfig = fake.kubeconfig(&vault.servers, "admin", ADMIN);
    fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop-name-canary" } }));
    let secret = json!({ "type": "Opaque", "metadata": { "name": "s" }, "data": { "password": "Y2FuYXJ5LW9mLXRoZS1zZWNyZXQ=" } });
    fake.make("/api/v1/namespaces/shop-name-canary/secrets", &secret);
    let folder = vault.folder().join("cluster");
    fs::create_dir_all(&folder).unwrap();
    let head = vault.s3.toml("cluster", &folder.join("state"), &vault.s3.url);
    let encryption = format!("[locations.primary.client_encryption]\nrecipients = [\"{}\"]", vault.recipients[0]);
    let config = cluster_backup::config(&head, &kubeconfig, "");
    let agent = Penstock::new(&folder, &format!("{config}\n{encryption}\n"));
    agent.good(&["backup", "cluster"]);
    for path in vault.objects("") {
        let bytes = fs::read(&path).unwrap();
        for canary in [&b"shop-name-canary"[..], b"Y2FuYXJ5", b"canary-of-the-secret"] {
            assert!(memchr::memmem::find(&bytes, canary).is_none(), "{}", path.display());
        }
    }
    let listed = agent.good(&["kubernetes", "objects", "cluster@latest", "--identity", vault.key()]);
    assert!(listed.to_string().contains("shop-name-canary"), "{listed}");
    let yaml =
        ["kubernetes", "objects", "cluster@latest", "--yaml", "secret/shop-name-canary/s", "--identity", vault.key()];
    assert_eq!(agent.good(&yaml)["data"]["password"], "Y2FuYXJ5LW9mLXRoZS1zZWNyZXQ=");
    let same = agent.good(&["kubernetes", "diff", "cluster@latest", "--identity", vault.key()]);
    assert_eq!(same["same"], true, "{same}");
    for command in ["plan", "restore"] {
        let done = agent.good(&["kubernetes", command, "cluster@latest", "--identity", vault.key()]);
        assert!(done.is_object(), "{done}");
    }
    for command in ["objects", "diff", "plan", "restore"] {
        let (code, value) = agent.json(&["kubernetes", command, "cluster@latest"]);
        assert_eq!((code, message(&value).0), (77, "identity"), "{command}: {value}");
        assert!(message(&value).1.contains(&vault.fingerprints[0]), "{value}");
    }
    let shown = String::from_utf8(agent.run(&["show", "cluster@latest"]).stdout).unwrap();
    assert!(!shown.contains("shop-name-canary") && shown.contains("(encrypted)"), "{shown}");
}

#[test]
fn validate_proves_it_on_the_node_and_at_the_desk() {
    let vault = Vault::new();
    let line = |proof: &Value| {
        let checks = proof["locations"][0]["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "client encryption").unwrap();
        (check["state"].as_str().unwrap().to_owned(), check["message"].as_str().unwrap().to_owned())
    };
    let node = vault.node();
    let (_, proof) = node.json(&["validate", "--skip", "ec2"]);
    let (state, text) = line(&proof);
    assert!(state == "passed" && text.contains("not decrypted") && text.contains(&vault.fingerprints[0]), "{text}");
    let (_, proof) = node.json(&["validate", "--skip", "ec2", "--identity", vault.key()]);
    let (state, text) = line(&proof);
    assert!(state == "passed" && text.contains("and decrypted with"), "{text}");
    assert_eq!(vault.objects("encrypted.age"), Vec::<PathBuf>::new());
}

#[test]
fn keys_are_made_once_for_their_owner_and_shown_without_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let (penstock, path) = (Penstock::new(folder.path(), ""), folder.path().join("key.txt"));
    let name = path.to_str().unwrap();
    let made = penstock.run(&["key", "generate", name]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let public = lines[1].strip_prefix("# public key: ").unwrap();
    assert!(lines[0].starts_with("# created: 20") && lines[2].starts_with("AGE-SECRET-KEY-1") && lines.len() == 3);
    assert_eq!(String::from_utf8_lossy(&made.stdout), format!("Public key: {public}\n"));
    let (code, again) = penstock.json(&["key", "generate", name]);
    assert_eq!((code, message(&again).0), (73, "conflict"), "{again}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);

    let shown = penstock.good(&["key", "show", name]);
    assert_eq!(shown["keys"][0]["recipient"], public);
    let print =
        Command::new("sh").args(["-c", &format!("printf %s {public} | sha256sum | cut -c1-16")]).output().unwrap();
    assert_eq!(shown["keys"][0]["fingerprint"], String::from_utf8_lossy(&print.stdout).trim());
    let recipients = folder.path().join("recipients");
    fs::write(&recipients, format!("# operators\n{public}\n")).unwrap();
    assert_eq!(penstock.good(&["key", "show", recipients.to_str().unwrap()]), shown);
    let pipe = format!("cat {name} | {} key show --output json /dev/stdin", env!("CARGO_BIN_EXE_penstock"));
    let piped = Command::new("sh").args(["-c", &pipe]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&piped.stdout).unwrap(), shown, "through a pipe, which is read once");
    // Written for somebody else: age reads it.
    let read = Command::new("age-keygen").args(["-y", name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stdout).trim(), public);

    let piped = penstock.run(&["key", "generate", "-"]);
    assert!(piped.status.success() && String::from_utf8_lossy(&piped.stdout).contains("\nAGE-SECRET-KEY-1"));
    assert_eq!(penstock.json(&["key", "generate", "-"]).0, 2, "not into JSON");
    // Protected by a passphrase: refused, with what to do.
    let sealed = folder.path().join("key.age");
    let mut encrypt =
        Command::new("age").args(["-r", public, "-o"]).arg(&sealed).arg(&path).stdin(Stdio::null()).spawn().unwrap();
    assert!(encrypt.wait().unwrap().success());
    let (code, refused) = penstock.json(&["key", "show", sealed.to_str().unwrap()]);
    assert_eq!((code, message(&refused).0), (77, "identity"), "{refused}");
    assert!(refused["error"]["remedy"].as_str().unwrap().contains("age --decrypt"), "{refused}");
    // A private key in the nodes' file of public ones: found before a run would.
    let config = |file: &Path| {
        let site = "cluster = \"c\"\nnode = \"n\"\n[locations.primary]\nprovider = \"aws\"\nbucket = \"bbb\"\nregion = \"us-east-1\"\n";
        let text = format!("{site}[locations.primary.client_encryption]\nrecipients_file = \"{}\"\n", file.display());
        Penstock::new(folder.path(), &text)
    };
    assert!(config(&recipients).run(&["config", "check"]).status.success());
    let refused = config(&path).run(&["config", "check"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(78) && said.contains("identity") && !said.contains("AGE-SECRET"), "{said}");
    let elsewhere = config(Path::new("/no/such/recipients")).run(&["config", "check"]);
    assert!(elsewhere.status.success() && String::from_utf8_lossy(&elsewhere.stdout).contains("not checked"));
    for output in [made, piped] {
        assert!(!String::from_utf8_lossy(&output.stderr).contains("SECRET"));
    }
}
