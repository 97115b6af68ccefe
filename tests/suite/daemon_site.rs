//! A site with a running daemon: two locations behind stand-in servers, three jobs, and the real binary.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::servers::{
    ACCESS_KEY, S3Server, SECRET_KEY, SESSION_ACCESS_KEY, SESSION_SECRET_KEY, Scheme, Scripted, Servers,
};

/// `primary` has static keys; `secondary` assumes a role, for which it needs [`EXTERNAL_ID`].
pub(crate) struct Site {
    pub(crate) servers: Servers,
    pub(crate) primary: S3Server,
    pub(crate) secondary: S3Server,
    pub(crate) config: PathBuf,
    pub(crate) address: String,
    sts: Scripted,
    sts_down: Arc<AtomicBool>,
    session_seconds: Arc<AtomicU64>,
}

pub(crate) const EXTERNAL_ID: &str = "external-id-of-the-site";

/// What the three jobs are where a test says nothing else: one by the minute, two by hand.
pub(crate) const JOBS: &str = r#"
[jobs.etcd]
location = "primary"
schedule = "* * * * *"
sources = [{ type = "command", name = "dump", argv = ["sh", "-c", "echo the dump"] }]
[jobs.volumes]
location = "secondary"
after = [["sh", "-c", "echo $PENSTOCK_OUTCOME >> FOLDER/outcomes"]]
sources = [{ type = "tree", name = "files", path = "FOLDER/tree" }]
[jobs.slow]
location = "primary"
compression = "none"
sources = [{ type = "command", name = "dump", argv = ["sh", "-c", "i=0; while [ $i -lt 600 ]; do head -c 1000000 /dev/zero; sleep 0.1; i=$((i+1)); done"] }]
"#;

impl Site {
    pub(crate) fn new() -> Self {
        let servers = Servers::start();
        let (primary, secondary) = (servers.s3(Scheme::Http), servers.s3(Scheme::Http));
        let sts_down = Arc::new(AtomicBool::new(false));
        let session_seconds = Arc::new(AtomicU64::new(24 * 3600));
        let (down, seconds) = (Arc::clone(&sts_down), Arc::clone(&session_seconds));
        let sts = servers.scripted(Scheme::Http, move |request, _| {
            if down.load(Ordering::Relaxed) {
                return (503, "<ErrorResponse><Error><Code>ServiceUnavailable</Code></Error></ErrorResponse>".to_owned());
            }
            if !request.body.contains(&format!("ExternalId={EXTERNAL_ID}")) {
                let message = "User: arn:aws:iam::1:user/x is not authorized to perform: sts:AssumeRole on resource: r";
                let error = format!("<Error><Code>AccessDenied</Code><Message>{message}</Message></Error>");
                return (403, format!("<ErrorResponse>{error}</ErrorResponse>"));
            }
            let expiry = jiff::Timestamp::now() + Duration::from_secs(seconds.load(Ordering::Relaxed));
            let session = format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
                 <AccessKeyId>{SESSION_ACCESS_KEY}</AccessKeyId><SecretAccessKey>{SESSION_SECRET_KEY}</SecretAccessKey>\
                 <SessionToken>token</SessionToken><Expiration>{expiry:.0}</Expiration></Credentials>\
                 </AssumeRoleResult></AssumeRoleResponse>"
            );
            (200, session)
        });
        let folder = servers.folder().to_owned();
        fs::create_dir(folder.join("tree")).unwrap();
        fs::write(folder.join("tree/file"), "content").unwrap();
        // Free a moment ago; another test of this process takes another.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = folder.join("penstock.toml");
        let site = Self { servers, primary, secondary, config, address, sts, sts_down, session_seconds };
        site.configure("", JOBS, EXTERNAL_ID);
        site
    }

    pub(crate) fn folder(&self) -> &Path {
        self.servers.folder()
    }

    /// Writes the configuration, with `top` in front of its sections.
    pub(crate) fn configure(&self, top: &str, jobs: &str, external_id: &str) {
        fs::write(&self.config, self.configuration(top, jobs, external_id)).unwrap();
    }

    pub(crate) fn configuration(&self, top: &str, jobs: &str, external_id: &str) -> String {
        let folder = self.folder().display();
        let location = |name: &str, s3: &S3Server| {
            format!(
                "[locations.{name}]\nprovider = \"aws\"\nbucket = \"{}\"\nregion = \"us-east-1\"\ns3_url = \"{}\"\n\
                 sts_url = \"{}\"\nforce_path_style = true\n\
                 credentials = {{ source = \"static\", access_key_id = \"{ACCESS_KEY}\", secret_access_key = \"{SECRET_KEY}\" }}\n\
                 upload = {{ part_size = \"5MiB\" }}\n",
                s3.bucket, s3.url, self.sts.url
            )
        };
        let role = "arn:aws:iam::222222222222:role/BackupWriter";
        format!(
            "{top}\ncluster = \"test\"\nnode = \"node-1\"\nstate_dir = \"{folder}/state\"\n\
             admin = {{ listen = \"{}\", socket = \"{folder}/run/control.sock\" }}\nlimits = {{ memory = \"64MiB\" }}\n\
             {}{}[[locations.secondary.assume_role]]\nrole_arn = \"{role}\"\nexternal_id = \"{external_id}\"\n{}",
            self.address,
            location("primary", &self.primary),
            location("secondary", &self.secondary),
            jobs.replace("FOLDER", &folder.to_string()),
        )
    }

    /// How long the sessions last that STS gives from here on; a day if nobody says.
    pub(crate) fn sessions_last(&self, time: Duration) {
        self.session_seconds.store(time.as_secs(), Ordering::Relaxed);
    }

    /// How often STS was asked.
    pub(crate) fn sts_requests(&self) -> usize {
        self.sts.seen().len()
    }

    /// Whether STS answers from here on.
    pub(crate) fn sts_answers(&self, answers: Result<(), ()>) {
        self.sts_down.store(answers.is_err(), Ordering::Relaxed);
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        for name in
            ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NODE_NAME"]
        {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.run(&[&["--output", "json"], arguments].concat());
        let value = serde_json::from_slice(&output.stdout);
        (output.status.code(), value.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }

    /// Runs the job that runs each minute, once it is not running.
    pub(crate) fn trigger_etcd(&self) -> (Option<i32>, Value) {
        wait_for("the end of the minute's run", Duration::from_secs(30), || {
            Some(self.json(&["trigger", "etcd", "--wait"])).filter(|(_, answer)| answer["error"]["class"] != "busy")
        })
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = self.start_with(self.command(&["--log-format", "json", "run"]));
        wait_for("readiness", Duration::from_secs(60), || (self.get("/readyz").status == 200).then_some(()));
        daemon
    }

    pub(crate) fn start_with(&self, command: Command) -> Daemon {
        Daemon::start(command, self.folder().join("log"))
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        get(&self.address, path, "")
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.get("/api/v1/status").body).unwrap()
    }

    pub(crate) fn job(&self, name: &str) -> Value {
        let status = self.status();
        status["jobs"].as_array().unwrap().iter().find(|job| job["name"] == name).unwrap().clone()
    }
}

