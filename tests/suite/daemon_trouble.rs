//! The daemon while something around it goes wrong: a stop in the middle, a name that does not resolve, a location that goes, a full disk.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::daemon_site::{Site, wait_for};

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
