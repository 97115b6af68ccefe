//! The real binary, killed with SIGKILL at moments picked by a seed, and started again.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::faults::proxy::{Fault, Moment, Operation, Proxy};
use crate::faults::{next, noise};
use crate::servers::{S3Server, STATIC_KEYS, Servers};

/// With objects of 6 MiB: three of them, each of two parts.
const LENGTH: usize = (13 << 20) + 4321;

struct Site {
    s3: S3Server,
    proxy: Proxy,
    config: PathBuf,
    source: PathBuf,
    state: PathBuf,
    servers: Servers,
}

impl Site {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3_with_uploads();
        let proxy = servers.proxy(&s3);
        let folder = servers.folder().to_owned();
        let (state, source) = (folder.join("state"), folder.join("source"));
        let text = format!(
            r#"{head}
{STATIC_KEYS}
[locations.primary.upload]
part_size = "5MiB"
object_size = "6MiB"
concurrency = 3
sign_payload = "never"
[jobs.crash]
location = "primary"
incremental = false
compression = "none"
[[jobs.crash.sources]]
type = "file"
name = "item"
path = "{source}"
"#,
            head = s3.toml("node-1", &state, &proxy.url),
            source = source.display(),
        );
        let config = folder.join("penstock.toml");
        fs::write(&config, text).unwrap();
        let site = Self { s3, proxy, config, source, state, servers };
        site.edit(1);
        site
    }

    /// Nothing of the source is as it was.
    fn edit(&self, seed: u64) {
        fs::write(&self.source, noise(LENGTH, seed)).unwrap();
    }

    fn command(&self, program: &mut Command, arguments: &[&str]) -> Output {
        program.args(["--output", "json", "--config"]).arg(&self.config).args(arguments);
        program.stdin(Stdio::null()).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.command(&mut Command::new(env!("CARGO_BIN_EXE_penstock")), arguments);
        let parsed = serde_json::from_slice(&output.stdout);
        let value = parsed.unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output.status.code(), value)
    }

    fn good(&self, arguments: &[&str]) -> Value {
        let (code, value) = self.json(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {value}");
        value
    }

    fn backups(&self) -> usize {
        self.good(&["list"])["backups"].as_array().unwrap().len()
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.state.join("uploads")).map_or(0, Iterator::count)
    }

    fn nothing_is_left(&self, when: &str) {
        assert_eq!((self.s3.uploads_in_progress(), self.entries()), (0, 0), "uploads, journal entries; {when}");
    }

    /// Runs a backup and kills it; whether it was killed, or ended before its moment came.
    fn killed(&self, operation: Operation, count: usize, moment: Moment) -> bool {
        let mut program = Command::new(env!("CARGO_BIN_EXE_penstock"));
        program.arg("--config").arg(&self.config).args(["backup", "crash"]);
        let status = self.proxy.run_killed(&mut program, operation, count, moment);
        assert!(status.success() || status.code().is_none(), "{status}");
        !status.success()
    }
}

fn moment(seed: &mut u64) -> (Operation, usize, Moment) {
    let pick = |seed: &mut u64, most: u64| usize::try_from(next(seed) % most).unwrap();
    // Six parts and three of the others, in an undisturbed run; then the index and the manifest.
    let (operation, count) = match pick(seed, 8) {
        0 | 1 => (Operation::Create, pick(seed, 3)),
        2 | 3 => (Operation::Complete, pick(seed, 3)),
        4 => (Operation::Put, pick(seed, 2)),
        _ => (Operation::UploadPart, pick(seed, 6)),
    };
    let moment = match pick(seed, 4) {
        0 => Moment::Head,
        1 => Moment::InBody(pick(seed, 4 << 20)),
        2 => Moment::BeforeAnswer,
        _ => Moment::After(Duration::from_micros(next(seed) % 5000)),
    };
    (operation, count, moment)
}

fn crashes(seeds: std::ops::Range<u64>) {
    let site = Site::new();
    let (mut kills, mut interrupted) = (0, 0);
    for seed in seeds.clone() {
        let mut dice = seed;
        let (operation, count, moment) = moment(&mut dice);
        let when = format!("seed {seed}: {operation:?} {count}, {moment:?}");
        site.edit(1000 + seed);
        kills += usize::from(site.killed(operation, count, moment));
        interrupted += site.entries();
        // The next backup cleans up, or a sweep does.
        if next(&mut dice).is_multiple_of(2) {
            let swept = site.good(&["sweep"]);
            site.nothing_is_left(&format!("{when}; swept {swept}"));
        }
        site.good(&["backup", "crash"]);
        site.nothing_is_left(&when);
    }
    let all = site.backups();
    let verified = site.good(&["verify", "--all", "--data"]);
    assert_eq!(verified["backups"].as_array().unwrap().len(), all);
    let seeds = usize::try_from(seeds.end - seeds.start).unwrap();
    println!(
        "{seeds} seeds: {kills} kills, {interrupted} entries found after them, {all} backups verified, 0 uploads left"
    );
    assert!(
        all >= seeds && kills >= seeds / 3 && interrupted >= kills / 3,
        "{all} backups, {kills} kills, {interrupted}"
    );
}

#[test]
fn killed_at_any_moment_nothing_is_left_and_nothing_is_lost() {
    crashes(0..20);
}

#[test]
#[ignore = "minutes: make soak"]
fn soak_killed_two_hundred_times() {
    // Every second seed picks a moment that does not come.
    for round in 0..20 {
        crashes(100 + 20 * round..120 + 20 * round);
    }
}

