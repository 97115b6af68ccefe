//! Restores into a real API server: `make kubernetes` starts one with a controller manager, and a second one, and runs this. Needs kubectl.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::cluster_backup;
use crate::cluster_restore::verdicts;
use crate::servers::{Scheme, Servers};

const MAPS: usize = 2000;

/// Fields that differ after a restore, and objects that are others; docs/kubernetes.md has the list.
const DOCUMENTED: &[(&str, &[&str])] = &[
    ("endpoints", &["metadata.annotations[\"endpoints.kubernetes.io/last-change-trigger-time\"]"]),
    ("horizontalpodautoscalers.autoscaling", &["metadata.annotations[\"autoscaling.alpha.kubernetes.io/conditions\"]"]),
    (
        "jobs.batch",
        &[
            "metadata.labels.controller-uid",
            "spec.selector.matchLabels.controller-uid",
            "spec.template.metadata.labels.controller-uid",
        ],
    ),
    ("persistentvolumeclaims", &["metadata.annotations"]),
    ("pods", &["spec.containers[0].volumeMounts[", "spec.volumes["]),
    ("serviceaccounts", &["secrets[0].name"]),
    ("services", &["spec.clusterIP", "spec.clusterIPs[0]", "spec.ports[0].nodePort"]),
    ("persistentvolumes", &["metadata.annotations[\"pv.kubernetes.io/", "spec.claimRef."]),
];

struct Drill {
    _servers: Servers,
    _folder: tempfile::TempDir,
    kubeconfig: PathBuf,
    penstock: Penstock,
    /// With a `penstock` that has this configuration.
    path: String,
}

/// A kubeconfig with the context of `kubeconfig`, and as `new` that of `other`.
fn with_new(kubeconfig: &Path, other: &Path) -> Value {
    let read = |path: &Path| -> Value {
        let view =
            Command::new("kubectl").args(["config", "view", "--raw", "-o", "json", "--kubeconfig"]).arg(path).output();
        serde_json::from_slice(&view.expect("kubectl").stdout).unwrap()
    };
    let (mut all, other) = (read(kubeconfig), read(other));
    for list in ["clusters", "users"] {
        let mut entry = other[list][0].clone();
        entry["name"] = json!("new");
        all[list].as_array_mut().unwrap().push(entry);
    }
    let context = json!({ "name": "new", "context": { "cluster": "new", "user": "new" } });
    all["contexts"].as_array_mut().unwrap().push(context);
    all
}

