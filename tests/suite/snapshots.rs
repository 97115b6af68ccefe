//! Jobs with EBS volumes by the real binary: killed at every request against an EC2 of our own, and the whole life of a
//! snapshot against moto.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock::aws::AwsLocation;
use penstock::config::Location;
use penstock::metrics::Metrics;
use serde_json::Value;

use crate::fake_ec2::{FakeEc2, When, refusal};
use crate::servers::{ACCESS_KEY, S3Server, SECRET_KEY, Scheme, Servers};

const DATA: &str = "vol-0123456789abcdef0";
const LOGS: &str = "vol-0123456789abcdef1";

struct Site {
    servers: Servers,
    config: PathBuf,
}

impl Site {
    /// `s3` and `ec2` are URLs; the bucket is `backups`; `source` are more lines of the EBS source.
    fn new(servers: Servers, s3: &str, ec2: &str, source: &str) -> Self {
        let folder = servers.folder();
        let tree = folder.join("tree");
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("file"), "content").unwrap();
        let text = format!(
            r#"
cluster = "test"
node = "node-1"
state_dir = "{state}"
[admin]
listen = "127.0.0.1:{port}"
socket = "{socket}"
[limits]
memory = "64MiB"
[locations.primary]
provider = "aws"
bucket = "backups"
region = "eu-west-1"
s3_url = "{s3}"
ec2_url = "{ec2}"
force_path_style = true
[locations.primary.credentials]
source = "static"
access_key_id = "{ACCESS_KEY}"
secret_access_key = "{SECRET_KEY}"
[jobs.disks]
location = "primary"
[[jobs.disks.sources]]
type = "ebs"
name = "data"
{source}
[[jobs.disks.sources]]
type = "tree"
name = "files"
path = "{tree}"
"#,
            state = folder.join("state").display(),
            port = free_port(),
            socket = folder.join("control.sock").display(),
            tree = tree.display(),
        );
        let config = folder.join("penstock.toml");
        fs::write(&config, text).unwrap();
        Self { servers, config }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
        command.arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let output = self.command(arguments).args(["--output", "json"]).output().unwrap();
        let parsed = serde_json::from_slice(&output.stdout);
        (output.status.code(), parsed.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }

    /// Every committed manifest.
    fn manifests(&self) -> Vec<Value> {
        let (_, list) = self.json(&["list"]);
        let ids = list["backups"].as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap().to_owned());
        ids.map(|id| self.json(&["show", &id]).1).collect()
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn by_tag(servers: Servers, s3: &S3Server, ec2: &FakeEc2, more: &str) -> Site {
    ec2.volume(
        DATA,
        &[
            ("role", "data"),
            ("kubernetes.io/created-for/pvc/namespace", "shop"),
            ("kubernetes.io/created-for/pvc/name", "db"),
        ],
    );
    ec2.volume(LOGS, &[("role", "data"), ("attached", "i-0123456789abcdef0")]);
    ec2.volume("vol-0123456789abcdef2", &[("role", "other")]);
    Site::new(servers, &s3.url, &ec2.server.url, &format!("select_tags = {{ role = \"data\" }}\n{more}"))
}

fn snapshots_in(manifests: &[Value]) -> Vec<String> {
    let items = manifests.iter().flat_map(|manifest| manifest["items"].as_array().unwrap());
    items.filter_map(|item| Some(item["snapshot"]["snapshot_id"].as_str()?.to_owned())).collect()
}

/// SIGKILL before a request to EC2 is served, or after it: then it is done, and nobody hears of it. Whether the run was killed.
fn killed(deadly: usize, moment: When) -> bool {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let site = by_tag(servers, &s3, &ec2, "");
    let child: Arc<Mutex<Option<Child>>> = Arc::default();
    let victim = child.clone();
    ec2.script(move |_, when, _, number| {
        let now = number == deadly && when == moment;
        now.then(|| {
            victim.lock().unwrap().as_mut().unwrap().kill().unwrap();
            refusal(500, "InternalError", "nobody hears this")
        })
    });
    let mut command = site.command(&["backup", "disks"]);
    // The script waits for the lock until the child is in its place.
    let mut held = child.lock().unwrap();
    *held = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    drop(held);
    let status = loop {
        if let Some(status) = child.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    ec2.script(|_, _, _, _| None);
    let (code, done) = site.json(&["backup", "disks"]);
    assert_eq!(code, Some(0), "{done}");
    let named = snapshots_in(&site.manifests());
    let exist: BTreeSet<String> = ec2.state().snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    let what = format!("killed {moment:?} request {deadly}");
    assert_eq!((named.len(), named.iter().cloned().collect::<BTreeSet<_>>()), (exist.len(), exist), "{what}");
    assert!(named.len().is_multiple_of(2) && !named.is_empty(), "{what}: {named:?}");
    !status.success()
}

#[test]
fn killed_at_any_request_no_snapshot_is_lost_or_doubled() {
    // DescribeVolumes, two creations, a look, the look for strays; and one more that does not come.
    let points = (0..6).flat_map(|deadly| [(deadly, When::Before), (deadly, When::After)]);
    let runs: Vec<_> = points.map(|(deadly, when)| std::thread::spawn(move || killed(deadly, when))).collect();
    let kills: Vec<bool> = runs.into_iter().map(|run| run.join().unwrap()).collect();
    assert_eq!(kills, [[true; 10].as_slice(), &[false; 2]].concat());
}

#[test]
fn what_is_pending_is_finished_by_the_next_run() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    // The look for strays, and that of `verify`.
    ec2.state().looks = 2;
    let site = by_tag(servers, &s3, &ec2, "wait = false\n");
    let (code, done) = site.json(&["backup", "disks"]);
    assert_eq!((code, &done["backups"][0]["outcome"]), (Some(1), &Value::from("partial")), "{done}");
    let first = done["backups"][0]["id"].as_str().unwrap();
    let pending = site.json(&["show", first]).1;
    assert_eq!(pending["items"][0]["snapshot"]["state"], "pending");
    let (code, verified) = site.json(&["verify", first]);
    assert_eq!((code, &verified["ok"]), (Some(75), &Value::Bool(false)), "{verified}");
    site.json(&["backup", "disks"]);
    let finished = site.json(&["show", first]).1;
    assert_eq!(
        (&finished["items"][0]["snapshot"]["state"], &finished["outcome"]),
        (&"completed".into(), &"success".into())
    );
    assert_eq!(site.json(&["verify", first]).0, Some(0));
}

/// A run that died while it waited, and then a daemon whose jobs have no schedule: it commits what was captured.
#[test]
fn the_daemon_finishes_what_a_dead_run_had_captured() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    ec2.state().looks = 1_000_000;
    let site = by_tag(servers, &s3, &ec2, "");
    let mut run = site.command(&["backup", "disks"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !ec2.state().actions.iter().any(|action| action == "DescribeSnapshots") {
        std::thread::sleep(Duration::from_millis(10));
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(site.manifests().is_empty());
    ec2.state().snapshots.iter_mut().for_each(|snapshot| snapshot.looks = 0);
    let mut daemon = site.command(&["run"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while site.manifests().is_empty() && start.elapsed() < Duration::from_mins(1) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let manifests = site.manifests();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(manifests.len(), 1);
    assert_eq!((&manifests[0]["outcome"], snapshots_in(&manifests).len()), (&"success".into(), 2));
    assert_eq!(ec2.state().snapshots.len(), 2);
}

/// The instance metadata service, as version 2 has it: a token first.
#[test]
fn this_instance_is_asked_for_its_id() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let imds = servers.metadata(vec![("/latest/meta-data/instance-id".to_owned(), "i-0123456789abcdef0".to_owned())]);
    let site = by_tag(servers, &s3, &ec2, "attached_to = \"this-instance\"");
    let mut command = site.command(&["backup", "disks"]);
    let output = command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let manifests = site.manifests();
    assert_eq!(manifests[0]["items"][0]["snapshot"]["volume_id"], LOGS);
    let why = manifests[0]["items"][0]["source"]["selected_by"].as_str().unwrap();
    assert_eq!(why, "tagged role=data and attached to i-0123456789abcdef0 (this instance)");
}

#[test]
fn a_denied_volume_says_what_to_grant() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let site = by_tag(servers, &s3, &ec2, "");
    ec2.script(|_, _, action, _| {
        (action == "CreateSnapshot").then(|| refusal(403, "UnauthorizedOperation", "You are not authorized."))
    });
    let (code, done) = site.json(&["backup", "disks"]);
    assert_eq!(code, Some(1), "the files are there: {done}");
    let manifest = &site.manifests()[0];
    assert_eq!(manifest["items"][0]["error"]["class"], "access-denied");
    assert_eq!(manifest["items"][2]["outcome"], "success");
    let (code, failed) =
        site.json(&["snapshot", "restore", "disks@latest", "--volume", DATA, "--availability-zone", "eu-west-1a"]);
    assert_eq!((code, failed["error"]["class"].as_str()), (Some(66), Some("not-found")), "{failed}");
}

/// moto on a free port.
struct Moto {
    child: Child,
    url: String,
}

impl Moto {
    fn start() -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let installed = Command::new(format!("{root}/tests/tools/moto.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(installed.status.success(), "moto cannot be installed");
        let server = String::from_utf8(installed.stdout).unwrap();
        let port = free_port();
        let child = Command::new(server.trim())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, url: format!("http://127.0.0.1:{port}") };
        let start = Instant::now();
        while !moto.request("GET", "/moto-api/").is_some_and(|reply| reply.starts_with("HTTP/1.1 200")) {
            assert!(start.elapsed() < Duration::from_mins(2), "moto does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        moto
    }

    fn request(&self, method: &str, path: &str) -> Option<String> {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(address).ok()?;
        write!(socket, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut reply = String::new();
        socket.read_to_string(&mut reply).ok()?;
        Some(reply)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The SDK's own client, to make volumes and to look at what Penstock made.
fn ec2(location: Location) -> aws_sdk_ec2::Client {
    AwsLocation::connect(&location, Metrics::new().location("test")).unwrap().ec2().clone()
}

async fn make_volume(ec2: &aws_sdk_ec2::Client, tags: &[(&str, &str)]) -> String {
    use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification, VolumeType};
    let tags = tags.iter().map(|(key, value)| Tag::builder().key(*key).value(*value).build()).collect();
    let tags = TagSpecification::builder().resource_type(ResourceType::Volume).set_tags(Some(tags)).build();
    let volume = ec2.create_volume().availability_zone("eu-west-1a").size(12).volume_type(VolumeType::Gp3);
    let volume = volume.iops(4000).throughput(250).tag_specifications(tags).send().await.unwrap();
    volume.volume_id.unwrap()
}

#[test]
fn the_whole_life_of_a_snapshot_at_moto() {
    let servers = Servers::start();
    let moto = Moto::start();
    moto.request("PUT", "/backups").unwrap();
    let mut location = servers.s3(Scheme::Http).location();
    location.ec2_url = Some(moto.url.clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ec2 = runtime.block_on(async { ec2(location) });
    let claim = [("kubernetes.io/created-for/pvc/namespace", "shop"), ("kubernetes.io/created-for/pvc/name", "db")];
    let data = runtime.block_on(make_volume(&ec2, &[("role", "data"), ("Name", "db"), claim[0], claim[1]]));
    let logs = runtime.block_on(make_volume(&ec2, &[("role", "data")]));
    let site = Site::new(servers, &moto.url, &moto.url, "select_tags = { role = \"data\" }\ntags = { team = \"x\" }");

    let (code, done) = site.json(&["backup", "disks"]);
    assert_eq!((code, &done["backups"][0]["outcome"]), (Some(0), &Value::from("success")), "{done}");
    assert_eq!(done["backups"][0]["items"].as_array().unwrap().len(), 3);
    let id = done["backups"][0]["id"].as_str().unwrap();
    let shown = site.json(&["show", "disks@latest"]).1;
    let item = shown["items"].as_array().unwrap().iter().find(|item| item["snapshot"]["volume_id"] == *data).unwrap();
    let recorded = &item["snapshot"];
    assert_eq!((&item["kind"], &item["labels"]["pvc_name"]), (&"ebs-snapshot".into(), &"db".into()));
    assert_eq!((&recorded["state"], &recorded["volume_type"]), (&"completed".into(), &"gp3".into()));
    assert_eq!((&recorded["size_gib"], &recorded["throughput"]), (&12.into(), &250.into()), "{recorded}");

    let snapshot = recorded["snapshot_id"].as_str().unwrap();
    let found = runtime.block_on(ec2.describe_snapshots().snapshot_ids(snapshot).send()).unwrap();
    let tags: Vec<_> =
        found.snapshots()[0].tags().iter().map(|tag| (tag.key().unwrap(), tag.value().unwrap())).collect();
    for tag in [
        ("penstock:backup-id", id),
        ("penstock:cluster", "test"),
        ("penstock:source-volume", &data),
        ("team", "x"),
        ("Name", "db"),
    ] {
        assert!(tags.contains(&tag), "{tag:?} is not in {tags:?}");
    }
    let text = site.command(&["list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("(shop/db)"), "{text:?}");
    assert_eq!(site.json(&["verify", "--all"]).0, Some(0));

    let target = site.servers.folder().join("restored");
    let (code, restored) = site.json(&["restore", id, "--to", target.to_str().unwrap()]);
    assert_eq!((code, &restored["files"]), (Some(0), &2.into()), "the tree and its root: {restored}");
    assert_eq!(fs::read(target.join("file")).unwrap(), b"content");

    let restore = ["snapshot", "restore", "disks@latest", "--availability-zone", "eu-west-1b", "--volume", "shop/db"];
    let (code, made) = site.json(&[&restore[..], &["--tag", "for=drill"]].concat());
    assert_eq!((code, &made["made"]), (Some(0), &"now".into()), "{made}");
    let volume = made["volume_id"].as_str().unwrap();
    let found = runtime.block_on(ec2.describe_volumes().volume_ids(volume).send()).unwrap();
    let found = &found.volumes()[0];
    assert_eq!((found.snapshot_id(), found.availability_zone()), (Some(snapshot), Some("eu-west-1b")));
    assert_eq!((found.size(), found.throughput()), (Some(12), Some(250)));
    let has =
        |key: &str, value: &str| found.tags().iter().any(|tag| tag.key() == Some(key) && tag.value() == Some(value));
    assert!(has("Name", "db") && has("for", "drill") && has("penstock:source-snapshot", snapshot), "{found:?}");
    let (_, again) = site.json(&[&restore[..], &["--tag", "for=drill"]].concat());
    assert_eq!((&again["volume_id"], &again["made"]), (&volume.into(), &"earlier".into()), "a repeat makes no second");
    let (_, other) = site.json(&[&restore[..], &["--tag", "for=drill", "--copy", "2"]].concat());
    assert_ne!(other["volume_id"], volume);
    let printed = site.command(&restore).args(["--manifest", "--fs-type", "xfs"]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.starts_with("apiVersion: \"v1\"\nkind: \"PersistentVolume\"\n"), "{printed}");
    assert!(printed.contains("fsType: \"xfs\"") && printed.contains("namespace: \"shop\""), "{printed}");

    runtime.block_on(ec2.delete_snapshot().snapshot_id(snapshot).send()).unwrap();
    let (code, verified) = site.json(&["verify", id]);
    assert_eq!((code, &verified["ok"]), (Some(66), &Value::Bool(false)), "{verified}");
    let (code, gone) = site.json(&restore);
    assert_eq!((code, gone["error"]["class"].as_str()), (Some(66), Some("not-found")), "{gone}");
    let (code, kept) = site.json(&["snapshot", "restore", id, "--availability-zone", "eu-west-1a", "--volume", &logs]);
    assert_eq!(code, Some(0), "{kept}");
}
