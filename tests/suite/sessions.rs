//! Sessions that end while work goes on: short ones, an STS that is away, and where their secrets go.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use penstock::aws::AwsLocation;
use penstock::aws::credentials::Standing;
use penstock::checksum::Algorithm;
use penstock::error::Class;
use penstock::metrics::Metrics;

use crate::aws_client::{LATER, ROLE_A, ROLE_B, chained, field, granted, hop};
use crate::binary::Penstock;
use crate::daemon_site::{Daemon, get, wait_for};
use crate::servers::{
    ACCESS_KEY, Answer, S3Server, SECRET_KEY, SESSION_ACCESS_KEY, SESSION_SECRET_KEY, Scheme, Seen, Servers,
};

/// A session of `seconds`, whose token says until when it holds.
fn session_of(seconds: u64) -> Answer {
    let until = SystemTime::now() + Duration::from_secs(seconds);
    let until = jiff::Timestamp::try_from(until).unwrap();
    let (status, body) = granted(SESSION_ACCESS_KEY, SESSION_SECRET_KEY, &until.to_string());
    let token = format!("token-of-{SESSION_ACCESS_KEY}");
    (status, body.replace(&token, &format!("until.{}.token-canary", until.as_millisecond())))
}

/// S3's answer to a token that has ended.
fn expired(request: &Seen) -> Option<Answer> {
    let until: i64 = request.header("x-amz-security-token")?.split('.').nth(1)?.parse().unwrap();
    let over = jiff::Timestamp::now().as_millisecond() > until;
    over.then(|| {
        (400, "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>".into())
    })
}

fn configuration(servers: &Servers, s3: &S3Server, sts: &str, job: &str) -> Penstock {
    let secret = |name: &str, value: &str| {
        let path = servers.folder().join(name);
        fs::write(&path, value).unwrap();
        path.display().to_string()
    };
    let config = format!(
        r#"{head}
sts_url = "{sts}"
certificate = "{ca}"
certificate_mode = "only"
[locations.primary.credentials]
source = "static"
access_key_id_file = "{id}"
secret_access_key_file = "{key}"
[[locations.primary.assume_role]]
role_arn = "{ROLE_A}"
external_id_file = "{external_id}"
[[locations.primary.assume_role]]
role_arn = "{ROLE_B}"
[locations.primary.upload]
part_size = "5MiB"
concurrency = 2
[jobs.stream]
location = "primary"
compression = "none"
[[jobs.stream.sources]]
type = "command"
name = "stream"
argv = ["sh", "-c", "{job}"]
[admin]
socket = "{socket}"
"#,
        socket = servers.folder().join("control.sock").display(),
        head = s3.toml("node-1", &servers.folder().join("state"), &s3.url),
        ca = servers.ca_path().display(),
        id = secret("id", ACCESS_KEY),
        key = secret("key", SECRET_KEY),
        external_id = secret("external-id", "external-id-canary"),
    );
    Penstock::new(servers.folder(), &config)
}

/// A stream that takes `seconds`, over sessions of `lifetime` seconds.
fn outlives(lifetime: u64, seconds: u64) {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Https);
    let late = Arc::new(AtomicUsize::new(0));
    let count = late.clone();
    s3.refuse(move |request| {
        let answer = expired(request);
        count.fetch_add(usize::from(answer.is_some()), Ordering::SeqCst);
        answer
    });
    let sts = servers.scripted(Scheme::Https, move |_, _| session_of(lifetime));
    // The stream's pace is its own: two parts a second.
    let job = format!("for n in $(seq {seconds}); do head -c 10485760 /dev/urandom; sleep 1; done");
    let penstock = configuration(&servers, &s3, &sts.url, &job);
    let began = Instant::now();
    let backup = penstock.good(&["backup", "stream"]);
    let took = began.elapsed().as_secs();
    assert!(took >= seconds, "{took} s");
    assert_eq!(backup["backups"][0]["outcome"], "success", "{backup:#}");
    assert_eq!(backup["backups"][0]["warnings"].as_array().map_or(0, Vec::len), 0, "{backup:#}");
    assert_eq!(s3.uploads_in_progress(), 0);
    let parts = s3.seen().iter().filter(|request| request.uri.contains("partNumber")).count() as u64;
    assert!(parts >= 2 * seconds, "{parts} parts");
    // Two hops a refresh, a refresh at the latest when a third is left: never more than one for each half of a session.
    let asked = sts.seen().len() as u64;
    let (least, most) = (2 * (took / lifetime), 2 * (2 * took / lifetime + 2) + 2 * late.load(Ordering::SeqCst) as u64);
    assert!((least..=most).contains(&asked), "STS was asked {asked} times in {took} s; expected {least} to {most}");
}

#[test]
fn a_stream_outlives_its_sessions() {
    outlives(4, 13);
}

#[test]
#[ignore = "ten minutes; make soak"]
fn soak_ten_minutes_over_sessions_of_fifteen_seconds() {
    outlives(15, 600);
}

