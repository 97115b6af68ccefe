//! Restores of a cluster with the data of its claims: filled before their workloads, failed, held, killed, refused. A thread stands for the
//! cluster's nodes, and runs the container of each Job as a process.

mod trust;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::claim_backups::Agent;
use crate::cluster_backup;
use crate::cluster_restore::verdicts;
use crate::daemon_site::wait_for;
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, State, refusal};
use crate::servers::{Scheme, Servers};

const RESTORE: [&str; 6] = ["kubernetes", "restore", "cluster@latest", "--namespace", "shop", "--with-volumes"];
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/web";
const PATIENCE: Duration = Duration::from_secs(60);
const UNFILLED: &str = "/metadata/annotations/backup.penstock~1unfilled";

struct Site {
    fake: Arc<FakeKubernetes>,
    penstock: Penstock,
    node: Node,
    agent: Agent,
    _servers: Servers,
    folder: tempfile::TempDir,
}

/// Does what a Job's controller, the scheduler and a kubelet do.
struct Node {
    /// Where each claim's volume is: a folder `NAMESPACE.CLAIM`.
    volumes: PathBuf,
    is_asleep: Arc<AtomicBool>,
    has_ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    fn start(fake: Arc<FakeKubernetes>, volumes: PathBuf) -> Self {
        let (is_asleep, has_ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (asleep, ended, home) = (is_asleep.clone(), has_ended.clone(), volumes.clone());
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if !asleep.load(Ordering::Relaxed) {
                    let begun = begin(&mut fake.state());
                    for (namespace, pod, spec) in begun {
                        finish(&fake, &namespace, &pod, run(&spec, &namespace, &home));
                    }
                }
                std::thread::yield_now();
            }
        });
        Self { volumes, is_asleep, has_ended, thread: Some(thread) }
    }

    fn sleep(&self, asleep: bool) {
        self.is_asleep.store(asleep, Ordering::Relaxed);
    }

    fn file(&self, path: &str) -> PathBuf {
        self.volumes.join(path)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the pod of each Job that has none.
fn begin(state: &mut State) -> Vec<(String, String, Value)> {
    let mut begun = Vec::new();
    for key in state.keys("jobs.batch") {
        let (namespace, name) = key.split_once('/').unwrap();
        let pod = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        if !state.object(&pod).is_null() {
            continue;
        }
        let template =
            state.object(&format!("/apis/batch/v1/namespaces/{namespace}/jobs/{name}"))["spec"]["template"].clone();
        let account = template["spec"]["serviceAccountName"].as_str().unwrap();
        assert!(
            !state.object(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}")).is_null(),
            "{account}"
        );
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(name);
        state.make(
            &format!("/api/v1/namespaces/{namespace}/pods"),
            &json!({ "metadata": metadata, "spec": template["spec"] }),
        );
        set(state, namespace, name, &json!({ "phase": "Running" }));
        begun.push((namespace.to_owned(), name.to_owned(), template["spec"].clone()));
    }
    begun
}

fn set(state: &mut State, namespace: &str, name: &str, status: &Value) {
    state.touch("pods", |pod| {
        if pod["metadata"]["namespace"] == namespace && pod["metadata"]["name"] == name {
            pod["status"] = status.clone();
        }
    });
}

fn run(spec: &Value, namespace: &str, volumes: &Path) -> (i64, String) {
    let volume = spec["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
    let folder = volumes.join(format!("{namespace}.{}", volume.unwrap()));
    fs::create_dir_all(&folder).unwrap();
    let arguments = spec["containers"][0]["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    let arguments =
        arguments.map(|argument| if argument == "/restore/volume" { folder.to_str().unwrap() } else { argument });
    let done = Command::new(env!("CARGO_BIN_EXE_penstock"))
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .args(arguments)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    let end = log.len().saturating_sub(2048);
    (i64::from(done.status.code().unwrap_or(137)), log[log.ceil_char_boundary(end)..].to_owned())
}

fn finish(fake: &FakeKubernetes, namespace: &str, name: &str, (code, message): (i64, String)) {
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    let message = if code == 0 { String::new() } else { message };
    let ended = json!({ "terminated": { "exitCode": code, "message": message } });
    // Admission added a container, whose name comes first.
    let statuses = json!([{ "name": "a-proxy", "state": { "running": {} } }, { "name": "penstock", "state": ended }]);
    set(&mut fake.state(), namespace, name, &json!({ "phase": phase, "containerStatuses": statuses }));
}

fn claim(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
            "spec": { "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "resources": { "requests": { "storage": "1Gi" } } } })
}

fn deployment() -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": { "template": { "spec": {
        "nodeSelector": { "zone": "a" }, "tolerations": [{ "key": "gpu", "operator": "Exists" }],
        "volumes": [{ "name": "d", "persistentVolumeClaim": { "claimName": "data" } }] } } } })
}

