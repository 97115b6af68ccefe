//! The page in a real browser: it renders, light and dark, its progress moves, and the console stays empty.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::daemon_site::{EXTERNAL_ID, Site, wait_for};

/// One that reads a large file and one whose length nobody knows.
const JOBS: &str = r#"
[jobs.volumes]
location = "primary"
schedule = "30 2 * * *"
time_zone = "Europe/Berlin"
sources = [{ type = "file", name = "image", path = "FOLDER/big" }]
[jobs.etcd]
location = "secondary"
schedule = "0 * * * *"
sources = [{ type = "command", name = "snapshot", argv = ["sh", "-c", "while :; do echo x; sleep 0.1; done"] }]
[jobs.broken]
location = "primary"
sources = [{ type = "command", name = "dump", argv = ["sh", "-c", "echo 'no such <table>' >&2; exit 3"] }]
"#;

/// Starts Chromium with an empty profile on the page. Returns what it printed.
fn browse(site: &Site, number: u32, arguments: &[&str]) -> (String, String) {
    let profile = site.folder().join(format!("profile-{number}"));
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
        ])
        .args(["--enable-logging=stderr", "--hide-scrollbars", "--window-size=1280,900"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .arg(format!("http://{}/", site.address))
        .output()
        .expect("chromium is needed: `make test-tools` installs it");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!told.contains(":CONSOLE"), "the console has an error: {told}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), told)
}

/// The value of the first progress bar that knows its length.
fn progress(dom: &str) -> Option<u64> {
    dom.split("<progress")
        .skip(1)
        .find_map(|bar| bar.split('>').next()?.split("value=\"").nth(1)?.split('"').next()?.parse().ok())
}

#[test]
fn the_page_renders_and_its_progress_moves() {
    let site = Site::new();
    site.configure("", JOBS, EXTERNAL_ID);
    fs::File::create(site.folder().join("big")).unwrap().set_len(2 << 30).unwrap();
    let daemon = site.start();
    daemon.allow_log("ERROR", "item failed");
    daemon.allow_log("ERROR", "no such <table>");
    assert_eq!(site.json(&["trigger", "broken", "--wait"]).0, Some(74));
    for job in ["volumes", "etcd"] {
        assert_eq!(site.json(&["trigger", job]).0, Some(0));
    }
    wait_for("progress", Duration::from_secs(30), || {
        site.job("volumes")["running"]["plain_bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
    let (first, _) = browse(&site, 1, &["--dump-dom"]);
    for text in ["node-1", "ready", "Running now", "secondary", "valid", "0 * * * *", "no such &lt;table&gt;", "source"]
    {
        assert!(first.contains(text), "{text}: {first}");
    }
    let (second, _) = browse(&site, 2, &["--dump-dom"]);
    let (before, after) = (progress(&first), progress(&second));
    assert!(before.is_some() && before < after, "{before:?}, then {after:?}");
    let shots = ["1", "0"].map(|scheme| {
        let file = site.folder().join(format!("page-{scheme}.png"));
        let screenshot = format!("--screenshot={}", file.display());
        browse(&site, 3, &[&format!("--blink-settings=preferredColorScheme={scheme}"), &screenshot]);
        fs::read(&file).unwrap()
    });
    for shot in &shots {
        assert!(shot.starts_with(b"\x89PNG") && shot.len() > 30_000, "{} bytes: an empty page", shot.len());
        assert_eq!(shot[16..24], [0, 0, 5, 0, 0, 0, 3, 132], "1280 x 900");
    }
    assert_ne!(shots[0], shots[1], "dark and light look the same");
    if let Some(folder) = std::env::var_os("PENSTOCK_SCREENSHOTS") {
        for (name, shot) in ["light", "dark"].iter().zip(&shots) {
            fs::write(std::path::Path::new(&folder).join(format!("status-{name}.png")), shot).unwrap();
        }
    }
}