/// Polls, since it waits for another task of this process; the bound is for a broken one only.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_mins(2), "not within two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_sts_that_is_away_is_noticed_only_when_the_session_ends_and_its_return_at_once() {
    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    server.refuse(expired);
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    let unavailable =
        "<ErrorResponse><Error><Code>ServiceUnavailable</Code><Message>m</Message></Error></ErrorResponse>";
    let sts = servers.scripted(Scheme::Https, move |_, _| {
        if is_away.load(Ordering::SeqCst) { (503, unavailable.to_owned()) } else { session_of(6) }
    });
    let location = chained(&server, &sts, vec![hop(ROLE_B, None, 3600)]);
    let metrics = Metrics::new();
    let aws = AwsLocation::connect_with(&location, metrics.location("primary"), |_| None).unwrap();
    let (provider, store) = (aws.credentials().clone(), aws.store());
    let list = async || store.list("", None).await.map(drop).map_err(|error| error.class);

    assert_eq!(provider.status().standing, Standing::Unasked);
    list().await.unwrap();
    away.store(true, Ordering::SeqCst);
    // The refresh fails, and the old session goes on.
    until("a refresh fails", async || provider.status().last_error.is_some()).await;
    if provider.status().standing == Standing::Valid {
        // On a machine so loaded that the session has ended between these two lines there is nothing to see.
        assert!(matches!(list().await, Ok(()) | Err(Class::CredentialsUnavailable)));
    }
    until("the session ends", async || provider.status().standing == Standing::Missing).await;
    assert_eq!(list().await, Err(Class::CredentialsUnavailable));
    let asked = sts.seen().len();
    for _ in 0..50 {
        assert_eq!(list().await, Err(Class::CredentialsUnavailable));
    }
    assert!(sts.seen().len() <= asked + 6, "the pause holds for everyone");
    away.store(false, Ordering::SeqCst);
    // Nobody asks: the background finds out by itself.
    until("the background has a session again", async || provider.status().standing == Standing::Valid).await;
    until("the bucket is reached again", async || list().await.is_ok()).await;
    assert!(provider.status().last_error.is_none());
}

#[tokio::test]
async fn parts_on_their_way_survive_a_change_of_session() {
    use penstock::format::key::ObjectKey;
    use penstock::store::{PartNumber, Payload, UploadHandle};

    let servers = Servers::start();
    let server = servers.s3(Scheme::Https);
    let sts = servers.scripted(Scheme::Https, |_, before| {
        let (status, body) = granted(SESSION_ACCESS_KEY, SESSION_SECRET_KEY, LATER);
        (status, body.replace("token-of-", &format!("session-{before}-of-")))
    });
    let location = chained(&server, &sts, vec![hop(ROLE_B, None, 3600)]);
    let store = AwsLocation::connect_with(&location, Metrics::new().location("primary"), |_| None).unwrap().store();
    let key = ObjectKey::new("over/two/sessions");
    let upload = UploadHandle { id: store.create_upload(&key).await.unwrap(), key };
    // From here on the first session is called expired.
    server.refuse(|request| {
        let first = request.header("x-amz-security-token").is_some_and(|token| token.starts_with("session-0-"));
        first.then(|| (400, "<Error><Code>ExpiredToken</Code><Message>m</Message></Error>".into()))
    });
    let payload = Payload::new(vec![7; 1 << 20], Algorithm::None);
    let number = PartNumber::FIRST;
    // One attempt is the engine's unit; its second one has the new session.
    let mut attempts = 0;
    let part = loop {
        attempts += 1;
        match store.upload_part(&upload, number, payload.clone()).await {
            Ok(part) => break part,
            Err(error) if error.class == Class::CredentialsExpired && attempts < 2 => {}
            Err(error) => panic!("{error}"),
        }
    };
    store.complete_upload(&upload, &[part], 1 << 20, None).await.unwrap();
    assert_eq!(sts.seen().len(), 2);
}

fn every_file(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { every_file(&path) } else { vec![path] }).collect()
}

/// Text that left, with the door by which it did.
type Told = Vec<(String, Vec<u8>)>;

