//! Volumes of real pods: `make kubernetes` starts a kubelet with containers beside the API server (tests/kubelet.sh), and runs this as root.
//! The agent is a process of this machine, which is the node; the Jobs of a restore are pods, in an image of this binary.

mod restore_job;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::cluster_backup;
use crate::servers::{S3Server, STATIC_KEYS, Scheme, Servers};

const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of the volume that is being read while something happens to it, and bytes per second of its backup.
const LARGE: usize = 24 << 20;
const SLOW: &str = "2MiB";

struct Node {
    kubeconfig: PathBuf,
    kubelet: PathBuf,
    s3: S3Server,
    _servers: Servers,
    /// Beside the kubelet's folder.
    disks: PathBuf,
    /// The device of the claim `raw`.
    device: Device,
    folder: tempfile::TempDir,
}

/// A loop device.
struct Device(String);

impl Device {
    fn new(file: &Path) -> Self {
        fs::File::create(file).unwrap().set_len(8 << 20).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().expect("losetup");
        assert!(made.status.success(), "{made:?}");
        Self(String::from_utf8(made.stdout).unwrap().trim().to_owned())
    }

    fn write(&self, content: &[u8]) {
        let device = fs::OpenOptions::new().write(true).open(&self.0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&device, content, 0).unwrap();
        device.sync_all().unwrap();
    }

    fn begins(&self) -> Vec<u8> {
        let mut found = vec![0; 8];
        std::io::Read::read_exact(&mut fs::File::open(&self.0).unwrap(), &mut found).unwrap();
        found
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

fn variable(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("`make kubernetes` sets {name}")))
}

impl Node {
    fn new() -> Self {
        let (kubeconfig, kubelet) = (variable("PENSTOCK_KUBECONFIG"), variable("PENSTOCK_KUBELET_ROOT"));
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let disks = kubelet.parent().unwrap().join("disks");
        let _ = fs::remove_dir_all(&disks);
        fs::create_dir_all(&disks).unwrap();
        let device = Device::new(&disks.join("raw.img"));
        Self { kubeconfig, kubelet, s3, _servers: servers, disks, device, folder: tempfile::tempdir().unwrap() }
    }

    fn kubectl(&self, arguments: &[&str], input: &Value) -> Output {
        use std::io::Write as _;
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl");
        child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments, &Value::Null);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn apply(&self, objects: &[Value]) {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let output = self.kubectl(&["apply", "-f", "-"], &list);
        assert!(output.status.success(), "{output:?}");
    }

    fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is() {
            assert!(
                Instant::now() < end,
                "{what}: {}",
                String::from_utf8_lossy(&self.kubectl(&["get", "events,pods,pvc", "-A"], &Value::Null).stdout)
            );
            std::thread::yield_now();
        }
    }

    fn running(&self, pod: &str) {
        let phase = ["-n", "claims", "get", "pod", pod, "-o", "jsonpath={.status.phase}"];
        self.until(pod, || self.kubectl(&phase, &Value::Null).stdout == b"Running");
    }

    fn gone(&self, pod: &str) {
        self.done(&["-n", "claims", "delete", "pod", pod, "--ignore-not-found", "--timeout=120s"]);
    }

    /// The agent of this node.
    fn agent(&self, more: &str) -> Penstock {
        let folder = self.folder.path().join("agent");
        fs::create_dir_all(&folder).unwrap();
        let head = self.s3.toml("node-a", &folder.join("state"), &self.s3.url);
        let head = head.replace("memory = \"64MiB\"", &format!("memory = \"64MiB\"\n{more}"));
        let config = format!(
            "{head}\n{STATIC_KEYS}\n[kubernetes]\nkubeconfig = \"{}\"\n[jobs.volumes]\nlocation = \"primary\"\n\
             [[jobs.volumes.sources]]\ntype = \"claims\"\nname = \"claims\"\nnamespaces = [\"claims\"]\nhooks = true\nkubelet_root = \"{}\"\nhost_paths = [\"{}\"]\n",
            self.kubeconfig.display(),
            self.kubelet.display(),
            self.disks.display(),
        );
        Penstock::new(&folder, &config)
    }

    fn backup(&self) -> (i32, Value) {
        self.agent("").json(&["backup", "volumes"])
    }

    /// The backup of a claim, restored.
    fn restored(&self, claim: &str) -> PathBuf {
        let to = self.folder.path().join(format!("restored-{claim}"));
        let _ = fs::remove_dir_all(&to);
        self.agent("").good(&["restore", "--claim", &format!("claims/{claim}"), "--to", to.to_str().unwrap()]);
        to
    }

    /// Makes everything of the namespace, and waits until its pods run.
    fn fill(&self) {
        for disk in ["local", "host", "idle"] {
            fs::create_dir_all(self.disks.join(disk)).unwrap();
        }
        self.apply(&[
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "claims" } }),
            json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "local" },
                    "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer" }),
            Self::volume("local", &json!({ "local": { "path": self.disks.join("local") } })),
            Self::volume("host", &json!({ "hostPath": { "path": self.disks.join("host") } })),
            Self::volume("idle", &json!({ "hostPath": { "path": self.disks.join("idle") } })),
            block(Self::volume("raw", &json!({ "local": { "path": self.device.0 } }))),
            claim("local"),
            claim("host"),
            claim("idle"),
            block(claim("raw")),
        ]);
        let account = ["-n", "claims", "get", "serviceaccount", "default"];
        self.until("the service account", || self.kubectl(&account, &Value::Null).status.success());
        self.apply(&[web("web-1"), web("web-2"), pod("other", &json!({}), &[("d", claimed("host"))]), raw()]);
        for pod in ["web-1", "web-2", "other", "raw"] {
            self.running(pod);
        }
    }

    fn volume(name: &str, backing: &Value) -> Value {
        let here = json!([{ "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["node-a"] }] }]);
        let mut spec = json!({
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "local", "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": { "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "claims", "name": name },
            "nodeAffinity": { "required": { "nodeSelectorTerms": here } },
        });
        for (key, value) in backing.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": format!("claims-{name}") }, "spec": spec })
    }

    fn empty(&self) {
        self.done(&["delete", "namespace", "claims", "penstock", "--ignore-not-found", "--timeout=120s"]);
        self.done(&[
            "delete",
            "pv",
            "claims-local",
            "claims-host",
            "claims-idle",
            "claims-raw",
            "claims-target",
            "--ignore-not-found",
            "--timeout=120s",
        ]);
    }

    /// Waits until the process reads below the kubelet's folder.
    fn reading(&self, child: &mut Child) {
        let folder = format!("/proc/{}/fd", child.id());
        let is_below = |entry: std::io::Result<fs::DirEntry>| {
            entry
                .and_then(|entry| fs::read_link(entry.path()))
                .is_ok_and(|to| to.starts_with(&self.kubelet) && to.is_file())
        };
        self.until("a file that is read", || {
            assert!(child.try_wait().unwrap().is_none(), "the backup ended before it was looked at");
            fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(is_below))
        });
    }

    fn slow_backup(&self) -> Child {
        let mut command =
            self.agent(&format!("bandwidth = \"{SLOW}\"")).command(&["--output", "json", "backup", "volumes"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }
}

fn claim(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name, "namespace": "claims" }, "spec": {
        "storageClassName": "local", "volumeName": format!("claims-{name}"), "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } })
}

/// With `volumeMode: Block`.
fn block(mut object: Value) -> Value {
    object["spec"]["volumeMode"] = json!("Block");
    object
}

/// A pod that has the claim `raw` as a device.
fn raw() -> Value {
    let mut pod = pod("raw", &json!({}), &[("d", claimed("raw"))]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([]);
    pod["spec"]["containers"][0]["volumeDevices"] = json!([{ "name": "d", "devicePath": "/dev/raw" }]);
    pod
}

fn claimed(name: &str) -> Value {
    json!({ "persistentVolumeClaim": { "claimName": name } })
}

fn pod(name: &str, annotations: &Value, volumes: &[(&str, Value)]) -> Value {
    let mounts: Vec<Value> =
        volumes.iter().map(|(name, _)| json!({ "name": name, "mountPath": format!("/{name}") })).collect();
    let volumes: Vec<Value> = volumes
        .iter()
        .map(|(name, volume)| {
            let mut volume = volume.clone();
            volume["name"] = json!(name);
            volume
        })
        .collect();
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "claims", "annotations": annotations }, "spec": {
        "hostNetwork": true, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1, "volumes": volumes,
        "containers": [{ "name": "c", "image": "docker.io/penstock/box:1", "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", "exec sleep 1000000"], "volumeMounts": mounts }] } })
}

/// Two of these share the claim `local`; one of them has commands that are written down where they ran.
fn web(name: &str) -> Value {
    let said = |word: &str| json!(["/bin/sh", "-c", format!("echo {word} >> /scratch/log")]).to_string();
    let hooks = json!({
        "backup.penstock/volumes": "d,scratch",
        "pre.hook.backup.penstock/command": said("freeze"), "post.hook.backup.penstock/command": said("thaw"),
    });
    let annotations = if name == "web-1" { hooks } else { json!({}) };
    pod(name, &annotations, &[("d", claimed("local")), ("scratch", json!({ "emptyDir": {} }))])
}

/// Lines of a file in the pod.
fn log(node: &Node) -> Vec<String> {
    node.done(&["-n", "claims", "exec", "web-1", "--", "cat", "/scratch/log"]).lines().map(str::to_owned).collect()
}

fn noise(path: &Path) {
    let mut state = 7_u64;
    let mut bytes = Vec::with_capacity(LARGE);
    while bytes.len() < LARGE {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

#[test]
#[ignore = "needs a kubelet: make kubernetes"]
fn real() {
    let node = Node::new();
    node.empty();
    node.fill();
    saved(&node);
    killed_while_frozen(&node);
    deleted_while_read(&node);
    without_a_pod(&node);
    filled(&node);
    restore_job::twice(&node);
    node.empty();
}

/// Local volumes, a hostPath volume, a block device, an emptyDir that is named, two pods on one claim, a claim that nobody mounts, commands by exec.
fn saved(node: &Node) {
    node.device.write(b"a device");
    node.done(&[
        "-n",
        "claims",
        "exec",
        "web-1",
        "--",
        "/bin/sh",
        "-c",
        "echo one > /d/file; echo kept > /scratch/file",
    ]);
    node.done(&["-n", "claims", "exec", "other", "--", "/bin/sh", "-c", "mkdir /d/sub; echo two > /d/sub/file"]);
    let (code, answer) = node.backup();
    assert_eq!(code, 0, "{answer:#}");
    assert_eq!(fs::read_to_string(node.restored("local").join("file")).unwrap(), "one\n");
    assert_eq!(fs::read_to_string(node.restored("host").join("sub/file")).unwrap(), "two\n");
    assert_eq!(log(node), ["freeze", "thaw"]);
    let listed = node.agent("").good(&["list", "--job", "volumes"]);
    let chains: Vec<&str> =
        listed["backups"].as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap()).collect();
    let count = |name: &str| chains.iter().filter(|chain| **chain == name).count();
    assert_eq!((count("claim.claims.local"), count("claim.claims.host")), (1, 1), "two pods, one backup: {chains:?}");
    assert_eq!((count("pod.claims.web-1.scratch"), count("claim.claims.idle")), (1, 0), "{chains:?}");
    // What has not changed is not moved again.
    let (code, answer) = node.backup();
    assert_eq!(code, 0, "{answer:#}");
    let newest = node.agent("").good(&["list", "--claim", "claims/local"])["backups"][0].clone();
    assert!(newest["new_bytes"].as_u64().unwrap() < 4096, "{newest:#}");
}

/// The agent is killed between `pre` and `post`: the next one runs `post` first.
fn killed_while_frozen(node: &Node) {
    noise(&node.disks.join("local/large"));
    let before = log(node).len();
    let mut child = node.slow_backup();
    node.reading(&mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(log(node)[before..], ["freeze"], "the pod is frozen, and its agent is gone");
    let (code, answer) = node.backup();
    assert_eq!(code, 0, "{answer:#}");
    assert_eq!(log(node)[before..], ["freeze", "thaw", "freeze", "thaw"]);
}

/// A pod that is deleted while its volume is read: the round ends, and the kubelet takes the volume away when it has.
fn deleted_while_read(node: &Node) {
    noise(&node.disks.join("host/large"));
    let mut child = node.slow_backup();
    node.reading(&mut child);
    node.done(&["-n", "claims", "delete", "pod", "web-2", "other", "--wait=false"]);
    let output = child.wait_with_output().unwrap();
    let code = output.status.code().unwrap();
    assert!(matches!(code, 0 | 1), "{output:?}");
    node.gone("web-2");
    node.gone("other");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert_eq!(
        mounts.matches("/kubernetes.io~local-volume/claims-local").count(),
        1,
        "of the pod that is left: {mounts}"
    );
}

/// A claim that was saved and is mounted nowhere is said until it is mounted again.
fn without_a_pod(node: &Node) {
    let (code, answer) = node.backup();
    assert_eq!(code, 1, "{answer:#}");
    let shown = String::from_utf8(node.agent("").run(&["show", "volumes@latest"]).stdout).unwrap();
    assert!(shown.contains("claims/host"), "{shown}");
    assert_eq!(
        fs::read_to_string(node.restored("host").join("sub/file")).unwrap(),
        "two\n",
        "its last backup is there"
    );
    node.apply(&[pod("other", &json!({}), &[("d", claimed("host"))])]);
    node.running("other");
    let (code, answer) = node.backup();
    assert_eq!(code, 0, "{answer:#}");
}

/// The namespace is lost with its volumes' data, and comes back: Jobs fill the claims, then the pods run on them.
fn filled(node: &Node) {
    let home = node.folder.path().join("operator");
    fs::create_dir_all(&home).unwrap();
    let head = node.s3.toml("cluster", &home.join("state"), &node.s3.url);
    let operator = Penstock::new(&home, &cluster_backup::config(&head, &node.kubeconfig, ""));
    operator.good(&["backup", "cluster"]);
    node.empty();
    for disk in ["local", "host"] {
        fs::remove_dir_all(node.disks.join(disk)).unwrap();
        fs::create_dir(node.disks.join(disk)).unwrap();
    }
    node.device.write(&[0; 4096]);
    install(node);
    let restore =
        ["kubernetes", "restore", "cluster@latest", "--namespace", "claims", "--with-volumes", "--wait", "2m"];
    let (code, restored) = operator.json(&restore);
    // The claim that nobody mounted has no backup.
    assert_eq!(code, 1, "{restored:#}");
    let verdict = |claim: &str| {
        let rows = restored["volumes"].as_array().unwrap_or_else(|| panic!("{restored:#}"));
        rows.iter().find(|row| row["claim"] == claim).map(|row| row["verdict"].clone()).unwrap_or_default()
    };
    for (claim, expected) in [("local", "filled"), ("host", "filled"), ("raw", "filled"), ("idle", "no-backup")] {
        assert_eq!(verdict(claim), expected, "{claim}: {restored:#}");
    }
    assert_eq!(node.device.begins(), b"a device");
    for pod in ["web-1", "other"] {
        node.running(pod);
    }
    assert_eq!(node.done(&["-n", "claims", "exec", "web-1", "--", "cat", "/d/file"]), "one\n");
    assert_eq!(node.done(&["-n", "claims", "exec", "other", "--", "cat", "/d/sub/file"]), "two\n");
    let kinds = "jobs,configmaps,secrets,serviceaccounts,pods";
    assert_eq!(node.done(&["-n", "claims", "get", kinds, "-l", "backup.penstock/restore=true", "-o", "name"]), "");
    let (code, again) = operator.json(&restore);
    assert_eq!((code, &again["clean"]), (0, &json!(true)), "a second restore changes nothing: {again:#}");
}

/// The agents' DaemonSet, as far as Jobs are like it. It fits no node: the agent of this node is a process.
fn install(node: &Node) {
    let head = node.s3.toml("x", Path::new("/var/lib/penstock"), &node.s3.url);
    let config = format!("{}\n{STATIC_KEYS}\n", head.replace("node = \"x\"", "node = \"${NODE_NAME}\""));
    let nowhere = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
        { "matchExpressions": [{ "key": "of-no-node", "operator": "Exists" }] }] } } });
    let labels = json!({ "app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "node" });
    node.apply(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "penstock" } }),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "penstock", "namespace": "penstock" } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "penstock", "namespace": "penstock" }, "data": { "penstock.toml": config } }),
        json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "penstock", "namespace": "penstock" }, "spec": {
            "selector": { "matchLabels": labels }, "template": { "metadata": { "labels": labels }, "spec": {
                "serviceAccountName": "penstock", "hostNetwork": true, "affinity": nowhere, "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{ "name": "penstock", "image": "docker.io/penstock/penstock:test", "imagePullPolicy": "Never", "args": ["--log-format=json", "run"],
                    "env": [{ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }, { "name": "AWS_EC2_METADATA_DISABLED", "value": "true" }],
                    "volumeMounts": [{ "name": "config", "mountPath": "/etc/penstock", "readOnly": true }, { "name": "state", "mountPath": "/var/lib/penstock" },
                                     { "name": "tmp", "mountPath": "/tmp" }, { "name": "pods", "mountPath": "/var/lib/kubelet/pods", "readOnly": true }] }],
                "volumes": [{ "name": "config", "configMap": { "name": "penstock" } }, { "name": "state", "hostPath": { "path": "/var/lib/penstock" } },
                            { "name": "tmp", "emptyDir": {} }, { "name": "pods", "hostPath": { "path": "/var/lib/kubelet/pods" } }] } } } }),
    ]);
}
