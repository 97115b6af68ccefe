//! Restores by users and into file systems that can less than the backup's, with the real binary. Needs root, to be others.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

/// An ordinary user: nobody's.
const USER: u32 = 65534;

struct Site {
    servers: Servers,
    _s3: S3Server,
    tree: PathBuf,
}

impl Site {
    /// A tree of files `a`, `ro/f` (in a directory that may not be written) and `z`, saved.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let folder = servers.folder().to_owned();
        // For others too.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let tree = folder.join("tree");
        fs::create_dir_all(tree.join("ro")).unwrap();
        for file in ["a", "ro/f", "z"] {
            fs::write(tree.join(file), file).unwrap();
        }
        prepare(&tree);
        let config = format!(
            r#"{head}
{STATIC_KEYS}
[jobs.files]
location = "primary"
[[jobs.files.sources]]
type = "tree"
name = "tree"
path = "{tree}"
"#,
            head = s3.toml("node-1", &folder.join("state"), &s3.url),
            tree = tree.display(),
        );
        fs::write(folder.join("penstock.toml"), config).unwrap();
        let site = Self { servers, _s3: s3, tree };
        let (code, backup) = site.json(&[], &["backup", "files"]);
        assert_eq!(code, Some(0), "{backup}");
        site
    }

    fn target(&self) -> PathBuf {
        self.servers.folder().join("out")
    }

    /// `before` is what the command runs under.
    fn json(&self, before: &[&str], arguments: &[&str]) -> (Option<i32>, Value) {
        // A copy, because the way to where cargo builds need not be open to others.
        let config = self.servers.folder().join("penstock.toml");
        let binary = self.servers.folder().join("penstock");
        if !binary.exists() {
            fs::copy(env!("CARGO_BIN_EXE_penstock"), &binary).unwrap();
        }
        let words: Vec<&str> = before.iter().copied().chain([binary.to_str().unwrap()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("--config").arg(&config).args(["--output", "json"]).args(arguments);
        command.env_remove("AWS_CA_BUNDLE").env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
        let output = command.stdin(Stdio::null()).output().unwrap();
        let parsed = serde_json::from_slice(&output.stdout);
        (output.status.code(), parsed.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }

    fn restore(&self, before: &[&str], more: &[&str]) -> (Option<i32>, Value) {
        let target = self.target();
        let arguments = [&["restore", "files@latest", "--to", target.to_str().unwrap()], more].concat();
        self.json(before, &arguments)
    }

    fn assert_content(&self) {
        for file in ["a", "ro/f", "z"] {
            assert_eq!(fs::read_to_string(self.target().join(file)).unwrap(), file);
        }
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.target().join(path)).unwrap().mode() & 0o7777
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn owners_that_a_user_namespace_does_not_know_cost_only_themselves() {
    let site = Site::new(|tree| {
        chown(tree.join("a"), Some(1000), Some(1000)).unwrap();
        chown(tree.join("z"), Some(1000), Some(0)).unwrap();
        set_mode(&tree.join("a"), 0o660);
        set_mode(&tree.join("z"), 0o6750);
    });
    let (code, restored) = site.restore(&["unshare", "--user", "--map-root-user"], &[]);
    assert_eq!((code, &restored["left_out"], &restored["altered"]), (Some(1), &0.into(), &2.into()), "{restored:#}");
    site.assert_content();
    // Another group gets no more than everybody had; the group that is known keeps what it had.
    assert_eq!((site.mode("a"), site.mode("z")), (0o600, 0o2750));
    assert_eq!(fs::metadata(site.target().join("z")).unwrap().gid(), 0);
    let list = restored["warnings"]["list"].as_array().unwrap();
    assert!(list.iter().any(|warning| warning["path"] == "a" && warning["class"] == "local"), "{restored:#}");
}

#[test]
fn a_user_restores_over_read_only_directories_of_its_own() {
    let site = Site::new(|tree| {
        for path in ["", "a", "ro", "ro/f", "z"] {
            chown(tree.join(path), Some(USER), Some(USER)).unwrap();
        }
        set_mode(&tree.join("ro"), 0o555);
    });
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    assert_eq!(site.restore(&user, &[]).0, Some(0));
    for more in [&["--overwrite"][..], &["--overwrite", "--include", "**/f"]] {
        fs::write(site.target().join("ro/f"), "changed").unwrap();
        let (code, restored) = site.restore(&user, more);
        assert_eq!((code, &restored["warnings"]["count"]), (Some(0), &0.into()), "{restored:#}");
        site.assert_content();
        assert_eq!(site.mode("ro"), 0o555);
    }
    // What is somebody else's stays, and the rest is restored.
    chown(site.target().join("ro"), Some(0), Some(0)).unwrap();
    fs::write(site.target().join("z"), "changed").unwrap();
    let (code, restored) = site.restore(&user, &["--overwrite"]);
    assert_eq!((code, &restored["left_out"]), (Some(1), &1.into()), "{restored:#}");
    site.assert_content();
}

#[test]
fn what_is_in_the_way_is_no_damage_whichever_way_it_is_restored() {
    let site = Site::new(|_| {});
    assert_eq!(site.restore(&[], &[]).0, Some(0));
    let elsewhere = site.servers.folder().join("elsewhere");
    fs::rename(site.target().join("ro"), &elsewhere).unwrap();
    symlink(&elsewhere, site.target().join("ro")).unwrap();
    fs::remove_file(site.target().join("a")).unwrap();
    fs::create_dir(site.target().join("a")).unwrap();
    fs::write(site.target().join("z"), "changed").unwrap();
    fs::write(elsewhere.join("f"), "another's").unwrap();
    for (more, expected, left_out) in [
        (&["--overwrite"][..], Some(1), 3),
        (&["--overwrite", "--item", "tree"], Some(1), 3),
        (&["--overwrite", "--include", "{ro/f,z}"], Some(1), 2),
        // Nothing at all was restored: that is no success of any kind.
        (&["--overwrite", "--include", "ro/f"], Some(73), 2),
        (&["--overwrite", "--include", "a"], Some(73), 1),
    ] {
        let (code, restored) = site.restore(&[], more);
        assert_eq!((code, &restored["left_out"]), (expected, &left_out.into()), "{more:?} {restored:#}");
        assert!(restored["warnings"]["list"].as_array().unwrap().iter().all(|line| line["class"] == "conflict"));
        assert_eq!(restored["error"]["class"] == "conflict", expected == Some(73), "{restored:#}");
        assert_eq!(fs::read_to_string(site.target().join("z")).unwrap(), "z");
        assert!(site.target().join("ro").is_symlink() && site.target().join("a").is_dir());
        assert_eq!(fs::read_to_string(elsewhere.join("f")).unwrap(), "another's");
    }
    assert_eq!(site.json(&[], &["verify", "--data"]).0, Some(0));
    assert!(site.tree.join("z").exists());
}

#[test]
fn names_across_a_mount_are_copies() {
    let site = Site::new(|tree| {
        for name in ["ro/link1", "ro/link2", "zz"] {
            fs::hard_link(tree.join("a"), tree.join(name)).unwrap();
        }
    });
    fs::create_dir_all(site.target().join("ro")).unwrap();
    let mount = format!("mount -t tmpfs none {} && exec \"$0\" \"$@\"", site.target().join("ro").display());
    let (code, restored) = site.restore(&["unshare", "--mount", "sh", "-c", &mount], &["--overwrite"]);
    assert_eq!((code, &restored["left_out"], &restored["altered"]), (Some(1), &0.into(), &1.into()), "{restored:#}");
    let said = restored["warnings"]["list"][0]["message"].as_str().unwrap();
    assert!(said.contains("copy") && said.contains("cross-device"), "{said}");
    assert_eq!(fs::metadata(site.target().join("zz")).unwrap().nlink(), 2);
}

/// A name whose first name is not asked for comes as a file of its own; where what is there already leaves one name out, the others of that
/// file go with it. Where that leaves nothing, the failure names the first.
#[test]
fn an_included_hard_link_needs_no_first_name_and_goes_with_one_that_is_left_out() {
    let site = Site::new(|tree| {
        for name in ["ro/link", "zz"] {
            fs::hard_link(tree.join("a"), tree.join(name)).unwrap();
        }
    });
    let at = |path: &str| site.target().join(path);
    let read = |path: &str| fs::read_to_string(at(path)).unwrap();
    let (code, restored) = site.restore(&[], &["--include", "ro/link"]);
    assert_eq!((code, &restored["files"], &restored["left_out"]), (Some(0), &1.into(), &0.into()), "{restored:#}");
    assert_eq!(read("ro/link"), "a");
    assert!(!at("a").exists() && !at("zz").exists());

    // In the place of the first name, which nobody asked for, is another's file.
    fs::write(at("a"), "another's").unwrap();
    fs::write(at("ro/link"), "changed").unwrap();
    let (code, restored) = site.restore(&[], &["--overwrite", "--include", "{ro/link,zz}"]);
    assert_eq!((code, &restored["files"], &restored["left_out"]), (Some(0), &2.into(), &0.into()), "{restored:#}");
    assert_eq!((read("ro/link"), read("zz"), read("a")), ("a".to_owned(), "a".to_owned(), "another's".to_owned()));
    assert_eq!(fs::metadata(at("zz")).unwrap().nlink(), 2);

    // Without --overwrite nothing is looked at one by one.
    fs::write(at("ro/link"), "changed").unwrap();
    let (code, refused) = site.restore(&[], &["--include", "ro/link"]);
    assert_eq!((code, &refused["error"]["class"]), (Some(73), &"conflict".into()), "{refused:#}");
    assert_eq!(read("ro/link"), "changed");

    fs::remove_file(at("zz")).unwrap();
    for path in ["ro/link", "a"] {
        fs::remove_file(at(path)).unwrap();
        fs::create_dir(at(path)).unwrap();
    }
    for (names, code, files, first, left_out) in [
        ("{ro/link,zz}", 73, 0, "ro/link", &["ro/link", "zz"][..]),
        ("{a,zz}", 73, 0, "a", &["a", "zz"]),
        ("{a,zz,z}", 1, 1, "", &["a", "zz"]),
    ] {
        let (found, restored) = site.restore(&[], &["--overwrite", "--include", names]);
        assert_eq!((found, &restored["files"]), (Some(code), &files.into()), "{names} {restored:#}");
        let list = restored["warnings"]["list"].as_array().unwrap();
        assert!(list.iter().all(|warning| warning["class"] == "conflict"), "{names} {restored:#}");
        let paths: Vec<_> = list.iter().map(|warning| warning["path"].as_str().unwrap()).collect();
        assert_eq!((&restored["left_out"], &paths[..]), (&left_out.len().into(), left_out), "{names} {restored:#}");
        let error = &restored["error"];
        if first.is_empty() {
            assert!(error.is_null(), "{names} {restored:#}");
        } else {
            let message = error["message"].as_str().unwrap();
            let named = format!("{first:?} is left out: a directory is in the way");
            assert!(error["class"] == "conflict" && message.contains(&named), "{names} {restored:#}");
            assert!(error["remedy"].as_str().unwrap().contains("move away"), "{names} {restored:#}");
        }
        assert!(at("a").is_dir() && at("ro/link").is_dir() && !at("zz").exists());
    }
}
