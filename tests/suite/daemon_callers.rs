//! The daemon's two doors while callers, or another daemon, behave badly: nobody waits for ever, and nobody is kept out.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use serde_json::Value;

use crate::daemon_site::{EXTERNAL_ID, JOBS, Site, get, wait_for};

const SOON: Duration = Duration::from_secs(30);

/// A job that runs until the file `go` is there.
const HELD: &str = "[jobs.held]\nlocation = \"primary\"\n\
    sources = [{ type = \"command\", name = \"dump\", argv = [\"sh\", \"-c\", \"while ! test -e FOLDER/go; do sleep 0.1; done; echo it\"] }]\n";

fn spawned(site: &Site, arguments: &[&str]) -> Child {
    let mut command = site.command(&[&["--output", "json"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The exit code and the class of the error, if there is one.
fn ended(child: Child) -> (Option<i32>, Value) {
    let output = child.wait_with_output().unwrap();
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), value["error"]["class"].clone())
}

#[test]
fn a_daemon_that_is_stopped_is_not_waited_for_and_does_not_obey_later() {
    let site = Site::new();
    site.configure("", HELD, EXTERNAL_ID);
    let daemon = site.start();
    daemon.signal(Signal::STOP);
    let asked = Instant::now();
    let callers = [&["status"][..], &["reload"], &["trigger", "held"], &["trigger", "held", "--wait"]];
    for caller in callers.map(|arguments| spawned(&site, arguments)) {
        assert_eq!(ended(caller), (Some(75), "timeout".into()));
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
    daemon.signal(Signal::CONT);
    assert_eq!(site.json(&["status"]).0, Some(0));
    assert!(site.job("held")["running"].is_null() && site.job("held")["waiting_since"].is_null());
    assert!(!daemon.log().contains("asked through the control socket"), "the reload was given up");

    // One that falls silent, or ends, while a caller waits for its run.
    let waits = spawned(&site, &["trigger", "held", "--wait"]);
    wait_for("the run", SOON, || (!site.job("held")["running"].is_null()).then_some(()));
    daemon.signal(Signal::STOP);
    assert_eq!(ended(waits), (Some(75), "timeout".into()));
    daemon.signal(Signal::CONT);
    fs::write(site.folder().join("go"), "").unwrap();
    wait_for("its end", SOON, || (site.job("held")["last"]["outcome"] == "success").then_some(()));
    fs::remove_file(site.folder().join("go")).unwrap();
    let waits = spawned(&site, &["trigger", "held", "--wait"]);
    wait_for("the run", SOON, || (!site.job("held")["running"].is_null()).then_some(()));
    daemon.signal(Signal::KILL);
    assert_eq!(ended(waits), (Some(75), "transient".into()));
    fs::write(site.folder().join("go"), "").unwrap();
}

/// Runs a second daemon until it ends by itself.
fn second(site: &Site, config: &str) -> (Option<i32>, String) {
    let path = site.folder().join("second.toml");
    fs::write(&path, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let child = command.arg("--config").arg(path).arg("run").stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    wait_for("its end", SOON, || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_second_daemon_takes_nothing_from_one_that_lives() {
    let site = Site::new();
    let daemon = site.start();
    let own = fs::read_to_string(&site.config).unwrap();
    let other = own.replace("/state\"", "/state2\"").replace("node-1", "node-2");
    let elsewhere = other.replace(&site.address, "127.0.0.1:0");
    let socket = site.folder().join("run/control.sock");
    let pid = format!("(pid {})", daemon.child.id());
    for stopped in [false, true] {
        if stopped {
            daemon.signal(Signal::STOP);
        }
        let (code, said) = second(&site, &elsewhere);
        assert!(code == Some(75) && said.contains("another daemon") && said.contains(&pid), "{code:?} {said}");
        assert!(said.contains("`admin.socket`"), "{said}");
    }
    daemon.signal(Signal::CONT);
    // The other shared things have their own messages.
    let (code, said) = second(&site, &own);
    assert!(code == Some(75) && said.contains("in use by the daemon"), "{code:?} {said}");
    let (code, said) = second(&site, &other.replace("/control.sock", "/second.sock"));
    assert!(
        code == Some(74) && said.contains(&site.address) && said.contains("choose another `admin.listen`"),
        "{said}"
    );
    assert!(!site.folder().join("run/second.sock").exists());
    assert_eq!(site.json(&["status"]).1["node"], "node-1");
    assert_eq!(daemon.stop(), Some(0));
    assert!(!socket.exists());

    fs::write(&socket, "somebody's notes").unwrap();
    let (code, said) = second(&site, &elsewhere);
    assert!(code == Some(78) && said.contains("is a regular file"), "{code:?} {said}");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "somebody's notes");
    // What a killed daemon leaves is replaced.
    fs::remove_file(&socket).unwrap();
    let killed = site.start();
    killed.signal(Signal::KILL);
    drop(killed);
    assert!(socket.exists());
    let daemon = site.start();
    assert_eq!(site.json(&["status"]).0, Some(0));
    assert_eq!(daemon.stop(), Some(0));
}

/// Whether the other side has ended the connection, without reading what it sent.
fn is_closed(stream: &TcpStream) -> bool {
    let mut ends = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut ends, Some(&rustix::event::Timespec::default())).unwrap();
    ends[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// Asks again and again, until the answers that nobody reads fill every buffer.
fn ask_and_do_not_read(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nonblocking(true).unwrap();
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_secs(5)
        && stream.write_all(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(400)).is_ok()
    {}
    stream
}

#[test]
fn callers_that_do_not_read_or_never_finish_their_request_block_nobody() {
    let site = Site::new();
    let daemon = site.start();
    daemon.allow_log("WARN", "too many connections");
    let healthy = || {
        let asked = Instant::now();
        assert_eq!(site.get("/healthz").status, 200);
        assert_eq!(site.get("/metrics").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(site.json(&["status"]).0, Some(0));
    };
    let patient = ask_and_do_not_read(&site.address);
    let began = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..64 {
        let mut slow = TcpStream::connect(&site.address).unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nHost:").unwrap();
        callers.push(slow);
    }
    healthy();
    assert!(is_closed(&patient) && began.elapsed() < Duration::from_secs(15), "the oldest makes room");
    callers.extend((0..64).map(|_| ask_and_do_not_read(&site.address)));
    healthy();
    // The other door.
    let silent: Vec<UnixStream> =
        (0..200).map(|_| UnixStream::connect(site.folder().join("run/control.sock")).unwrap()).collect();
    healthy();
    let full =
        daemon.log().lines().any(|line| line.contains("too many connections") && line.contains("the admin server"));
    assert!(full, "{}", daemon.log());
    drop((callers, silent));
    // Alone, one that does not read has its time limit.
    let alone = ask_and_do_not_read(&site.address);
    wait_for("the end of a connection that is not read", Duration::from_secs(60), || is_closed(&alone).then_some(()));
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn callers_that_wait_for_runs_take_nobodys_place() {
    let site = Site::new();
    site.configure("", HELD, EXTERNAL_ID);
    let daemon = site.start();
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(site.folder().join("run/control.sock")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut queued = [0; 9];
        stream.read_exact(&mut queued).unwrap();
        assert_eq!(&queued, b"\"queued\"\n");
        stream
    };
    // In line all of them, for as long as the first run goes on.
    let jobs: String = (0..260).map(|number| HELD.replace("held", &format!("held-{number}"))).collect();
    site.configure("", &(HELD.to_owned() + &jobs), EXTERNAL_ID);
    assert!(site.run(&["reload"]).status.success());
    let waiting: Vec<UnixStream> =
        (0..260).map(|number| ask(&format!("{{\"command\":\"trigger\",\"job\":\"held-{number}\"}}\n"))).collect();
    assert_eq!(site.json(&["status"]).0, Some(0));
    assert_eq!(site.json(&["trigger", "held"]).0, Some(0));
    assert!(site.run(&["reload"]).status.success());
    // Those above the limit hear of it, and their runs are in line all the same.
    let refused = waiting.into_iter().rev().filter_map(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        String::from_utf8(answers).unwrap().contains("\"class\":\"busy\"").then_some(())
    });
    assert_eq!(refused.take(4).count(), 4);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn whoever_waits_for_a_run_whose_job_has_left_hears_how_it_ended() {
    let site = Site::new();
    site.configure("", &(HELD.to_owned() + JOBS), EXTERNAL_ID);
    let daemon = site.start();
    let waits = spawned(&site, &["trigger", "held", "--wait"]);
    wait_for("the run", SOON, || (!site.job("held")["running"].is_null()).then_some(()));
    site.configure("", JOBS, EXTERNAL_ID);
    assert!(site.run(&["reload"]).status.success());
    assert_eq!(site.json(&["trigger", "held"]).0, Some(66));
    fs::write(site.folder().join("go"), "").unwrap();
    let output = waits.wait_with_output().unwrap();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), run["run"]["outcome"].as_str()), (Some(0), Some("success")), "{run}");
    // And it is remembered, for when the job comes back.
    let record = site.folder().join("state/jobs/held.json");
    wait_for("the record", SOON, || {
        fs::read_to_string(&record).unwrap().contains("\"interrupted\":false").then_some(())
    });
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn the_weights_of_what_a_caller_accepts_are_heard() {
    let site = Site::new();
    let daemon = site.start();
    let form = |accept: &str| get(&site.address, "/metrics", &format!("{accept}\r\n")).head;
    let text = "Accept: application/openmetrics-text;q=0.1, text/plain;q=0.9";
    assert!(form(text).contains("text/plain; version=0.0.4"), "{}", form(text));
    let open = "Accept: text/plain;q=0.1\r\nAccept: application/openmetrics-text;q=0.9";
    assert!(form(open).contains("application/openmetrics-text"), "{}", form(open));
    assert!(!form("Accept-Encoding: gzip;q=0, *").contains("content-encoding"));
    assert_eq!(daemon.stop(), Some(0));
}