/// A daemon that ends with the test, which fails if the daemon logged a warning or an error that the test does not allow.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    log: PathBuf,
    /// How long the log was before: daemons that follow each other write one file.
    before: usize,
    /// Levels, and words of messages.
    allowed: Mutex<Vec<(&'static str, &'static str)>>,
}

impl Daemon {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let before = usize::try_from(file.metadata().unwrap().len()).unwrap();
        Self { child: command.stderr(file).spawn().unwrap(), log, before, allowed: Mutex::default() }
    }

    /// Allows lines of this level whose message has these words. That one comes is for the test to assert.
    pub(crate) fn allow_log(&self, level: &'static str, words: &'static str) {
        self.allowed.lock().unwrap().push((level, words));
    }

    /// The warnings and errors of this daemon that the test does not allow.
    fn unexpected(&self) -> Vec<String> {
        let (log, allowed) = (self.log(), self.allowed.lock().unwrap());
        let is_allowed = |line: &&str| {
            let (level, message) = match serde_json::from_str::<Value>(line) {
                Ok(event) => (event["level"].to_string(), event["message"].to_string()),
                Err(_) => ((*line).to_owned(), (*line).to_owned()),
            };
            let grave = level.contains("WARN") || level.contains("ERROR");
            !grave || allowed.iter().any(|(at, words)| level.contains(at) && message.contains(words))
        };
        log[self.before..].lines().filter(|line| !is_allowed(line)).map(str::to_owned).collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
            return;
        }
        let unexpected = self.unexpected();
        assert!(unexpected.is_empty(), "not allowed by this test (Daemon::allow_log):\n{}", unexpected.join("\n"));
    }
}

/// Looks until there is something, and panics after `limit`.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    /// 0 where nobody answered.
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) body: String,
}

/// One request, as simple as HTTP can be; `headers` are whole lines.
pub(crate) fn get(address: &str, path: &str, headers: &str) -> Response {
    raw(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{headers}\r\n"))
}

pub(crate) fn raw(address: &str, request: &str) -> Response {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_end(&mut answer);
    }
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let bytes = answer[end..].to_vec();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Response { status, head, body: String::from_utf8_lossy(&bytes).into_owned(), bytes }
}
