//! The volumes of pods with the real binary: a fake API server, an S3, and folders of this machine in the place of a kubelet's.

mod encrypted;
mod hooks;
mod losses;
mod many;
mod retained;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::fake_kubernetes::{ADMIN, FakeKubernetes};
use crate::model::noise;
use crate::servers::{S3Server, STATIC_KEYS, Servers};

/// One cluster with its nodes, whose kubelets keep their pods in one folder.
pub(crate) struct Cluster {
    pub(crate) servers: Servers,
    pub(crate) s3: S3Server,
    pub(crate) fake: FakeKubernetes,
    folder: tempfile::TempDir,
}

/// As a pod's spec has it.
pub(crate) fn claimed(volume: &str, claim: &str) -> Value {
    json!({ "name": volume, "persistentVolumeClaim": { "claimName": claim } })
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let servers = Servers::start();
        let s3 = servers.s3_with_uploads();
        let fake = FakeKubernetes::start(&servers);
        let folder = tempfile::tempdir().unwrap();
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } }));
        Self { servers, s3, fake, folder }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// A configuration whose job `claims` saves the volumes of `node`: with keys of the job, and of its source.
    pub(crate) fn config(&self, node: &str, job: &str, source: &str) -> String {
        let kubeconfig = self.fake.kubeconfig(&self.servers, "admin", ADMIN);
        let head = self.s3.toml(node, &self.path(&format!("state-{node}")), &self.s3.url);
        format!(
            "{head}\n{STATIC_KEYS}\n[kubernetes]\nkubeconfig = \"{}\"\n[jobs.claims]\nlocation = \"primary\"\n{job}\n\
             [[jobs.claims.sources]]\ntype = \"claims\"\nname = \"claims\"\nkubelet_root = \"{}\"\nhost_paths = [\"{}\"]\n{source}\n",
            kubeconfig.display(),
            self.path("kubelet").display(),
            self.path("volumes").display(),
        )
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, node: &str, source: &str) -> Penstock {
        self.agent_of(node, &self.config(node, "", source))
    }

    pub(crate) fn agent_of(&self, node: &str, config: &str) -> Penstock {
        let folder = self.path(&format!("agent-{node}"));
        fs::create_dir_all(&folder).unwrap();
        Penstock::new(&folder, config)
    }

    /// A bound claim, `NAMESPACE/NAME`, whose volume is a folder of the host; returns the folder.
    pub(crate) fn claim(&self, claim: &str) -> PathBuf {
        let folder = self.path("volumes").join(claim.replace('/', "."));
        fs::create_dir_all(&folder).unwrap();
        self.claim_of(claim, &json!({}), "ReadWriteOnce", &json!({ "hostPath": { "path": folder } }));
        folder
    }

    /// The same, of any volume, with metadata and a mode of access.
    pub(crate) fn claim_of(&self, claim: &str, metadata: &Value, mode: &str, backing: &Value) {
        let (namespace, name) = claim.split_once('/').unwrap();
        let volume = format!("pv-{namespace}-{name}");
        let all = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        let mut metadata = metadata.clone();
        metadata["name"] = json!(name);
        let spec = json!({ "accessModes": [mode], "volumeName": volume });
        self.fake.make(&all, &json!({ "metadata": metadata, "spec": spec }));
        let uid = self.fake.state().object(&format!("{all}/{name}"))["metadata"]["uid"].clone();
        let mut spec = backing.clone();
        spec["accessModes"] = json!([mode]);
        spec["claimRef"] = json!({ "namespace": namespace, "name": name, "uid": uid });
        self.fake.make("/api/v1/persistentvolumes", &json!({ "metadata": { "name": volume }, "spec": spec }));
        self.fake.state().touch("persistentvolumeclaims", |claim| claim["status"] = json!({ "phase": "Bound" }));
    }

    /// A running pod, `NAMESPACE/NAME`, on a node, with volumes that its one container has mounted.
    pub(crate) fn pod(&self, pod: &str, node: &str, annotations: &Value, volumes: &[Value]) {
        let (namespace, name) = pod.split_once('/').unwrap();
        let mounts: Vec<Value> =
            volumes.iter().map(|volume| json!({ "name": volume["name"], "mountPath": "/x" })).collect();
        let container = json!({ "name": "main", "image": "x", "volumeMounts": mounts });
        let spec = json!({ "nodeName": node, "volumes": volumes, "containers": [container] });
        let metadata = json!({ "name": name, "annotations": annotations });
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        self.fake.make(&path, &json!({ "metadata": metadata, "spec": spec }));
        self.fake.state().touch("pods", |pod| pod["status"] = json!({ "phase": "Running" }));
    }

    /// The agent of `n1` as a service account that has no rights yet.
    fn unprivileged(&self, source: &str) -> Penstock {
        let admin = self.config("n1", "", source);
        let account = self.fake.kubeconfig(&self.servers, "agent", "sa:system:serviceaccount:penstock:node");
        let admins = self.servers.folder().join("admin.kubeconfig");
        let own = admin.replace(admins.to_str().unwrap(), account.to_str().unwrap());
        assert_ne!(own, admin);
        self.agent_of("n1", &own)
    }

    /// Gives that service account the rights of the printed roles, and no others.
    fn grant_what_is_printed(&self, agent: &Penstock) {
        let printed = agent.good(&["policy", "--kubernetes", "--service-account", "penstock/node"]);
        for manifest in printed["items"].as_array().unwrap() {
            let plural = format!("{}s", manifest["kind"].as_str().unwrap().to_lowercase());
            self.fake.make(&format!("/apis/rbac.authorization.k8s.io/v1/{plural}"), manifest);
        }
    }

    pub(crate) fn uid(&self, pod: &str) -> String {
        let (namespace, name) = pod.split_once('/').unwrap();
        let pod = self.fake.state().object(&format!("/api/v1/namespaces/{namespace}/pods/{name}"));
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.fake.state().remove(path);
    }
}

