//! Restores into a cluster with the real binary: planned, done, done again, killed, refused.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::cluster_backup;
use crate::daemon_site::wait_for;
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, refusal};
use crate::servers::{Scheme, Servers};

/// In a Secret; base64 of it is what the API has.
const CANARY: &str = "Y2FuYXJ5LW9mLXRoZS1yZXN0b3Jl";

struct Site {
    servers: Servers,
    fake: FakeKubernetes,
    penstock: Penstock,
    _folder: tempfile::TempDir,
}

fn config_map(name: &str, owner: Option<&Value>) -> Value {
    let mut map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": { "app": "web" } }, "data": { "k": name } });
    if let Some(owner) = owner {
        map["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Secret", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "controller": false,
        }]);
    }
    map
}

impl Site {
    fn new(objects: usize) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let fake = FakeKubernetes::start(&servers);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = fake.kubeconfig(&servers, "admin", ADMIN);
        let head = s3.toml("cluster", &folder.path().join("state"), &s3.url);
        let config = cluster_backup::config(&head, &kubeconfig, "");
        let penstock = Penstock::new(folder.path(), &config);
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop", "labels": { "team": "a" } } }));
        let secret = json!({ "type": "Opaque", "metadata": { "name": "s" }, "data": { "password": CANARY } });
        fake.make("/api/v1/namespaces/shop/secrets", &secret);
        let secret = fake.state().object("/api/v1/namespaces/shop/secrets/s");
        for number in 0..objects {
            let owner = (number == 0).then_some(&secret);
            fake.make("/api/v1/namespaces/shop/configmaps", &config_map(&format!("m-{number:03}"), owner));
        }
        let site = Self { servers, fake, penstock, _folder: folder };
        site.penstock.good(&["backup", "cluster"]);
        site
    }

    /// Deletes the namespace with what is in it.
    fn empty(&self) {
        let mut state = self.fake.state();
        for kind in ["configmaps", "secrets"] {
            for key in state.keys(kind) {
                let (namespace, name) = key.split_once('/').unwrap();
                state.remove(&format!("/api/v1/namespaces/{namespace}/{kind}/{name}"));
            }
        }
        state.remove("/api/v1/namespaces/shop");
    }

    fn object(&self, path: &str) -> Value {
        self.fake.state().object(path)
    }

    /// The versions of all objects of the namespace.
    fn versions(&self) -> Vec<Value> {
        let state = self.fake.state();
        let path = |kind: &str, key: &str| format!("/api/v1/namespaces/shop/{kind}/{}", key.split_once('/').unwrap().1);
        let of = |kind: &str| {
            state
                .keys(kind)
                .iter()
                .map(|key| state.object(&path(kind, key))["metadata"]["resourceVersion"].clone())
                .collect::<Vec<_>>()
        };
        [of("configmaps"), of("secrets")].concat()
    }
}

