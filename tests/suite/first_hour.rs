//! What a new user meets in the first hour: pipes that close, questions, the way back, words and numbers, with the real binary.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::binary::Penstock;
use crate::daemon_site::{self, EXTERNAL_ID, JOBS, wait_for};
use crate::locking_s3::{BUCKET, LockingS3};
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

/// A node whose jobs are `site`, a tree and a stream, `large`, 20 MB, and `broken`, which fails.
struct Site {
    servers: Servers,
    s3: S3Server,
    tree: PathBuf,
}

impl Site {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let tree = servers.folder().join("tree");
        fs::create_dir_all(tree.join("folder/empty")).unwrap();
        fs::write(tree.join("folder/one"), "1").unwrap();
        fs::write(tree.join("two"), "2").unwrap();
        Self { servers, s3, tree }
    }

    /// The node, with its location's lines.
    fn node(&self, location: &str) -> Penstock {
        let config = format!(
            r#"{location}
prefix = "fleet"
{STATIC_KEYS}
[jobs.site]
location = "primary"
sources = [{{ type = "tree", name = "files", path = "{tree}" }}, {{ type = "command", name = "dump", argv = ["echo", "x"] }}]
[jobs.large]
location = "primary"
compression = "none"
sources = [{{ type = "command", name = "dump", argv = ["head", "-c", "20000000", "/dev/zero"] }}]
[jobs.broken]
location = "primary"
sources = [{{ type = "command", name = "dump", argv = ["sh", "-c", "echo no such table >&2; exit 3"] }}]
"#,
            tree = self.tree.display()
        );
        Penstock::new(self.servers.folder(), &config)
    }

    fn here(&self) -> Penstock {
        self.node(&self.s3.toml("node-1", &self.servers.folder().join("state"), &self.s3.url))
    }
}

fn id(backup: &Value) -> String {
    backup["backups"][0]["id"].as_str().unwrap().to_owned()
}

