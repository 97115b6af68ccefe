//! Sources other than a tree's walk with the real binary: what cannot be looked at, what writes nothing, what does not end.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::binary::Penstock;
use crate::servers::{STATIC_KEYS, Scheme, Servers};

/// Nobody: a user whom permissions stop.
const NOBODY: u32 = 65534;

struct Site {
    _servers: Servers,
    folder: tempfile::TempDir,
    penstock: Penstock,
}

impl Site {
    /// With the jobs of `config`, in which FOLDER is the site's folder.
    fn new(config: &str) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let folder = tempfile::tempdir().unwrap();
        let head = s3.toml("node-1", &folder.path().join("state"), &s3.url);
        let config = config.replace("FOLDER", folder.path().to_str().unwrap());
        let config = format!("{head}\n{STATIC_KEYS}\n{config}");
        let penstock = Penstock::new(folder.path(), &config);
        Self { _servers: servers, folder, penstock }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn tree(&self, files: &[&str]) {
        for file in files {
            let path = self.path(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, *file).unwrap();
        }
    }

    /// The exit code and the document, as a user whom permissions stop.
    fn as_nobody(&self, arguments: &[&str]) -> (i32, Value) {
        give_away(self.folder.path());
        self.under(&["--reuid", &NOBODY.to_string(), "--clear-groups"], arguments)
    }

    /// The exit code and the document, with what `setpriv` takes away; of a user who is not root nothing is taken.
    fn under(&self, privileges: &[&str], arguments: &[&str]) -> (i32, Value) {
        let inner = self.penstock.command(&[&["--output", "json"], arguments].concat());
        let mut command = inner;
        if is_root() {
            let mut outer = Command::new("setpriv");
            outer.args(privileges);
            outer.arg(command.get_program()).args(command.get_args());
            outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
            command = outer;
        }
        let output = command.output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code().unwrap(), value)
    }

    fn items(&self, job: &str) -> Vec<(String, String)> {
        let (_, manifest) = self.as_nobody(&["show", &format!("{job}@latest")]);
        let text = |item: &Value, key: &str| item[key].as_str().unwrap().to_owned();
        let items = manifest["items"].as_array().unwrap();
        let mut items: Vec<_> = items.iter().map(|item| (text(item, "name"), text(item, "outcome"))).collect();
        items.sort();
        items
    }

    /// Runs a shell script in which "$@" is `penstock backup --name x` and these arguments; exit code and standard error.
    fn shell(&self, script: &str, arguments: &[&str]) -> (i32, String) {
        let inner = self.penstock.command(&[&["backup", "--name", "x"], arguments].concat());
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn give_away(path: &Path) {
    if !is_root() {
        return;
    }
    chown(path, Some(NOBODY), None).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_symlink() {
                give_away(&path);
            }
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, outcome)| ((*name).to_owned(), (*outcome).to_owned())).collect()
}

/// A folder that opens and cannot be listed: the kernel lists a process's mapped files only for who may trace.
#[test]
fn a_folder_of_which_nothing_can_be_listed_is_no_empty_one() {
    let source = "type = \"tree\"\nname = \"t\"\npath = \"/proc/1/map_files\"\n";
    let site = Site::new(&format!("[jobs.j]\nlocation = \"primary\"\n[[jobs.j.sources]]\n{source}"));
    let (code, error) = site.under(&["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"], &["backup", "j"]);
    assert_eq!((code, &error["error"]["class"]), (74, &Value::from("source")), "{error}");
}

#[test]
fn a_match_that_cannot_be_looked_at_fails_and_its_last_copy_is_kept() {
    for more in ["", "incremental = false\n"] {
        cannot_be_looked_at(more);
    }
}