pub(crate) fn verdicts(answer: &Value, verdict: &str) -> u64 {
    let counts = answer["counts"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
    counts.iter().filter(|row| row["verdict"] == verdict).map(|row| row["objects"].as_u64().unwrap()).sum()
}

#[test]
fn a_namespace_comes_back_and_a_second_restore_changes_nothing() {
    let site = Site::new(300);
    site.empty();
    let plan = ["kubernetes", "plan", "cluster@latest", "--namespace", "shop"];
    let (code, planned) = site.penstock.json(&plan);
    assert_eq!(
        (code, verdicts(&planned, "create"), verdicts(&planned, "create-unchecked")),
        (0, 1, 301),
        "{planned:#}"
    );
    assert_eq!(site.versions(), Vec::<Value>::new(), "a plan changes nothing");

    let restore = ["kubernetes", "restore", "cluster@latest", "--namespace", "shop"];
    let output = site.penstock.run(&[&["--output", "json", "-vvv"][..], &restore].concat());
    let log = String::from_utf8_lossy(&output.stderr);
    let restored: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((verdicts(&restored, "create"), &restored["clean"]), (302, &json!(true)), "{restored:#}");
    assert!(log.contains("made the client of the cluster"), "{log}");
    assert!(!restored.to_string().contains(CANARY) && !log.contains(CANARY));
    let secret = site.object("/api/v1/namespaces/shop/secrets/s");
    assert_eq!(secret["data"]["password"], CANARY);
    let owned = site.object("/api/v1/namespaces/shop/configmaps/m-000");
    assert_eq!(owned["metadata"]["ownerReferences"][0]["uid"], secret["metadata"]["uid"], "relinked to the new owner");
    assert_eq!(site.object("/api/v1/namespaces/shop")["metadata"]["labels"]["team"], "a");

    let before = site.versions();
    let again = site.penstock.good(&restore);
    assert_eq!(verdicts(&again, "same"), 302, "{again:#}");
    assert_eq!(site.versions(), before);
    let (code, diff) = site.penstock.json(&["kubernetes", "diff", "cluster@latest", "--namespace", "shop"]);
    assert_eq!((code, &diff["same"]), (0, &json!(true)), "{diff:#}");
    drop(site.servers);
}

#[test]
fn what_exists_is_kept_updated_or_recreated_as_asked() {
    let site = Site::new(3);
    let path = "/api/v1/namespaces/shop/configmaps/m-001";
    let change = |key: &str| {
        site.fake.state().remove(path);
        let mut map = config_map("m-001", None);
        map["data"] = json!({ key: "x" });
        site.fake.make("/api/v1/namespaces/shop/configmaps", &map);
        site.object(path)["metadata"]["uid"].clone()
    };
    let run = |existing: &str| {
        site.penstock.json(&["kubernetes", "restore", "cluster@latest", "--namespace", "shop", "--existing", existing])
    };
    let uid = change("other");
    let (code, kept) = run("keep");
    assert_eq!((code, verdicts(&kept, "keep"), verdicts(&kept, "same")), (1, 1, 4), "{kept:#}");
    let row = kept["objects"].as_array().unwrap().iter().find(|row| row["verdict"] == "keep").unwrap();
    assert_eq!((&row["name"], &row["fields"]), (&json!("m-001"), &json!(["data.k", "data.other"])));

    let (code, changed) = run("update");
    assert_eq!((code, verdicts(&changed, "change")), (0, 1), "{changed:#}");
    let live = site.object(path);
    assert_eq!((&live["data"], &live["metadata"]["uid"]), (&json!({ "k": "m-001" }), &uid));

    let uid = change("other");
    let (code, recreated) = run("recreate");
    assert_eq!((code, verdicts(&recreated, "recreate")), (0, 1), "{recreated:#}");
    let live = site.object(path);
    assert_eq!(live["data"], json!({ "k": "m-001" }));
    assert_ne!(live["metadata"]["uid"], uid);
}

#[test]
fn a_backup_of_another_cluster_changes_nothing_unless_it_is_named() {
    let site = Site::new(1);
    let shown = site.penstock.good(&["show", "cluster@latest"]);
    let uid = shown["items"][0]["kubernetes"]["cluster_uid"].as_str().unwrap().to_owned();
    site.fake.state().remove("/api/v1/namespaces/kube-system");
    site.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "kube-system" } }));
    let update = ["kubernetes", "restore", "cluster@latest", "--namespace", "shop", "--existing", "update"];
    let (code, refused) = site.penstock.json(&update);
    assert_eq!((code, &refused["error"]["class"]), (78, &json!("config")), "{refused:#}");
    assert!(refused["error"]["remedy"].as_str().unwrap().contains(&uid));
    site.penstock.good(&[&update[..], &["--from-cluster", &uid]].concat());
}

