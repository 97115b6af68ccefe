//! `penstock kubernetes objects` and `diff`: the real binary, a backup as the lister and the archive's writer make it, and the fake server.

use std::path::PathBuf;

use penstock::aws::AwsLocation;
use penstock::checksum::{Algorithm, crc64nvme};
use penstock::format::cluster::Record;
use penstock::format::codec::Encoding;
use penstock::format::index::{Chunk, ChunkId, FileEntry, Writer};
use penstock::format::key::ObjectKey;
use penstock::kube::{Client, Environment, Settings};
use penstock::metrics::Metrics;
use penstock::resources::lister::{Lister, Progress};
use penstock::resources::outlet::channel;
use penstock::resources::patience::Patience;
use penstock::resources::select::{Patterns, Selection};
use penstock::store::{Overwrite, Payload};
use penstock::tar::{END, Member};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binary::Penstock;
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, refusal};
use crate::file_list::{measured, peak};
use crate::servers::{ACCESS_KEY, S3Server, SECRET_KEY, Scheme, Servers};

const ID: &str = "20261123T221300Z-4f9a2c";
const HOME: &str = "test/j/n";
const CANARY: &str = "Y2FuYXJ5";

struct Site {
    servers: Servers,
    s3: S3Server,
    fake: FakeKubernetes,
    kubeconfig: PathBuf,
}

fn map(name: &str, text: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "text": text, "odd key": "x" } })
}

impl Site {
    /// A cluster with the namespaces `shop` and `other`.
    fn new() -> Self {
        let servers = Servers::start();
        let (s3, fake) = (servers.s3(Scheme::Http), FakeKubernetes::start(&servers));
        let kubeconfig = fake.kubeconfig(&servers, "admin", ADMIN);
        for namespace in ["shop", "other"] {
            fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": namespace } }));
            for name in ["a", "b"] {
                fake.make(&format!("/api/v1/namespaces/{namespace}/configmaps"), &map(name, "1"));
            }
        }
        let secret = json!({ "metadata": { "name": "s" }, "type": "Opaque", "data": { "password": CANARY } });
        fake.make("/api/v1/namespaces/shop/secrets", &secret);
        let web = json!({ "metadata": { "name": "web" }, "spec": { "replicas": 1, "on": "yes", "script": "a\n b\n" }, "status": { "ready": 1 } });
        fake.make("/apis/apps/v1/namespaces/shop/deployments", &web);
        Self { servers, s3, fake, kubeconfig }
    }

    /// Saves what there is in `namespaces`.
    async fn save(&self, namespaces: &[&str]) {
        let settings =
            Settings { kubeconfig: Some(self.kubeconfig.clone()), context: None, environment: Environment::default() };
        let client = Client::new(settings).await.unwrap();
        let selection = Selection { namespaces: Patterns::new(namespaces, &[]).unwrap(), ..Selection::everything() };
        let (outlet, mut members) = channel(1 << 20);
        let progress = Progress::default();
        let lister =
            Lister { cluster: &client, selection: &selection, patience: Patience::default(), progress: &progress };
        let listing = async move { lister.run(&outlet).await.unwrap() };
        let taking = async {
            let mut taken = Vec::new();
            while let Some(member) = members.next().await {
                taken.push((member.path, member.bytes.to_vec()));
            }
            taken
        };
        let (record, members) = tokio::join!(listing, taking);
        self.store(&members, &record).await;
    }

