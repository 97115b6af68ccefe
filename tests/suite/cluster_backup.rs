//! Backups of a cluster's objects with the real binary: there and back, unchanged, partial, in one place only.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::fake_kubernetes::{ADMIN, FakeKubernetes, Fault, refusal};
use crate::servers::{STATIC_KEYS, Scheme, Servers};

/// In a Secret; base64 of it is what the API has.
const CANARY: &str = "Y2FuYXJ5LW9mLXRoZS1zZWNyZXQ=";

struct Site {
    servers: Servers,
    fake: FakeKubernetes,
    folder: tempfile::TempDir,
    penstock: Penstock,
}

fn config_map(name: &str, bytes: usize) -> Value {
    // Not compressible, so that what is stored counts.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ name.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte));
    let mut text = String::with_capacity(bytes);
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        write!(text, "{state:016x}").unwrap();
    }
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "text": text } })
}

/// A configuration whose job `cluster` saves the objects of the kubeconfig's cluster; `keys` are added to its source.
pub(crate) fn config(head: &str, kubeconfig: &Path, keys: &str) -> String {
    format!(
        "{head}\n{STATIC_KEYS}\n[kubernetes]\nkubeconfig = \"{}\"\n[jobs.cluster]\nlocation = \"primary\"\n\
         [[jobs.cluster.sources]]\ntype = \"kubernetes\"\nname = \"objects\"\n{keys}\n",
        kubeconfig.display()
    )
}

impl Site {
    /// With the keys of the one source of the job `cluster`.
    fn new(keys: &str) -> Self {
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let fake = FakeKubernetes::start(&servers);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = fake.kubeconfig(&servers, "admin", ADMIN);
        let head = s3.toml("cluster", &folder.path().join("state"), &s3.url);
        let config = config(&head, &kubeconfig, keys);
        let penstock = Penstock::new(folder.path(), &config);
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "shop" } }));
        for number in 0..300 {
            fake.make("/api/v1/namespaces/shop/configmaps", &config_map(&format!("m-{number:03}"), 2048));
        }
        let secret = json!({ "type": "Opaque", "metadata": { "name": "s" }, "data": { "password": CANARY } });
        fake.make("/api/v1/namespaces/shop/secrets", &secret);
        Self { servers, fake, folder, penstock }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn restored(&self) -> PathBuf {
        self.path("out")
    }
}

fn piped(output: &Output, command: &str, arguments: &[&str]) -> String {
    let mut child = Command::new(command).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&output.stdout).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn stream(shown: &Value) -> &Value {
    &shown["items"][0]["stream"]
}