impl Site {
    fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let fake = Arc::new(FakeKubernetes::start(&servers));
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = fake.kubeconfig(&servers, "admin", ADMIN);
        let head = s3.toml("cluster", &folder.path().join("state"), &s3.url);
        let penstock = Penstock::new(folder.path(), &cluster_backup::config(&head, &kubeconfig, ""));
        let agent = json!({ "metadata": { "name": "penstock" }, "spec": { "template": { "spec": {
            "serviceAccountName": "penstock", "containers": [{ "name": "penstock", "image": "penstock:test",
                "args": [format!("--config={}", folder.path().join("penstock.toml").display()), "run"],
                "volumeMounts": [{ "name": "config", "mountPath": "/etc/penstock" }] }],
            "volumes": [{ "name": "config", "configMap": { "name": "penstock" } }] } } } });
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "penstock" } }));
        fake.make("/apis/apps/v1/namespaces/penstock/daemonsets", &agent);
        fake.make(
            "/api/v1/namespaces/penstock/configmaps",
            &json!({ "metadata": { "name": "penstock" }, "data": { "penstock.toml": "x" } }),
        );
        let account = json!({ "metadata": { "name": "penstock", "annotations": { "eks.amazonaws.com/role-arn": "arn", "other": "x" } } });
        fake.make("/api/v1/namespaces/penstock/serviceaccounts", &account);
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } }));
        fake.make("/api/v1/namespaces/shop/persistentvolumeclaims", &claim("cache"));
        let own = Agent::new(&fake, &s3, folder.path(), &kubeconfig, "shop");
        fake.make("/apis/apps/v1/namespaces/shop/deployments", &deployment());
        let node = Node::start(fake.clone(), folder.path().join("volumes"));
        let site = Self { fake, penstock, node, agent: own, _servers: servers, folder };
        site.agent.save("sub/file", "first");
        site.penstock.good(&["backup", "cluster"]);
        // The time of a backup is in whole seconds.
        let second = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let before = second();
        wait_for("next second", PATIENCE, || (second() > before).then_some(()));
        site.agent.save("sub/file", "second");
        site
    }

    fn empty(&self) {
        let mut state = self.fake.state();
        for key in state.keys("pods") {
            let (namespace, name) = key.split_once('/').unwrap();
            state.remove(&format!("/api/v1/namespaces/{namespace}/pods/{name}"));
        }
        for path in
            [DEPLOYMENT, CLAIM, "/api/v1/namespaces/shop/persistentvolumeclaims/cache", "/api/v1/namespaces/shop"]
        {
            if !state.object(path).is_null() {
                state.remove(path);
            }
        }
    }

    fn object(&self, path: &str) -> Value {
        self.fake.state().object(path)
    }

    fn restore(&self, more: &[&str]) -> (i32, Value) {
        self.penstock.json(&[&RESTORE[..], more].concat())
    }

    /// Nothing that a restore makes for its Jobs is left.
    fn assert_clean(&self) {
        let state = self.fake.state();
        assert_eq!(state.keys("jobs.batch"), Vec::<String>::new());
        for kind in ["configmaps", "secrets", "serviceaccounts"] {
            let left: Vec<String> =
                state.keys(kind).into_iter().filter(|key| key.contains("penstock-restore")).collect();
            assert_eq!(left, Vec::<String>::new(), "{kind}");
        }
    }

    fn spawn(&self) -> Child {
        let mut command = self.penstock.command(&RESTORE);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn of<'a>(restored: &'a Value, claim: &str) -> &'a Value {
    let rows = restored["volumes"].as_array().unwrap_or_else(|| panic!("{restored:#}"));
    rows.iter().find(|row| row["claim"] == claim).unwrap_or_else(|| panic!("{claim}: {restored:#}"))
}