fn cannot_be_looked_at(more: &str) {
    let site = Site::new(&format!(
        "[jobs.j]\nlocation = \"primary\"\n{more}retention = {{ keep_last = 1 }}\n[[jobs.j.sources]]\ntype = \"tree\"\nname = \"t\"\n\
         path = \"FOLDER/pods/*/mount\"\n[[jobs.j.sources]]\ntype = \"tree\"\nname = \"deep\"\npath = \"FOLDER/deep/*/v/*\"\n",
    ));
    site.tree(&["pods/a/mount/f", "pods/b/mount/f", "deep/a/v/x/f", "deep/a/v/y/f", "deep/b/v/x/f"]);
    // A warning in each backup: none of them is the last good one, which would stay anyway.
    std::fs::write(site.path("pods/b/mount/secret"), "not nobody's").unwrap();
    std::fs::set_permissions(site.path("pods/b/mount/secret"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .unwrap();
    let (code, first) = site.as_nobody(&["backup", "j"]);
    assert_eq!(code, 1, "{first}");
    let whole = ["deep-a_x", "deep-a_y", "deep-b_x", "t-a"].map(|name| (name, "success"));
    let whole = [&whole[..], &[("t-b", "partial")]].concat();
    assert_eq!(site.items("j"), pairs(&whole));

    for path in ["pods/a", "deep/a/v"] {
        mode(&site.path(path), 0);
    }
    // Twice: what is lost is still known from a backup that lacks it itself.
    for _ in 0..2 {
        assert_eq!(site.as_nobody(&["backup", "j"]).0, 1);
        let mut items = site.items("j");
        let place = items.iter().position(|(name, _)| name.starts_with("deep-a-")).expect("the directory's own item");
        assert_eq!(items.remove(place).1, "failure");
        let expected = [
            ("deep-a_x", "failure"),
            ("deep-a_y", "failure"),
            ("deep-b_x", "success"),
            ("t-a", "failure"),
            ("t-b", "partial"),
        ];
        assert_eq!(items, pairs(&expected));
    }
    let (_, manifest) = site.as_nobody(&["show", "j@latest"]);
    let error = |name: &str| {
        let items = manifest["items"].as_array().unwrap();
        items.iter().find(|item| item["name"] == name).unwrap()["error"].clone()
    };
    assert_eq!(error("t-a")["class"], "source");
    assert!(error("t-a")["message"].as_str().unwrap().contains("Permission denied"), "{}", error("t-a"));
    assert!(error("t-a")["remedy"].as_str().unwrap().contains("CAP_DAC_READ_SEARCH"));
    assert!(error("deep-a_x")["message"].as_str().unwrap().contains("could not look for the item"));

    let (_, plan) = site.as_nobody(&["prune", "--job", "j", "--dry-run"]);
    let backups = plan["chains"][0]["backups"].as_array().unwrap();
    let kept = backups.iter().find(|backup| backup["id"] == first["backups"][0]["id"]).unwrap();
    assert!(kept["keep"] == true && kept["reasons"][0].as_str().unwrap().starts_with("last of"), "{plan:#}");
    for path in ["pods/a", "deep/a/v"] {
        mode(&site.path(path), 0o755);
    }
    assert_eq!(site.as_nobody(&["backup", "j"]).0, 1);
    assert_eq!(site.items("j"), pairs(&whole));
}

#[test]
fn nothing_at_all_is_no_backup_unless_it_is_allowed() {
    let site = Site::new(
        "[jobs.j]\nlocation = \"primary\"\n[[jobs.j.sources]]\ntype = \"command\"\nname = \"x\"\n\
         argv = [\"sh\", \"-c\", \"cat FOLDER/dump | cat\"]\n[[jobs.j.sources]]\ntype = \"command\"\nname = \"quiet\"\n\
         argv = [\"true\"]\nallow_empty = true\n",
    );
    for (script, arguments) in [
        ("false | \"$@\"", &["-"][..]),
        ("\"$@\" <&-", &["-"]),
        ("\"$@\" </dev/null", &["-"]),
        ("\"$@\"", &["--", "true"]),
        ("\"$@\"", &["--", "sh", "-c", "false | cat"]),
    ] {
        let (code, said) = site.shell(script, arguments);
        assert_eq!(code, 74, "{script} {arguments:?}: {said}");
        assert!(said.contains("expected at least one byte") && said.contains("--allow-empty"), "{said}");
    }
    assert_eq!(site.penstock.good(&["list"])["backups"].as_array().unwrap().len(), 0);
    for arguments in [&["--allow-empty", "-"][..], &["--allow-empty", "--", "true"]] {
        let (code, said) = site.shell("\"$@\" </dev/null", arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
    }
    // In a job the item fails, and the others are there.
    let (code, _) = site.penstock.json(&["backup", "j"]);
    assert_eq!(code, 1);
    let manifest = site.penstock.good(&["show", "j@latest"]);
    assert_eq!([&manifest["items"][0]["outcome"], &manifest["items"][1]["outcome"]], ["failure", "success"]);
    assert!(manifest["items"][0]["error"]["remedy"].as_str().unwrap().contains("pipefail"), "{manifest:#}");
}

#[test]
fn a_terminal_is_no_standard_input_and_two_paths_of_one_name_are_refused() {
    let site = Site::new("");
    site.tree(&["a/data/f", "b/data/f", "one{,}/f"]);
    let pty = "python3 -c 'import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)' \"$@\" >&2";
    let (code, said) = site.shell(pty, &["-"]);
    assert!(code == 2 && said.contains("which is a terminal"), "{code}: {said}");
    let at = |path: &str| site.path(path).to_str().unwrap().to_owned();
    let (code, said) = site.shell("\"$@\"", &[&at("a/data"), &at("b/data")]);
    assert!(code == 2 && said.contains("would both be the item x-data"), "{code}: {said}");
    // One that is not there does not keep the other from being saved, and its characters mean themselves.
    let (code, said) = site.shell("\"$@\"", &[&at("one{,}"), &at("none")]);
    assert!(code == 1 && said.contains("No such file"), "{code}: {said}");
    let manifest = site.penstock.good(&["show", "adhoc@latest"]);
    let names = [&manifest["items"][0]["name"], &manifest["items"][1]["name"]];
    assert_eq!(names, ["x-one---", "x-none"], "{manifest:#}");
}

#[test]
fn a_process_that_a_command_leaves_behind_does_not_hold_the_run() {
    let site = Site::new("");
    let started = Instant::now();
    let (code, said) = site.shell("\"$@\"", &["--", "sh", "-c", "echo data; sleep 1000 & exit 0"]);
    assert_eq!(code, 1, "{said}");
    let manifest = site.penstock.good(&["show", "adhoc@latest"]);
    let warning = manifest["warnings"]["list"][0]["message"].as_str().unwrap();
    assert!(warning.contains("(sleep)") && said.contains("still had its standard output"), "{warning}; {said}");
    let (code, said) = site.shell("\"$@\"", &["--", "sh", "-c", "echo data; sleep 1000 & exit 3"]);
    assert!(code == 74 && said.contains("status 3"), "{code}: {said}");
    assert!(started.elapsed() < Duration::from_mins(1), "{:?}", started.elapsed());
}
