//! The daemon while something around it goes wrong: a stop in the middle, a name that does not resolve, a location that goes, a full disk.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::daemon_site::{EXTERNAL_ID, JOBS, Site, wait_for};
use crate::faults::proxy::{Fault, Operation};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_stop_during_retention_is_no_failure() {
    let site = Site::new();
    let daemon = site.start();
    // From the commit on the chain's listing is refused again and again: retention is at work when the stop comes.
    let (committed, at_work) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
    let working = Arc::clone(&at_work);
    site.secondary.refuse(move |request| {
        if request.method == "PUT" && request.uri.contains("manifest.json") {
            committed.store(true, Ordering::Relaxed);
        }
        let chain = request.uri.contains("list-type=2") && request.uri.contains("volumes");
        (chain && committed.load(Ordering::Relaxed)).then(|| {
            working.store(true, Ordering::Relaxed);
            (503, "<Error><Code>SlowDown</Code><Message>m</Message></Error>".to_owned())
        })
    });
    assert_eq!(site.json(&["trigger", "volumes"]).0, Some(0));
    wait_for("retention", SOON, || at_work.load(Ordering::Relaxed).then_some(()));
    assert_eq!(daemon.stop(), Some(0));
    let log = fs::read_to_string(site.folder().join("log")).unwrap();
    assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
    assert_eq!(fs::read_to_string(site.folder().join("outcomes")).unwrap(), "success\n");
}

#[test]
fn a_session_that_ends_while_sts_is_away_is_told_and_comes_back() {
    let site = Site::new();
    site.sessions_last(Duration::from_secs(15));
    let daemon = site.start();
    daemon.allow_log("WARN", "could not refresh the credentials");
    daemon.allow_log("WARN", "trying again");
    daemon.allow_log("ERROR", "ServiceUnavailable (HTTP 503)");
    assert_eq!(site.json(&["trigger", "volumes", "--wait"]).0, Some(0));
    site.sts_answers(Err(()));
    let unready = wait_for("the end of the session", SOON, || Some(site.get("/readyz")).filter(|it| it.status == 503));
    assert!(unready.body.contains("secondary"), "{unready:?}");
    let failed = site.json(&["trigger", "volumes", "--wait"]).1;
    let class = failed["error"]["class"].as_str().unwrap();
    assert!(["credentials-expired", "credentials-unavailable"].contains(&class), "{failed}");
    // The other location's job does not care.
    assert_eq!(site.trigger_etcd().0, Some(0));
    site.sts_answers(Ok(()));
    wait_for("readiness", 3 * SOON, || (site.get("/readyz").status == 200).then_some(()));
    assert_eq!(site.json(&["trigger", "volumes", "--wait"]).0, Some(0));
    assert_eq!(daemon.stop(), Some(0));
}

/// A sweep after it would ask the same location for minutes, and the failure would only be seen then.
#[test]
fn a_backup_that_fails_for_want_of_the_location_says_so_and_ends() {
    let site = Site::new();
    site.sts_answers(Err(()));
    let mut backup = site.command(&["--output", "json", "backup", "volumes"]);
    let mut child = backup.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = wait_for("its end", 2 * SOON, || child.try_wait().unwrap());
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
}

