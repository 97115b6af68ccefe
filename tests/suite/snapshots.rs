//! Jobs with EBS volumes by the real binary: killed at every request against an EC2 of our own, and the whole life of a
//! snapshot against moto.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use penstock::aws::AwsLocation;
use penstock::config::Location;
use penstock::metrics::Metrics;
use serde_json::Value;

use crate::fake_ec2::{FakeEc2, When, refusal};
use crate::faults::next;
use crate::moto::Moto;
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

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
{STATIC_KEYS}
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

/// A run that something may kill.
type Victim = Arc<Mutex<Option<Child>>>;

fn kill(victim: &Victim) {
    victim.lock().unwrap().as_mut().unwrap().kill().unwrap();
}

/// Runs the job to whatever end it comes to. Whether it was killed.
fn is_killed(site: &Site, victim: &Victim) -> bool {
    let mut command = site.command(&["backup", "disks"]);
    // Whoever kills waits for the lock until the child is in its place.
    let mut held = victim.lock().unwrap();
    *held = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    drop(held);
    loop {
        if let Some(status) = victim.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
            return !status.success();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The next run ends well, and then what exists is what manifests name: both volumes' snapshots in each backup, each once.
fn nothing_is_lost_or_doubled(site: &Site, ec2: &FakeEc2, what: &str) {
    let (code, done) = site.json(&["backup", "disks"]);
    assert_eq!(code, Some(0), "{what}: {done}");
    let named = snapshots_in(&site.manifests());
    let exist: BTreeSet<String> = ec2.state().snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    assert_eq!((named.len(), named.iter().cloned().collect::<BTreeSet<_>>()), (exist.len(), exist), "{what}");
    assert!(named.len().is_multiple_of(2) && !named.is_empty(), "{what}: {named:?}");
    let (code, verified) = site.json(&["verify", "--all"]);
    assert_eq!(code, Some(0), "{what}: {verified}");
}

/// SIGKILL before a request to EC2 is served, or after it: then it is done, and nobody hears of it. Whether the run was killed.
fn killed(deadly: usize, moment: When) -> bool {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let site = by_tag(servers, &s3, &ec2, "");
    let victim = Victim::default();
    let child = victim.clone();
    ec2.script(move |_, when, _, number| {
        let now = number == deadly && when == moment;
        now.then(|| {
            kill(&child);
            refusal(500, "InternalError", "nobody hears this")
        })
    });
    let killed = is_killed(&site, &victim);
    ec2.script(|_, _, _, _| None);
    nothing_is_lost_or_doubled(&site, &ec2, &format!("killed {moment:?} request {deadly}"));
    killed
}

#[test]
fn killed_at_any_request_no_snapshot_is_lost_or_doubled() {
    // DescribeVolumes, two creations, a look, the look for strays; and one more that does not come.
    let points = (0..6).flat_map(|deadly| [(deadly, When::Before), (deadly, When::After)]);
    let runs: Vec<_> = points.map(|(deadly, when)| std::thread::spawn(move || killed(deadly, when))).collect();
    let kills: Vec<bool> = runs.into_iter().map(|run| run.join().unwrap()).collect();
    assert_eq!(kills, [[true; 10].as_slice(), &[false; 2]].concat());
}

/// The requests to S3 in turn: the tree's, the index's, the manifest's.
#[test]
fn killed_at_any_request_to_s3_no_snapshot_is_lost_or_doubled() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let site = by_tag(servers, &s3, &ec2, "");
    let mut kills = 0;
    loop {
        let (victim, before) = (Victim::default(), AtomicUsize::new(0));
        let (child, deadly) = (victim.clone(), kills);
        // Each backup makes the listings and readings of the next more; what it writes is the same.
        s3.refuse(move |request| {
            let now = request.method == "PUT" && before.fetch_add(1, Ordering::Relaxed) == deadly;
            now.then(|| {
                kill(&child);
                (500, String::new())
            })
        });
        let killed = is_killed(&site, &victim);
        s3.refuse(|_| None);
        nothing_is_lost_or_doubled(&site, &ec2, &format!("killed at PUT {deadly}"));
        if !killed {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 2, "an item and a manifest were put: {kills}");
}

/// SIGKILL at moments picked by a seed, again and again at one site: what one leaves is there when the next is killed.
#[test]
fn killed_at_random_moments_no_snapshot_is_lost_or_doubled() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let site = by_tag(servers, &s3, &ec2, "");
    let start = Instant::now();
    nothing_is_lost_or_doubled(&site, &ec2, "undisturbed");
    let whole = start.elapsed();
    let (mut seed, mut kills) = (6, 0);
    for round in 0..12 {
        let after = whole.mul_f64(f64::from(u32::try_from(next(&mut seed) % 1000).unwrap()) / 1000.0);
        let mut run = site.command(&["backup", "disks"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        run.kill().unwrap();
        kills += usize::from(!run.wait().unwrap().success());
        // Now and then two die in a row.
        if !next(&mut seed).is_multiple_of(3) {
            nothing_is_lost_or_doubled(&site, &ec2, &format!("round {round}, after {after:?}"));
        }
    }
    nothing_is_lost_or_doubled(&site, &ec2, "at the end");
    println!("{kills} of 12 runs were killed within {whole:?}");
    assert!(kills >= 4, "{kills}");
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

/// Gives the job a retention.
fn keep_last(site: &Site, count: u32) {
    let text = fs::read_to_string(&site.config).unwrap();
    let job = format!("[jobs.disks]\nretention = {{ keep_last = {count} }}\n");
    fs::write(&site.config, text.replacen("[jobs.disks]\n", &job, 1)).unwrap();
}

const NOW: [&str; 3] = ["prune", "--grace", "0s"];

#[test]
fn what_an_ami_uses_and_what_is_not_ours_stays_when_its_backup_goes() {
    let servers = Servers::start();
    let (s3, ec2) = (servers.s3(Scheme::Http), FakeEc2::start(&servers, Scheme::Http));
    let site = by_tag(servers, &s3, &ec2, "");
    keep_last(&site, 1);
    let first = site.json(&["backup", "disks"]).1["backups"][0]["id"].as_str().unwrap().to_owned();
    let [used, swapped] = ec2.state().snapshots[..].to_vec().try_into().unwrap();
    // Another cluster's, of the same volume, with this backup's id; and a manifest that was changed to name it.
    let mut theirs = swapped.clone();
    theirs.id = "snap-0ffffffffffffffff".to_owned();
    theirs.tags.insert("penstock:cluster".to_owned(), "another".to_owned());
    ec2.state().snapshots.push(theirs.clone());
    let manifest = s3.folder().join(format!("test/disks/node-1/{first}/manifest.json"));
    let text = fs::read_to_string(&manifest).unwrap();
    assert!(text.contains(&swapped.id));
    fs::write(&manifest, text.replace(&swapped.id, &theirs.id)).unwrap();
    site.json(&["backup", "disks"]);
    let in_use = used.id.clone();
    ec2.script(move |state, when, action, _| {
        let asked = when == When::Before && action == "DeleteSnapshot" && state.asked["SnapshotId"] == in_use;
        asked.then(|| refusal(400, "InvalidSnapshot.InUse", "The snapshot is currently in use by ami-0123"))
    });
    let exist = || ec2.state().snapshots.iter().map(|snapshot| snapshot.id.clone()).collect::<BTreeSet<_>>();
    let kept = snapshots_in(&site.manifests()[..1]);
    let expected = |more: &[&String]| kept.iter().chain(more.iter().copied()).cloned().collect::<BTreeSet<_>>();
    let output = site.command(&NOW).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&format!("snapshot={}", used.id)) && said.contains("snapshot kept"), "{said}");
    assert_eq!(exist(), expected(&[&used.id, &theirs.id]));
    assert_eq!(site.manifests().len(), 1);
    // The AMI is gone: the next one finishes it.
    ec2.script(|_, _, _, _| None);
    site.json(&NOW);
    assert_eq!(exist(), expected(&[&theirs.id]));
}

#[test]
fn a_backups_snapshots_go_with_it_at_moto() {
    let servers = Servers::start();
    let moto = Moto::start();
    moto.request("PUT", "/backups").unwrap();
    let mut location = servers.s3(Scheme::Http).location();
    location.ec2_url = Some(moto.url.clone());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ec2 = runtime.block_on(async { ec2(location) });
    let data = runtime.block_on(make_volume(&ec2, &[("role", "data")]));
    runtime.block_on(make_volume(&ec2, &[("role", "data")]));
    let site = Site::new(servers, &moto.url, &moto.url, "select_tags = { role = \"data\" }");
    keep_last(&site, 1);
    let by_hand = runtime.block_on(ec2.create_snapshot().volume_id(&data).send()).unwrap().snapshot_id.unwrap();
    // moto has snapshots of its own, behind the AMIs that it knows.
    let exist = || -> BTreeSet<String> {
        let filter = aws_sdk_ec2::types::Filter::builder().name("volume-size").values("12").build();
        let found = runtime.block_on(ec2.describe_snapshots().owner_ids("self").filters(filter).send()).unwrap();
        found.snapshots().iter().map(|snapshot| snapshot.snapshot_id().unwrap().to_owned()).collect()
    };
    let with_by_hand = |named: Vec<String>| named.into_iter().chain([by_hand.clone()]).collect::<BTreeSet<_>>();
    for count in 1..=3 {
        let (code, done) = site.json(&["backup", "disks"]);
        assert_eq!(code, Some(0), "{done}");
        assert_eq!(exist().len(), 2 * count + 1);
    }
    let (code, plan) = site.json(&["prune", "--dry-run"]);
    assert_eq!((code, &plan["chains"][0]["deleted"], exist().len()), (Some(0), &2.into(), 7), "{plan}");
    // Within the grace period somebody may be making a volume of one.
    let (code, pruned) = site.json(&["prune"]);
    assert_eq!((code, &pruned["chains"][0]["deleted"], exist().len()), (Some(0), &2.into(), 7), "{pruned}");
    assert_eq!(site.json(&NOW).0, Some(0));
    let manifests = site.manifests();
    assert_eq!((manifests.len(), manifests[0]["items"].as_array().unwrap().len()), (1, 3));
    assert_eq!(exist(), with_by_hand(snapshots_in(&manifests)));
    assert_eq!(site.json(&["verify", "--all", "--data"]).0, Some(0));

    let last = manifests[0]["id"].as_str().unwrap();
    let (code, deleted) = site.json(&["delete", "--now", last]);
    assert_eq!((code, &deleted["chains"][0]["deleted"]), (Some(0), &1.into()), "{deleted}");
    assert_eq!((exist(), site.manifests().len()), (with_by_hand(Vec::new()), 0));
    let restore = ["snapshot", "restore", last, "--availability-zone", "eu-west-1a", "--volume", &data];
    assert_eq!(site.json(&restore).0, Some(66));
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
