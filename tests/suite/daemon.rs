//! The daemon as an operator meets it: `run`, `status`, `trigger`, `reload`, its ports, signals and files.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;

use crate::daemon_site::{EXTERNAL_ID, JOBS, Site, get, raw, wait_for};
use crate::servers::authority;

const SOON: Duration = Duration::from_secs(30);

/// Why `value` is not what the part of JSON Schema that docs/status.schema.json uses says; keys it does not name are wrong too.
fn misfit(value: &Value, schema: &Value, root: &Value) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return misfit(value, root.pointer(name.trim_start_matches('#')).unwrap(), root);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let misfits: Vec<_> = choices.iter().map(|choice| misfit(value, choice, root)).collect();
        return misfits.iter().all(Option::is_some).then(|| format!("{value}: {misfits:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let kinds = &schema["type"];
    if !kinds.is_null() && kinds != kind && !kinds.as_array().is_some_and(|kinds| kinds.contains(&kind.into())) {
        return Some(format!("{value} is not {kinds}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Some(format!("{value} is not one of {}", schema["enum"]));
    }
    let missing =
        schema["required"].as_array().into_iter().flatten().find(|key| value.get(key.as_str().unwrap()).is_none());
    let inside = value.as_object().into_iter().flatten().find_map(|(key, value)| match &schema["properties"][key] {
        Value::Null => Some(format!("{key} is not in the schema")),
        schema => misfit(value, schema, root).map(|why| format!("{key}: {why}")),
    });
    let items = value.as_array().into_iter().flatten().find_map(|item| misfit(item, &schema["items"], root));
    missing.map(|key| format!("{key} is missing")).or(inside).or(items)
}

#[test]
fn trigger_waits_and_status_tells_and_a_restart_remembers() {
    let site = Site::new();
    let daemon = site.start();
    daemon.allow_log("ERROR", "files.index.zst: AccessDenied: Access Denied");
    let (code, run) = site.json(&["trigger", "volumes", "--wait"]);
    assert_eq!((code, run["run"]["outcome"].as_str()), (Some(0), Some("success")), "{run}");
    assert_eq!(fs::read_to_string(site.folder().join("outcomes")).unwrap(), "success\n");
    let (code, status) = site.json(&["status"]);
    assert_eq!((code, status["ready"].as_bool()), (Some(0), Some(true)), "{status}");
    let text = String::from_utf8(site.run(&["status"]).stdout).unwrap();
    assert!(text.contains("node-1: ready") && text.contains("volumes") && text.contains("success"), "{text}");
    let backup = run["run"]["backup"].as_str().unwrap();
    let (code, list) = site.json(&["list", "--location", "secondary"]);
    assert_eq!((code, list["backups"][0]["id"].as_str()), (Some(0), Some(backup)));

    let (code, unknown) = site.json(&["trigger", "nonesuch"]);
    assert_eq!((code, unknown["error"]["class"].as_str()), (Some(66), Some("not-found")), "{unknown}");
    site.secondary.deny(|request| request.method == "PUT");
    let (code, failed) = site.json(&["trigger", "volumes", "--wait"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (Some(77), Some("access-denied")), "{failed}");
    let success = site.job("volumes")["last_success"].clone();
    assert_eq!(site.json(&["trigger", "slow"]).0, Some(0));
    let schema: Value = serde_json::from_str(include_str!("../../docs/status.schema.json")).unwrap();
    wait_for("a run", SOON, || (!site.job("slow")["running"].is_null()).then_some(()));
    let status = site.status();
    assert_eq!(misfit(&status, &schema, &schema), None, "{status:#}");
    assert_eq!(status["errors"][0]["class"], "access-denied");
    let mode = fs::metadata(site.folder().join("run/control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(daemon.stop(), Some(0));
    assert!(!site.folder().join("run/control.sock").exists());

    let (code, gone) = site.json(&["status"]);
    assert_eq!((code, gone["error"]["class"].as_str()), (Some(66), Some("not-found")), "{gone}");
    let daemon = site.start();
    let remembered = site.job("volumes");
    assert_eq!((&remembered["last_success"], &remembered["last"]["outcome"]), (&success, &"failure".into()));
    assert!(site.get("/metrics").body.contains("penstock_job_last_outcome{job=\"volumes\"} 2\n"));
    drop(daemon);
}

#[test]
fn the_admin_server_reads_only_and_says_what_it_is_asked() {
    let site = Site::new();
    let _daemon = site.start();
    assert_eq!((site.get("/healthz").status, site.get("/readyz").body.as_str()), (200, "ok\n"));
    for path in ["/metrics", "/api/v1/status", "/"] {
        let response = site.get(path);
        assert_eq!(response.status, 200, "{response:?}");
        for header in ["x-content-type-options: nosniff", "content-security-policy: default-src 'none'", "no-store"] {
            assert!(response.head.contains(header), "{path}: {}", response.head);
        }
    }
    let post = raw(&site.address, "POST /metrics HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(post.status, 405);
    assert!(post.head.contains("allow: get, head"), "{}", post.head);
    let head = raw(&site.address, "HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.status == 200 && head.bytes.is_empty() && !head.head.contains("content-length: 0"), "{head:?}");
    assert_eq!(site.get("/etc/passwd").status, 404);
    let long = format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(40_000));
    assert_eq!(raw(&site.address, &long).status, 431);

    let open = get(&site.address, "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert!(open.head.contains("application/openmetrics-text") && open.body.ends_with("# EOF\n"), "{}", open.body);
    let zipped = get(&site.address, "/metrics", "Accept-Encoding: gzip\r\n");
    assert!(zipped.head.contains("content-encoding: gzip"), "{}", zipped.head);
    let mut text = String::new();
    flate2::read::GzDecoder::new(zipped.bytes.as_slice()).read_to_string(&mut text).unwrap();
    assert!(text.contains("penstock_build_info{"), "{text}");
}

#[test]
fn a_reload_takes_all_or_nothing_and_touches_no_upload() {
    let site = Site::new();
    let daemon = site.start();
    daemon.allow_log("ERROR", "is not a known key; did you mean `cluster`?");
    daemon.allow_log("ERROR", "the configuration was refused");
    assert_eq!(site.json(&["trigger", "slow"]).0, Some(0));
    let running = || site.job("slow")["running"]["plain_bytes"].as_u64();
    let before = wait_for("progress", SOON, || running().filter(|bytes| *bytes > 0));

    // As a ConfigMap is swapped: noticed without being told.
    let (folder, live) = (site.folder(), site.config.clone());
    fs::create_dir(folder.join("v2")).unwrap();
    let more = format!(
        "{JOBS}[jobs.more]\nlocation = \"primary\"\nsources = [{{ type = \"file\", name = \"f\", path = \"/etc/hostname\" }}]\n"
    );
    fs::write(folder.join("v2/penstock.toml"), site.configuration("", &more, EXTERNAL_ID)).unwrap();
    symlink("v2/penstock.toml", folder.join("next")).unwrap();
    fs::rename(folder.join("next"), &live).unwrap();
    let has_more = || site.status()["jobs"].as_array().unwrap().iter().any(|job| job["name"] == "more");
    wait_for("the job of the new file", SOON, || has_more().then_some(()));

    // A file with faults is refused whole, with all of them, and the old one goes on.
    fs::write(&live, "cluster = 1\nclutser = \"a\"\n").unwrap();
    let (code, refused) = site.json(&["config", "check"]);
    assert_eq!(code, Some(78), "{refused}");
    daemon.signal(Signal::HUP);
    let refused =
        wait_for("the refusal", SOON, || Some(site.status()).filter(|s| !s["configuration"]["refused"].is_null()));
    let message = refused["configuration"]["refused"]["message"].as_str().unwrap();
    assert!(message.contains(":1:") && message.contains(":2:"), "{message}");
    assert!(site.get("/metrics").body.contains("penstock_config_last_reload_successful 0\n"));
    assert!(has_more() && site.get("/readyz").status == 200);

    // Back to two jobs, through the socket; the one that runs is gone from the file and goes on.
    let only = JOBS.split("[jobs.slow]").next().unwrap();
    site.configure("log = { level = \"warn\" }", only, EXTERNAL_ID);
    let output = site.run(&["reload"]);
    assert!(output.status.success(), "{output:?}");
    assert!(site.get("/metrics").body.contains("penstock_config_last_reload_successful 1\n"));
    let after = wait_for("more progress", SOON, || running().filter(|bytes| *bytes > before));
    assert!(after > before && !has_more());

    // Cancelled by the stop, in good time and leaving nothing.
    let stopping = Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(25));
    assert_eq!(site.primary.uploads_in_progress(), 0);
    let log = fs::read_to_string(folder.join("log")).unwrap();
    let reloaded = log.rfind("asked through the control socket").unwrap();
    assert!(!log[reloaded..].contains("\"level\":\"INFO\""), "the level was set to warn: {}", &log[reloaded..]);
}

/// The control socket as it is, for `penstock reload` refuses a bad file before it asks.
fn asked_to_reload(site: &Site) -> Value {
    let mut stream = std::os::unix::net::UnixStream::connect(site.folder().join("run/control.sock")).unwrap();
    stream.write_all(b"{\"command\":\"reload\"}\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// How the daemon's log calls a way to have it reload, and how to make it do so with this text.
type Ask<'a> = (&'a str, &'a dyn Fn(&str));

#[test]
fn a_bad_file_is_refused_with_all_its_faults_whoever_asks() {
    let site = Site::new();
    let daemon = site.start();
    daemon.allow_log("ERROR", "is not a known key; did you mean `cluster`?");
    daemon.allow_log("ERROR", "the configuration was refused");
    let successful = |value: u8| format!("penstock_config_last_reload_successful {value}\n");
    let all_faults = |text: &str| [":1:11: cluster", ":2:1: clutser"].iter().all(|line| text.contains(line));
    let socket: Ask = ("asked through the control socket", &|_| {
        let answer = asked_to_reload(&site);
        assert_eq!(answer["refused"]["class"], "config", "{answer}");
        assert!(all_faults(answer["refused"]["message"].as_str().unwrap()), "{answer}");
    });
    let signal: Ask = ("SIGHUP", &|_| daemon.signal(Signal::HUP));
    // Nobody asks; in place, and as a ConfigMap is swapped.
    let file: Ask = ("the file changed", &|_| {});
    let swap: Ask = ("the file changed", &|text| {
        fs::write(site.folder().join("swapped.toml"), text).unwrap();
        symlink("swapped.toml", site.folder().join("next")).unwrap();
        fs::rename(site.folder().join("next"), &site.config).unwrap();
    });
    for (number, (way, ask)) in [socket, signal, file, swap].into_iter().enumerate() {
        let before = daemon.log().len();
        // Another length each time: a change that leaves size and time as they were cannot be seen.
        let bad = format!("cluster = {number}\nclutser = \"{}\"\n", "x".repeat(number));
        if number != 3 {
            fs::write(&site.config, &bad).unwrap();
        }
        ask(&bad);
        wait_for(way, SOON, || {
            let log = daemon.log()[before..].to_owned();
            let asked = log.find(&format!("reloading: {way}"))?;
            log[asked..].contains("the configuration was refused").then_some(())
        });
        assert!(site.get("/metrics").body.contains(&successful(0)), "{way}");
        let refused = site.status()["configuration"]["refused"].clone();
        assert!(refused["message"].as_str().is_some_and(all_faults), "{way}: {refused}");
        assert_eq!(site.get("/readyz").status, 200, "{way}: the old one goes on");
        let (code, refused) = site.json(&["reload"]);
        assert_eq!((code, refused["error"]["class"].as_str()), (Some(78), Some("config")), "{refused}");
        // Mended; the daemon may have seen it before it is asked.
        fs::remove_file(&site.config).unwrap();
        site.configure("", JOBS, EXTERNAL_ID);
        assert_eq!(site.json(&["reload"]).0, Some(0));
        assert!(site.get("/metrics").body.contains(&successful(1)), "{way}");
        assert!(site.status()["configuration"]["refused"].is_null(), "{way}");
    }
}

#[test]
fn it_is_up_without_the_network_and_says_what_is_wrong() {
    let site = Site::new();
    site.sts_answers(Err(()));
    let socket = UnixDatagram::bind(site.folder().join("notify")).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut command = site.command(&["run"]);
    command.env("NOTIFY_SOCKET", site.folder().join("notify")).env("WATCHDOG_USEC", "3000000");
    let daemon = site.start_with(command);
    daemon.allow_log("WARN", "could not refresh the credentials");
    daemon.allow_log("ERROR", "ServiceUnavailable (HTTP 503)");
    daemon.allow_log("WARN", "up, but not ready: location secondary: AssumeRole");
    let mut heard = String::new();
    let mut hear = |until: &str| {
        let mut buffer = [0; 4096];
        while !heard.contains(until) {
            let count = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {until}: {error}\n{heard}"));
            heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
            heard.push('\n');
        }
        std::mem::take(&mut heard)
    };
    let starting = hear("STATUS=waiting: location ");
    assert!(starting.contains("EXTEND_TIMEOUT_USEC=") && !starting.contains("READY=1"), "{starting}");
    // Up when the credentials were tried, although they were refused.
    let mut up = hear("READY=1");
    if !up.contains("not ready: ") {
        up.push_str(&hear("not ready: "));
    }
    assert!(up.contains("not ready: location secondary: "), "{up}");
    wait_for("the admin server", SOON, || (site.get("/healthz").status == 200).then_some(()));
    let unready = wait_for("the reason", SOON, || Some(site.get("/readyz")).filter(|r| r.body.contains("AssumeRole")));
    assert_eq!(unready.status, 503, "{unready:?}");
    // Credentials that are refused at one location do not stop another's jobs.
    let triggered = site.trigger_etcd();
    assert_eq!(triggered.0, Some(0), "{triggered:?}");
    site.sts_answers(Ok(()));
    wait_for("readiness", SOON, || (site.get("/readyz").status == 200).then_some(()));
    let ready = hear("STATUS=idle\n");
    assert!(ready.contains("WATCHDOG=1"), "{ready}");
    daemon.signal(Signal::HUP);
    let reloading = hear("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    hear("READY=1");
    daemon.signal(Signal::TERM);
    hear("STOPPING=1");
}

#[test]
fn the_listener_may_come_from_systemd_and_the_secrets_too() {
    let site = Site::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let secrets = site.folder().join("credentials");
    fs::create_dir(&secrets).unwrap();
    fs::write(secrets.join("external-id"), EXTERNAL_ID).unwrap();
    let text = site.configuration("", JOBS, EXTERNAL_ID);
    let line = format!("external_id = \"{EXTERNAL_ID}\"");
    assert!(text.contains(&line));
    let text = text.replace(&line, "external_id_file = \"${CREDENTIALS_DIRECTORY}/external-id\"");
    fs::write(&site.config, text).unwrap();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_penstock")).arg("--config").arg(&site.config).arg("run");
    command.env("CREDENTIALS_DIRECTORY", &secrets).env_remove("AWS_CA_BUNDLE");
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let daemon = site.start_with(command);
    wait_for("readiness", SOON, || (get(&address, "/readyz", "").status == 200).then_some(()));
    assert_eq!(site.get("/healthz").status, 0, "nothing listens on admin.listen");
    drop(daemon);
}

/// As sd-daemon(3) has it: `journalctl -p warning` finds what is one.
#[test]
fn lines_for_the_journal_begin_with_their_priority() {
    let site = Site::new();
    let path = site.folder().join("log");
    for format in ["text", "json"] {
        let log = fs::File::create(&path).unwrap().metadata().unwrap();
        let mut command = site.command(&["--log-format", format, "run"]);
        command.env("JOURNAL_STREAM", format!("{}:{}", log.dev(), log.ino()));
        site.configure("", JOBS, EXTERNAL_ID);
        let daemon = site.start_with(command);
        wait_for("readiness", SOON, || (site.get("/readyz").status == 200).then_some(()));
        // A reload that warns.
        daemon.allow_log("WARN", "takes effect at the next start");
        fs::write(&site.config, site.configuration("", JOBS, EXTERNAL_ID).replace("64MiB", "96MiB")).unwrap();
        assert_eq!(site.json(&["reload"]).0, Some(0));
        assert_eq!(daemon.stop(), Some(0));
        let lines = fs::read_to_string(&path).unwrap();
        for line in lines.lines() {
            let (priority, event) = line.split_once('>').unwrap();
            let level = match priority {
                "<4" => "WARN",
                "<6" => "INFO",
                _ => panic!("{line}"),
            };
            let levelled = if format == "json" {
                serde_json::from_str::<Value>(event).unwrap()["level"] == level
            } else {
                event.trim_start().starts_with(level)
            };
            assert!(levelled, "{line}");
        }
        assert!(lines.contains("<4>") && lines.contains("<6>"), "{lines}");
    }
}

/// With 200 jobs: less than 25 MiB and 0.1 % of a core, and metrics in milliseconds. A debug build is slower and larger than what
/// is shipped, so this leaves the shipped one room.
#[test]
fn an_idle_daemon_with_two_hundred_jobs_is_small_and_quiet() {
    let site = Site::new();
    let job = |number| {
        format!(
            "[jobs.job-{number}]\nlocation = \"primary\"\nschedule = \"{} 3 1 1 *\"\njitter = \"1h\"\n\
             sources = [{{ type = \"file\", name = \"f\", path = \"/etc/hostname\" }}]\n",
            number % 60
        )
    };
    site.configure("", &(0..200).map(job).collect::<String>(), EXTERNAL_ID);
    let daemon = site.start();
    let status = |path: &str| fs::read_to_string(format!("/proc/{}/{path}", daemon.child.id())).unwrap();
    let ticks = || {
        let stat = status("stat");
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|f| f.parse().ok()).collect();
        // utime and stime, the 14th and 15th field; the state is no number, so two are gone before.
        fields[10] + fields[11]
    };
    // What the start itself costs is over.
    wait_for("the first checks", SOON, || {
        site.get("/metrics").body.contains("penstock_location_up{location=\"secondary\"} 1").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    let (before, started) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(20));
    let used = ticks() - before;
    // A tick is 10 ms. A thousandth of 20 s is two of them.
    let share = Duration::from_millis(10 * used).as_secs_f64() / started.elapsed().as_secs_f64();
    let resident: u64 = status("status")
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let started = Instant::now();
            assert!(site.get("/metrics").body.contains("job=\"job-199\""));
            started.elapsed()
        })
        .collect();
    times.sort();
    println!("resident {resident} KiB, {used} ticks ({:.3} %), /metrics {:?}", share * 100.0, times[4]);
    // The release build has 25 MiB to keep to (docs/benchmarks.md, P8); this is a debug build.
    assert!(resident < 48 << 10, "{resident} KiB resident");
}

/// A certificate of the CA `issuer` for 127.0.0.1, put into the two files of the configuration.
fn renew(site: &Site, issuer: &rcgen::Issuer<'static, rcgen::KeyPair>) -> Vec<u8> {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    fs::write(site.folder().join("admin-key.pem"), key.serialize_pem()).unwrap();
    fs::write(site.folder().join("admin.pem"), certificate.pem()).unwrap();
    certificate.der().to_vec()
}

/// What the admin server answers over TLS, and its certificate; `None` where it is not trusted.
fn get_tls(site: &Site, ca: &str, path: &str) -> Option<(String, Vec<u8>)> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let mut client = rustls::ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut socket = std::net::TcpStream::connect(&site.address).ok()?;
    let mut stream = rustls::Stream::new(&mut client, &mut socket);
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some((answer, client.peer_certificates()?[0].to_vec()))
}

#[test]
fn the_admin_server_speaks_tls_and_takes_up_a_renewed_certificate() {
    let site = Site::new();
    let (issuer, ca) = authority("Admin CA");
    let (_, other) = authority("Another CA");
    let first = renew(&site, &issuer);
    let folder = site.folder().display();
    let tls = format!("tls_certificate = \"{folder}/admin.pem\", tls_key = \"{folder}/admin-key.pem\", listen");
    let text = site.configuration("", JOBS, EXTERNAL_ID).replace("admin = { listen", &format!("admin = {{ {tls}"));
    fs::write(&site.config, text).unwrap();
    let _daemon = site.start_with(site.command(&["run"]));
    let (answer, shown) = wait_for("TLS", SOON, || get_tls(&site, &ca, "/healthz"));
    assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("ok\n"), "{answer}");
    assert_eq!(shown, first);
    assert!(get_tls(&site, &other, "/healthz").is_none());
    assert_ne!(site.get("/healthz").status, 200, "plain HTTP is not answered");
    let second = renew(&site, &issuer);
    wait_for("the new certificate", SOON, || (get_tls(&site, &ca, "/healthz")?.1 == second).then_some(()));
}