#[test]
fn a_name_that_does_not_resolve_is_one_locations_trouble() {
    let site = Site::new();
    let text = site.configuration("", &JOBS.replace("schedule = \"* * * * *\"", ""), EXTERNAL_ID);
    let url = text.lines().find(|line| line.starts_with("s3_url")).unwrap().to_owned();
    fs::write(&site.config, text.replacen(&url, "s3_url = \"http://no-such-host.invalid\"", 1)).unwrap();
    let daemon = site.start_with(site.command(&["--log-format", "json", "run"]));
    daemon.allow_log("WARN", "trying again");
    daemon.allow_log("ERROR", "failed to lookup address information");
    let down = "penstock_location_up{location=\"primary\"} 0";
    wait_for("the check", SOON, || site.get("/metrics").body.contains(down).then_some(()));
    wait_for("the other", SOON, || {
        site.get("/metrics").body.contains("penstock_location_up{location=\"secondary\"} 1").then_some(())
    });
    let status = site.status();
    let location =
        status["locations"].as_array().unwrap().iter().find(|location| location["name"] == "primary").unwrap();
    assert_eq!((&location["up"], &location["error"]["class"]), (&false.into(), &"transient".into()), "{location}");
    assert!(location["error"]["remedy"].as_str().unwrap().contains("DNS"), "{location}");
    let (code, failed) = site.json(&["trigger", "etcd", "--wait"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (Some(75), Some("transient")), "{failed}");
    assert_eq!(site.job("etcd")["last"]["error"]["class"], "transient");
    assert_eq!(site.json(&["trigger", "volumes", "--wait"]).0, Some(0));
    assert_eq!(site.get("/healthz").status, 200);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_location_that_goes_while_a_run_uses_it_stays_until_the_run_ends() {
    let site = Site::new();
    let volumes =
        format!("[jobs.volumes]{}", JOBS.split("[jobs.volumes]").nth(1).unwrap().split("[jobs.").next().unwrap());
    let held = "[jobs.held]\nlocation = \"primary\"\nafter = [[\"sh\", \"-c\", \"echo $PENSTOCK_OUTCOME >> FOLDER/held\"]]\n\
        sources = [{ type = \"command\", name = \"dump\", argv = [\"sh\", \"-c\", \"while ! test -e FOLDER/go; do sleep 0.1; done; echo it\"] }]\n";
    site.configure("", &(volumes.clone() + held), EXTERNAL_ID);
    let daemon = site.start();
    assert_eq!(site.json(&["trigger", "held"]).0, Some(0));
    wait_for("the run", SOON, || (!site.job("held")["running"].is_null()).then_some(()));
    let text = site.configuration("", &volumes, EXTERNAL_ID);
    let (top, rest) = text.split_once("[locations.primary]").unwrap();
    let (_, rest) = rest.split_once("[locations.secondary]").unwrap();
    fs::write(&site.config, format!("{top}[locations.secondary]{rest}")).unwrap();
    let output = site.run(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    let series = || site.get("/metrics").body.contains("location=\"primary\"");
    assert!(series(), "the run still uses it");
    assert_eq!(site.status()["locations"].as_array().unwrap().len(), 1);
    fs::write(site.folder().join("go"), "").unwrap();
    wait_for("the end of its series", SOON, || (!series()).then_some(()));
    assert_eq!(fs::read_to_string(site.folder().join("held")).unwrap(), "success\n");
    assert!(!site.get("/metrics").body.contains("job=\"held\""));
    assert!(site.primary.seen().iter().any(|seen| seen.method == "PUT" && seen.uri.contains("manifest.json")));
    assert!(!daemon.log().contains("\"level\":\"ERROR\""));
    assert_eq!(daemon.stop(), Some(0));
}

/// A daemon whose state directory is a file system of its own, of 256 KiB, in a mount namespace that ends with it.
fn on_a_small_disk(site: &Site) -> Command {
    let state = site.folder().join("state");
    fs::create_dir(&state).unwrap();
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-ec", "mount -t tmpfs -o size=256k tmpfs \"$1\"; shift; exec \"$@\"", "sh"]);
    let daemon = site.command(&["--log-format", "json", "run"]);
    command.arg(state).arg(daemon.get_program()).args(daemon.get_args());
    for (name, _) in daemon.get_envs() {
        command.env_remove(name);
    }
    command
}

/// Writes until the disk has no byte left.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for piece in [4096, 1] {
        while file.write_all(&vec![0; piece]).is_ok() {}
    }
    let full = file.write_all(&[0]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
}