    async fn store(&self, members: &[(String, Vec<u8>)], record: &Record) {
        let (mut plain, mut index) = (Vec::new(), Writer::new(Vec::new()).unwrap());
        for (path, content) in members {
            let member =
                Member { path: path.clone().into(), size: content.len() as u64, mode: 0o600, ..Member::default() };
            let member_start = plain.len() as u64;
            let layout = member.encode(&mut plain);
            plain.extend_from_slice(content);
            plain.resize(plain.len().next_multiple_of(512), 0);
            let file = FileEntry {
                path: member.path,
                kind: member.kind,
                size: member.size,
                mode: member.mode,
                uid: 0,
                gid: 0,
                mtime: member.mtime,
                ctime: member.mtime,
                inode: 0,
                device: 0,
                link: Vec::new(),
                member_start,
                content_start: member_start + layout.headers,
                content_len: member.size,
            };
            index.file(file).unwrap();
        }
        plain.extend_from_slice(&END);
        for (number, piece) in plain.chunks(1 << 20).enumerate() {
            let length = u32::try_from(piece.len()).unwrap();
            let id = ChunkId(Sha256::digest(piece).into());
            let offset = number as u64 * (1 << 20);
            let chunk = Chunk { id, plain_len: length, encoding: Encoding::Raw, object: 0, offset, stored_len: length };
            index.chunk(&chunk).unwrap();
        }
        let (index, totals) = index.finish().unwrap();
        let size = plain.len();
        let manifest = json!({
            "version": 1, "features": ["kubernetes"], "id": ID, "job": "j", "cluster": "test", "node": "n", "agent": "0",
            "started": "2026-11-23T22:13:00Z", "finished": "2026-11-23T22:14:00Z", "parent": null, "outcome": "success",
            "warnings": {"count": 0, "list": []},
            "items": [{
                "name": "objects", "source": {"type": "kubernetes", "address": self.fake.url, "selection": "everything"},
                "outcome": "success", "kind": "stream", "kubernetes": record,
                "stream": {
                    "plain_bytes": totals.plain_bytes, "stored_bytes": size, "new_bytes": size, "chunks": totals.chunks,
                    "files": totals.files, "digest": hex::encode(totals.digest),
                    "index": {"key": format!("{HOME}/{ID}/objects.index.zst"), "size": index.len(), "sha256": hex::encode(Sha256::digest(&index))},
                    "objects": [{"key": format!("{HOME}/{ID}/objects.0001.tar"), "size": size, "live_bytes": size,
                        "crc64nvme": hex::encode(crc64nvme(&plain).to_be_bytes())}],
                },
            }],
        });
        let metrics = Metrics::new();
        let store = AwsLocation::connect(&self.s3.location(), metrics.location("test")).unwrap().store();
        for (name, bytes) in
            [("objects.0001.tar", plain), ("objects.index.zst", index), ("manifest.json", manifest.to_string().into())]
        {
            let key = ObjectKey::new(format!("{HOME}/{ID}/{name}"));
            store.put(&key, Payload::new(bytes, Algorithm::default()), Overwrite::Refuse).await.unwrap();
        }
    }

