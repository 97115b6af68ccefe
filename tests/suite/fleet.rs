//! What a daemon asks for, request by request: the numbers of docs/sizing.md, "A fleet".

use std::collections::BTreeMap;
use std::time::Duration;

use crate::daemon_site::{EXTERNAL_ID, Site, wait_for};
use crate::servers::Seen;

const SOON: Duration = Duration::from_secs(30);

const JOBS: &str = r#"
[jobs.kept]
location = "secondary"
sources = [{ type = "tree", name = "files", path = "FOLDER/tree" }]
"#;

/// S3's name of a request.
fn operation(seen: &Seen) -> &'static str {
    let query = seen.uri.split_once('?').map_or("", |(_, query)| query);
    match seen.method.as_str() {
        "GET" if query.contains("list-type=2") => "ListObjectsV2",
        "GET" if query.starts_with("uploads") => "ListMultipartUploads",
        "GET" => "GetObject",
        "HEAD" => "HeadObject",
        "PUT" => "PutObject",
        "DELETE" => "DeleteObject",
        _ => "another",
    }
}

fn counted(seen: &[Seen]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for request in seen {
        *counts.entry(operation(request)).or_default() += 1;
    }
    counts
}

/// What the job's next run asks of S3.
fn run(site: &Site, job: &str) -> BTreeMap<&'static str, usize> {
    let before = site.secondary.requests();
    let (code, run) = site.json(&["trigger", job, "--wait"]);
    assert_eq!(code, Some(0), "{run}");
    counted(&site.secondary.seen()[before..])
}

#[test]
fn a_start_and_a_run_make_these_requests_and_no_others() {
    let site = Site::new();
    site.configure("", JOBS, EXTERNAL_ID);
    let daemon = site.start();
    let start = BTreeMap::from([("ListObjectsV2", 1), ("ListMultipartUploads", 1)]);
    for s3 in [&site.primary, &site.secondary] {
        wait_for("the sweep", SOON, || (s3.requests() >= 2).then_some(()));
        assert_eq!(counted(&s3.seen()), start);
    }
    // The primary location has keys of its own, the secondary one a role.
    assert_eq!(site.sts_requests(), 1);

    for number in 1..=4 {
        let first = [("ListObjectsV2", 2), ("PutObject", 3), ("HeadObject", 1)];
        let next = [("ListObjectsV2", 2), ("GetObject", 2), ("PutObject", 2), ("HeadObject", 1)];
        let expected = if number == 1 { BTreeMap::from(first) } else { BTreeMap::from(next) };
        assert_eq!(run(&site, "kept"), expected, "run {number}");
    }
    assert_eq!(site.sts_requests(), 1, "the session goes on");
    assert_eq!(daemon.stop(), Some(0));
}