#[test]
fn a_namespace_gets_another_name_and_what_still_names_the_old_one_is_told() {
    let site = Site::new(2);
    let mut map = config_map("url", None);
    map["data"] = json!({ "url": "http://db.shop.svc:5432" });
    site.fake.make("/api/v1/namespaces/shop/configmaps", &map);
    site.penstock.good(&["backup", "cluster"]);
    let (code, answer) = site.penstock.json(&["kubernetes", "restore", "cluster@latest", "--namespace", "shop:copy"]);
    assert_eq!((code, verdicts(&answer, "create")), (1, 5), "{answer:#}");
    let noted: Vec<&Value> =
        answer["objects"].as_array().unwrap().iter().filter(|row| row["notes"].is_array()).collect();
    assert_eq!((noted.len(), &noted[0]["name"]), (1, &json!("url")));
    assert!(noted[0]["notes"][0].as_str().unwrap().contains("data.url"), "{answer:#}");
    assert_eq!(site.object("/api/v1/namespaces/copy/secrets/s")["data"]["password"], CANARY);
    assert_eq!(site.object("/api/v1/namespaces/shop/secrets/s")["data"]["password"], CANARY);
}

#[test]
fn a_refused_object_is_named_and_the_others_are_restored() {
    let site = Site::new(5);
    site.empty();
    site.fake.script(|_, request, _| {
        let refused = request.method == "POST" && request.body.contains("\"m-002\"");
        refused.then(|| Fault::Answer {
            status: 403,
            headers: vec![("content-type", "application/json".to_owned())],
            body: refusal(403, "Forbidden", "admission webhook \"policy.example.com\" denied the request: no")
                .to_string(),
        })
    });
    let (code, answer) = site.penstock.json(&["kubernetes", "restore", "cluster@latest", "--namespace", "shop"]);
    assert_eq!((code, verdicts(&answer, "create"), verdicts(&answer, "refused")), (1, 6, 1), "{answer:#}");
    let row = answer["objects"].as_array().unwrap().iter().find(|row| row["verdict"] == "refused").unwrap();
    assert!(row["error"]["message"].as_str().unwrap().contains("policy.example.com"), "{row:#}");
}

#[test]
fn an_interrupted_restore_ends_at_once_and_says_how_to_go_on() {
    let site = Site::new(20);
    site.empty();
    // The server answers no POST of a ConfigMap.
    site.fake.script(|_, request, _| {
        (request.method == "POST" && request.uri.contains("/configmaps")).then_some(Fault::Silent)
    });
    let mut child = site.penstock.command(&["kubernetes", "restore", "cluster@latest", "--namespace", "shop"]);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a request", Duration::from_secs(30), || {
        site.fake.seen().iter().any(|seen| seen.method == "POST" && seen.uri.contains("/configmaps")).then_some(())
    });
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("run the same command again"), "{text}");
    site.fake.script(|_, _, _| None);
    let again = site.penstock.good(&["kubernetes", "restore", "cluster@latest", "--namespace", "shop"]);
    assert_eq!(verdicts(&again, "create") + verdicts(&again, "same"), 22, "{again:#}");
}

/// A ConfigMap that was changed since, so that a restore has something to do with it.
fn drift(site: &Site) {
    let path = "/api/v1/namespaces/shop/configmaps/m-001";
    site.fake.state().remove(path);
    let mut map = config_map("m-001", None);
    map["data"] = json!({ "other": "x" });
    site.fake.make("/api/v1/namespaces/shop/configmaps", &map);
}

#[test]
fn what_holds_other_objects_is_never_recreated() {
    let site = Site::new(2);
    site.fake.state().touch("namespaces", |namespace| {
        if namespace["metadata"]["name"] == "shop" {
            namespace["metadata"]["labels"] = json!({ "team": "b" });
        }
    });
    let uid = site.object("/api/v1/namespaces/shop")["metadata"]["uid"].clone();
    let recreate = ["kubernetes", "restore", "cluster@latest", "--namespace", "shop", "--existing", "recreate"];
    let (code, answer) = site.penstock.json(&recreate);
    assert_eq!((code, verdicts(&answer, "keep"), verdicts(&answer, "recreate")), (1, 1, 0), "{answer:#}");
    let row = answer["objects"].as_array().unwrap().iter().find(|row| row["verdict"] == "keep").unwrap();
    assert!(row["notes"][0].as_str().unwrap().contains("would be deleted with it"), "{row:#}");
    assert_eq!(site.object("/api/v1/namespaces/shop")["metadata"]["uid"], uid);
    assert!(!site.fake.seen().iter().any(|seen| seen.method == "DELETE"));
}