impl Drill {
    fn new() -> Self {
        let of = |name: &str| {
            PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("`make kubernetes` sets {name}")))
        };
        let servers = Servers::start();
        let s3 = servers.s3(Scheme::Http);
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        let both = with_new(&of("PENSTOCK_KUBECONFIG"), &of("PENSTOCK_KUBECONFIG_NEW"));
        fs::write(&kubeconfig, both.to_string()).unwrap();
        let head = s3.toml("cluster", &folder.path().join("state"), &s3.url);
        let penstock = Penstock::new(folder.path(), &cluster_backup::config(&head, &kubeconfig, ""));
        // The docs call it by name.
        let command = penstock.command(&[]);
        let words = [command.get_program()].into_iter().chain(command.get_args()).map(|word| word.to_str().unwrap());
        let script = folder.path().join("bin/penstock");
        fs::create_dir(script.parent().unwrap()).unwrap();
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.collect::<Vec<_>>().join(" "))).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", script.parent().unwrap().display(), std::env::var("PATH").unwrap());
        Self { _servers: servers, _folder: folder, kubeconfig, penstock, path }
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn done(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Until what `arguments` print fits.
    fn until(&self, what: &str, arguments: &[&str], fits: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let output = self.kubectl(arguments, "");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && fits(&text) {
                return;
            }
            assert!(Instant::now() < end, "{what}: {output:?}");
            std::thread::yield_now();
        }
    }

    /// The namespace of tests/kubernetes/shop.yaml, custom resources that own and are owned, and many objects.
    fn fill(&self) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kubernetes");
        let shop = format!("{folder}/shop.yaml");
        self.done(&["apply", "-f", &shop], "");
        self.until(
            "the definition",
            &["get", "crd", "widgets.example.com", "-o", "jsonpath={.status.conditions[*].type}"],
            |text| text.contains("Established"),
        );
        let owner = |kind: &str, name: &str| {
            self.done(&["-n", "shop", "get", kind, name, "-o", "jsonpath={.metadata.uid}"], "")
        };
        let widget = json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "parent", "namespace": "shop" }, "spec": { "size": 9_007_199_254_740_993_u64, "ratio": 1.0 } });
        self.until_made(&widget);
        let dependent = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "a": "b" }, "metadata": { "name": "owned", "namespace": "shop", "ownerReferences": [
            { "apiVersion": "example.com/v1", "kind": "Widget", "name": "parent", "uid": owner("widget", "parent"), "controller": true, "blockOwnerDeletion": true } ] } });
        let child = json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "child", "namespace": "shop", "ownerReferences": [
            { "apiVersion": "v1", "kind": "ConfigMap", "name": "settings", "uid": owner("configmap", "settings") } ] } });
        let maps: Vec<Value> = (0..MAPS).map(|number| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("m-{number:04}"), "namespace": "shop" }, "data": { "k": "x".repeat(200) } })).collect();
        let items = [&[dependent, child], &maps[..]].concat();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        self.done(&["create", "-f", "-"], &list.to_string());
        self.until("the claim", &["-n", "shop", "get", "pvc", "data", "-o", "jsonpath={.status.phase}"], |text| {
            text == "Bound"
        });
        self.until("the pods", &["-n", "shop", "get", "pods", "-o", "name"], |text| text.lines().count() == 6);
    }

    fn until_made(&self, object: &Value) {
        let end = Instant::now() + Duration::from_secs(60);
        while !self.kubectl(&["apply", "-f", "-"], &object.to_string()).status.success() {
            assert!(Instant::now() < end, "{object}");
        }
    }

    /// Deletes a namespace with what is in it; somebody has to do what its finalizer waits for.
    fn delete(&self, namespace: &str) {
        let none = r#"{"metadata":{"finalizers":null}}"#;
        self.kubectl(&["-n", namespace, "patch", "configmap", "settings", "--type=merge", "-p", none], "");
        self.done(&["delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s"], "");
    }

    /// Deletes all of it.
    fn empty(&self) {
        self.delete("shop");
        let all =
            "crd/widgets.example.com priorityclass/shop-high storageclass/shop-class pv/shop-volume pv/shop-spare";
        for object in all.split(' ') {
            self.done(&["delete", object, "--ignore-not-found", "--timeout=120s"], "");
        }
    }

    /// Runs a block of the docs.
    fn shell(&self, block: &str) {
        let output =
            Command::new("bash").args(["-euxo", "pipefail", "-c", block]).env("PATH", &self.path).output().unwrap();
        assert!(
            output.status.success(),
            "{block}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Does what a kubelet would: pods run, and are ready.
    fn run_pods(&self, ended: &AtomicBool) {
        let running = r#"{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
        while !ended.load(Ordering::Relaxed) {
            let pods =
                self.kubectl(&["-n", "shop", "get", "pods", "--field-selector=status.phase=Pending", "-o", "name"], "");
            for pod in String::from_utf8_lossy(&pods.stdout).lines() {
                // It may be gone meanwhile.
                self.kubectl(&["-n", "shop", "patch", pod, "--subresource=status", "--type=merge", "-p", running], "");
            }
        }
    }

    fn restore(&self, more: &[&str]) -> (i32, Value) {
        let (code, answer) = self.penstock.json(&[&["kubernetes", "restore", "cluster@latest"], more].concat());
        (code, answer)
    }

    /// Nothing differs from the backup but what the docs list.
    fn assert_same(&self) {
        let (_, diff) = self.penstock.json(&["kubernetes", "diff", "cluster@latest", "--namespace", "shop"]);
        for row in diff["differences"].as_array().unwrap() {
            let (resource, what) = (row["resource"].as_str().unwrap(), row["difference"].as_str().unwrap());
            if what != "changed" {
                // A controller makes pods under other names.
                assert_eq!(resource, "pods", "{row:#}");
                continue;
            }
            let allowed = DOCUMENTED.iter().find(|(kind, _)| *kind == resource).unwrap_or_else(|| panic!("{row:#}")).1;
            for field in row["fields"].as_array().unwrap() {
                let field = field.as_str().unwrap();
                assert!(allowed.iter().any(|allowed| field.starts_with(allowed)), "{field}: {row:#}");
            }
        }
    }

    fn versions(&self) -> String {
        let kinds =
            "configmaps,secrets,services,roles,rolebindings,widgets,persistentvolumeclaims,networkpolicies,ingresses";
        let all = self.done(&["-n", "shop", "get", kinds, "-o", "jsonpath={range .items[*]}{.metadata.uid} {.metadata.resourceVersion} {.metadata.managedFields[*].manager}{\"\\n\"}{end}"], "");
        // What the controller manager alone writes, such as a token, it writes when it likes.
        let ours = all.lines().filter(|line| line.splitn(3, ' ').nth(2) != Some("kube-controller-manager"));
        ours.collect::<Vec<_>>().join("\n")
    }
}

#[test]
#[ignore = "needs a Kubernetes API server: make kubernetes"]
fn real() {
    let drill = Drill::new();
    drill.empty();
    drill.fill();
    drill.penstock.good(&["backup", "cluster"]);
    let managers = |drill: &Drill| {
        drill.done(
            &["-n", "shop", "get", "configmap", "m-0000", "-o", "jsonpath={.metadata.managedFields[*].manager}"],
            "",
        )
    };
    let before = managers(&drill);
    drill.empty();

    let (code, restored) = drill.restore(&[]);
    assert_eq!((code, verdicts(&restored, "refused")), (0, 0), "{restored:#}");
    assert!(verdicts(&restored, "create") > MAPS as u64, "{}", restored["counts"]);
    drill.assert_same();
    assert_eq!(managers(&drill), before, "the managers of its fields are those of the backup");
    let versions = drill.versions();
    let (code, again) = drill.restore(&[]);
    assert_eq!((code, verdicts(&again, "create")), (0, 0), "{}", again["counts"]);
    assert_eq!(drill.versions(), versions, "a second restore changes nothing");

    killed(&drill);
    refused(&drill);
    dependents(&drill);
    page(&drill);
    drill.empty();
}

/// The commands of docs/restore-drill.md, word by word.
fn page(drill: &Drill) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/restore-drill.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("E. Objects of a cluster")).unwrap();
    let blocks: Vec<&str> = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 3, "{section}");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| drill.run_pods(&ended));
        drill.delete("shop");
        drill.shell(blocks[0]);
        drill.shell(blocks[1]);
        assert_eq!(
            drill.done(&["-n", "shop-copy", "get", "secret", "db", "-o", "jsonpath={.data.password}"], ""),
            "aHVudGVyMg=="
        );
        drill.delete("shop-copy");
        drill.shell(blocks[2]);
        assert_eq!(
            drill.done(
                &["--context", "new", "-n", "shop", "get", "secret", "db", "-o", "jsonpath={.data.password}"],
                ""
            ),
            "aHVudGVyMg=="
        );
        ended.store(true, Ordering::Relaxed);
    });
}

