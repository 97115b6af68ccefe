//! What cannot be saved, what is not there any more, and a volume that takes for ever.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, claimed, record, saved, set};
use crate::binary::Penstock;
use crate::daemon_site::{get, wait_for};
use crate::fake_kubernetes::{Fault, refusal};

fn failed(agent: &Penstock, node: &str) -> Vec<(String, String)> {
    let shown = agent.good(&["show", &format!("claims/{node}@latest")]);
    let items = shown["items"].as_array().unwrap().iter().filter(|item| item["outcome"] == "failure");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    items.map(|item| (text(&item["name"]), text(&item["error"]["message"]))).collect()
}

#[test]
fn a_volume_that_cannot_be_saved_fails_by_name_and_keeps_its_last_backup() {
    let cluster = Cluster::new();
    let config = cluster.config("n1", "retention = { keep_last = 1, grace = \"1h\" }", "claim_timeout = \"20s\"");
    let good = cluster.claim("shop/good");
    fs::write(good.join("file"), "x").unwrap();
    let dead = cluster.claim("shop/dead");
    fs::write(dead.join("file"), "x").unwrap();
    // A local volume whose disk is not mounted: an empty folder is there in its place.
    cluster.claim_of("shop/flat", &json!({}), "ReadWriteOnce", &json!({ "local": { "path": "/mnt/disk" } }));
    // A tenant's link out of the folder that the operator allows.
    let link = cluster.path("volumes/link");
    symlink("/etc", &link).unwrap();
    cluster.claim_of("shop/link", &json!({}), "ReadWriteOnce", &json!({ "hostPath": { "path": link } }));
    cluster.claim_of("shop/else", &json!({}), "ReadWriteOnce", &json!({ "hostPath": { "path": "/etc" } }));
    fs::write(cluster.claim("shop/slow").join("file"), "x").unwrap();
    let volumes = ["good", "dead"].map(|claim| claimed(claim, claim));
    cluster.pod("shop/web", "n1", &json!({}), &volumes);
    let agent = cluster.agent_of("n1", &config);
    agent.good(&["backup", "claims"]);

    let volumes = ["flat", "link", "else", "slow"].map(|claim| claimed(claim, claim));
    cluster.pod("shop/more", "n1", &json!({}), &volumes);
    let uid = cluster.uid("shop/more");
    let flat = cluster.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~local-volume/pv-shop-flat"));
    fs::create_dir_all(flat).unwrap();
    fs::remove_dir_all(&dead).unwrap();
    fs::write(&dead, "a file now").unwrap();
    cluster.s3.refuse(|request| {
        let is_slow = matches!(request.method.as_str(), "PUT" | "POST") && request.uri.contains("claim.shop.slow");
        is_slow.then(|| (503, "<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>".to_owned()))
    });
    let (code, answer) = agent.json(&["backup", "claims"]);
    cluster.s3.refuse(|_| None);
    assert_eq!((code, saved(&answer)), (1, set(["shop/good"])), "{answer:#}");
    let failures = failed(&agent, "n1");
    for (claim, why) in [
        ("dead", "is neither a folder nor a device; expected a folder"),
        ("flat", "is not a mount: it is what lies below the volume"),
        ("link", "is a symbolic link; expected a folder"),
        ("slow", "could not save the volume shop/slow within its claim_timeout of 20s"),
    ] {
        let of = failures.iter().find(|(name, _)| *name == format!("claim.shop.{claim}"));
        assert!(of.is_some_and(|(_, message)| message.contains(why)), "{claim}: {failures:#?}");
    }
    assert_eq!(failures.len(), 4, "{failures:#?}");
    // Where nothing may be looked for, nothing is tried; that is a loss all the same.
    let of = record(&agent, "n1");
    assert_eq!((&of["reasons"]["host-path-volume"], &of["losses"]), (&json!(1), &json!(1)), "{of:#}");
    assert_eq!(cluster.s3.uploads_in_progress(), 0);

    agent.good(&["prune"]);
    let kept = agent.good(&["list", "--claim", "shop/dead"]);
    assert_eq!(kept["backups"].as_array().unwrap().len(), 1, "its last good one stays");
    agent.good(&["verify", "--claim", "shop/dead", "--data"]);
}