fn words(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn text(node: &Penstock, arguments: &[&str]) -> String {
    let output = node.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    words(&output.stdout)
}

/// Reads ten bytes of what a command prints, and closes the pipe.
fn head(node: &Penstock, arguments: &[&str]) -> Output {
    let mut child = node.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_pipe_that_is_closed_is_no_error() {
    let site = Site::new();
    let node = site.here();
    node.good(&["backup", "large"]);
    // More than a pipe holds.
    for number in 0..3000 {
        fs::write(site.tree.join(format!("{number:0100}")), "").unwrap();
    }
    node.good(&["backup", "site"]);
    let preview = ["restore", "site@latest", "--to", "/nowhere", "--dry-run"];
    for (arguments, code) in
        [(&["cat", "large@latest"][..], 141), (&preview, 0), (&["show", "site@latest", "--files"], 0)]
    {
        let output = head(&node, arguments);
        let told = words(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(!told.contains("penstock:") && !told.contains("ERROR"), "{arguments:?}: {told}");
    }
}

#[test]
fn the_failure_of_the_only_item_is_printed_once() {
    let node = Site::new();
    let node = node.here();
    let output = node.run(&["backup", "broken"]);
    let told = words(&output.stderr);
    assert_eq!(
        (output.status.code(), told.matches("stderr ended with: no such table").count()),
        (Some(74), 1),
        "{told}"
    );
    assert!(!told.contains('\u{1b}'), "no colours in a pipe: {told:?}");
}

#[test]
fn what_is_counted_is_called_entries_everywhere() {
    let site = Site::new();
    let node = site.here();
    node.good(&["backup", "site"]);
    // The root, two folders, two files.
    let show = text(&node, &["show", "site@latest"]);
    assert!(show.contains("; 5 entries; "), "{show}");
    let target = site.servers.folder().join("restored");
    let to = ["restore", "site@latest", "--item", "files", "--to", target.to_str().unwrap()];
    let preview = text(&node, &[&to[..], &["--dry-run"]].concat());
    assert!(preview.contains("would restore 5 entries, "), "{preview}");
    let restored = text(&node, &to);
    assert!(restored.contains(": 5 entries, "), "{restored}");
    assert!(![show, preview, restored].concat().contains(" files,"));
}

#[test]
fn a_deletion_says_how_to_undo_it_and_that_works() {
    let site = Site::new();
    let node = site.here();
    let (kept, gone) = (id(&node.good(&["backup", "site"])), id(&node.good(&["backup", "site"])));
    let list = |node: &Penstock| node.good(&["list"])["backups"].as_array().unwrap().len();
    let told = text(&node, &["delete", &gone]);
    assert!(told.contains("to undo it, within 1day:"), "{told}");
    assert_eq!(list(&node), 1);
    let command = told.lines().find_map(|line| line.trim().strip_prefix("aws s3 cp ")).expect(&told);
    let root = site.s3.folder();
    let files =
        command.split(' ').map(|url| root.join(url.strip_prefix(&format!("s3://{}/", site.s3.bucket)).unwrap()));
    let files: Vec<PathBuf> = files.collect();
    fs::copy(&files[0], &files[1]).unwrap();
    assert_eq!(list(&node), 2);
    node.good(&["verify", &gone, "--data"]);
    // Nor is there a copy of a manifest that cannot be read.
    let damaged = id(&node.good(&["backup", "site"]));
    fs::write(root.join(format!("fleet/test/site/node-1/{damaged}/manifest.json")), "{").unwrap();
    let told = text(&node, &["delete", &damaged]);
    assert!(told.contains("this cannot be undone") && !told.contains("aws s3 cp"), "{told}");
    // Without a grace period there is no way back.
    let told = text(&node, &["delete", &kept, "--now"]);
    assert!(told.contains("this cannot be undone") && !told.contains("aws s3 cp"), "{told}");
    // A dry run undoes nothing.
    assert!(!text(&node, &["delete", &gone, "--dry-run"]).contains("undo"));
}

#[test]
fn a_deletion_in_a_bucket_that_keeps_versions_is_undone_by_undelete() {
    let site = Site::new();
    let s3 = LockingS3::start(&site.servers);
    s3.memory.keep_versions();
    let head = site.s3.toml("node-1", &site.servers.folder().join("state"), &s3.url);
    let head = head.replace(&format!("bucket = \"{}\"", site.s3.bucket), &format!("bucket = \"{BUCKET}\""));
    let node = site.node(&head);
    let gone = id(&node.good(&["backup", "site"]));
    for more in [&[][..], &["--now"]] {
        let told = text(&node, &[&["delete", gone.as_str()][..], more].concat());
        assert_eq!(node.good(&["list"])["backups"], serde_json::json!([]));
        let command = told.lines().find_map(|line| line.trim().strip_prefix("penstock ")).expect(&told);
        text(&node, &command.split(' ').collect::<Vec<_>>());
        node.good(&["verify", &gone, "--data"]);
    }
}

/// Runs the command on a terminal of its own, which answers its question.
fn on_a_terminal(
    node: &Penstock,
    arguments: &[&str],
    answer: &str,
    variables: &[(&str, &str)],
) -> (Option<i32>, String) {
    let command = node.command(arguments);
    let script = "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    python.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    python.env("TERM", "xterm").env_remove("NO_COLOR").envs(variables.iter().copied());
    let mut child = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(answer.as_bytes()).unwrap();
    // Its end would end the terminal before the answer is read.
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    (output.status.code(), words(&output.stdout))
}

#[test]
fn a_person_is_asked_before_a_deletion_and_a_script_is_not() {
    let site = Site::new();
    let node = site.here();
    let ids = [(); 3].map(|()| id(&node.good(&["backup", "site"])));
    let left = || node.good(&["list"])["backups"].as_array().unwrap().len();
    let (code, told) = on_a_terminal(&node, &["delete", &ids[0]], "\n", &[]);
    assert_eq!((code, left()), (Some(75), 3), "{told}");
    assert!(told.contains(&format!("site/node-1@{} in primary", ids[0])), "{told}");
    assert!(told.contains("delete 1 backup? [y/N]") && told.contains("nothing was deleted"), "{told}");
    let (code, told) = on_a_terminal(&node, &["delete", &ids[0]], "y\n", &[]);
    assert_eq!((code, left()), (Some(0), 2), "{told}");
    let (code, told) = on_a_terminal(&node, &["delete", &ids[1], "--yes"], "", &[]);
    assert_eq!((code, left(), told.contains("[y/N]")), (Some(0), 1, false), "{told}");
    // Standard input is no terminal.
    assert!(!text(&node, &["delete", &ids[2]]).contains("[y/N]"));
    assert_eq!(left(), 0);
}

#[test]
fn colours_are_for_terminals_and_can_be_switched_off() {
    let site = Site::new();
    let node = site.here();
    node.good(&["backup", "site"]);
    let show = ["show", "site@latest"];
    assert!(on_a_terminal(&node, &show, "", &[]).1.contains("\u{1b}[32msuccess\u{1b}[0m"));
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let (_, told) = on_a_terminal(&node, &show, "", &[variable]);
        assert!(told.contains(": success") && !told.contains('\u{1b}'), "{told:?}");
    }
    assert!(!text(&node, &show).contains('\u{1b}'));
}

#[test]
fn status_shows_the_daemon_though_the_file_is_broken_now() {
    let site = daemon_site::Site::new();
    let daemon = site.start();
    daemon.allow_log("ERROR", "is not a known key; did you mean `cluster`?");
    daemon.allow_log("ERROR", "the configuration was refused");
    let whole = fs::read_to_string(&site.config).unwrap();
    fs::write(&site.config, format!("clutser = \"x\"\n{whole}")).unwrap();
    let output = site.run(&["status"]);
    let (told, shown) = (words(&output.stderr), words(&output.stdout));
    assert!(output.status.success() && shown.contains("etcd") && shown.contains("secondary"), "{output:?}");
    assert!(told.contains("clutser"), "{told}");
    assert_eq!(site.json(&["status"]).1["cluster"], "test");
    assert_eq!(daemon.stop(), Some(0));
    // Where no daemon answers, the file is what is wrong.
    let (code, refused) = site.json(&["status"]);
    assert_eq!((code, refused["error"]["class"].as_str()), (Some(78), Some("config")), "{refused}");
}

#[test]
fn what_waits_for_its_upload_is_not_counted_as_stored() {
    let site = daemon_site::Site::new();
    site.configure("", JOBS, EXTERNAL_ID);
    let slow_down = "<Error><Code>SlowDown</Code><Message>m</Message></Error>";
    site.primary.refuse(move |request| {
        let part = request.method == "PUT" && request.uri.contains("partNumber=");
        part.then(|| (503, slow_down.to_owned()))
    });
    let daemon = site.start();
    daemon.allow_log("WARN", "trying again");
    assert_eq!(site.json(&["trigger", "slow"]).0, Some(0));
    let run = wait_for("a part that is refused", Duration::from_secs(60), || {
        let asked = site.primary.seen().iter().any(|request| request.uri.contains("partNumber="));
        let run = site.job("slow")["running"].clone();
        (asked && run["plain_bytes"].as_u64()? > 5 << 20).then_some(run)
    });
    assert_eq!(run["stored_bytes"], 0, "{run}");
    site.primary.refuse(|_| None);
    wait_for("what is stored", Duration::from_secs(60), || {
        site.job("slow")["running"]["stored_bytes"].as_u64().filter(|bytes| *bytes >= 5 << 20)
    });
    assert_eq!(daemon.stop(), Some(0));
}