#[test]
fn an_object_that_would_be_refused_is_not_deleted_first() {
    let site = Site::new(2);
    drift(&site);
    let uid = site.object("/api/v1/namespaces/shop/configmaps/m-001")["metadata"]["uid"].clone();
    site.fake.script(|_, request, _| {
        (request.method == "POST" && request.body.contains("m-001")).then(|| Fault::Answer {
            status: 403,
            headers: vec![("content-type", "application/json".to_owned())],
            body: refusal(403, "Forbidden", "admission webhook \"policy.example.com\" denied the request: no")
                .to_string(),
        })
    });
    let recreate = ["kubernetes", "restore", "cluster@latest", "--namespace", "shop", "--existing", "recreate"];
    let (code, answer) = site.penstock.json(&recreate);
    assert_eq!((code, verdicts(&answer, "refused")), (1, 1), "{answer:#}");
    assert_eq!(site.object("/api/v1/namespaces/shop/configmaps/m-001")["metadata"]["uid"], uid, "it is still there");
}

#[test]
fn lost_answers_and_overtaken_changes_end_as_if_they_had_not_been() {
    let site = Site::new(3);
    let run = |existing: &str| {
        site.penstock.json(&["kubernetes", "restore", "cluster@latest", "--namespace", "shop", "--existing", existing])
    };
    // The answers to the first PATCH, DELETE and POST are lost after the server has done it.
    for (existing, methods) in [("update", ["PATCH"].as_slice()), ("recreate", &["DELETE", "POST"])] {
        drift(&site);
        let mut left: Vec<&str> = methods.to_vec();
        site.fake.script(move |_, request, _| {
            let at = left.iter().position(|method| {
                *method == request.method && request.uri.contains("/configmaps") && !request.uri.contains("dryRun")
            })?;
            left.remove(at);
            Some(Fault::Cut(0))
        });
        let (code, answer) = run(existing);
        assert_eq!(code, 0, "{existing}: {answer:#}");
        assert_eq!(site.object("/api/v1/namespaces/shop/configmaps/m-001")["data"], json!({ "k": "m-001" }));
        site.fake.script(|_, _, _| None);
    }
    // Somebody else changes the object between GET and PATCH.
    drift(&site);
    let mut overtaken = false;
    site.fake.script(move |state, request, _| {
        if request.method == "PATCH" && !std::mem::replace(&mut overtaken, true) {
            state.touch("configmaps", |map| map["metadata"]["resourceVersion"] = json!("99999"));
        }
        None
    });
    let (code, answer) = run("update");
    assert_eq!((code, verdicts(&answer, "change")), (0, 1), "{answer:#}");
}

#[test]
fn what_the_server_has_made_is_completed_once() {
    let site = Site::new(1);
    let path = "/api/v1/namespaces/shop/serviceaccounts";
    let account = |annotations: &Value| json!({ "metadata": { "name": "default", "annotations": annotations } });
    site.fake.make(path, &account(&json!({ "eks.amazonaws.com/role-arn": "arn:aws:iam::222222222222:role/App" })));
    site.penstock.good(&["backup", "cluster"]);
    site.fake.state().remove(&format!("{path}/default"));
    site.fake.make(path, &account(&json!({})));
    let restore = ["kubernetes", "restore", "cluster@latest", "--namespace", "shop"];
    let first = site.penstock.good(&restore);
    assert_eq!(verdicts(&first, "change"), 1, "{first:#}");
    let version = site.object(&format!("{path}/default"))["metadata"]["resourceVersion"].clone();
    let second = site.penstock.good(&restore);
    assert_eq!((verdicts(&second, "change"), verdicts(&second, "create")), (0, 0), "{second:#}");
    assert_eq!(site.object(&format!("{path}/default"))["metadata"]["resourceVersion"], version);
}