    fn penstock(&self) -> Penstock {
        let folder = self.servers.folder();
        let config = self.s3.toml("n", &folder.join("state"), &self.s3.url);
        let config = format!("{config}\n[kubernetes]\nkubeconfig = {:?}\n", self.kubeconfig.display().to_string());
        Penstock::new(folder, &config).with("AWS_ACCESS_KEY_ID", ACCESS_KEY).with("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    }

    fn change(&self, path: &str, object: &Value) {
        let (list, _) = path.rsplit_once('/').unwrap();
        self.fake.state().remove(path);
        self.fake.make(list, object);
    }

    /// Exit code, and `difference resource namespace/name fields` of each row.
    fn diff(&self, more: &[&str]) -> (i32, Vec<String>, Value) {
        let (code, value) = self.penstock().json(&[&["kubernetes", "diff", "j@latest"], more].concat());
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or("-").to_owned();
        let row = |row: &Value| {
            let fields: Vec<&str> = row["fields"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let [what, resource, namespace, name] =
                ["difference", "resource", "namespace", "name"].map(|key| text(row, key));
            format!("{what} {resource} {namespace}/{name} {}", fields.join(",")).trim_end().to_owned()
        };
        let rows = value["differences"].as_array().into_iter().flatten().map(row).collect();
        (code, rows, value)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_objects_of_a_backup_are_listed_and_one_is_printed() {
    let site = Site::new();
    site.save(&["*"]).await;
    let penstock = site.penstock();
    let listed = penstock.good(&["kubernetes", "objects", "j@latest", "--namespace", "shop"]);
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("-");
        format!("{} {}/{}", text("resource"), text("namespace"), text("name"))
    };
    let rows: Vec<String> = listed["objects"].as_array().unwrap().iter().map(row).collect();
    let expected =
        ["configmaps shop/a", "configmaps shop/b", "secrets shop/s", "deployments.apps shop/web", "namespaces -/shop"];
    let mut sorted = (rows.clone(), expected.map(str::to_owned).to_vec());
    sorted.0.sort();
    sorted.1.sort();
    assert_eq!(sorted.0, sorted.1, "{listed:#}");
    assert_eq!(listed["id"], ID);

    let table = penstock.run(&["kubernetes", "objects", "j@latest", "--resource", "configmaps"]);
    let lines: Vec<String> = String::from_utf8(table.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "RESOURCE NAMESPACE NAME",
        "configmaps other a",
        "configmaps other b",
        "configmaps shop a",
        "configmaps shop b",
    ];
    assert_eq!(lines, expected);

    let unknown = penstock.run(&["kubernetes", "objects", "j@latest", "--namespace", "shopp"]);
    let log = String::from_utf8(unknown.stderr).unwrap();
    assert!(unknown.status.success() && log.contains("did you mean") && log.contains("shop"), "{log}");

    // As YAML 1.1 and 1.2 read it.
    let yaml = penstock.run(&["kubernetes", "objects", "j@latest", "--yaml", "deployment/shop/web"]);
    let yaml = String::from_utf8(yaml.stdout).unwrap();
    for line in ["apiVersion: apps/v1", "kind: Deployment", "  replicas: 1", "  script: |", "     b"] {
        assert!(yaml.lines().any(|found| found == line), "{line}: {yaml}");
    }
    assert!(yaml.contains("\"yes\"") || yaml.contains("'yes'"), "{yaml}");
    assert!(
        !yaml.lines().any(|line| line.trim_start().starts_with("on:")),
        "a key that YAML 1.1 reads as true: {yaml}"
    );
    let secret = penstock.good(&["kubernetes", "objects", "j@latest", "--yaml", "secrets/shop/s"]);
    assert_eq!(secret["data"]["password"], CANARY);
    let (code, missing) = penstock.json(&["kubernetes", "objects", "j@latest", "--yaml", "secrets/shop/t"]);
    assert_eq!((code, &missing["error"]["class"]), (66, &json!("not-found")));

    let shown = String::from_utf8(penstock.run(&["show", "j@latest"]).stdout).unwrap();
    assert!(shown.contains("in 2 namespaces (other, shop)"), "{shown}");
    let list = penstock.good(&["list"]);
    assert_eq!(list["backups"][0]["kubernetes"]["objects"]["namespaces"], 2, "{list:#}");
    let list = String::from_utf8(penstock.run(&["list"]).stdout).unwrap();
    assert!(list.contains("objects in 2 namespaces"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_compared_with_the_cluster_in_fields_and_never_in_values() {
    let site = Site::new();
    // So many that the whole cluster is listed.
    for number in 0..8 {
        site.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": format!("empty-{number}") } }));
    }
    site.save(&["*"]).await;
    let (code, rows, value) = site.diff(&[]);
    assert_eq!((code, rows.len(), &value["same"]), (0, 0, &json!(true)), "{value:#}");
    let compared = value["compared"].as_u64().unwrap();
    assert!(compared >= 8, "{value:#}");

    // What the server owns is new, and nothing else.
    site.change("/api/v1/namespaces/shop/configmaps/a", &map("a", "1"));
    assert_eq!(site.diff(&[]).0, 0);

    site.change("/api/v1/namespaces/shop/configmaps/b", &map("b", "2"));
    let secret = json!({ "metadata": { "name": "s" }, "type": "Opaque", "data": { "password": "Y2FuYXJ5Mg==", "more": "eA==" } });
    site.change("/api/v1/namespaces/shop/secrets/s", &secret);
    site.fake.state().remove("/api/v1/namespaces/other/configmaps/a");
    site.fake.make("/api/v1/namespaces/other/configmaps", &map("new", "1"));
    // Of a kind that the backup has none of; and in a namespace that it has not.
    site.fake.make("/api/v1/namespaces/shop/serviceaccounts", &json!({ "metadata": { "name": "agent" } }));
    site.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "young" } }));
    site.fake.make("/api/v1/namespaces/young/configmaps", &map("a", "1"));
    // What a backup leaves out.
    let going = json!({ "metadata": { "name": "going", "finalizers": ["x.test/y"] } });
    site.fake.make("/api/v1/namespaces/shop/configmaps", &going);
    site.fake.state().remove("/api/v1/namespaces/shop/configmaps/going");

    let (code, mut rows, value) = site.diff(&[]);
    rows.sort();
    let expected = [
        "changed configmaps shop/b data.text",
        "changed secrets shop/s data.more,data.password",
        "only-in-backup configmaps other/a",
        "only-in-cluster configmaps other/new",
        "only-in-cluster serviceaccounts shop/agent",
    ];
    assert_eq!((code, rows), (1, expected.map(str::to_owned).to_vec()), "{value:#}");
    let again = expected.len();
    let counts = ["changed", "only_in_backup", "only_in_cluster"].map(|key| value[key].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 2]);
    assert!(site.fake.seen().iter().any(|seen| seen.uri.starts_with("/api/v1/configmaps?")));
    // Who may not list the whole cluster lists namespace by namespace.
    site.fake.script(|_, seen, _| {
        let body = refusal(403, "Forbidden", "configmaps is forbidden").to_string();
        seen.uri.starts_with("/api/v1/configmaps?").then_some(Fault::Answer { status: 403, headers: Vec::new(), body })
    });
    let (code, rows, value) = site.diff(&[]);
    assert_eq!((code, rows.len()), (1, again), "{value:#}");
    let output = site.penstock().run(&["-vv", "kubernetes", "diff", "j@latest"]);
    assert_eq!(output.status.code(), Some(1));
    let all = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(all.contains("changed          secrets shop/s: data.more, data.password"), "{all}");
    assert!(!all.contains(CANARY), "{all}");

    let (code, rows, _) = site.diff(&["--namespace", "other"]);
    assert_eq!((code, rows.len()), (1, 2));
    let (code, rows, _) = site.diff(&["--resource", "secrets"]);
    assert_eq!((code, rows.len()), (1, 1));
    assert_eq!(site.diff(&["--resource", "deployments.apps"]).0, 0);
    let (code, value) = site.penstock().json(&["kubernetes", "diff", "j@latest", "--context", "tset"]);
    assert_eq!((code, &value["error"]["class"]), (78, &json!("config")), "{value:#}");
    assert!(value["error"]["remedy"].as_str().unwrap().contains("test"), "{value:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_backups_namespaces_are_listed_and_a_kind_that_fails_is_said() {
    let site = Site::new();
    site.save(&["shop"]).await;
    site.fake.make("/api/v1/namespaces/other/configmaps", &map("new", "1"));
    let before = site.fake.seen().len();
    let (code, rows, value) = site.diff(&[]);
    assert_eq!((code, rows.len()), (0, 0), "{value:#}");
    let asked: Vec<String> = site.fake.seen().split_off(before).into_iter().map(|seen| seen.uri).collect();
    assert!(!asked.iter().any(|uri| uri.contains("/namespaces/other")), "{asked:?}");
    assert!(asked.iter().any(|uri| uri.starts_with("/api/v1/namespaces/shop/secrets?")), "{asked:?}");

    site.change("/api/v1/namespaces/shop/configmaps/b", &map("b", "2"));
    site.fake.script(|_, seen, _| {
        let answer = |status, reason, message: &str| Fault::Answer {
            status,
            headers: Vec::new(),
            body: refusal(status, reason, message).to_string(),
        };
        seen.uri.contains("/secrets").then(|| answer(403, "Forbidden", "secrets is forbidden"))
    });
    let (code, rows, value) = site.diff(&[]);
    assert_eq!((code, rows), (77, vec!["changed configmaps shop/b data.text".to_owned()]), "{value:#}");
    assert_eq!((&value["errors"][0]["class"], value["errors"].as_array().unwrap().len()), (&json!("access-denied"), 1));
    assert_eq!(value["same"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_with_another_object_than_its_path_says_is_refused() {
    let site = Site::new();
    let object = |namespace: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": namespace }, "data": { "x": CANARY } });
    let path = "resources/configmaps/namespaces/shop/a.json";
    site.store(&[(path.to_owned(), object("kube-system").to_string().into())], &Record::default()).await;
    for command in
        [&["kubernetes", "diff", "j@latest"][..], &["kubernetes", "objects", "j@latest", "--yaml", "configmap/shop/a"]]
    {
        let (code, value) = site.penstock().json(command);
        assert_eq!((code, &value["error"]["class"]), (65, &json!("integrity")), "{value:#}");
        let text = value.to_string();
        assert!(text.contains(path) && text.contains("kube-system") && !text.contains(CANARY), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_objects_that_all_differ_are_compared_in_bounded_requests() {
    let site = Site::new();
    for number in 0..1500 {
        site.fake.make("/api/v1/namespaces/shop/configmaps", &map(&format!("m-{number:04}"), &"x".repeat(2000)));
    }
    site.save(&["shop"]).await;
    site.fake.script(|state, seen, _| {
        // Whatever is listed has changed since.
        if seen.uri.starts_with("/api/v1/namespaces/shop/configmaps") && !seen.uri.contains("continue=") {
            state.touch("configmaps", |object| object["data"]["text"] = json!("changed"));
        }
        None
    });
    let (code, rows, value) = site.diff(&[]);
    assert_eq!((code, rows.len()), (1, 1502), "{}", value["changed"]);
    assert!(rows.iter().all(|row| row.ends_with("data.text")), "{}", rows[0]);
}

async fn compared_in_bounded_memory(count: usize, limit: u64) {
    let site = Site::new();
    for number in 0..count {
        let path = "/api/v1/namespaces/shop/configmaps";
        site.fake.make(path, &map(&format!("m-{number:05}"), &"x".repeat(2000)));
    }
    site.save(&["shop"]).await;
    let penstock = site.penstock();
    for command in ["objects", "diff"] {
        let peak = peak(measured(&penstock, &["kubernetes", command, "j@latest"]));
        println!("{count} objects, {command}: {} KiB", peak >> 10);
        assert!(peak <= limit, "{command}: {peak}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "60,000 objects"]
async fn soak_sixty_thousand_objects_are_compared_in_160_mib() {
    compared_in_bounded_memory(60_000, 160 << 20).await;
}