/// The record of the last round.
pub(crate) fn record(agent: &Penstock, node: &str) -> Value {
    let shown = agent.good(&["show", &format!("claims/{node}@latest")]);
    shown["items"][0]["claims"].clone()
}

/// The claims that a `backup` saved.
pub(crate) fn saved(answer: &Value) -> BTreeSet<String> {
    let volumes = answer["backups"][0]["volumes"].as_array();
    volumes.into_iter().flatten().map(|volume| volume["claim"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_pod_that_moves_to_another_node_goes_on_with_its_claims_backups() {
    let cluster = Cluster::new();
    let folder = cluster.claim("shop/data");
    for number in 0..16_u64 {
        fs::write(folder.join(format!("f-{number}")), noise(1 << 20, number + 1)).unwrap();
    }
    cluster.pod("shop/db-a", "n1", &json!({}), &[claimed("data", "data")]);
    let (one, two) = (cluster.agent("n1", ""), cluster.agent("n2", ""));
    assert_eq!(saved(&one.good(&["backup", "claims"])), set(["shop/data"]));
    let first = one.good(&["show", "--claim", "shop/data"]);
    assert_eq!(first["items"][0]["labels"]["pvc_name"], "data");
    assert_eq!((&first["parent"], &first["node"]), (&Value::Null, &json!("claim.shop.data")));

    // The pod moves: another name, another UID, another node, whose agent has no state.
    cluster.remove("/api/v1/namespaces/shop/pods/db-a");
    cluster.pod("shop/db-b", "n2", &json!({}), &[claimed("data", "data")]);
    fs::write(folder.join("new"), noise(64 << 10, 99)).unwrap();
    let before = cluster.s3.requests();
    assert_eq!(saved(&two.good(&["backup", "claims"])), set(["shop/data"]));
    let requests = cluster.s3.requests() - before;
    let second = two.good(&["show", "--claim", "shop/data"]);
    assert_eq!((&second["parent"], &second["items"][0]["labels"]["node"]), (&first["id"], &json!("n2")));
    let stream = &second["items"][0]["stream"];
    let (plain, new) = (stream["plain_bytes"].as_u64().unwrap(), stream["new_bytes"].as_u64().unwrap());
    println!("{new} new bytes of {plain}, {requests} requests to the store");
    assert!(plain > 16 << 20 && new * 50 < plain, "{new} of {plain}");

    let listed = one.good(&["list", "--claim", "shop/data"]);
    assert_eq!(listed["backups"].as_array().unwrap().len(), 2, "{listed:#}");
    assert_eq!(listed["backups"][0]["claim"], "shop/data");
    let out = cluster.path("out");
    let restored = one.good(&["restore", "--claim", "shop/data", "--to", out.to_str().unwrap()]);
    assert_eq!(restored["id"], second["id"]);
    for number in 0..16_u64 {
        assert_eq!(fs::read(out.join(format!("f-{number}"))).unwrap(), noise(1 << 20, number + 1));
    }
    let by_name = one.good(&["show", "claims/claim.shop.data@latest"]);
    assert_eq!(by_name["id"], second["id"]);

    // The first node has nothing left to save, and knows that the claim is not missing.
    cluster.pod("shop/other", "n1", &json!({}), &[]);
    let last = one.good(&["backup", "claims"]);
    assert!(saved(&last).is_empty() && record(&one, "n1")["missing"] == json!([]), "{last:#}");
}

#[test]
fn annotations_choose_what_is_saved_and_what_is_not_is_in_the_manifest() {
    let cluster = Cluster::new();
    for claim in ["shop/a", "shop/b", "shop/c", "shop/d"] {
        fs::write(cluster.claim(claim).join("file"), claim).unwrap();
    }
    let itself = json!({ "annotations": { "backup.penstock/exclude": "true" } });
    let folder = json!({ "hostPath": { "path": cluster.path("volumes/shop.d") } });
    cluster.claim_of("shop/e", &itself, "ReadWriteOnce", &folder);
    let ours = json!({ "backup.penstock/exclude": "b", "backup.velero.io/backup-volumes-excludes": "a" });
    let secret = json!({ "name": "s", "secret": { "secretName": "x" } });
    cluster.pod("shop/ours", "n1", &ours, &[claimed("a", "a"), claimed("b", "b"), claimed("e", "e"), secret]);
    let veleros = json!({ "backup.velero.io/backup-volumes": "d", "backup.velero.io/backup-volumes-excludes": "c" });
    let scratch = json!({ "name": "scratch", "emptyDir": {} });
    cluster.pod("shop/theirs", "n1", &veleros, &[claimed("c", "c"), claimed("d", "d"), scratch]);

    let opt_out = cluster.agent("n1", "");
    assert_eq!(saved(&opt_out.good(&["backup", "claims"])), set(["shop/a", "shop/d"]));
    let of = record(&opt_out, "n1");
    assert_eq!((&of["reasons"]["excluded"], &of["reasons"]["secret"]), (&json!(3), &json!(1)), "{of:#}");
    assert_eq!((&of["reasons"]["without-claim"], &of["losses"]), (&json!(1), &json!(0)), "{of:#}");
    let text = String::from_utf8(opt_out.run(&["show", "claims@latest"]).stdout).unwrap();
    assert!(text.contains("not saved: shop/ours, volume b (claim b): is excluded"), "{text}");

    let opt_in = cluster.agent("n1", "select = \"opt-in\"");
    assert_eq!(saved(&opt_in.good(&["backup", "claims"])), set(["shop/d"]));
    let others = cluster.agent("n1", "namespaces = [\"elsewhere\"]");
    assert_eq!(saved(&others.good(&["backup", "claims"])), set([]));
}

#[test]
fn a_volume_without_a_claim_is_saved_under_the_pods_name_where_it_is_named() {
    let cluster = Cluster::new();
    let annotations = json!({ "backup.penstock/volumes": "scratch" });
    cluster.pod("shop/web-0", "n1", &annotations, &[json!({ "name": "scratch", "emptyDir": {} })]);
    let uid = cluster.uid("shop/web-0");
    let folder = cluster.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/scratch"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), "x").unwrap();
    let agent = cluster.agent("n1", "");
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/web-0:scratch"]));
    let shown = agent.good(&["show", "claims/pod.shop.web-0.scratch@latest"]);
    assert_eq!(shown["items"][0]["source"]["path"], folder.to_str().unwrap());
}

#[test]
fn a_shared_claim_is_saved_by_one_of_its_nodes() {
    let cluster = Cluster::new();
    let folder = cluster.path("volumes/shared");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("file"), "shared").unwrap();
    for number in 0..6 {
        let backing = json!({ "hostPath": { "path": folder } });
        cluster.claim_of(&format!("shop/s{number}"), &json!({}), "ReadWriteMany", &backing);
    }
    let volumes: Vec<Value> = (0..6).map(|number| claimed(&format!("v{number}"), &format!("s{number}"))).collect();
    let nodes = ["n1", "n2", "n3"];
    for node in nodes {
        cluster.pod(&format!("shop/web-{node}"), node, &json!({}), &volumes);
    }
    let mut all = Vec::new();
    for node in nodes {
        let agent = cluster.agent(node, "");
        let of = saved(&agent.good(&["backup", "claims"]));
        assert_eq!(record(&agent, node)["reasons"]["other-node"].as_u64().unwrap_or(0), 6 - of.len() as u64);
        all.extend(of);
    }
    all.sort();
    assert_eq!(all, (0..6).map(|number| format!("shop/s{number}")).collect::<Vec<_>>(), "each of them once");
}

#[test]
fn the_printed_role_is_all_that_an_agent_needs_and_validate_says_what_is_missing() {
    let cluster = Cluster::new();
    fs::write(cluster.claim("shop/data").join("file"), "x").unwrap();
    let hooks = json!({ "pre.hook.backup.penstock/command": "freeze" });
    cluster.pod("shop/db", "n1", &hooks, &[claimed("data", "data")]);
    cluster.fake.state().commands = Some(std::sync::Arc::new(|_| (String::new(), Some(0))));
    let agent = cluster.unprivileged("hooks = true");
    let check = |name: &str| {
        let (_, answer) = agent.json(&["validate", "--skip", "ec2"]);
        let checks = answer["kubernetes"]["checks"].as_array().unwrap().clone();
        let check = checks.into_iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{answer:#}"));
        (check["state"].as_str().unwrap().to_owned(), check["message"].as_str().unwrap().to_owned())
    };
    let (state, message) = check("claims claims: permissions");
    assert!(state == "failed" && message.contains("may not list pods, get persistentvolumeclaims"), "{message}");
    cluster.grant_what_is_printed(&agent);
    assert_eq!(check("claims claims: permissions").0, "passed");
    let (state, message) = check("claims claims: node");
    assert!(state == "passed" && message == "pods on the node n1: 1", "{message}");
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/data"]));
}

#[test]
fn with_the_printed_role_a_pod_that_went_away_is_told_from_a_failure() {
    for (source, annotations) in
        [("", json!({})), ("hooks = true", json!({ "pre.hook.backup.penstock/command": "freeze" }))]
    {
        let cluster = Cluster::new();
        cluster.fake.state().commands = Some(std::sync::Arc::new(|_| (String::new(), Some(0))));
        fs::write(cluster.claim("shop/stays").join("file"), "x").unwrap();
        let folder = cluster.claim("shop/goes");
        cluster.pod("shop/stays", "n1", &annotations, &[claimed("v", "stays")]);
        cluster.pod("shop/goes", "n1", &annotations, &[claimed("v", "goes")]);
        let agent = cluster.unprivileged(source);
        cluster.grant_what_is_printed(&agent);
        cluster.fake.script(move |state, request, _| {
            // The pods are known by then.
            if request.uri.starts_with("/api/v1/persistentvolumes/pv-shop-goes") && folder.exists() {
                state.remove("/api/v1/namespaces/shop/pods/goes");
                fs::remove_dir(&folder).unwrap();
            }
            None
        });
        assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/stays"]), "{source}");
        let of = record(&agent, "n1");
        assert_eq!((&of["reasons"]["pod-ending"], &of["losses"]), (&json!(1), &json!(0)), "{of:#}");
    }
}

#[test]
fn a_namespace_that_the_configuration_leaves_out_later_has_no_missing_claims() {
    let cluster = Cluster::new();
    fs::write(cluster.claim("shop/data").join("file"), "x").unwrap();
    cluster.pod("shop/db", "n1", &json!({}), &[claimed("v", "data")]);
    assert_eq!(saved(&cluster.agent("n1", "").good(&["backup", "claims"])), set(["shop/data"]));
    // Scaled to zero, which would be missed in a namespace that is chosen.
    cluster.remove("/api/v1/namespaces/shop/pods/db");
    cluster.pod("shop/other", "n1", &json!({}), &[]);
    let agent = cluster.agent("n1", "exclude_namespaces = [\"shop\"]");
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set([]));
    assert_eq!(record(&agent, "n1")["missing"], json!([]));
}
