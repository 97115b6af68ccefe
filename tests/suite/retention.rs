//! Deleting backups with the real binary: what goes, what stays whole, and what a kill in between leaves.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::servers::{S3Server, STATIC_KEYS, Scheme, Seen, Servers};

/// Two jobs, two nodes, one bucket.
struct Site {
    servers: Servers,
    s3: S3Server,
    tree: PathBuf,
}

const NO_GRACE: &[&str] = &["--grace", "0s"];

impl Site {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let tree = servers.folder().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/same"), vec![7; 100_000]).unwrap();
        let site = Self { servers, s3, tree };
        for node in ["node-1", "node-2"] {
            fs::write(site.config(node), site.configuration(node)).unwrap();
        }
        site
    }

    fn config(&self, node: &str) -> PathBuf {
        self.servers.folder().join(node).with_extension("toml")
    }

    fn configuration(&self, node: &str) -> String {
        format!(
            r#"{head}
prefix = "fleet"
{STATIC_KEYS}
[jobs.files]
location = "primary"
retention = {{ keep_last = 2 }}
[[jobs.files.sources]]
type = "tree"
name = "tree"
path = "{tree}"
[[jobs.files.sources]]
type = "command"
name = "dump"
argv = ["sh", "-c", "echo the dump"]
[jobs.kept]
location = "primary"
[[jobs.kept.sources]]
type = "file"
name = "file"
path = "{tree}/version"
"#,
            head = self.s3.toml(node, &self.servers.folder().join(format!("state-{node}")), &self.s3.url),
            tree = self.tree.display(),
        )
    }

    fn command(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.arg("--config").arg(self.config(node)).args(arguments).stdin(Stdio::null());
        for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, node: &str, arguments: &[&str]) -> Output {
        self.command(node, arguments).output().unwrap()
    }

    fn json(&self, node: &str, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(node, &[&["--output", "json"], arguments].concat());
        let parsed = serde_json::from_slice(&output.stdout);
        let value = parsed.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), value)
    }

    fn done(&self, node: &str, arguments: &[&str]) -> Value {
        let (code, value) = self.json(node, arguments);
        assert_eq!(code, 0, "{arguments:?}: {value}");
        value
    }

    /// A backup of a tree whose `version` says `number`; its id.
    fn backup(&self, node: &str, job: &str, number: usize) -> String {
        fs::write(self.tree.join("version"), number.to_string()).unwrap();
        self.done(node, &["backup", job])["backups"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Of the backups in `list`. In no order: tests make several in one second, and ids go by seconds.
    fn ids(&self, arguments: &[&str]) -> BTreeSet<String> {
        let list = self.done("node-1", &[&["list"], arguments].concat());
        let backups = list["backups"].as_array().unwrap();
        backups.iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Restores the version that backup `id` holds.
    fn version(&self, node: &str, id: &str) -> String {
        let target = tempfile::tempdir_in(self.servers.folder()).unwrap();
        self.done(node, &["restore", id, "--item", "tree", "--to", target.path().to_str().unwrap()]);
        assert_eq!(fs::read(target.path().join("sub/same")).unwrap(), vec![7; 100_000]);
        fs::read_to_string(target.path().join("version")).unwrap()
    }

    fn objects(&self) -> BTreeSet<String> {
        let bucket = self.s3.folder();
        let name = |path: PathBuf| path.strip_prefix(&bucket).unwrap().to_string_lossy().into_owned();
        let hidden = |name: &String| name.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
        walk(&bucket).into_iter().map(name).filter(|name| !hidden(name)).collect()
    }

    /// What the manifests in the bucket name, themselves included.
    fn named(&self) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        for key in self.objects().into_iter().filter(|key| key.ends_with("/manifest.json")) {
            let manifest: Value = serde_json::from_slice(&fs::read(self.s3.folder().join(&key)).unwrap()).unwrap();
            named.insert(key);
            for item in manifest["items"].as_array().unwrap() {
                let objects = item["stream"]["objects"].as_array().unwrap().iter();
                let keys = objects.chain([&item["stream"]["index"]]).map(|object| object["key"].as_str().unwrap());
                named.extend(keys.map(str::to_owned));
            }
        }
        named
    }

    /// Makes the store say that it took the manifest then: the node's clock was ahead.
    fn stored(&self, id: &str, at: SystemTime) {
        let path = self.s3.folder().join(format!("fleet/test/files/node-1/{id}/manifest.json"));
        fs::File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
    }

    fn put(&self, key: &str) {
        let path = self.s3.folder().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "somebody's").unwrap();
    }
}