#[test]
fn a_claim_that_was_saved_and_is_mounted_nowhere_is_missed_until_it_is_gone() {
    let cluster = Cluster::new();
    for claim in ["shop/a", "shop/b"] {
        fs::write(cluster.claim(claim).join("file"), "x").unwrap();
    }
    cluster.pod("shop/stays", "n1", &json!({}), &[claimed("b", "b")]);
    cluster.pod("shop/goes", "n1", &json!({}), &[claimed("a", "a")]);
    let agent = cluster.agent("n1", "");
    agent.good(&["backup", "claims"]);
    let first = agent.good(&["show", "--claim", "shop/a"])["id"].clone();
    cluster.remove("/api/v1/namespaces/shop/pods/goes");
    for _ in 0..2 {
        let (code, answer) = agent.json(&["backup", "claims"]);
        assert_eq!((code, saved(&answer)), (1, set(["shop/b"])));
        let missing = record(&agent, "n1")["missing"].clone();
        assert_eq!((&missing[0]["claim"], &missing[0]["last"]), (&json!("shop/a"), &first), "{missing:#}");
        let said = answer["backups"][0]["warnings"].to_string();
        assert!(said.contains("claim shop/a: no running pod has it mounted since"), "{said}");
    }
    cluster.remove("/api/v1/namespaces/shop/persistentvolumeclaims/a");
    agent.good(&["backup", "claims"]);
    assert_eq!(record(&agent, "n1")["missing"], json!([]));
}

#[test]
fn what_the_api_server_does_not_say_is_a_loss_and_without_pods_there_is_no_backup() {
    let cluster = Cluster::new();
    for claim in ["shop/a", "shop/b"] {
        fs::write(cluster.claim(claim).join("file"), "x").unwrap();
    }
    cluster.pod("shop/web", "n1", &json!({}), &[claimed("a", "a"), claimed("b", "b")]);
    let deny = |path: &'static str| {
        cluster.fake.script(move |_, request, _| {
            let headers = vec![("content-type", "application/json".to_owned())];
            let body = refusal(403, "Forbidden", "persistentvolumes is forbidden: User \"x\" cannot get").to_string();
            request.uri.starts_with(path).then_some(Fault::Answer { status: 403, headers, body })
        });
    };
    let agent = cluster.agent("n1", "");
    deny("/api/v1/persistentvolumes/pv-shop-b");
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, saved(&answer)), (1, set(["shop/a"])), "{answer:#}");
    assert_eq!(record(&agent, "n1")["reasons"]["volume-unread"], json!(1));
    deny("/api/v1/pods");
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, &answer["error"]["class"]), (77, &json!("access-denied")), "{answer:#}");
    // A node of another name has no pods, which is said: it would save nothing, day by day.
    cluster.fake.script(|_, _, _| None);
    let (code, answer) = cluster.agent("host-7", "").json(&["backup", "claims"]);
    assert!(code == 1 && answer.to_string().contains("no pod is on the node host-7"), "{answer:#}");
}

#[test]
fn a_pod_that_goes_away_while_the_round_runs_is_no_failure_of_its_volume() {
    let cluster = Cluster::new();
    let folder = cluster.claim("shop/a");
    fs::write(cluster.claim("shop/b").join("file"), "x").unwrap();
    cluster.pod("shop/goes", "n1", &json!({}), &[claimed("a", "a")]);
    cluster.pod("shop/stays", "n1", &json!({}), &[claimed("b", "b")]);
    cluster.fake.script(move |state, request, _| {
        // The pods are known by then.
        if request.uri.starts_with("/api/v1/persistentvolumes/pv-shop-a") && folder.exists() {
            state.remove("/api/v1/namespaces/shop/pods/goes");
            fs::remove_dir(&folder).unwrap();
        }
        None
    });
    let agent = cluster.agent("n1", "");
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/b"]));
    let of = record(&agent, "n1");
    assert_eq!((&of["reasons"]["pod-ending"], &of["losses"]), (&json!(1), &json!(0)), "{of:#}");
    let detail = of["unsaved"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("and found nothing"), "{detail}");
}

/// A file system whose server is gone (`dead`), never answers (`silent`), or says only that its root is a folder (`stuck`).
const FUSE: &str = r#"
import ctypes, os, struct, sys
target, mode = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"test", target.encode(), b"fuse", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
if mode == "stuck":
    os.set_blocking(fd, True)