/// Killed at twenty moments, and run again: the same end state.
fn killed(drill: &Drill) {
    drill.empty();
    for moment in 0..20_u64 {
        let mut child = drill
            .penstock
            .command(&["kubernetes", "restore", "cluster@latest"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let after = Duration::from_millis(30 + moment * moment * 7);
        let end = Instant::now() + after;
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let _ = child.kill();
        child.wait().unwrap();
    }
    let (code, restored) = drill.restore(&[]);
    assert_eq!(code, 0, "{restored:#}");
    drill.assert_same();
    let owner = drill
        .done(&["-n", "shop", "get", "configmap", "owned", "-o", "jsonpath={.metadata.ownerReferences[0].uid}"], "");
    assert_eq!(owner, drill.done(&["-n", "shop", "get", "widget", "parent", "-o", "jsonpath={.metadata.uid}"], ""));
    assert!(!drill.versions().contains("penstock"), "every object has the managers of the backup");
}

/// With `--dependents`, pods and replica sets come back under their names, and controllers adopt them instead of making others.
fn dependents(drill: &Drill) {
    let of = |columns: &str| drill.done(&["-n", "shop", "get", "pods,replicasets", "--no-headers", "-o", columns], "");
    // Saved now: what a controller has made since has other names.
    drill.penstock.good(&["backup", "cluster"]);
    let names = of("custom-columns=N:.metadata.name");
    drill.delete("shop");
    let (code, restored) = drill.restore(&["--namespace", "shop", "--dependents"]);
    assert_eq!((code, verdicts(&restored, "refused")), (0, 0), "{}", restored["counts"]);
    let adopted =
        ["-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.ownerReferences[0].kind}"];
    drill.until("their adoption", &adopted, |text| text == "ReplicaSet ReplicaSet");
    assert_eq!(of("custom-columns=N:.metadata.name"), names);
    let (code, again) = drill.restore(&["--namespace", "shop", "--dependents"]);
    assert_eq!((code, verdicts(&again, "create")), (0, 0), "{}", again["counts"]);
}

/// A webhook without a backend refuses what it judges; the others are restored, and the plan says so before.
fn refused(drill: &Drill) {
    let webhook = json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": { "name": "shop" }, "webhooks": [{
        "name": "policy.example.com", "failurePolicy": "Fail", "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 1,
        "rules": [{ "apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["networkpolicies"] }],
        "clientConfig": { "service": { "namespace": "shop", "name": "policy" } } }] });
    drill.done(&["apply", "-f", "-"], &webhook.to_string());
    drill.done(&["-n", "shop", "delete", "networkpolicy", "deny"], "");
    let (code, plan) = drill.penstock.json(&["kubernetes", "plan", "cluster@latest", "--namespace", "shop"]);
    assert_eq!(code, 1, "{}", plan["counts"]);
    assert!(
        plan["notes"].to_string().contains("policy.example.com is served by shop/policy, which has no endpoint"),
        "{}",
        plan["notes"]
    );
    let (code, restored) = drill.restore(&["--namespace", "shop"]);
    drill.done(&["delete", "validatingwebhookconfiguration", "shop"], "");
    assert_eq!((code, verdicts(&restored, "refused")), (1, 1), "{}", restored["counts"]);
    let row = restored["objects"].as_array().unwrap().iter().find(|row| row["verdict"] == "refused").unwrap();
    assert_eq!(row["name"], "deny");
}
