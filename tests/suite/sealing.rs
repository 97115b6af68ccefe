//! What a node writes when it encrypts, read with nothing of Penstock: Debian's `age`, `zstd` and GNU tar.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use penstock::age::{self, Identity};
use penstock::format::index::{self, Chunk, Record};
use penstock::format::manifest::{Manifest, Stream};
use serde_json::Value;

use crate::daemon_site::wait_for;
use crate::faults::noise;
use crate::faults::proxy::{Fault, Moment, Operation, Proxy};
use crate::servers::{S3Server, STATIC_KEYS, Servers};
use crate::tar::facts;

/// In names, in contents, in commands: nowhere but in what is encrypted.
const CANARY: &str = "canary-in-the-mine";

const SOON: Duration = Duration::from_secs(60);

struct Node {
    servers: Servers,
    s3: S3Server,
    proxy: Proxy,
    identity: PathBuf,
    recipient: String,
}

impl Node {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3_with_uploads();
        let proxy = servers.proxy(&s3);
        let identity = servers.folder().join("identity");
        let recipient = keygen(&identity);
        let node = Self { servers, s3, proxy, identity, recipient };
        fs::create_dir(node.tree()).unwrap();
        node.configure(&node.to_us());
        node
    }

    fn folder(&self) -> &Path {
        self.servers.folder()
    }

    fn tree(&self) -> PathBuf {
        self.folder().join("tree")
    }

    fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    fn to_us(&self) -> String {
        format!("recipients = [\"{}\"]", self.recipient)
    }

    /// `encryption` are the lines of `client_encryption`.
    fn configure(&self, encryption: &str) {
        let text = format!(
            r#"{head}
{STATIC_KEYS}
[locations.primary.upload]
part_size = "5MiB"
object_size = "12MiB"
concurrency = 3
sign_payload = "never"
[locations.primary.client_encryption]
{encryption}
[jobs.j]
location = "primary"
retention = {{ keep_last = 1, grace = "0s" }}
[[jobs.j.sources]]
type = "tree"
name = "files"
path = "{tree}"
"#,
            head = self.s3.toml("node-1", &self.state(), &self.proxy.url),
            tree = self.tree().display(),
        );
        fs::write(self.folder().join("penstock.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.args(["--output", "json", "--config"]).arg(self.folder().join("penstock.toml")).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn write(&self, name: &str, data: impl AsRef<[u8]>) {
        fs::write(self.tree().join(name), data).unwrap();
    }

    /// Makes a backup. Returns its manifest, and the log.
    fn backup(&self, arguments: &[&str]) -> (Manifest, String) {
        let output = self.run(&[&["backup", "j"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let id = value["backups"][0]["id"].as_str().or(value["id"].as_str()).unwrap_or_else(|| panic!("{value}"));
        (self.manifest(id), String::from_utf8(output.stderr).unwrap())
    }

    fn manifest(&self, id: &str) -> Manifest {
        let path = self.s3.folder().join(format!("test/j/node-1/{id}/manifest.json"));
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    /// An object of the bucket, decrypted by `age`.
    fn decrypted(&self, key: &str) -> Vec<u8> {
        let mut command = Command::new("age");
        let output = command.args(["-d", "-i"]).arg(&self.identity).arg(self.s3.folder().join(key)).output().unwrap();
        assert!(output.status.success(), "{key}: {output:?}");
        output.stdout
    }

    /// A backup's tree as a stranger restores it: the chunks in the order of the index, from objects that `age` decrypted.
    fn restored(&self, manifest: &Manifest) -> PathBuf {
        let (_, stream) = manifest.streams().next().unwrap();
        let objects: Vec<Vec<u8>> = stream.objects.iter().map(|object| self.decrypted(object.key.as_str())).collect();
        for (object, payload) in stream.objects.iter().zip(&objects) {
            assert_eq!(object.payload, Some(payload.len() as u64), "{}", object.key);
            assert_eq!(fs::metadata(self.s3.folder().join(object.key.as_str())).unwrap().len(), object.size);
        }
        let frame = |chunk: Chunk| {
            let start = usize::try_from(chunk.offset).unwrap();
            objects[chunk.object as usize][start..start + chunk.stored_len as usize].to_vec()
        };
        let frames: Vec<u8> = self.chunks(stream).into_iter().flat_map(frame).collect();
        self.unpacked(&manifest.id.to_string(), &frames)
    }

    fn chunks(&self, stream: &Stream) -> Vec<Chunk> {
        let index = self.decrypted(stream.index.key.as_str());
        let mut records = index::open(index.as_slice(), stream).unwrap();
        let mut chunks = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            if let Record::Chunk(chunk) = record {
                chunks.push(chunk);
            }
        }
        chunks
    }

    /// `zstd -d | tar x`.
    fn unpacked(&self, name: &str, frames: &[u8]) -> PathBuf {
        let folder = self.folder().join(format!("restored-{name}"));
        fs::create_dir(&folder).unwrap();
        let stored = self.folder().join(format!("{name}.tar.zst"));
        fs::write(&stored, frames).unwrap();
        let line = format!("zstd -dc {} | tar -C {} --xattrs -xp", stored.display(), folder.display());
        let output = Command::new("sh").args(["-c", &line]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        folder
    }

    fn is_restored(&self, manifest: &Manifest) {
        assert!(facts(&self.restored(manifest)) == facts(&self.tree()), "{}", manifest.id);
    }

    fn objects(&self) -> Vec<String> {
        let mut files = Vec::new();
        walk(&self.s3.folder(), &mut files);
        files.iter().map(|file| file.strip_prefix(self.s3.folder()).unwrap().display().to_string()).collect()
    }

    /// Files, of the bucket and of the state directory, with a canary in their name or content.
    fn canaries(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(&self.s3.folder(), &mut files);
        walk(&self.state(), &mut files);
        assert!(files.len() > 4);
        files.retain(|file| has_canary(file.to_string_lossy().as_bytes()) || has_canary(&fs::read(file).unwrap()));
        files
    }
}

fn keygen(file: &Path) -> String {
    let made = Command::new("age-keygen").arg("-o").arg(file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = Command::new("age-keygen").arg("-y").arg(file).output().unwrap();
    String::from_utf8(shown.stdout).unwrap().trim().to_owned()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

fn has_canary(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, CANARY.as_bytes()).is_some()
}

#[test]
fn a_stranger_with_the_key_restores_it_and_one_without_finds_no_name() {
    let node = Node::new();
    for number in 0..40 {
        node.write(&format!("{CANARY}-{number}"), format!("{CANARY} ").repeat(1 << (number % 14)));
    }
    node.write("large", noise(17 << 20, 1));
    std::os::unix::fs::symlink(format!("{CANARY}-1"), node.tree().join("link")).unwrap();
    let unreadable = node.tree().join(format!("{CANARY}-unreadable"));
    fs::write(&unreadable, "nobody's").unwrap();
    fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    // It cannot be read without the capabilities of root: the warning names it.
    let plain = node.command(&["backup", "j"]);
    let without = "-dac_override,-dac_read_search";
    let mut command = Command::new("setpriv");
    command.args([format!("--bounding-set={without}"), format!("--inh-caps={without}")]);
    let output = command.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("unreadable"), "{output:?}");
    let id = fs::read_dir(node.s3.folder().join("test/j/node-1")).unwrap().next().unwrap().unwrap().file_name();
    let mut manifest = node.manifest(id.to_str().unwrap());
    assert_eq!(node.canaries(), Vec::<PathBuf>::new());
    fs::remove_file(unreadable).unwrap();
    // Two objects, of several parts; together a whole archive.
    let (_, stream) = manifest.streams().next().unwrap();
    assert_eq!(stream.objects.len(), 2, "{:?}", node.objects());
    let whole: Vec<u8> = stream.objects.iter().flat_map(|object| node.decrypted(object.key.as_str())).collect();
    let mut expected = facts(&node.tree());
    let mut restored = facts(&node.unpacked("drill", &whole));
    // The file's removal changed the root.
    expected.remove(&b"."[..]);
    restored.remove(&b"."[..]);
    assert!(restored == expected);
    assert_eq!((manifest.warnings.count, manifest.warnings.list.len()), (1, 0));
    let identities = age::identities(&fs::read(&node.identity).unwrap()).unwrap();
    manifest.unseal(&identities).unwrap();
    assert!(manifest.warnings.list[0].path.ends_with(&format!("{CANARY}-unreadable")));
    let fingerprint = identities[0].recipient().fingerprint();
    let encryption = manifest.encryption.as_ref().unwrap();
    assert_eq!((&encryption.recipients, &encryption.readers), (&vec![fingerprint], &vec![fingerprint]));
    let json = fs::read_to_string(node.s3.folder().join(format!("test/j/node-1/{}/manifest.json", manifest.id)));
    let json: Value = serde_json::from_str(&json.unwrap()).unwrap();
    assert_eq!(json["features"], serde_json::json!(["age"]));
}

#[test]
fn a_node_deduplicates_what_it_cannot_read() {
    let node = Node::new();
    node.write("large", noise(9 << 20, 1));
    node.write(CANARY, "small");
    std::os::unix::fs::symlink(CANARY, node.tree().join("link")).unwrap();
    fs::hard_link(node.tree().join(CANARY), node.tree().join("z-other-name")).unwrap();
    let (first, _) = node.backup(&[]);
    // Files count as unchanged only if they changed some seconds before the first backup began.
    settle();
    let (second, log) = node.backup(&[]);
    assert_eq!(second.parent.as_ref(), Some(&first.id), "{log}");
    let (_, stream) = second.streams().next().unwrap();
    assert!(stream.new_bytes < 100_000, "{} bytes are new", stream.new_bytes);
    node.is_restored(&second);
    node.write("more", noise(1 << 20, 2));
    fs::remove_file(node.tree().join("link")).unwrap();
    std::os::unix::fs::symlink("elsewhere", node.tree().join("link")).unwrap();
    let (third, _) = node.backup(&[]);
    assert_eq!(third.parent.as_ref(), Some(&second.id));
    node.is_restored(&third);
    assert_eq!(node.canaries(), Vec::<PathBuf>::new());
    let tables: Vec<String> = names(&node.state().join("tables/primary/j/node-1"));
    assert_eq!(tables.len(), 2, "one table, and what it is of: {tables:?}");
    // What no kept backup refers to is deleted; what the last one refers to stays.
    let pruned = node.run(&["prune"]);
    assert_eq!(pruned.status.code(), Some(0), "{pruned:?}");
    assert_eq!(node.objects().iter().filter(|key| key.ends_with("manifest.json")).count(), 1, "{:?}", node.objects());
    node.is_restored_again(&third);
}

impl Node {
    fn is_restored_again(&self, manifest: &Manifest) {
        fs::remove_dir_all(self.folder().join(format!("restored-{}", manifest.id))).unwrap();
        self.is_restored(manifest);
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Waits until what was written counts as settled in a backup that begins now.
fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(3100));
}

#[test]
fn without_its_table_a_backup_is_a_full_one_and_says_what_that_costs() {
    let node = Node::new();
    node.write("large", noise(6 << 20, 1));
    let (first, _) = node.backup(&[]);
    fs::remove_dir_all(node.state().join("tables")).unwrap();
    let (second, log) = node.backup(&[]);
    assert_eq!(second.parent, None);
    let stored = first.streams().next().unwrap().1.stored_bytes;
    assert!(log.contains("this is a full backup") && log.contains(&stored.to_string()), "{log}");
    assert!(log.contains("index_identity_file"), "{log}");
    // Damage is no better, and a table of an older backup is: it is the parent then.
    let (third, _) = node.backup(&[]);
    assert_eq!(third.parent.as_ref(), Some(&second.id));
    for name in names(&node.state().join("tables/primary/j/node-1")) {
        if name.rsplit_once('.').is_some_and(|(_, kind)| kind == "index") {
            fs::write(node.state().join("tables/primary/j/node-1").join(name), "damage").unwrap();
        }
    }
    let (fourth, log) = node.backup(&[]);
    assert_eq!(fourth.parent, None);
    assert!(log.contains("SHA-256 is wrong"), "{log}");
    node.is_restored(&fourth);
}

/// As nodes that come and go: the state directory is lost, and the index's identity is all that an agent has.
#[test]
fn with_the_indexs_identity_a_node_without_state_deduplicates_and_still_reads_no_content() {
    let node = Node::new();
    let agent = node.folder().join("agent");
    keygen(&agent);
    node.configure(&format!("{}\nindex_identity_file = \"{}\"", node.to_us(), agent.display()));
    node.write("large", noise(6 << 20, 1));
    node.write("unread", "x");
    std::os::unix::fs::symlink("large", node.tree().join("link")).unwrap();
    let (first, _) = node.backup(&[]);
    settle();
    fs::remove_dir_all(node.state()).unwrap();
    node.write("more", noise(1 << 20, 2));
    let (second, log) = node.backup(&[]);
    assert_eq!(second.parent.as_ref(), Some(&first.id), "{log}");
    let (_, stream) = second.streams().next().unwrap();
    assert!(stream.new_bytes < 1_200_000, "{} bytes are new", stream.new_bytes);
    node.is_restored(&second);
    let opens = |key: &str| {
        let mut command = Command::new("age");
        let output = command.args(["-d", "-i"]).arg(&agent).arg(node.s3.folder().join(key)).output().unwrap();
        output.status.success()
    };
    assert!(opens(stream.index.key.as_str()) && !opens(stream.objects[0].key.as_str()));
    // A key that reads content is none for agents.
    node.configure(&format!("{}\nindex_identity_file = \"{}\"", node.to_us(), node.identity.display()));
    let refused = node.run(&["backup", "j"]);
    let value: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), value["error"]["class"].as_str()), (Some(78), Some("config")), "{value}");
    assert!(value["error"]["message"].as_str().unwrap().contains("reads content too"), "{value}");
}

#[test]
fn switching_on_is_a_full_backup_and_switching_off_is_refused() {
    let node = Node::new();
    node.configure("");
    node.write("large", noise(6 << 20, 1));
    let (plain, _) = node.backup(&[]);
    assert!(plain.encryption.is_none());
    node.configure(&node.to_us());
    let (first, log) = node.backup(&[]);
    assert_eq!(first.parent, None);
    assert!(log.contains("this is a full backup: the last backup is not encrypted and this one is"), "{log}");
    node.configure("");
    let before = node.objects();
    let refused = node.run(&["backup", "j"]);
    let value: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((refused.status.code(), value["error"]["class"].as_str()), (Some(78), Some("config")), "{value}");
    assert!(value["error"]["message"].as_str().unwrap().contains(first.id.as_str()), "{value}");
    assert!(value["error"]["remedy"].as_str().unwrap().contains("--allow-plain"), "{value}");
    let full = node.run(&["backup", "j", "--full"]);
    assert_eq!(full.status.code(), Some(78), "a full backup is plain as well: {full:?}");
    // Also where the node has forgotten its tables: the chain says so.
    fs::remove_dir_all(node.state().join("tables")).unwrap();
    for more in [&[][..], &["--full"], &["--force"]] {
        let forgotten = node.run(&[&["backup", "j"], more].concat());
        assert_eq!(forgotten.status.code(), Some(78), "{more:?}: {forgotten:?}");
    }
    assert_eq!(node.objects(), before, "nothing was stored");
    let (allowed, log) = node.backup(&["--allow-plain"]);
    assert_eq!((allowed.parent, allowed.encryption), (None, None), "{log}");
    // A mixed chain goes on, and is pruned.
    node.configure(&node.to_us());
    let (again, _) = node.backup(&[]);
    assert!(again.parent.is_none() && again.encryption.is_some());
    node.is_restored(&again);
    assert_eq!(node.run(&["prune"]).status.code(), Some(0));
    let left = node.objects();
    assert!(left.iter().all(|key| key.contains(again.id.as_str())), "{left:?}");
}

#[test]
fn recipients_that_are_all_new_begin_anew_and_one_more_does_not() {
    let node = Node::new();
    node.write("large", noise(6 << 20, 1));
    let (first, _) = node.backup(&[]);
    let other = keygen(&node.folder().join("other"));
    node.configure(&format!("recipients = [\"{}\", \"{other}\"]", node.recipient));
    let (second, _) = node.backup(&[]);
    assert_eq!(second.parent.as_ref(), Some(&first.id));
    let encryption = second.encryption.unwrap();
    // The new one reads what is new, and not all of it.
    assert_eq!((encryption.recipients.len(), encryption.readers.len()), (2, 1));
    node.configure(&format!("recipients = [\"{other}\"]"));
    let (third, log) = node.backup(&[]);
    assert_eq!(third.parent, None);
    assert!(log.contains("none of the recipients can read the objects of the last backup"), "{log}");
}

/// The parts that the store has of uploads in progress, by their file names.
fn parts(node: &Node) -> Vec<(String, Vec<u8>)> {
    let root = node.s3.folder().parent().unwrap().to_owned();
    let is_part = |name: &String| name.starts_with(".upload_id-") || name.contains(".part-");
    names(&root).into_iter().filter(is_part).map(|name| (name.clone(), fs::read(root.join(name)).unwrap())).collect()
}

impl Node {
    /// Runs a backup that is killed with SIGKILL at a request.
    fn killed(&self, operation: Operation, count: usize, moment: Moment) {
        let mut program = self.command(&["backup", "j", "--full"]);
        let status = self.proxy.run_killed(&mut program, operation, count, moment);
        assert!(status.code().is_none(), "{operation:?} {count}: {status}");
    }
}

/// SIGKILL at several moments, with a source that stays as it is, or changes in the middle. Whatever the store got of an upload, it gets
/// again byte for byte or never again; and what is committed is the source.
#[test]
fn a_killed_upload_is_resumed_with_the_same_bytes_or_given_up() {
    let node = Node::new();
    node.write("a-large", noise(22 << 20, 1));
    let (mut resumed, mut given_up, mut compared) = (0, 0, 0);
    for (round, (operation, count, moment, changes)) in [
        (Operation::UploadPart, 1, Moment::BeforeAnswer, false),
        (Operation::UploadPart, 2, Moment::InBody(1 << 20), true),
        (Operation::Complete, 0, Moment::Head, false),
        (Operation::Complete, 0, Moment::BeforeAnswer, true),
        (Operation::UploadPart, 4, Moment::BeforeAnswer, false),
    ]
    .into_iter()
    .enumerate()
    {
        node.killed(operation, count, moment);
        let before = parts(&node);
        if changes {
            // In the first part of the first object, so that whatever was sent is something else now.
            let mut data = fs::read(node.tree().join("a-large")).unwrap();
            data[1_000_000] ^= 1;
            node.write("a-large", data);
        }
        let (manifest, log) = node.backup(&["--full"]);
        resumed += usize::from(log.contains("resuming an interrupted upload"));
        given_up += usize::from(log.contains("reading the source again"));
        let (_, stream) = manifest.streams().next().unwrap();
        for object in &stream.objects {
            let stored = fs::read(node.s3.folder().join(object.key.as_str())).unwrap();
            compared += same_where_resumed(&before, &stored);
        }
        node.is_restored(&manifest);
        let left = fs::read_dir(node.state().join("uploads")).unwrap().count();
        assert_eq!((node.s3.uploads_in_progress(), left), (0, 0), "round {round}");
    }
    assert!(resumed >= 2 && given_up >= 1 && compared >= 2, "{resumed} resumed, {given_up} given up, {compared} parts");
}

/// How many of the parts are of this object, by the wrapped key in its header; each must stand in it unchanged.
fn same_where_resumed(parts: &[(String, Vec<u8>)], stored: &[u8]) -> usize {
    const PART: usize = 5 << 20;
    let number = |name: &str| name.rsplit_once("part-").and_then(|(_, number)| number.parse::<usize>().ok());
    let upload = |name: &str| name.rsplit_once("part-").map(|(upload, _)| upload.to_owned());
    let first = parts.iter().find(|(name, data)| number(name) == Some(1) && data[..150] == stored[..150]);
    let Some(id) = first.and_then(|(name, _)| upload(name)) else { return 0 };
    let of_it: Vec<_> = parts.iter().filter(|(name, _)| upload(name).as_ref() == Some(&id)).collect();
    for (name, data) in &of_it {
        let at = (number(name).unwrap() - 1) * PART;
        assert!(stored[at..at + data.len()] == data[..], "{name} was stored with two contents under one key");
    }
    of_it.len()
}

/// A daemon with one job.
struct Daemon<'a> {
    node: &'a Node,
    process: std::process::Child,
}

impl<'a> Daemon<'a> {
    /// With its control socket open. `lines` are of the job.
    fn start(node: &'a Node, lines: &str) -> Self {
        let file = node.folder().join("penstock.toml");
        let config = fs::read_to_string(&file).unwrap().replace("[jobs.j]\n", &format!("[jobs.j]\n{lines}\n"));
        let socket = node.folder().join("control.sock");
        let admin = format!("admin = {{ listen = \"127.0.0.1:0\", socket = \"{}\" }}", socket.display());
        fs::write(file, format!("{admin}\n{config}")).unwrap();
        let daemon = Self { node, process: node.command(&["run"]).stderr(Stdio::null()).spawn().unwrap() };
        wait_for("the daemon's answer", SOON, || node.run(&["status"]).status.success().then_some(()));
        daemon
    }

    /// Runs the job, and returns what of it is in the daemon's memory as soon as the daemon says that the run has ended.
    fn run_and_look(&self) -> (Output, Vec<String>) {
        let ended = self.node.run(&["trigger", "j", "--wait"]);
        let found = in_memory(self.process.id());
        // Each line of a large file is found.
        (ended, found.into_iter().take(3).collect())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Backups in a daemon, and after each of them the daemon's memory: nothing of what was read is in it, nor in the bucket, nor on the disk.
#[test]
fn after_a_run_nothing_that_was_read_is_in_memory_or_on_the_disk() {
    let node = Node::new();
    for number in 0..3000 {
        node.write(&format!("{CANARY}-{number}"), format!("{CANARY} {number}\n").repeat(1 + number % 700));
    }
    node.write("large", noise(13 << 20, 1));
    let daemon = Daemon::start(&node, "");
    // From the second on with a parent, and with memory that the first run freed.
    for round in 0..6 {
        node.write("more", format!("{CANARY} {round} more\n").repeat(100_000));
        let (ended, found) = daemon.run_and_look();
        assert!(ended.status.success(), "round {round}: {ended:?}");
        assert_eq!(found, Vec::<String>::new(), "round {round}");
    }
    assert_eq!(node.canaries(), Vec::<PathBuf>::new());
}

/// A run ends in the middle: chunks are in every stage, and the source is being read.
#[test]
fn after_a_run_that_fails_nothing_that_was_read_is_in_memory_or_open() {
    let node = Node::new();
    let mut text = String::new();
    for (number, word) in noise(8 << 20, 3).chunks_exact(8).enumerate() {
        writeln!(text, "{CANARY} {number} {:x}", u64::from_ne_bytes(word.try_into().unwrap())).unwrap();
    }
    node.write("large", text);
    let open = node.folder().join("open");
    let command = format!("(echo class $PENSTOCK_CLASS; ls -l /proc/$PPID/fd) >> {}", open.display());
    let daemon = Daemon::start(&node, &format!("after = [[\"sh\", \"-c\", \"{command}\"]]"));
    for part in [0, 1, 2, 0, 1, 2] {
        node.proxy.script(move |operation, before| {
            (operation == Operation::UploadPart && before == part).then_some(Fault::Answer(403, Some("AccessDenied")))
        });
        let (ended, found) = daemon.run_and_look();
        assert!(!ended.status.success(), "part {part}: {ended:?}");
        assert_eq!(found, Vec::<String>::new(), "part {part}");
    }
    let open = fs::read_to_string(open).unwrap();
    let runs: Vec<&str> = open.split("class ").skip(1).collect();
    assert_eq!(runs.len(), 6, "{open}");
    for run in runs {
        assert!(run.starts_with("access-denied\n") && run.contains("socket:"), "{run}");
        assert!(!run.contains(node.tree().to_str().unwrap()), "while `after` ran: {run}");
    }
}

/// The places in a process's memory that have a canary, with what is around them.
fn in_memory(pid: u32) -> Vec<String> {
    use std::os::unix::fs::FileExt as _;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for at in memchr::memmem::find_iter(&bytes, CANARY.as_bytes()) {
            let around = &bytes[at.saturating_sub(40)..bytes.len().min(at + 60)];
            found.push(format!("{line}: {:x}: {}", at, around.escape_ascii()));
        }
    }
    found
}

#[test]
#[ignore = "minutes, and 11 GiB of disk: make soak"]
fn soak_one_object_of_many_parts() {
    use std::io::Write as _;
    let node = Node::new();
    let config = node.folder().join("penstock.toml");
    let text = fs::read_to_string(&config).unwrap().replace("object_size = \"12MiB\"", "object_size = \"8GiB\"");
    fs::write(&config, text).unwrap();
    let mut file = fs::File::create(node.tree().join("large")).unwrap();
    for block in 0..320 {
        file.write_all(&noise(16 << 20, block)).unwrap();
    }
    file.write_all(b"x").unwrap();
    drop(file);
    let (manifest, _) = node.backup(&[]);
    let (_, stream) = manifest.streams().next().unwrap();
    let [object] = stream.objects.as_slice() else { panic!("{:?}", stream.objects) };
    assert!(object.size > 5 << 30);
    let line = format!(
        "age -d -i {} {} | zstd -d | tar -xO large | cmp - {}",
        node.identity.display(),
        node.s3.folder().join(object.key.as_str()).display(),
        node.tree().join("large").display()
    );
    let compared = Command::new("bash").args(["-o", "pipefail", "-c", &line]).output().unwrap();
    assert!(compared.status.success(), "{compared:?}");
}

#[test]
fn an_identity_in_place_of_a_recipient_never_gets_to_a_node() {
    let node = Node::new();
    let secret = Identity::generate().unwrap().to_text();
    node.configure(&format!("recipients = [\"{}\"]", *secret));
    let refused = node.run(&["backup", "j"]);
    let text = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(78), "{text}");
    assert!(text.contains("is an identity, which is a private key") && !text.contains(secret.as_str()), "{text}");
}