/// The start of this day, as UTC has it, so many days ago.
fn day(ago: u64) -> SystemTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    UNIX_EPOCH + Duration::from_secs((now / 86400 - ago) * 86400)
}

fn set<const N: usize>(ids: [&String; N]) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Requests that delete a backup, or what it needs.
fn changes(request: &Seen) -> bool {
    request.method == "DELETE" || (request.method == "PUT" && request.uri.contains("/deleted.json"))
}

#[test]
fn retention_is_applied_and_the_space_comes_back_after_the_grace_period() {
    let site = Site::new();
    let ids: Vec<String> = (0..4).map(|number| site.backup("node-1", "files", number)).collect();
    let others = [site.backup("node-2", "files", 9), site.backup("node-1", "kept", 9)];
    site.put("fleet/test/files/node-1/README.txt");
    site.put("elsewhere/README.txt");
    let before = site.objects();

    let plan = site.done("node-1", &["prune", "--dry-run"]);
    assert_eq!(site.objects(), before, "a dry run does nothing");
    let chain = &plan["chains"][0];
    assert_eq!((&plan["dry_run"], &chain["deleted"], &chain["kept"]), (&true.into(), &2.into(), &2.into()));
    let verdict = |id: &str| {
        let one = chain["backups"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
        (one["keep"].as_bool().unwrap(), one["reasons"].clone())
    };
    assert_eq!(verdict(&ids[3]), (true, serde_json::json!(["last"])));
    assert_eq!(verdict(&ids[0]), (false, serde_json::json!([])));
    let text = String::from_utf8(site.run("node-1", &["prune", "--dry-run", "--job", "files"]).stdout).unwrap();
    assert!(text.starts_with("files on node-1 in primary: would delete 2 backups, 2 stay"), "{text}");
    assert!(
        text.contains(&format!("  delete   {}", ids[1])) && text.contains(&format!("  keep     {}", ids[2])),
        "{text}"
    );
    assert_eq!(text.lines().count(), 6, "{text}");

    let pruned = site.done("node-1", &["prune"]);
    assert_eq!((&pruned["chains"][0]["deleted"], &pruned["chains"][0]["removed"]["objects"]), (&2.into(), &0.into()));
    let unneeded: Vec<String> = site.objects().difference(&site.named()).cloned().collect();
    let waiting = unneeded.iter().filter(|key| key.contains(".zst")).count();
    assert!(waiting >= 4, "two indexes of two backups at least: {unneeded:?}");
    assert_eq!(pruned["chains"][0]["waiting"]["objects"], waiting);
    assert_eq!(site.ids(&[]), set([&ids[3], &ids[2], &others[0], &others[1]]));
    assert_eq!(site.json("node-1", &["show", &ids[0]]).0, 66);
    assert_eq!(site.objects().len(), before.len(), "within the grace period nothing is gone");

    // Undone, as docs/retention.md says: it stays as long as nothing else is stored.
    let home = site.s3.folder().join(format!("fleet/test/files/node-1/{}", ids[1]));
    fs::copy(home.join("deleted.json"), home.join("manifest.json")).unwrap();
    site.stored(&ids[1], SystemTime::now() + Duration::from_secs(2));
    assert_eq!(site.version("node-1", &ids[1]), "1");
    site.done("node-1", &[&["prune"], NO_GRACE].concat());
    let mut expected = site.named();
    expected.extend(["fleet/test/files/node-1/README.txt".to_owned(), "elsewhere/README.txt".to_owned()]);
    assert_eq!(site.objects(), expected);
    for (id, version) in [(&ids[3], "3"), (&ids[2], "2"), (&ids[1], "1"), (&others[0], "9")] {
        assert_eq!(site.version("node-1", id), version);
    }
    let stats = site.done("node-1", &["stats"]);
    assert_eq!(stats["total"]["backups"], 5);
    let kept = &stats["stats"][2];
    assert_eq!((&kept["job"], &kept["node"], &kept["dead_bytes"]), (&"kept".into(), &"node-1".into(), &0.into()));
    assert!(stats["stats"][0]["full_bytes"].as_u64() < stats["stats"][0]["stored_bytes"].as_u64());
}

/// One backup was taken with the clock ten days ahead. It is not the newest for ten days.
#[test]
fn a_clock_that_was_ahead_once_is_not_the_newest_for_ever() {
    let site = Site::new();
    let mut ids: Vec<String> = (0..3).map(|number| site.backup("node-1", "files", number)).collect();
    site.stored(&ids[2], day(10));
    let list = site.done("node-1", &["list", "--job", "files"]);
    let listed =
        |at: usize| (list["backups"][at]["id"].as_str().unwrap(), list["backups"][at]["dated_ahead"].as_bool());
    assert_eq!([0, 1, 2].map(listed), [(&*ids[1], Some(false)), (&*ids[0], Some(false)), (&*ids[2], Some(true))]);
    let text = String::from_utf8(site.run("node-1", &["list"]).stdout).unwrap();
    assert_eq!(text.matches("clock was ahead: taken").count(), 1, "{text}");
    assert_eq!(site.version("node-1", "files@latest"), "1");
    assert_eq!(site.done("node-1", &["verify"])["backups"][0]["id"], *ids[1]);
    ids.push(site.backup("node-1", "files", 3));
    assert_eq!(site.done("node-1", &["show", &ids[3]])["parent"], *ids[1]);
    assert_eq!(site.done("node-1", &["stats"])["stats"][0]["oldest"], *ids[2]);
    site.done("node-1", &["prune"]);
    assert_eq!(site.ids(&[]), set([&ids[1], &ids[3]]));
}

/// A backup each night that has everything, and one each day without the dump: the nights' stay.
#[test]
fn backups_that_lack_an_item_push_out_none_that_has_it() {
    let site = Site::new();
    let dump = site.servers.folder().join("dump");
    let text = site.configuration("node-1").replace("keep_last = 2", "keep_daily = 2");
    let text = text.replace("echo the dump", &format!("cat {}", dump.display()));
    fs::write(site.config("node-1"), text).unwrap();
    let mut backups = Vec::new();
    for ago in [3, 2, 1] {
        for (hour, code) in [(2, 0), (14, 1)] {
            if code == 0 {
                fs::write(&dump, "the dump").unwrap();
            } else {
                fs::remove_file(&dump).unwrap();
            }
            let (found, done) = site.json("node-1", &["backup", "files"]);
            assert_eq!(found, code, "{done}");
            let id = done["backups"][0]["id"].as_str().unwrap().to_owned();
            site.stored(&id, day(ago) + Duration::from_secs(hour * 3600));
            backups.push(id);
        }
    }
    let [_, _, second, _, third, newest] = backups.try_into().unwrap();
    let plan = site.done("node-1", &["prune", "--job", "files", "--dry-run"]);
    let said = |id: &str| {
        let one = plan["chains"][0]["backups"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
        (one["reasons"].clone(), one["failed_items"].clone())
    };
    assert_eq!(said(&newest), (serde_json::json!(["newest"]), serde_json::json!(["dump"])));
    assert_eq!(said(&third), (serde_json::json!(["daily"]), serde_json::json!([])));
    site.done("node-1", &["prune"]);
    assert_eq!(site.ids(&[]), set([&second, &third, &newest]));
    let text = String::from_utf8(site.run("node-1", &["list"]).stdout).unwrap();
    assert_eq!(text.matches("partial: without dump").count(), 1, "{text}");
}

#[test]
fn other_nodes_are_touched_only_by_name() {
    let site = Site::new();
    let mine: Vec<String> = (0..3).map(|number| site.backup("node-1", "files", number)).collect();
    let (code, refused) = site.json("node-2", &["delete", "files@latest"]);
    assert_eq!((code, refused["error"]["message"].as_str().unwrap().contains("--node node-1")), (2, true), "{refused}");
    assert_eq!(site.json("node-2", &["delete", &mine[0]]).0, 2);
    assert_eq!(site.json("node-2", &["delete", "files/node-1@latest"]).0, 2);
    assert_eq!(site.run("node-2", &["prune"]).stdout, b"there is nothing to prune\n");
    assert_eq!(site.json("node-2", &["prune", "--node", "node-3"]).0, 66);
    assert_eq!(site.ids(&[]).len(), 3);

    let pruned = site.done("node-2", &["prune", "--node", "node-1"]);
    assert_eq!(pruned["chains"][0]["deleted"], 1);
    let latest = site.done("node-2", &["show", "files/node-1@latest"])["id"].as_str().unwrap().to_owned();
    let other = if latest == mine[2] { &mine[1] } else { &mine[2] };
    let rest = site.done("node-2", &["delete", "--node", "node-1", "files@latest", other, "--now"]);
    assert_eq!(rest["chains"][0]["deleted"], 2);
    assert_eq!(site.ids(&[]), BTreeSet::new());
    // What the first one needed still has its grace period, until a prune gives it none.
    assert!(
        site.objects().iter().all(|key| key.contains(&mine[0])) && site.objects().len() == 5,
        "{:?}",
        site.objects()
    );
    site.done("node-2", &[&["prune", "--node", "node-1"], NO_GRACE].concat());
    assert_eq!(site.objects(), BTreeSet::new());
}

#[test]
fn one_command_prunes_the_nodes_that_are_gone_too() {
    let site = Site::new();
    let gone: Vec<String> = (0..3).map(|number| site.backup("node-1", "files", number)).collect();
    let mine = site.backup("node-2", "files", 3);
    let of_no_rules: Vec<String> = (0..3).map(|number| site.backup("node-1", "kept", number)).collect();
    for more in [&["--node", "node-1"][..], &["--claim", "a/b"], NO_GRACE] {
        assert_eq!(site.run("node-2", &[&["prune", "--all-nodes"], more].concat()).status.code(), Some(2), "{more:?}");
    }
    let plan = site.done("node-2", &["prune", "--all-nodes", "--job", "files", "--dry-run"]);
    let nodes: BTreeSet<&str> =
        plan["chains"].as_array().unwrap().iter().map(|c| c["node"].as_str().unwrap()).collect();
    assert_eq!((nodes, site.ids(&[]).len()), (BTreeSet::from(["node-1", "node-2"]), 7), "{plan}");
    let told = String::from_utf8(site.run("node-2", &["prune", "--all-nodes"]).stdout).unwrap();
    let line = told
        .lines()
        .find(|line| line.starts_with("files on node-1 in primary: deleted 1 backup, 2 stay"))
        .expect(&told);
    assert!(line.contains("; the newest is of 20"), "{line}");
    let left = site.ids(&[]);
    assert!(left.contains(&mine) && of_no_rules.iter().all(|id| left.contains(id)), "{left:?}");
    assert_eq!(gone.iter().filter(|id| left.contains(*id)).count(), 2, "{left:?}");
}

#[test]
fn one_backup_is_deleted_and_the_others_stay_whole() {
    let site = Site::new();
    let ids: Vec<String> = (0..3).map(|number| site.backup("node-1", "files", number)).collect();
    let ad_hoc = site.done("node-1", &["backup", "--name", "said", "--", "echo", "hello"]);
    let ad_hoc = ad_hoc["backups"][0]["id"].as_str().unwrap().to_owned();
    let plan = site.done("node-1", &["delete", &ids[0], "--dry-run"]);
    assert_eq!((plan["chains"][0]["deleted"].as_u64(), site.ids(&["--job", "files"]).len()), (Some(1), 3));
    site.done("node-1", &["delete", "--now", &format!("files@{}", ids[0]), &ad_hoc]);
    assert_eq!(site.ids(&[]), set([&ids[1], &ids[2]]));
    assert_eq!(site.objects(), site.named());
    assert_eq!(site.version("node-1", &ids[1]), "1");
    let (code, missing) = site.json("node-1", &["delete", &ids[0]]);
    assert_eq!((code, missing["error"]["class"].as_str()), (66, Some("not-found")));

    // One that cannot be read stops the job's pruning, and can be let go.
    let manifest = site.s3.folder().join(format!("fleet/test/files/node-1/{}/manifest.json", ids[2]));
    fs::write(manifest, "{").unwrap();
    let (code, refused) = site.json("node-1", &["prune", "--job", "files"]);
    assert_eq!((code, refused["error"]["class"].as_str()), (65, Some("integrity")), "{refused}");
    assert!(refused["error"]["remedy"].as_str().unwrap().contains("penstock delete"), "{refused}");
    site.done("node-1", &["delete", &ids[2]]);
    assert_eq!(site.ids(&[]), set([&ids[1]]));
    assert_eq!(site.version("node-1", &ids[1]), "1");
}

#[test]
fn what_is_denied_is_told_and_the_rest_goes_on() {
    let site = Site::new();
    for number in 0..4 {
        site.backup("node-1", "files", number);
    }
    site.s3.deny(|request| request.method == "DELETE" && request.uri.contains("dump.index.zst"));
    let (code, pruned) = site.json("node-1", &[&["prune", "--job", "files"], NO_GRACE].concat());
    let chain = &pruned["chains"][0];
    assert_eq!((code, &chain["deleted"], &chain["failed"]), (1, &2.into(), &2.into()), "{pruned}");
    let failure = &chain["failures"][0];
    assert!(failure["key"].as_str().unwrap().ends_with("/dump.index.zst"), "{failure}");
    assert_eq!(
        (&failure["error"]["class"], &failure["error"]["code"]),
        (&"access-denied".into(), &"AccessDenied".into())
    );
    let left: BTreeSet<String> = site.objects().difference(&site.named()).cloned().collect();
    assert_eq!(left.len(), 2, "{left:?}");

    site.s3.deny(|request| request.uri.contains("list-type=2"));
    let (code, refused) = site.json("node-1", &["prune", "--job", "files"]);
    assert_eq!((code, refused["error"]["class"].as_str()), (77, Some("access-denied")), "{refused}");
}

/// Kills a prune when the server is asked for a change after `changes_before` others, before it has answered. The exit status of a
/// prune that needed fewer.
fn killed_at(site: &Site, changes_before: usize) -> Option<ExitStatus> {
    let (reached, wait) = mpsc::channel();
    let gate = Arc::new(RwLock::new(()));
    let closed = gate.write().unwrap();
    let (pass, seen) = (Arc::clone(&gate), AtomicUsize::new(0));
    site.s3.deny(move |request| {
        if changes(request) && seen.fetch_add(1, Ordering::Relaxed) >= changes_before {
            let _ = reached.send(());
            drop(pass.read());
        }
        false
    });
    let mut child = site.command("node-1", &[&["prune"], NO_GRACE].concat());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let ended = loop {
        if wait.recv_timeout(Duration::from_millis(10)).is_ok() {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
    };
    // What the server had been asked for it does now, for nobody.
    drop(closed);
    ended
}

/// SIGKILL after each of the requests that change something, in turn. Whatever was reached, every backup that is there restores bit for
/// bit, and the next run leaves nothing that no manifest names.
#[test]
fn a_kill_at_any_point_leaves_every_backup_whole() {
    let site = Site::new();
    let mut ids: Vec<String> = (0..2).map(|number| site.backup("node-1", "files", number)).collect();
    let mut killed = 0;
    for number in 2.. {
        ids.push(site.backup("node-1", "files", number));
        let ended = killed_at(&site, killed);
        for kept in [number, number - 1] {
            assert_eq!(site.version("node-1", &ids[kept]), kept.to_string(), "after {killed} changes");
        }
        site.done("node-1", &[&["prune"], NO_GRACE].concat());
        assert_eq!(site.objects(), site.named(), "after {killed} changes");
        assert_eq!(site.ids(&[]), set([&ids[number - 1], &ids[number]]));
        match ended {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => killed += 1,
        }
    }
    assert!(killed >= 4, "only {killed} runs were killed");
}

#[test]
fn completions_and_man_pages_know_every_command() {
    let site = Site::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = site.run("node-1", &["completions", shell]);
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(script.contains("penstock") && script.contains("dry-run"), "{shell}");
    }
    let folder = site.servers.folder().join("man/man1");
    let output = site.run("node-1", &["man", folder.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let help = String::from_utf8(site.run("node-1", &["--help"]).stdout).unwrap();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A longer description goes on in a line that begins further in.
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: Vec<&str> = names.filter(|name| !name.is_empty() && *name != "help").collect();
    assert!(commands.contains(&"prune") && commands.contains(&"restore"), "{help}");
    for command in commands {
        let page = fs::read_to_string(folder.join(format!("penstock-{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{command}");
    }
}