#[test]
fn a_full_disk_stops_only_what_needs_it_and_is_made_up_for() {
    const NOISE: &str = "head -c 12000000 /dev/urandom";
    let site = Site::new();
    let job = |name: &str, script: &str| {
        format!(
            "[jobs.{name}]\nlocation = \"primary\"\ncompression = \"none\"\n\
             sources = [{{ type = \"command\", name = \"dump\", argv = [\"sh\", \"-c\", \"{script}\"] }}]\n"
        )
    };
    let running = format!("{NOISE}; while ! test -e FOLDER/go; do sleep 0.1; done; {NOISE}");
    let jobs = [job("running", &running), job("large", NOISE), job("small", "echo it")].concat();
    // Each has its memory: none waits for another.
    fs::write(&site.config, site.configuration("", &jobs, EXTERNAL_ID).replace("64MiB", "256MiB")).unwrap();
    let daemon = site.start_with(on_a_small_disk(&site));
    daemon.allow_log("ERROR", "No space left on device");
    wait_for("readiness", SOON, || (site.get("/readyz").status == 200).then_some(()));
    let state = PathBuf::from(format!("/proc/{}/root{}", daemon.child.id(), site.folder().join("state").display()));
    let remembered = |job: &str| fs::read_to_string(state.join(format!("jobs/{job}.json"))).unwrap_or_default();
    assert_eq!(site.json(&["trigger", "running"]).0, Some(0));
    wait_for("an upload", SOON, || (site.primary.uploads_in_progress() == 1).then_some(()));
    fill(&state.join("filler"));

    // What needs no journal is stored; what does fails before there is an upload.
    assert_eq!(site.json(&["trigger", "small", "--wait"]).0, Some(0));
    let (code, failed) = site.json(&["trigger", "large", "--wait"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (Some(74), Some("local")), "{failed}");
    assert_eq!(site.job("large")["last"]["error"]["class"], "local");
    assert_eq!(site.primary.uploads_in_progress(), 1);
    let missed = "penstock_state_write_failures_total ";
    let metrics = site.get("/metrics").body;
    let count = metrics.lines().find_map(|line| line.strip_prefix(missed)).unwrap().parse::<u64>().unwrap();
    assert!(count >= 1, "{count}");
    let said = || daemon.log().matches("could not save how the job last ended").count();
    assert_eq!(said(), 1, "once, however often it is tried");
    assert_eq!(site.status()["errors"].as_array().unwrap().last().unwrap()["class"], "local");
    assert_eq!((site.get("/healthz").status, site.get("/readyz").status), (200, 200));
    assert!(!remembered("small").contains("\"success\""), "{}", remembered("small"));
    // What has begun goes on: only its parts cannot be noted any more.
    fs::write(site.folder().join("go"), "").unwrap();
    wait_for("the end of the run", SOON, || (site.job("running")["last"]["outcome"] == "success").then_some(()));
    assert_eq!(site.primary.uploads_in_progress(), 0);

    fs::remove_file(state.join("filler")).unwrap();
    for (job, outcome) in [("running", "\"success\""), ("small", "\"success\""), ("large", "\"local\"")] {
        wait_for(job, SOON, || remembered(job).contains(outcome).then_some(()));
    }
    wait_for("the good news", SOON, || daemon.log().contains("are saved in state_dir again").then_some(()));
    assert_eq!(site.json(&["trigger", "large", "--wait"]).0, Some(0));
    assert_eq!(fs::read_dir(state.join("uploads")).unwrap().count(), 0, "no entry in the journal");
    assert_eq!(daemon.stop(), Some(0));
}

/// Twenty parts on their way that no server reads.
#[test]
fn a_stop_in_the_middle_of_twenty_parts_is_quick_and_leaves_nothing() {
    let site = Site::new();
    let proxy = site.servers.proxy(&site.primary);
    let jobs = "[jobs.wide]\nlocation = \"primary\"\ncompression = \"none\"\n\
        sources = [{ type = \"command\", name = \"dump\", argv = [\"head\", \"-c\", \"150000000\", \"/dev/urandom\"] }]\n";
    let text = site.configuration("", jobs, EXTERNAL_ID).replacen(&site.primary.url, &proxy.url, 1);
    let text = text.replacen("part_size = \"5MiB\"", "part_size = \"5MiB\", concurrency = 20", 1);
    fs::write(&site.config, text.replace("64MiB", "256MiB")).unwrap();
    let entries = || fs::read_dir(site.folder().join("state/uploads")).unwrap().count();
    let stopped_with_twenty = |aborts: Option<Fault>| {
        let late = aborts.is_some();
        proxy.script(move |operation, _| match operation {
            Operation::UploadPart => Some(Fault::Stall(0)),
            Operation::Abort => aborts.clone(),
            _ => None,
        });
        let daemon = site.start();
        if late {
            daemon.allow_log("ERROR", "shutdown deadline reached");
        }
        assert_eq!(site.json(&["trigger", "wide"]).0, Some(0));
        wait_for("twenty parts", SOON, || (proxy.seen(Operation::UploadPart) >= 20).then_some(()));
        let in_flight = "penstock_upload_parts_in_flight{location=\"primary\"} 20\n";
        assert!(site.get("/metrics").body.contains(in_flight));
        assert_eq!((site.primary.uploads_in_progress(), entries()), (1, 1));
        let asked = Instant::now();
        assert_eq!(daemon.stop(), Some(0));
        asked.elapsed()
    };
    let took = stopped_with_twenty(None);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!((site.primary.uploads_in_progress(), entries()), (0, 0));

    // The store does not answer the abort either: gone within the grace period, and the next start cleans up.
    let took = stopped_with_twenty(Some(Fault::Delay(Duration::from_mins(5))));
    assert!((20..30).contains(&took.as_secs()), "{took:?}");
    assert_eq!((site.primary.uploads_in_progress(), entries()), (1, 1));
    proxy.behave();
    let daemon = site.start();
    wait_for("the sweep", SOON, || (site.primary.uploads_in_progress() == 0 && entries() == 0).then_some(()));
    let swept = "penstock_swept_uploads_total{location=\"primary\",outcome=\"success\"} 1\n";
    wait_for("the count", SOON, || site.get("/metrics").body.contains(swept).then_some(()));
    daemon.signal(Signal::TERM);
}

#[test]
fn what_jobs_send_keeps_to_the_bandwidth_and_what_they_receive_is_counted() {
    let site = Site::new();
    let jobs = "[jobs.noise]\nlocation = \"primary\"\n\
        sources = [{ type = \"command\", name = \"dump\", argv = [\"head\", \"-c\", \"6000000\", \"/dev/urandom\"] }]\n";
    let text = site.configuration("", jobs, EXTERNAL_ID);
    fs::write(&site.config, text.replace("memory = \"64MiB\"", "memory = \"64MiB\", bandwidth = \"2MiB\"")).unwrap();
    let daemon = site.start();
    let value = |name: &str| -> u64 {
        let body = site.get("/metrics").body;
        let line = format!("penstock_{name}_bytes_total{{location=\"primary\"}} ");
        body.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |value| value.parse().unwrap())
    };
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(site.json(&["trigger", "noise", "--wait"]).0, Some(0));
        assert!(start.elapsed() > Duration::from_millis(2500), "{:?} for 6 MB at 2 MiB a second", start.elapsed());
    }
    assert!(value("uploaded") > 12_000_000, "{}", value("uploaded"));
    // The second has read the manifest of the first, and its index.
    assert!((1000..100_000).contains(&value("downloaded")), "{}", value("downloaded"));
    assert_eq!(daemon.stop(), Some(0));
}