#[test]
fn claims_have_their_data_before_their_workloads_are_there() {
    let site = Site::new();
    site.empty();
    let (code, planned) =
        site.penstock.json(&["kubernetes", "plan", "cluster@latest", "--namespace", "shop", "--with-volumes"]);
    assert_eq!(
        (code, &of(&planned, "data")["verdict"], &of(&planned, "cache")["verdict"]),
        (1, &json!("fill"), &json!("no-backup")),
        "{planned:#}"
    );
    assert_eq!(site.object(CLAIM), Value::Null, "a plan changes nothing");
    site.assert_clean();

    let job = Arc::new(Mutex::new(Value::Null));
    let made = job.clone();
    site.fake.script(move |_, request, _| {
        if request.method == "POST" && request.uri.starts_with("/apis/batch/v1/namespaces/shop/jobs") {
            *made.lock().unwrap() = serde_json::from_str(&request.body).unwrap();
        }
        None
    });
    let (code, restored) = site.restore(&[]);
    assert_eq!((code, &of(&restored, "data")["verdict"]), (1, &json!("filled")), "{restored:#}");
    assert_eq!(of(&restored, "cache")["verdict"], "no-backup", "said, and the one reason for the exit code");
    assert_eq!(fs::read_to_string(site.node.file("shop.data/sub/file")).unwrap(), "first", "as of the objects' backup");
    assert!(!site.node.file("shop.data/.penstock-restore").exists());
    assert!(site.object(CLAIM).pointer(UNFILLED).is_none());
    let requests = site.fake.seen();
    let of_path = |method: &str, path: &str| {
        requests.iter().position(|request| request.method == method && request.uri.starts_with(path)).unwrap()
    };
    let workloads = requests.iter().rposition(|request| {
        request.method == "POST"
            && request.uri.starts_with("/apis/apps/v1/namespaces/shop/deployments?fieldManager")
            && !request.uri.contains("dryRun")
    });
    assert!(of_path("PATCH", CLAIM) < workloads.unwrap(), "the workload comes when the data is there");
    let spec = job.lock().unwrap()["spec"]["template"]["spec"].clone();
    assert_eq!(
        (&spec["nodeSelector"], &spec["tolerations"]),
        (&json!({ "zone": "a" }), &deployment()["spec"]["template"]["spec"]["tolerations"])
    );
    site.assert_clean();

    // Left by a run that was killed at its very end.
    let left =
        json!({ "metadata": { "name": "penstock-restore-old", "labels": { "backup.penstock/restore": "true" } } });
    site.fake.make("/api/v1/namespaces/shop/configmaps", &left);
    // Somebody works with it: a second restore touches nothing.
    fs::write(site.node.file("shop.data/sub/file"), "newer").unwrap();
    let (code, again) = site.restore(&[]);
    assert_eq!(
        (code, verdicts(&again, "create"), &of(&again, "data")["verdict"]),
        (0, 0, &json!("there")),
        "{again:#}"
    );
    assert_eq!(fs::read_to_string(site.node.file("shop.data/sub/file")).unwrap(), "newer");
    site.assert_clean();
}