print("mounted", flush=True)
if mode == "dead":
    sys.exit()
if mode == "silent":
    sys.stdin.read()
while True:
    request = os.read(fd, 1 << 20)
    _, opcode, unique = struct.unpack_from("IIQ", request)
    if opcode == 26:
        body = struct.pack("IIIIHHIIHH8I", 7, 31, 0, 0, 12, 9, 4096, 1, 0, 0, *[0] * 8)
    elif opcode == 3:
        body = struct.pack("QII6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
    elif opcode == 52:
        os.write(fd, struct.pack("IiQ", 16, -38, unique))
        continue
    else:
        continue
    os.write(fd, struct.pack("IiQ", 16 + len(body), 0, unique) + body)
"#;

struct Fuse(Child, PathBuf);

impl Fuse {
    fn mount(target: PathBuf, mode: &str) -> Self {
        fs::create_dir_all(&target).unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", FUSE, target.to_str().unwrap(), mode]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "mounted\n", "root and /dev/fuse are needed");
        Self(child, target)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = Command::new("umount").arg("--lazy").arg(&self.1).status();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse, and half a minute"]
fn soak_mounts_that_are_dead_or_hang_fail_by_name_and_hold_nobody_else() {
    let cluster = Cluster::new();
    let names = ["a-silent", "b-stuck", "c-dead"];
    for claim in names {
        let csi = json!({ "csi": { "driver": "d", "volumeHandle": claim } });
        cluster.claim_of(&format!("shop/{claim}"), &json!({}), "ReadWriteOnce", &csi);
    }
    fs::write(cluster.claim("shop/good").join("file"), vec![1; 1 << 20]).unwrap();
    let volumes: Vec<Value> = names.into_iter().chain(["good"]).map(|claim| claimed(claim, claim)).collect();
    cluster.pod("shop/web", "n1", &json!({}), &volumes);
    let above = cluster.path(&format!("kubelet/pods/{}/volumes/kubernetes.io~csi", cluster.uid("shop/web")));
    let mounts =
        names.map(|claim| Fuse::mount(above.join(format!("pv-shop-{claim}/mount")), claim.split_once('-').unwrap().1));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    drop(tcp);
    let admin = format!("[admin]\nlisten = \"{address}\"\nsocket = {:?}\n", cluster.path("control.sock"));
    let config = cluster.config("n1", "", "claim_timeout = \"45s\"");
    let agent = cluster.agent_of("n1", &config.replacen("[limits]", &format!("{admin}[limits]"), 1));
    let mut daemon = agent.command(&["run"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("readiness", Duration::from_secs(60), || (get(&address, "/readyz", "").status == 200).then_some(()));
    let round = || {
        let (code, answer) = agent.json(&["trigger", "claims", "--wait"]);
        assert_eq!((code, &answer["run"]["outcome"]), (1, &json!("partial")), "{answer:#}");
        failed(&agent, "n1")
    };
    let first = round();
    for (claim, why) in [
        ("a-silent", "could not look at the volume within 30s"),
        ("b-stuck", "could not save the volume shop/b-stuck within its claim_timeout of 45s"),
        ("c-dead", "Transport endpoint is not connected"),
    ] {
        let of = first.iter().find(|(name, _)| *name == format!("claim.shop.{claim}"));
        assert!(of.is_some_and(|(_, message)| message.contains(why)), "{claim}: {first:#?}");
    }
    // Nobody waits for what an earlier round waits for.
    let second = round();
    let still =
        second.iter().filter(|(_, message)| message.contains("an earlier round still waits for its file system"));
    assert_eq!(still.count(), 2, "{second:#?}");
    agent.good(&["verify", "--claim", "shop/good", "--all", "--data"]);
    assert_eq!(agent.good(&["list", "--claim", "shop/good"])["backups"].as_array().unwrap().len(), 2);
    // The servers go away, and with them what hung: the volumes are looked at again.
    drop(mounts);
    let third = round();
    assert!(third.iter().all(|(_, message)| !message.contains("still waits")), "{third:#?}");
    let _ = daemon.kill();
    let _ = daemon.wait();
}
