//! The daemon while something around it goes wrong: a stop in the middle, a name that does not resolve, a location that goes, a full disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::daemon_site::{EXTERNAL_ID, JOBS, Site, wait_for};

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
fn a_name_that_does_not_resolve_is_one_locations_trouble() {
    let site = Site::new();
    let text = site.configuration("", &JOBS.replace("schedule = \"* * * * *\"", ""), EXTERNAL_ID);
    let url = text.lines().find(|line| line.starts_with("s3_url")).unwrap().to_owned();
    fs::write(&site.config, text.replacen(&url, "s3_url = \"http://no-such-host.invalid\"", 1)).unwrap();
    let daemon = site.start_with(site.command(&["--log-format", "json", "run"]));
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