#[test]
fn another_time_and_another_namespace_are_the_operators_choice() {
    let site = Site::new();
    let restore = [
        "kubernetes",
        "restore",
        "cluster@latest",
        "--namespace",
        "shop:copy",
        "--with-volumes",
        "--volumes-as-of",
        "latest",
    ];
    let (_, restored) = site.penstock.json(&restore);
    assert_eq!(of(&restored, "data")["verdict"], "filled", "{restored:#}");
    assert_eq!(fs::read_to_string(site.node.file("copy.data/sub/file")).unwrap(), "second");
    assert!(!site.node.file("shop.data").exists());
    site.assert_clean();
}

#[test]
fn a_claim_that_cannot_be_filled_is_named_and_its_namespace_is_held() {
    let site = Site::new();
    site.empty();
    fs::create_dir_all(site.node.file("shop.data")).unwrap();
    fs::write(site.node.file("shop.data/of-somebody"), "x").unwrap();
    let (code, restored) = site.restore(&[]);
    let data = of(&restored, "data");
    assert_eq!(
        (code, &data["verdict"], &data["error"]["class"]),
        (1, &json!("failed"), &json!("conflict")),
        "{restored:#}"
    );
    assert!(data["error"]["message"].as_str().unwrap().contains("of-somebody"), "{data}");
    assert!(data["error"]["remedy"].as_str().unwrap().contains("--overwrite"), "{data}");
    let held =
        restored["objects"].as_array().unwrap().iter().find(|row| row["resource"] == "deployments.apps").unwrap();
    assert_eq!(held["verdict"], "refused", "{held}");
    assert!(held["error"]["message"].as_str().unwrap().contains("held back"), "{held}");
    assert_eq!(site.object(DEPLOYMENT), Value::Null);
    assert_eq!(fs::read_to_string(site.node.file("shop.data/of-somebody")).unwrap(), "x");
    site.assert_clean();

    fs::remove_file(site.node.file("shop.data/of-somebody")).unwrap();
    site.empty_pods();
    let (_, again) = site.restore(&[]);
    assert_eq!(of(&again, "data")["verdict"], "filled", "{again:#}");
    assert_eq!(fs::read_to_string(site.node.file("shop.data/sub/file")).unwrap(), "first");
    assert_ne!(site.object(DEPLOYMENT), Value::Null);
}

impl Site {
    /// What the garbage collector does when a Job is deleted.
    fn empty_pods(&self) {
        let mut state = self.fake.state();
        for key in state.keys("pods") {
            let (namespace, name) = key.split_once('/').unwrap();
            state.remove(&format!("/api/v1/namespaces/{namespace}/pods/{name}"));
        }
    }
}

