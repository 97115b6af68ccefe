//! Files and directories that are not what their stat says, with the real binary: the exit code, the bytes, and what is said.
//!
//! Runs as root on Linux: `/proc`, `/dev/pts`, and leases, which Python takes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::binary::Penstock;
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

struct Site {
    servers: Servers,
    _s3: S3Server,
    penstock: Penstock,
}

impl Site {
    /// A site with one job of these sources.
    fn new(sources: &str) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let config = format!(
            r#"{head}
{STATIC_KEYS}
[jobs.j]
location = "primary"
{sources}"#,
            head = s3.toml("node-1", &servers.folder().join("state"), &s3.url),
        );
        let penstock = Penstock::new(servers.folder(), &config);
        Self { servers, _s3: s3, penstock }
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.penstock.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn source(kind: &str, path: &Path, more: &str) -> String {
    format!("[[jobs.j.sources]]\ntype = \"{kind}\"\nname = \"{kind}\"\npath = \"{}\"\n{more}\n", path.display())
}

/// Holds a write lease on a file, and gives it back 300 ms after it was asked to.
struct Lease(Child);

impl Lease {
    fn on(path: &Path) -> Self {
        let script = "import fcntl, os, signal, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
def give_back(*_):
    time.sleep(0.3)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
signal.signal(signal.SIGIO, give_back)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('leased', flush=True)
while True:
    signal.pause()
";
        let mut command = Command::new("python3");
        let mut child = command.args(["-c", script]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "leased\n");
        Self(child)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_under_a_lease_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let leased = dir.path().join("leased");
    fs::write(&leased, "hello").unwrap();
    for (kind, path) in [("tree", dir.path()), ("file", &leased)] {
        let site = Site::new(&source(kind, path, ""));
        let lease = Lease::on(&leased);
        site.penstock.good(&["backup", "j"]);
        drop(lease);
        let bytes = site.penstock.run(&["cat", "j@latest"]).stdout;
        assert!(bytes.windows(5).any(|window| window == b"hello"), "{kind}");
    }
}

#[test]
fn a_file_that_has_another_size_than_it_says_is_whole_each_time() {
    let random = Path::new("/proc/sys/kernel/random");
    let site = Site::new(&(source("tree", random, "") + &source("file", &random.join("poolsize"), "")));
    let live = fs::read(random.join("poolsize")).unwrap();
    for round in ["full", "incremental"] {
        site.penstock.good(&["backup", "j"]);
        site.penstock.good(&["verify", "j@latest", "--data"]);
        let target = site.servers.folder().join(round);
        site.penstock.good(&["restore", "j@latest", "--item", "tree", "--to", target.to_str().unwrap()]);
        assert_eq!(fs::read(target.join("poolsize")).unwrap(), live, "{round}");
        assert_eq!(site.penstock.run(&["cat", "j@latest", "--item", "file"]).stdout, live, "{round}");
    }
}

#[test]
fn a_log_that_grows_ends_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, vec![b'x'; 40 << 20]).unwrap();
    let site = Site::new(&source("file", &path, ""));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let mut log = fs::File::options().append(true).open(&path).unwrap();
    let writer = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            log.write_all(&[b'y'; 100]).unwrap();
        }
    });
    let (code, _) = site.penstock.json(&["backup", "j"]);
    drop(stop);
    writer.join().unwrap();
    let manifest = site.penstock.good(&["show", "j@latest"]);
    assert_eq!(code, 1, "{manifest:#}");
    let message = manifest["warnings"]["list"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("it grew while it was read"), "{message}");
}

#[test]
fn what_is_not_entered_is_named_and_is_no_warning() {
    // All of /dev but pts, on which every machine and container has a file system of its own.
    let site = Site::new(&source("tree", Path::new("/dev"), r#"exclude = ["[!p]*", "p[!t]*", "ptmx"]"#));
    let output = site.penstock.run(&["backup", "j"]);
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = log.lines().filter(|line| line.contains("not entered")).collect();
    assert!(matches!(lines[..], [line] if line.contains("/dev/pts")), "{log}");
    let manifest = site.penstock.good(&["show", "j@latest"]);
    let expected = serde_json::json!({ "count": 1, "list": ["/dev/pts"] });
    assert_eq!(manifest["items"][0]["stream"]["not_entered"], expected);
    assert_eq!(manifest["outcome"], "success");
    let shown = site.text(&["show", "j@latest"]);
    assert!(shown.contains("not entered") && shown.contains("/dev/pts"), "{shown}");
}