/// The binary under `sh`, after these commands.
fn under(commands: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{commands} exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_penstock")]);
    shell
}

fn class(output: &Output) -> String {
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    value["error"]["class"].as_str().unwrap().to_owned()
}

/// A file-size limit stands in for a full disk: the same writes fail, with EFBIG for ENOSPC.
#[test]
fn a_full_state_directory_fails_the_backup_before_there_is_an_upload() {
    let site = Site::new();
    site.good(&["backup", "crash"]);
    // Not a byte fits: the intent fails.
    let full = site.command(&mut under("trap '' XFSZ; ulimit -f 0;"), &["backup", "crash"]);
    assert_eq!((full.status.code(), class(&full).as_str()), (Some(74), "local"), "{full:?}");
    site.nothing_is_left("no room for an intent");
    // Interrupted, and then full: what is there is swept all the same.
    assert!(site.killed(Operation::UploadPart, 1, Moment::BeforeAnswer));
    assert_eq!((site.s3.uploads_in_progress(), site.entries()), (1, 1));
    let swept = site.command(&mut under("trap '' XFSZ; ulimit -f 0;"), &["sweep"]);
    assert_eq!(swept.status.code(), Some(0), "{swept:?}");
    site.nothing_is_left("swept on a full disk");
    site.good(&["backup", "crash"]);
    assert_eq!(site.backups(), 2);
}

#[test]
fn a_read_only_state_directory_fails_the_backup_and_says_so() {
    use std::os::unix::fs::PermissionsExt as _;

    let site = Site::new();
    site.good(&["backup", "crash"]);
    assert!(site.killed(Operation::UploadPart, 1, Moment::BeforeAnswer));
    let mode = |mode| {
        for path in [site.state.clone(), site.state.join("uploads"), site.state.join("lock")] {
            let mode = if path.is_dir() { mode } else { mode & 0o666 };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    mode(0o555);
    // Root reads and writes what it likes, unless it has no capabilities.
    let powerless = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-all", env!("CARGO_BIN_EXE_penstock")]);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_penstock"))
    };
    let mut powerless = powerless;
    let refused = site.command(&mut powerless, &["backup", "crash"]);
    assert_eq!((refused.status.code(), class(&refused).as_str()), (Some(74), "local"), "{refused:?}");
    assert_eq!((site.s3.uploads_in_progress(), site.entries()), (1, 1), "nothing new was begun");
    mode(0o755);
    site.good(&["backup", "crash"]);
    site.nothing_is_left("writable again");
    assert_eq!(site.backups(), 2);
}

#[test]
fn a_second_agent_on_a_state_directory_is_told_who_was_first() {
    let site = Site::new();
    let pid = Arc::new(std::sync::Mutex::new(None));
    let (asked, answer) = std::sync::mpsc::channel();
    let hook: Arc<dyn Fn() + Send + Sync> = {
        let (config, pid) = (site.config.clone(), Arc::clone(&pid));
        Arc::new(move || {
            let mut second = Command::new(env!("CARGO_BIN_EXE_penstock"));
            second.args(["--output", "json", "--config"]).arg(&config);
            // The upload that is alive is no business of a sweep's.
            let swept = Command::new(env!("CARGO_BIN_EXE_penstock"))
                .args(["--output", "json", "--config"])
                .arg(&config)
                .arg("sweep")
                .output();
            let _ =
                asked.send((second.args(["backup", "crash"]).output().unwrap(), swept.unwrap(), *pid.lock().unwrap()));
        })
    };
    site.proxy.script(move |operation, count| {
        (operation == Operation::UploadPart && count == 0).then(|| Fault::Hook(Moment::Head, Arc::clone(&hook)))
    });
    let mut first = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let first = first.arg("--config").arg(&site.config).args(["backup", "crash"]).stdout(Stdio::null());
    let mut child = first.spawn().unwrap();
    *pid.lock().unwrap() = Some(child.id());
    let (refused, swept, _) = answer.recv().unwrap();
    assert_eq!((refused.status.code(), class(&refused).as_str()), (Some(75), "busy"), "{refused:?}");
    let message = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(message.contains(&format!("(pid {})", child.id())), "{message}");
    let swept: Value = serde_json::from_slice(&swept.stdout).unwrap();
    assert_eq!(swept["uploads"], serde_json::json!([]));
    assert!(child.wait().unwrap().success());
    site.nothing_is_left("the first has ended");
    assert_eq!((site.backups(), site.servers.folder().exists()), (1, true));
}

/// The first signal aborts, which takes as long as the store takes to answer; the second does not wait for that, and a sweep
/// finishes it.
#[test]
fn a_second_signal_ends_it_at_once() {
    use rustix::process::{Pid, Signal, kill_process};

    let site = Site::new();
    site.proxy.script(|operation, _| match operation {
        Operation::UploadPart => Some(Fault::Stall(0)),
        Operation::Abort => Some(Fault::Delay(Duration::from_mins(5))),
        _ => None,
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let child = child.arg("--config").arg(&site.config).args(["backup", "crash"]).stdin(Stdio::null());
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    for (operation, signal) in [(Operation::UploadPart, Signal::INT), (Operation::Abort, Signal::TERM)] {
        while site.proxy.seen(operation) == 0 {
            assert_eq!(child.try_wait().unwrap(), None, "ended before {operation:?}");
            std::thread::yield_now();
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    let asked = std::time::Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(asked.elapsed() < Duration::from_secs(20), "it waited for the store");
    site.proxy.behave();
    site.good(&["sweep"]);
    site.nothing_is_left("swept");
}