#[test]
fn a_restore_that_is_killed_is_taken_up_by_the_next() {
    let site = Site::new();
    site.empty();
    site.node.sleep(true);
    let mut child = site.spawn();
    wait_for("Job", PATIENCE, || (!site.fake.state().keys("jobs.batch").is_empty()).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(site.object(CLAIM).pointer(UNFILLED).is_some(), "the claim says that its data is not there");
    let jobs = site.fake.state().keys("jobs.batch");
    // A newer backup than the one that was begun does not mix with it.
    site.node.sleep(false);
    let before = site.fake.seen().len();
    let (_, restored) = site.restore(&["--volumes-as-of", "latest"]);
    assert_eq!(of(&restored, "data")["verdict"], "filled", "{restored:#}");
    assert_eq!(fs::read_to_string(site.node.file("shop.data/sub/file")).unwrap(), "first");
    let posts = site.fake.seen()[before..]
        .iter()
        .filter(|request| request.method == "POST" && request.uri.contains("/jobs?"))
        .count();
    assert_eq!((jobs.len(), posts), (1, 1), "the Job that is there was taken over, after one attempt to create it");
    assert_ne!(site.object(DEPLOYMENT), Value::Null);
    site.assert_clean();
}

#[test]
fn a_restore_that_is_cancelled_leaves_no_job() {
    let site = Site::new();
    site.empty();
    site.node.sleep(true);
    let mut child = site.spawn();
    wait_for("Job", PATIENCE, || (!site.fake.state().keys("jobs.batch").is_empty()).then_some(()));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    site.assert_clean();
    assert_eq!(site.object(DEPLOYMENT), Value::Null);
    site.node.sleep(false);
    let (_, restored) = site.restore(&[]);
    assert_eq!(of(&restored, "data")["verdict"], "filled", "{restored:#}");
}

#[test]
fn a_pod_that_the_server_refuses_is_said_at_once() {
    let site = Site::new();
    site.empty();
    site.fake.script(|_, request, _| {
        let is_pod = request.method == "POST" && request.uri.starts_with("/api/v1/namespaces/shop/pods");
        let message = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"";
        is_pod.then(|| Fault::Answer {
            status: 403,
            headers: vec![("content-type", "application/json".to_owned())],
            body: refusal(403, "Forbidden", message).to_string(),
        })
    });
    let (code, restored) = site.restore(&[]);
    let error = &of(&restored, "data")["error"];
    assert_eq!((code, &error["class"]), (1, &json!("access-denied")), "{restored:#}");
    assert!(error["message"].as_str().unwrap().contains("violates PodSecurity"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("baseline"), "{error}");
    site.assert_clean();
}

#[test]
fn what_jobs_need_of_the_agent_is_asked_for_before_anything_is_changed() {
    let site = Site::new();
    site.empty();
    let (code, answer) = site.restore(&["--agent", "penstock/other"]);
    assert_eq!((code, &answer["error"]["class"]), (66, &json!("not-found")), "{answer:#}");
    assert!(answer["error"]["remedy"].as_str().unwrap().contains("--agent"), "{answer}");
    site.fake.make(
        "/api/v1/namespaces/penstock/secrets",
        &json!({ "metadata": { "name": "keys" }, "data": { "k": "djE=" } }),
    );
    site.fake.state().touch("daemonsets.apps", |agent| {
        agent["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{ "secretRef": { "name": "keys" } }]);
    });
    let (code, answer) = site.restore(&[]);
    assert_eq!((code, &answer["error"]["class"]), (78, &json!("config")), "{answer:#}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("keys"), "{answer}");
    assert!(answer["error"]["remedy"].as_str().unwrap().contains("--copy-secrets"), "{answer}");
    assert_eq!(site.object(CLAIM), Value::Null);
    let (_, restored) = site.restore(&["--copy-secrets"]);
    assert_eq!(of(&restored, "data")["verdict"], "filled", "{restored:#}");
    site.assert_clean();
}

/// The commands of docs/restore-drill.md, word by word.
#[test]
fn the_drill_brings_one_claim_back_and_a_namespace_with_its_data() {
    let site = Site::new();
    // Nothing that the drill would have to explain.
    site.fake.state().touch("persistentvolumeclaims", |claim| {
        if claim["metadata"]["name"] == "cache" {
            claim["metadata"]["annotations"] = json!({ "backup.penstock/exclude": "true" });
        }
    });
    site.penstock.good(&["backup", "cluster"]);
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/restore-drill.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("F. Claims")).unwrap();
    let blocks: Vec<&str> = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 2, "{section}");
    let home = site.folder.path();
    let said =
        site.penstock.shell(home, &format!("export TMPDIR={}\n{}\ncat \"$to/sub/file\"", home.display(), blocks[0]));
    assert!(said.contains("ok") && said.ends_with("second"), "{said}");
    site.empty();
    let said = site.penstock.shell(home, blocks[1]);
    let outcomes: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("data of persistentvolumeclaims")?.split_whitespace().next())
        .collect();
    assert_eq!(outcomes, ["excluded", "fill", "excluded", "filled", "excluded", "there"], "{said}");
    assert_eq!(fs::read_to_string(site.node.file("shop.data/sub/file")).unwrap(), "second");
}
