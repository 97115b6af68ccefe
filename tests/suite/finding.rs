//! Which backup has it: `ls`, `find`, `diff`, `list`, shortened IDs and wrong names, with the real binary.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::encryption::{Vault, all_files};
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

/// A tree that is saved by several nodes.
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
        fs::create_dir_all(tree.join("etc/nginx")).unwrap();
        fs::create_dir_all(tree.join("empty")).unwrap();
        fs::write(tree.join("etc/hosts"), "localhost").unwrap();
        fs::write(tree.join("etc/nginx/nginx.conf"), "one").unwrap();
        fs::write(tree.join("etc/odd\u{1b}[2J\nname"), "").unwrap();
        std::os::unix::fs::symlink("hosts", tree.join("etc/link")).unwrap();
        Self { servers, s3, tree }
    }

    /// A node of a cluster: the job `site` saves the tree and a command's output, `many` six commands' outputs.
    fn node(&self, cluster: &str, node: &str) -> Penstock {
        let folder = self.servers.folder().join(format!("{cluster}-{node}"));
        fs::create_dir_all(&folder).unwrap();
        let head = self.s3.toml(node, &folder.join("state"), &self.s3.url);
        let head = head.replace("cluster = \"test\"", &format!("cluster = \"{cluster}\""));
        let tree = self.tree.display();
        let source = |number: u32| {
            format!("[[jobs.many.sources]]\ntype = \"command\"\nname = \"item-{number}\"\nargv = [\"echo\", \"x\"]\n")
        };
        let many = (0..6).map(source).collect::<Vec<_>>().concat();
        let config = format!(
            r#"{head}
prefix = "fleet"
{STATIC_KEYS}
[jobs.site]
location = "primary"
[[jobs.site.sources]]
type = "tree"
name = "files"
path = "{tree}"
[[jobs.site.sources]]
type = "command"
name = "dump"
argv = ["cat", "{tree}/etc/hosts"]
[jobs.alone]
location = "primary"
[[jobs.alone.sources]]
type = "tree"
name = "files"
path = "{tree}"
[jobs.many]
location = "primary"
{many}"#
        );
        Penstock::new(&folder, &config)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.tree.join(path), text).unwrap();
    }

    /// Damages every object of the backup whose name ends so.
    fn damage(&self, id: &str, ending: &str) {
        let of_it = |path: &Path| path.to_str().unwrap().contains(id) && path.to_str().unwrap().ends_with(ending);
        let found: Vec<PathBuf> = all_files(&self.s3.folder()).into_iter().filter(|path| of_it(path)).collect();
        assert!(!found.is_empty(), "{id} {ending}");
        for path in found {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            fs::write(path, bytes).unwrap();
        }
    }
}

fn saved(penstock: &Penstock, job: &str) -> String {
    let done = penstock.good(&["backup", job]);
    done["backups"][0]["id"].as_str().unwrap_or_else(|| panic!("{done:#}")).to_owned()
}

/// These fields of each row.
fn rows(value: &Value, list: &str, fields: &[&str]) -> Vec<Value> {
    let rows = value[list].as_array().unwrap_or_else(|| panic!("{value:#}"));
    rows.iter().map(|row| fields.iter().map(|field| row[*field].clone()).collect()).collect()
}

