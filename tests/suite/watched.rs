//! What watches the daemon: a real Prometheus with the rules of `config/prometheus`, the dashboard, the runbooks.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use penstock::error::Class;
use rustix::process::Signal;
use serde_json::Value;

use crate::daemon_site::{EXTERNAL_ID, JOBS, Site, get, wait_for};

const MISSING: &str = "prometheus and promtool are needed: `make test-tools` installs them";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Every word of the form `penstock_…`, recorded names such as `job:penstock_…:recent` whole.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_:".contains(c)));
    words.map(|word| word.trim_matches(':')).filter(|word| word.contains("penstock_")).map(str::to_owned).collect()
}

/// The metrics that are defined, as a scrape shows them.
fn defined() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in read("src/metrics/definitions.rs").lines() {
        for (call, suffixes) in [
            ("r.counters(\"", &[""][..]),
            ("r.gauges(\"", &[""]),
            ("r.floats(\"", &[""]),
            ("r.histograms(\"", &["_bucket", "_sum", "_count"]),
            ("(opts(\"", &[""]),
        ] {
            if let Some((_, rest)) = line.split_once(call) {
                let name = rest.split('"').next().unwrap();
                found.extend(suffixes.iter().map(|suffix| format!("penstock_{name}{suffix}")));
            }
        }
    }
    assert!(found.len() > 40, "{found:?}");
    found
}

/// The expressions of the dashboard's panels.
fn panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("config/grafana/penstock.json")).unwrap();
    let targets = dashboard["panels"].as_array().unwrap().iter().filter_map(|panel| panel["targets"].as_array());
    targets.flatten().map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus");
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect(MISSING);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn every_alert_fires_where_it_should_and_has_a_test_and_a_runbook() {
    promtool(&["check", "rules", "rules.yaml"], "");
    promtool(&["test", "rules", "rules.test.yaml"], "");
    let (rules, tests, runbooks) =
        (read("config/prometheus/rules.yaml"), read("config/prometheus/rules.test.yaml"), read("docs/runbooks.md"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 15);
    for alert in &alerts {
        assert!(runbooks.contains(&format!("\n## {alert}\n")), "{alert} has no section in docs/runbooks.md");
        assert!(rules.contains(&format!("docs/runbooks.md#{}\n", alert.to_lowercase())), "{alert} names no runbook");
        let fires = tests
            .split(&format!("alertname: {alert}\n"))
            .skip(1)
            .any(|case| case.trim_start().starts_with("exp_alerts:"));
        assert!(fires, "no test in which {alert} fires");
    }
    // What no alert tells has a section that is called otherwise.
    let sections =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).filter(|name| name.starts_with("Penstock"));
    assert_eq!(sections.filter(|section| !alerts.contains(section)).count(), 0, "a runbook for no alert");
}

#[test]
fn every_class_has_one_row_in_the_runbooks() {
    let runbooks = read("docs/runbooks.md");
    let tables = runbooks.split("| class | what to do |").skip(1);
    let rows = tables.flat_map(|table| table.lines().skip(2).map_while(|row| row.strip_prefix("| ")));
    let cells = rows.flat_map(|row| row.split(" |").next().unwrap().split(", "));
    let mut rows: Vec<&str> = cells.map(|class| class.trim_matches('`')).collect();
    rows.sort_unstable();
    let mut classes: Vec<&str> = Class::ALL.map(Class::as_str).to_vec();
    classes.sort_unstable();
    assert_eq!(rows, classes);
}

#[test]
fn rules_and_dashboard_ask_for_metrics_that_exist_and_leave_none_out() {
    let rules = read("config/prometheus/rules.yaml");
    let recorded = rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned);
    let known: BTreeSet<String> = defined().into_iter().chain(recorded).collect();
    let expressions: String = rules.lines().filter(|line| !line.contains("runbook") && !line.contains('`')).collect();
    let mut asked = names(&expressions);
    asked.extend(names(&panels().join("\n")));
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "asked for and not defined: {unknown:?}");
    let unseen = known.iter().filter(|name| {
        let family = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
        !asked.iter().any(|asked| asked == *name || asked.starts_with(&format!("{family}_")))
    });
    assert_eq!(unseen.collect::<Vec<_>>(), Vec::<&String>::new(), "neither in the dashboard nor in the rules");
}