/// What a daemon says by its log, its pages and its socket: after a backup, after one that failed, and after files that it refused.
fn told_by_a_daemon(servers: &Servers, s3: &S3Server, penstock: &Penstock, log_format: &str) -> Told {
    let (path, socket) = (servers.folder().join("penstock.toml"), servers.folder().join("control.sock"));
    let good = fs::read_to_string(&path).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let configured = good.replace("[admin]", &format!("[admin]\nlisten = \"{address}\""));
    fs::write(&path, &configured).unwrap();
    let ask = |request: &str| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    };
    let log = servers.folder().join(format!("daemon-{log_format}.log"));
    let daemon = Daemon::start(penstock.command(&["-vvv", "--log-format", log_format, "run"]), log.clone());
    daemon.allow_log("WARN", "could not read the last backup: whether it is encrypted");
    daemon.allow_log("WARN", "could not use an earlier backup as the parent");
    daemon.allow_log("ERROR", "could not delete an object of the failed backup");
    daemon.allow_log("ERROR", "AccessDenied: Access Denied");
    daemon.allow_log("ERROR", "is not TOML");
    daemon.allow_log("ERROR", "locations.primary.assume_role[0].external");
    daemon.allow_log("ERROR", "the configuration was refused");
    wait_for("readiness", Duration::from_secs(60), || (get(&address, "/readyz", "").status == 200).then_some(()));
    let mut told = Vec::new();
    assert_eq!(penstock.json(&["trigger", "stream", "--wait"]).0, 0);
    s3.deny(|_| true);
    assert_eq!(penstock.json(&["trigger", "stream", "--wait"]).0, 77);
    for secret in
        ["external_id = \"inline-canary", "external_id = [\"inline-canary\"]", "external-id = \"inline-canary\""]
    {
        fs::write(&path, configured.replace("external_id_file =", &format!("{secret}\nexternal_id_file ="))).unwrap();
        // Each door, and something that it has to say.
        let mut tell = |door: &str, something: &str, said: Vec<u8>| {
            let text = String::from_utf8_lossy(&said);
            assert!(text.contains(something), "{door} does not say {something}, with {secret}: {text}");
            told.push((format!("{door}, with {secret}"), said));
        };
        tell("the socket's reload", "refused", ask("{\"command\":\"reload\"}\n"));
        tell("the socket's status", "penstock.toml:", ask("{\"command\":\"status\"}\n"));
        let reload = penstock.run(&["reload"]);
        tell("reload", "penstock.toml:", [reload.stdout, reload.stderr].concat());
        tell("the page", "penstock.toml:", get(&address, "/", "").bytes);
        tell("the status", "access-denied", get(&address, "/api/v1/status", "").bytes);
        tell("the metrics", "class=\"access-denied\"", get(&address, "/metrics", "").bytes);
        fs::write(&path, &configured).unwrap();
        for output in ["human", "json"] {
            tell("status", "stream", penstock.run(&["--output", output, "status"]).stdout);
        }
    }
    s3.refuse(|_| None);
    fs::write(&path, good).unwrap();
    assert_eq!(daemon.stop(), Some(0));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("DEBUG"), "the SDK's own lines are not there");
    assert!(log.contains("the configuration was refused"), "{log}");
    told.push(("the daemon's log".to_owned(), log.into_bytes()));
    told
}

#[test]
fn no_secret_leaves_by_any_door() {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Https);
    let sts = servers.scripted(Scheme::Https, |request, _| {
        let (status, body) = session_of(3600);
        match field(request, "Action").as_deref() {
            Some("AssumeRoleWithWebIdentity") => (status, body.replace("AssumeRoleRe", "AssumeRoleWithWebIdentityRe")),
            _ => (status, body),
        }
    });
    let penstock = configuration(&servers, &s3, &sts.url, "echo saved");
    let token = servers.folder().join("token");
    fs::write(&token, "web-identity-canary").unwrap();
    let (path, text) = (servers.folder().join("penstock.toml"), "source = \"static\"");
    let config = fs::read_to_string(&path).unwrap();
    let web = format!("source = \"web-identity\"\ntoken_file = \"{}\"\nrole_arn = \"{ROLE_A}\"\n", token.display());
    let of_static = config.split(text).nth(1).unwrap().split("[[locations.primary.assume_role]]").next().unwrap();
    let canaries =
        [SECRET_KEY, SESSION_SECRET_KEY, "token-canary", "external-id-canary", "web-identity-canary", "inline-canary"];

    let mut told = told_by_a_daemon(&servers, &s3, &penstock, "text");
    let mut tell = |arguments: &[&str]| {
        for format in ["text", "json"] {
            let output = penstock.run(&[&["-vvv", "--log-format", format, "--output", "json"][..], arguments].concat());
            told.push((arguments.join(" "), [output.stdout, output.stderr].concat()));
        }
    };
    let all: [&[&str]; 6] = [
        &["backup", "stream"],
        &["list"],
        &["show", "stream@latest"],
        &["validate", "--skip", "ec2"],
        &["policy"],
        &["cat", "nonesuch"],
    ];
    for arguments in all {
        tell(arguments);
    }
    // The same with a web identity, and with a refusal of everything.
    fs::write(&path, config.replace(text, &web).replace(of_static, "\n")).unwrap();
    for arguments in all {
        tell(arguments);
    }
    let by_a_daemon = told_by_a_daemon(&servers, &s3, &penstock, "json");
    s3.deny(|_| true);
    for arguments in all {
        tell(arguments);
    }
    assert!(
        told.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("DEBUG")),
        "the SDK's own lines are not there"
    );
    let kept = [servers.folder().join("state"), s3.folder()].map(|folder| every_file(&folder)).concat();
    assert!(kept.iter().any(|path| path.ends_with("manifest.json")), "{kept:?}");
    let kept = kept.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap()));
    for (door, bytes) in told.into_iter().chain(by_a_daemon).chain(kept) {
        let text = String::from_utf8_lossy(&bytes);
        for canary in canaries {
            assert!(!text.contains(canary), "{canary} left by {door}: {}", around(&text, canary));
        }
    }
}

fn around(text: &str, word: &str) -> String {
    let at = text.find(word).unwrap_or_default();
    text.chars().skip(at.saturating_sub(300)).take(600).collect()
}