fn text(penstock: &Penstock, arguments: &[&str]) -> String {
    let output = penstock.run(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(penstock: &Penstock, arguments: &[&str]) -> (i32, String) {
    let (code, value) = penstock.json(arguments);
    (code, value["error"]["message"].as_str().unwrap_or_else(|| panic!("{arguments:?}: {value:#}")).to_owned())
}

#[test]
fn a_folder_of_a_backup_is_listed_as_ls_does() {
    let site = Site::new();
    let node = site.node("c1", "n1");
    saved(&node, "site");
    saved(&node, "alone");
    let listed = |arguments: &[&str]| {
        let value = node.good(&[&["ls"][..], arguments].concat());
        rows(&value, "files", &["item", "path", "type"])
    };
    assert_eq!(listed(&["site@latest"]), [json!(["files", null, "item"]), json!(["dump", null, "item"])]);
    let etc = [
        json!(["files", "etc/hosts", "file"]),
        json!(["files", "etc/link", "symlink"]),
        json!(["files", "etc/nginx", "directory"]),
        json!(["files", "etc/odd\u{1b}[2J\nname", "file"]),
    ];
    let on_the_node = format!("{}/etc", site.tree.display());
    for path in ["etc", "/etc/", "./etc", "files/etc", &on_the_node] {
        assert_eq!(listed(&["site@latest", path]), etc, "{path}");
    }
    let root = [json!(["files", "empty", "directory"]), json!(["files", "etc", "directory"])];
    assert_eq!(listed(&["alone@latest"]), root, "the only item is a tree");
    assert_eq!(listed(&["site@latest", "--item", "files"]), root);
    assert_eq!(listed(&["site@latest", "empty"]), Vec::<Value>::new());
    let conf = [json!(["files", "etc/nginx/nginx.conf", "file"])];
    assert_eq!(listed(&["site@latest", "*.conf"]), conf);
    assert_eq!(listed(&["site@latest", "files/etc/nginx/*"]), conf);
    assert_eq!(listed(&["alone@latest", "--recursive"]).len(), 7);

    let shown = text(&node, &["ls", "site@latest", "etc"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 4, "a name does not make a line: {shown}");
    assert!(lines[0].starts_with("-rw") && lines[0].ends_with(" files/etc/hosts"), "{shown}");
    assert!(lines[1].ends_with(" files/etc/link -> hosts") && lines[2].ends_with(" files/etc/nginx/"), "{shown}");
    assert!(lines[3].ends_with("files/etc/odd\\u{1b}[2J\\nname"), "{shown}");

    for (arguments, meant) in [
        (&["ls", "site@latest", "etc/host"][..], "did you mean files/etc/hosts?"),
        (&["ls", "site@latest", "fles"], "did you mean files?"),
        (&["ls", "site@latest", "--item", "file"], "did you mean files?"),
    ] {
        let (code, message) = refused(&node, arguments);
        assert!(code == 66 && message.ends_with(meant), "{code} {message}");
    }
    let (code, message) = refused(&node, &["ls", "site@latest", "etc/*.conf"]);
    assert!(code == 66 && message.contains("etc/*.conf"), "* stays within a folder: {message}");
    let (code, message) = refused(&node, &["ls", "site@latest", "etc/[a"]);
    assert!(code == 2 && message.contains("etc/[a"), "{code} {message}");
}

#[test]
fn a_file_is_found_in_the_backups_of_all_nodes_with_a_line_for_each_version() {
    let site = Site::new();
    let (one, two) = (site.node("c1", "n1"), site.node("c1", "n2"));
    let first = saved(&one, "site");
    let second = saved(&one, "site");
    site.write("etc/nginx/nginx.conf", "two, longer");
    let third = saved(&one, "site");
    let fourth = saved(&two, "site");
    fs::remove_file(site.tree.join("etc/nginx/nginx.conf")).unwrap();
    let fifth = saved(&one, "site");

    let fields = ["id", "node", "item", "path", "size", "backups", "oldest"];
    let found = |arguments: &[&str]| rows(&one.good(&[&["find"][..], arguments].concat()), "versions", &fields);
    let path = "etc/nginx/nginx.conf";
    let expected = [
        json!([fourth, "n2", "files", path, 11, 1, fourth]),
        json!([third, "n1", "files", path, 11, 1, third]),
        json!([second, "n1", "files", path, 3, 2, first]),
    ];
    let on_the_node = format!("{}/etc/*/*.conf", site.tree.display());
    for glob in ["nginx.conf", "*.conf", "etc/nginx/*", "**/nginx.conf", "files/etc/nginx/nginx.conf", &on_the_node] {
        assert_eq!(found(&[glob]), expected, "{glob}");
    }
    assert_eq!(found(&["nginx.conf", "--node", "n1"]), expected[1..]);
    assert_eq!(found(&["nginx.conf", "--limit", "1"]), expected[..1]);
    assert_eq!(found(&["nginx.conf", "--job", "site", "--item", "files", "--limit", "2"]), expected[..2]);
    assert_eq!(found(&["nginx.conf", "--since", "1h"]), expected);
    assert_eq!(found(&["nginx.conf", "--since", "2099-01-01"]), Vec::<Value>::new());
    assert_eq!(found(&["hosts"])[0][5], 4, "every backup of n1");
    assert_eq!(found(&["no-such-file"]), Vec::<Value>::new());
    let shown = text(&one, &["find", "nginx.conf"]);
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("BACKUP"), "{shown}");
    // A line's first word names the backup to other commands.
    let name = lines[3].split_whitespace().next().unwrap();
    assert_eq!(name, format!("site/n1@{second}"));
    assert_eq!(rows(&one.good(&["ls", name, path]), "files", &["size"]), [json!([3])]);
    assert_eq!(text(&one, &["find", "no-such-file"]), "none of 5 backups has no-such-file\n");

    // One index is damaged: said, and the others are searched.
    site.damage(&third, ".index.zst");
    let (code, value) = one.json(&["find", "nginx.conf"]);
    assert_eq!((code, rows(&value, "versions", &fields)), (1, vec![expected[0].clone(), expected[2].clone()]));
    let errors = value["errors"].as_array().unwrap();
    assert!(!errors.is_empty() && errors.iter().all(|error| error["class"] == "integrity"), "{value:#}");
    assert!(value.to_string().contains(&third) && !fifth.is_empty());
    let (code, message) = refused(&one, &["find", "x", "--item", "fles"]);
    assert!(code == 66 && message.ends_with("did you mean files?"), "{message}");
}

#[test]
fn two_backups_differ_in_files_and_bytes() {
    let site = Site::new();
    let (one, two) = (site.node("c1", "n1"), site.node("c1", "n2"));
    let before = saved(&one, "site");
    site.write("etc/hosts", "localhost and more");
    site.write("etc/new", "12345");
    fs::remove_dir(site.tree.join("empty")).unwrap();
    fs::remove_file(site.tree.join("etc/link")).unwrap();
    std::os::unix::fs::symlink("new", site.tree.join("etc/link")).unwrap();
    let after = saved(&two, "site");

    let value = one.good(&["diff", &before, &after]);
    let found: BTreeSet<String> =
        rows(&value, "differences", &["difference", "item", "path", "changed"]).iter().map(Value::to_string).collect();
    let expected = [
        json!(["added", "files", "etc/new", null]),
        json!(["removed", "files", "empty", null]),
        json!(["changed", "files", "etc/hosts", ["size", "mtime"]]),
        json!(["changed", "files", "etc/link", ["mtime", "link"]]),
        json!(["changed", "dump", null, ["content"]]),
    ];
    assert_eq!(found, expected.iter().map(Value::to_string).collect(), "{value:#}");
    assert_eq!(value["added"], json!({ "files": 1, "bytes": 5 }));
    assert_eq!(value["removed"], json!({ "files": 1, "bytes": 0 }));
    assert_eq!(value["changed"], json!({ "files": 3, "bytes_before": 18, "bytes_after": 36 }));
    assert_eq!(
        (&value["same"], &value["before"]["node"], &value["after"]["node"]),
        (&json!(false), &json!("n1"), &json!("n2"))
    );
    let shown = text(&one, &["diff", &before, &after, "--item", "files"]);
    assert!(shown.contains("\n~ size,mtime") && shown.contains("+ file "), "{shown}");
    assert!(shown.ends_with("1 added (5 B), 1 removed (0 B), 2 changed (9 B before, 18 B after)\n"), "{shown}");
    let value = one.good(&["diff", &after, &after]);
    assert_eq!((&value["same"], &value["differences"]), (&json!(true), &json!([])));
    assert_eq!(text(&one, &["diff", &after, &after]), "no difference\n");

    // Nothing of a damaged index is shown, not even what comes before the damage.
    site.damage(&after, "files.index.zst");
    let (code, value) = one.json(&["diff", &before, &after, "--item", "files"]);
    assert_eq!((code, &value["error"]["class"], &value["differences"]), (65, &json!("integrity"), &Value::Null));
}

#[test]
fn backups_are_listed_by_job_and_item_and_only_as_many_manifests_are_read() {
    let site = Site::new();
    let node = site.node("c1", "n1");
    let ids: Vec<String> = (0..3).map(|_| saved(&node, "site")).collect();
    let many = saved(&node, "many");
    let listed = |arguments: &[&str]| -> Vec<String> {
        let value = node.good(&[&["list"][..], arguments].concat());
        value["backups"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let newest_first: Vec<String> = ids.iter().rev().cloned().collect();
    assert_eq!(listed(&["site"]), newest_first);
    assert_eq!(listed(&["--job", "site"]), newest_first);
    assert_eq!(listed(&["--item", "dump", "--limit", "2"]), newest_first[..2]);
    assert_eq!(listed(&["--since", "1h"]).len(), 4);
    assert_eq!(listed(&["--since", "2099-01-01T00:00:00Z"]), Vec::<String>::new());
    let before = site.s3.seen().len();
    assert_eq!(listed(&["--limit", "2"]), [many.clone(), newest_first[0].clone()]);
    let read = site.s3.seen().iter().skip(before).filter(|seen| seen.uri.contains("manifest.json")).count();
    assert_eq!(read, 2);
    let shown = text(&node, &["list"]);
    assert!(shown.lines().nth(1).unwrap().ends_with("  6 items") && shown.contains("  files,dump\n"), "{shown}");
    let (code, message) = refused(&node, &["list", "--item", "item-9"]);
    assert!(code == 66 && message.contains("did you mean item-"), "{message}");
    let clash = node.run(&["list", "site", "--job", "site"]);
    assert_eq!(clash.status.code(), Some(2));
}

#[test]
fn a_wrong_name_is_an_error_with_the_one_that_was_meant() {
    let site = Site::new();
    let node = site.node("prod-eu-1", "ip-10-0-0-7");
    saved(&node, "site");
    for (arguments, meant) in [
        (&["list", "--cluster", "prod-eu1"][..], "prod-eu-1"),
        (&["list", "sitee"], "site"),
        (&["list", "--node", "ip-10-0-07"], "ip-10-0-0-7"),
        (&["find", "hosts", "--job", "sit"], "site"),
        (&["stats", "--job", "sit"], "site"),
        (&["prune", "--job", "sit"], "site"),
        (&["show", "sitee@latest"], "site"),
        (&["show", "site/ip-10-0-0-8@latest"], "ip-10-0-0-7"),
        (&["show", "site@latest", "--cluster", "prod-eu1"], "prod-eu-1"),
    ] {
        let (code, message) = refused(&node, arguments);
        assert!(code == 66 && message.ends_with(&format!("did you mean {meant}?")), "{arguments:?}: {code} {message}");
    }
    assert_eq!(node.good(&["list", "many"])["backups"], json!([]), "a job that has no backup yet");
    // Whoever may list no more than the cluster is told no more.
    site.s3.deny(|seen| seen.uri.contains("delimiter="));
    let (code, message) = refused(&node, &["show", "sitee@latest"]);
    assert!(code == 66 && message.starts_with("no backup sitee@latest"), "{message}");
    // A cluster of the configuration that has nothing may be new; what else there is, is said.
    let other = site.node("prod-eu-2", "ip-10-0-0-7");
    assert_eq!(other.good(&["list"])["backups"], json!([]));
}

#[test]
fn a_shortened_id_stands_for_one_backup_or_none() {
    let site = Site::new();
    let (one, two) = (site.node("c1", "n1"), site.node("c1", "n2"));
    let first = saved(&one, "site");
    let other = saved(&two, "site");
    let unique = (5..first.len()).find(|length| !other.starts_with(&first[..*length])).unwrap();
    let (short, shared) = (&first[..unique], &first[..4]);
    assert_eq!(one.good(&["show", short])["id"], first.as_str());
    assert_eq!(
        two.good(&["show", &format!("site@{short}")])["id"],
        first.as_str(),
        "another node's, as with a whole ID"
    );
    assert_eq!(one.good(&["show", &format!("site@{shared}")])["id"], first.as_str(), "this node's chain has one");
    assert_eq!(one.good(&["show", &format!("site/n2@{shared}")])["id"], other.as_str());
    let (code, message) = refused(&one, &["show", shared]);
    assert!(code == 66 && [&first, &other].iter().all(|id| message.contains(*id)), "{message}");
    let (code, message) = refused(&one, &["delete", shared]);
    assert!(code == 66 && message.contains("site/n2@"), "what may be another node's is not deleted: {message}");
    let (code, _) = refused(&one, &["delete", &format!("site/n2@{shared}")]);
    assert_eq!(code, 2, "another node's");
    assert_eq!(one.good(&["list"])["backups"].as_array().unwrap().len(), 2);
    let second = saved(&one, "site");
    let (code, message) = refused(&one, &["delete", &format!("site@{shared}")]);
    assert!(code == 66 && message.contains(&second) && !message.contains(&other), "{message}");
    let length = (5..first.len()).find(|length| !second.starts_with(&first[..*length])).unwrap().max(unique);
    let would = text(&one, &["delete", &format!("site@{}", &first[..length]), "--dry-run"]);
    assert!(would.contains(&first), "{would}");
    let done = one.run(&["delete", &format!("site@{}", &first[..length])]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains(&first), "{said}");
    let left = rows(&one.good(&["list"]), "backups", &["id"]);
    assert_eq!(left, [json!([second]), json!([other])]);
    for bad in ["202", "latest", "x026"] {
        assert_eq!(one.run(&["show", bad]).status.code(), Some(2), "{bad}");
    }
}

#[test]
fn what_no_key_opens_is_said_and_not_searched() {
    let vault = Vault::new();
    vault.node().good(&["backup", "site"]);
    let (desk, key) = (vault.desk(""), vault.key());
    let (code, value) = desk.json(&["find", "large"]);
    assert_eq!((code, &value["versions"], &value["errors"][0]["class"]), (1, &json!([]), &json!("identity")));
    for arguments in [&["ls", "site@latest", "large"][..], &["diff", "site@latest", "site@latest"]] {
        assert_eq!(desk.json(arguments).0, 77, "{arguments:?}");
        desk.good(&[arguments, &["--identity", key]].concat());
    }
    let found = desk.good(&["find", "large", "--identity", key]);
    assert_eq!(rows(&found, "versions", &["path", "size"]), [json!(["large", 9_000_000])]);
    // The path on the node is sealed too.
    let path = format!("{}/large", vault.tree.display());
    assert_eq!(desk.good(&["find", &path, "--identity", key])["versions"].as_array().unwrap().len(), 1);
}