/// A real Prometheus on the site's daemon, with the project's rules but seconds for their minutes.
struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    fn start(site: &Site) -> Self {
        let folder = site.folder().join("prometheus");
        fs::create_dir(&folder).unwrap();
        let mut rules = String::new();
        for line in read("config/prometheus/rules.yaml").lines() {
            let hasty = line.trim().starts_with("for: ");
            writeln!(rules, "{}", if hasty { "        for: 2s" } else { line }).unwrap();
        }
        fs::write(folder.join("rules.yaml"), rules).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [rules.yaml]\nscrape_configs:\n\
             - {{ job_name: penstock, honor_labels: true, static_configs: [{{ targets: [\"{}\"] }}] }}\n",
            site.address
        );
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .spawn()
            .expect(MISSING);
        let prometheus = Self { child, address };
        wait_for("scrape", Duration::from_secs(60), || {
            (prometheus.value("up{job=\"penstock\"}") == Some(1.0)).then_some(())
        });
        prometheus
    }

    fn query(&self, expression: &str) -> Vec<Value> {
        let encode =
            |byte: u8| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        let encoded: String = expression.bytes().map(encode).collect();
        let response = get(&self.address, &format!("/api/v1/query?query={encoded}"), "");
        if response.status == 0 || response.status == 503 {
            return Vec::new();
        }
        assert_eq!(response.status, 200, "{expression}: {}", response.body);
        let answer: Value = serde_json::from_str(&response.body).unwrap();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    fn value(&self, expression: &str) -> Option<f64> {
        self.query(expression).first()?["value"][1].as_str()?.parse().ok()
    }

    /// What fires now: the alert, and the job or location and class it is about.
    fn firing(&self) -> BTreeSet<String> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}");
        let shown = |alert: &Value| {
            let labels =
                ["alertname", "job", "location", "class"].map(|label| alert["metric"][label].as_str().unwrap_or(""));
            labels.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
        };
        alerts.iter().map(shown).collect()
    }

    /// Waits until exactly these fire, and makes sure that it stays so.
    fn expect(&self, alerts: &[&str]) {
        let expected: BTreeSet<String> = alerts.iter().map(|alert| (*alert).to_owned()).collect();
        let mut last = BTreeSet::new();
        let deadline = std::time::Instant::now() + Duration::from_secs(40);
        let mut since = None;
        while since.is_none_or(|since: std::time::Instant| since.elapsed() < Duration::from_secs(6)) {
            assert!(std::time::Instant::now() < deadline, "these fire: {last:?}; expected {expected:?}");
            last = self.firing();
            since = if last == expected { since.or_else(|| Some(std::time::Instant::now())) } else { None };
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_watches_a_daemon_through_good_and_bad_times() {
    let site = Site::new();
    let daemon = site.start();
    daemon.allow_log("WARN", "could not refresh the credentials");
    daemon.allow_log("ERROR", "AccessDenied");
    daemon.allow_log("ERROR", "could not delete an object of the failed backup");
    daemon.allow_log("ERROR", "is not TOML");
    daemon.allow_log("ERROR", "the configuration was refused");
    let prometheus = Prometheus::start(&site);
    assert_eq!(site.json(&["trigger", "volumes", "--wait"]).0, Some(0));
    // Two runs of the one that runs by the minute.
    let runs = || prometheus.value("penstock_job_runs_total{job=\"etcd\",outcome=\"success\",class=\"none\"}");
    wait_for("scheduled runs", Duration::from_secs(150), || runs().filter(|runs| *runs >= 2.0));
    for positive in [
        "penstock_job_last_success_timestamp_seconds{job=\"volumes\"} > time() - 600",
        "penstock_stored_bytes_total{job=\"volumes\"}",
        "penstock_source_files_total{job=\"volumes\"}",
        "penstock_location_up{location=\"secondary\"}",
        "penstock_job_next_run_timestamp_seconds{job=\"etcd\"} > time()",
        "penstock_job_interval_seconds{job=\"etcd\"} == 60",
        "process_resident_memory_bytes",
    ] {
        assert!(prometheus.value(positive).is_some_and(|value| value > 0.0), "{positive}");
    }
    for expression in panels() {
        prometheus.query(&expression.replace("$instance", ".*"));
    }
    promtool(&["check", "metrics"], &site.get("/metrics").body);
    prometheus.expect(&[]);

    // S3 refuses to write at one location, STS to let us in at the other.
    site.primary.deny(|request| request.method != "GET");
    site.configure("", JOBS, "a-wrong-external-id");
    assert_eq!(site.json(&["reload"]).0, Some(0));
    assert_eq!(site.trigger_etcd().0, Some(77));
    assert_eq!(site.json(&["trigger", "volumes", "--wait"]).1["error"]["class"], "trust-denied");
    let down = "PenstockLocationDown penstock secondary";
    prometheus.expect(&["PenstockJobFailing etcd access-denied", "PenstockJobFailing volumes trust-denied", down]);
    assert_eq!(site.get("/readyz").status, 503);

    // Mended, and then a file that nobody can use.
    site.primary.deny(|_| false);
    site.configure("", JOBS, EXTERNAL_ID);
    assert_eq!(site.json(&["reload"]).0, Some(0));
    for job in ["etcd", "volumes"] {
        assert_eq!(site.json(&["trigger", job, "--wait"]).0, Some(0), "{job}");
    }
    prometheus.expect(&[]);
    fs::write(&site.config, "nonsense").unwrap();
    daemon.signal(Signal::HUP);
    prometheus.expect(&["PenstockConfigurationRefused penstock"]);
    site.configure("", JOBS, EXTERNAL_ID);
    daemon.signal(Signal::HUP);
    assert_eq!(daemon.stop(), Some(0));
    prometheus.expect(&["PenstockDown penstock"]);
}