#[test]
fn a_cluster_goes_there_and_back_and_an_unchanged_one_stores_nothing() {
    let site = Site::new("");
    let saved = site.penstock.run(&["-vvv", "backup", "cluster"]);
    let log = String::from_utf8_lossy(&saved.stderr).into_owned();
    assert_eq!(saved.status.code(), Some(0), "{log}");
    assert!(log.contains("made the client of the cluster") && !log.contains(CANARY), "{log}");

    let shown = site.penstock.good(&["show", "cluster@latest"]);
    let item = &shown["items"][0];
    assert_eq!(item["source"]["type"], "kubernetes");
    assert_eq!(item["source"]["selection"], "every namespace and kind");
    assert_eq!(item["kubernetes"]["resources"]["configmaps"]["objects"], 300);
    assert_eq!(item["kubernetes"]["resources"]["secrets"]["objects"], 1);

    let tar = site.penstock.run(&["cat", "cluster@latest", "--item", "objects"]);
    let names = piped(&tar, "tar", &["tvf", "-"]);
    assert!(
        names.contains("-rw-r--r-- 0/0") && names.contains("resources/configmaps/namespaces/shop/m-007.json"),
        "{names}"
    );
    assert!(names.contains("drwxr-xr-x 0/0"), "{names}");
    let out = site.path("out");
    let restored =
        site.penstock.run(&["restore", "cluster@latest", "--item", "objects", "--to", out.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    let read = |path: &str| fs::read(site.restored().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(read("metadata/version"), b"1.1.0\n");
    let secret: Value = serde_json::from_slice(&read("resources/secrets/namespaces/shop/s.json")).unwrap();
    assert_eq!((&secret["kind"], &secret["data"]["password"]), (&json!("Secret"), &json!(CANARY)));

    let first = stream(&shown)["new_bytes"].as_u64().unwrap();
    site.penstock.good(&["backup", "cluster"]);
    let again = site.penstock.good(&["show", "cluster@latest"]);
    assert_eq!(again["parent"], shown["id"]);
    let second = stream(&again)["new_bytes"].as_u64().unwrap();
    assert!(first > 100_000 && second * 100 < first, "{second} after {first}");

    // One object that is another makes little new.
    site.fake.state().remove("/api/v1/namespaces/shop/configmaps/m-100");
    site.penstock.good(&["backup", "cluster"]);
    let third = site.penstock.good(&["show", "cluster@latest"]);
    let new = stream(&third)["new_bytes"].as_u64().unwrap();
    assert!(new > 0 && new * 2 < first, "{new} after {first}");
    drop(site.servers);
}

#[test]
fn what_is_missing_is_named_and_the_exit_code_is_one() {
    let site = Site::new("resources = [\"*\", \"deploymnets\"]\n");
    site.fake.state().dead.push("metrics.example.com/v1".to_owned());
    site.fake.script(|_, request, _| {
        let refused = request.uri.starts_with("/api/v1/secrets?");
        let message = "secrets is forbidden: User \"x\" cannot list resource \"secrets\"";
        let headers = vec![("content-type", "application/json".to_owned())];
        (refused || request.uri.starts_with("/api/v1/namespaces/shop/secrets")).then(|| Fault::Answer {
            status: 403,
            headers,
            body: refusal(403, "Forbidden", message).to_string(),
        })
    });
    let (code, _) = site.penstock.json(&["backup", "cluster"]);
    assert_eq!(code, 1);
    let shown = site.penstock.good(&["show", "cluster@latest"]);
    assert_eq!((&shown["outcome"], &shown["items"][0]["outcome"]), (&json!("partial"), &json!("partial")));
    let warnings = shown["warnings"]["list"].to_string();
    for named in ["metrics.example.com/v1 does not answer", "secrets are not saved", "deploymnets", "deployments"] {
        assert!(warnings.contains(named), "{named}: {warnings}");
    }
    assert_eq!(shown["items"][0]["kubernetes"]["resources"]["configmaps"]["objects"], 300);

    let said = |arguments: &[&str]| {
        let output = site.penstock.run(arguments);
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    };
    let text = said(&["show", "cluster@latest"]);
    for named in [
        "objects: secrets are not saved",
        "secrets (access-denied): what to do: grant",
        "metrics.example.com/v1: what to do: `kubectl get apiservices`",
    ] {
        assert!(text.contains(named) && !text.contains("objects/:"), "{named}: {text}");
    }
    let missing = "the backup is partial: secrets are not saved";
    for command in ["objects", "diff"] {
        let text = said(&["kubernetes", command, "cluster@latest"]);
        assert!(text.contains(missing), "{command}: {text}");
    }
    let (_, diff) = site.penstock.json(&["kubernetes", "diff", "cluster@latest"]);
    assert!(diff["notes"].to_string().contains(missing), "{diff:#}");
}

#[test]
fn a_cluster_that_is_not_there_fails_the_item_and_is_not_asked_by_other_jobs() {
    let site = Site::new(
        "[jobs.other]\nlocation = \"primary\"\n[[jobs.other.sources]]\ntype = \"command\"\nname = \"c\"\nargv = [\"echo\", \"x\"]\n",
    );
    let seen = site.fake.seen().len();
    site.penstock.good(&["backup", "other"]);
    assert_eq!(site.fake.seen().len(), seen, "no request was made");
    site.fake.state().admin_token = "another".to_owned();
    let (code, answer) = site.penstock.json(&["backup", "cluster"]);
    assert_eq!(answer["error"]["class"], "access-denied", "{answer:#}");
    assert!(code > 1, "{answer:#}");
}

#[test]
fn validate_asks_for_each_permission_and_names_what_is_stale() {
    let site = Site::new("exclude_resources = [\"pods\"]\n");
    site.fake.state().dead.push("metrics.example.com/v1".to_owned());
    let identity = |answer: &Value| {
        let checks = answer["kubernetes"]["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == "identity").unwrap_or_else(|| panic!("{answer:#}"));
        (check["state"].clone(), check["message"].as_str().unwrap().to_owned())
    };
    // Servers before 1.28: to whom everything is allowed, and to others.
    let refused = "selfsubjectreviews.authentication.k8s.io is forbidden: User \"jane\" cannot create resource \"selfsubjectreviews\"";
    let answers = [
        (404, "text/plain", "404 page not found\n".to_owned(), "the server does not report the user"),
        (403, "application/json", refusal(403, "Forbidden", refused).to_string(), "jane"),
    ];
    for (status, content_type, body, expected) in answers {
        site.fake.script(move |_, request, _| {
            let headers = vec![("content-type", content_type.to_owned())];
            let who = request.uri.ends_with("/selfsubjectreviews");
            who.then(|| Fault::Answer { status, headers, body: body.clone() })
        });
        let (state, message) = identity(&site.penstock.json(&["validate", "--skip", "ec2"]).1);
        assert!(state == "passed" && message.starts_with(expected), "{state}: {message}");
    }

    site.fake.script(|_, request, _| {
        let denied = request.uri.ends_with("/selfsubjectaccessreviews") && request.body.contains("\"secrets\"");
        let who = request.uri.ends_with("/selfsubjectreviews");
        let status = if who {
            json!({ "userInfo": { "username": "system:serviceaccount:backup:penstock", "groups": [] } })
        } else {
            json!({ "allowed": false, "reason": "" })
        };
        (denied || who).then(|| Fault::Answer {
            status: 201,
            headers: vec![("content-type", "application/json".to_owned())],
            body: json!({ "status": status }).to_string(),
        })
    });
    let (code, answer) = site.penstock.json(&["validate", "--skip", "ec2"]);
    assert_ne!(code, 0);
    let checks = answer["kubernetes"]["checks"].as_array().unwrap();
    let check = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{answer:#}"));
    assert_eq!(identity(&answer).1, "system:serviceaccount:backup:penstock");
    assert!(check("version")["message"].as_str().unwrap().contains("v1.20.2"));
    assert_eq!(check("discovery")["state"], "warning");
    assert!(check("discovery")["message"].as_str().unwrap().contains("metrics.example.com/v1"));
    let permissions = &check("cluster objects: permissions");
    assert_eq!(permissions["state"], "failed");
    assert!(permissions["message"].as_str().unwrap().contains("may not be listed: secrets"), "{permissions:#}");
    let asked = site.fake.seen();
    assert!(!asked.iter().any(|request| request.uri.contains("limit=")), "nothing was listed");
}
