//! Commands of pods around the reading of their volumes.

use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock::cluster::{Cluster as _, Exec, MAX_OUTPUT};
use penstock::kube::{Client, Environment, Settings};
use serde_json::{Value, json};

use super::{Cluster, claimed, record, saved, set};
use crate::daemon_site::{Daemon, wait_for};
use crate::fake_kubernetes::{ADMIN, Command, FakeKubernetes};
use crate::servers::Servers;

const FROZEN: Duration = Duration::from_secs(60);

type Log = Arc<Mutex<Vec<String>>>;

fn hooks(more: &[(&str, &str)]) -> Value {
    let mut all = json!({
        "pre.hook.backup.penstock/command": "[\"freeze\", \"/x\"]",
        "post.hook.backup.penstock/command": "[\"thaw\", \"/x\"]",
    });
    for (key, value) in more {
        all[*key] = json!(value);
    }
    all
}

/// Logs `POD PROGRAM`, and ends each command as `code` says.
fn commands(cluster: &Cluster, code: impl Fn(&Command) -> Option<u8> + Send + Sync + 'static) -> Log {
    let log = Log::default();
    let into = Arc::clone(&log);
    cluster.fake.state().commands = Some(Arc::new(move |command: &Command| {
        into.lock().unwrap().push(format!("{} {}", command.pod, command.argv[0]));
        (format!("output of {}", command.argv.join(" ")), code(command))
    }));
    log
}

#[test]
fn a_pod_is_frozen_while_its_volumes_are_read_and_thawed_afterwards() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.claim("shop/one"), cluster.claim("shop/two"));
    let annotations = hooks(&[("pre.hook.backup.penstock/container", "main")]);
    cluster.pod("shop/db", "n1", &annotations, &[claimed("one", "one"), claimed("two", "two")]);
    fs::write(cluster.claim("shop/plain").join("file"), "x").unwrap();
    cluster.pod("shop/plain", "n1", &json!({}), &[claimed("plain", "plain")]);
    // What is there only while it is frozen is in both backups.
    let marks = [one.join("frozen"), two.join("frozen")];
    let log = commands(&cluster, move |command| {
        let freeze = command.argv[0] == "freeze";
        for mark in &marks {
            if freeze { fs::write(mark, "x").unwrap() } else { fs::remove_file(mark).unwrap() }
        }
        Some(0)
    });
    let agent = cluster.agent("n1", "hooks = true");
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/one", "shop/two", "shop/plain"]));
    assert_eq!(*log.lock().unwrap(), ["shop/db freeze", "shop/db thaw"]);
    for claim in ["shop/one", "shop/two"] {
        let out = cluster.path(&claim.replace('/', "-"));
        agent.good(&["restore", "--claim", claim, "--to", out.to_str().unwrap()]);
        assert!(out.join("frozen").exists(), "{claim}");
    }
    let ran = record(&agent, "n1")["commands"].clone();
    assert_eq!((&ran[0]["when"], &ran[0]["output"]), (&json!("pre"), &json!("output of freeze /x")), "{ran:#}");
    assert!(!cluster.path("state-n1/hooks/claims.json").exists(), "nothing is owed");
    // Off by default.
    cluster.agent("n1", "").good(&["backup", "claims"]);
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[test]
fn a_command_that_fails_fails_its_pods_volumes_and_nothing_else() {
    let cluster = Cluster::new();
    for claim in ["shop/fails", "shop/goes-on", "shop/late", "shop/odd", "shop/plain"] {
        fs::write(cluster.claim(claim).join("file"), "x").unwrap();
    }
    cluster.pod("shop/fails", "n1", &hooks(&[]), &[claimed("v", "fails")]);
    let goes_on = hooks(&[("pre.hook.backup.penstock/on-error", "Continue")]);
    cluster.pod("shop/goes-on", "n1", &goes_on, &[claimed("v", "goes-on")]);
    cluster.pod("shop/late", "n1", &hooks(&[("pre.hook.backup.penstock/timeout", "300ms")]), &[claimed("v", "late")]);
    cluster.pod("shop/odd", "n1", &hooks(&[("pre.hook.backup.penstock/timeout", "30")]), &[claimed("v", "odd")]);
    cluster.pod("shop/plain", "n1", &json!({}), &[claimed("v", "plain")]);
    let log = commands(&cluster, |command| match (command.argv[0].as_str(), command.pod.as_str()) {
        ("freeze", "shop/late") => None,
        ("freeze", _) => Some(3),
        _ => Some(0),
    });
    let agent = cluster.agent("n1", "hooks = true");
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, saved(&answer)), (1, set(["shop/goes-on", "shop/plain"])), "{answer:#}");
    assert_eq!(answer["backups"][0]["failed_items"], json!(["claim.shop.fails", "claim.shop.late", "claim.shop.odd"]));
    // What may still run may freeze the pod after its thaw, which is owed once more.
    let owed = fs::read_to_string(cluster.path("state-n1/hooks/claims.json")).unwrap();
    assert!(owed.contains("\"name\":\"late\"") && owed.contains("pre may still run: it took longer than"), "{owed}");
    assert!(owed.contains("\"tried\":0") && !owed.contains("\"name\":\"fails\""), "{owed}");
    let log = log.lock().unwrap().clone();
    for pod in ["fails", "goes-on", "late"] {
        assert!(log.contains(&format!("shop/{pod} thaw")), "what may be frozen is thawed: {log:?}");
    }
    assert!(!log.iter().any(|line| line.starts_with("shop/odd")), "{log:?}");
    let shown = agent.good(&["show", "claims@latest"]).to_string();
    for said in [
        "the pre hook of shop/fails failed: command terminated with non-zero exit code: exit status 3: output of freeze /x",
        "the pre hook of shop/late failed: it took longer than 300ms",
        "could not read the commands of shop/odd: the annotation pre.hook.backup.penstock/timeout is \\\"30\\\"",
        "the pre hook of shop/goes-on failed",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
}

#[test]
fn a_pod_that_an_agent_left_frozen_is_thawed_at_the_next_start() {
    let cluster = Cluster::new();
    fs::write(cluster.claim("shop/data").join("file"), vec![7; 1 << 20]).unwrap();
    cluster.pod("shop/db", "n1", &hooks(&[]), &[claimed("v", "data")]);
    let log = commands(&cluster, |_| Some(0));
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    drop(tcp);
    let admin = format!("[admin]\nlisten = \"{address}\"\nsocket = {:?}\n", cluster.path("control.sock"));
    let config = cluster.config("n1", "", "hooks = true").replacen("[limits]", &format!("{admin}[limits]"), 1);
    let agent = cluster.agent_of("n1", &config);
    // The store takes nothing of the claim: the agent waits for it, with the pod frozen.
    cluster.s3.refuse(|request| {
        let is_write = matches!(request.method.as_str(), "PUT" | "POST") && request.uri.contains("claim.shop.data");
        is_write.then(|| (503, "<Error><Code>SlowDown</Code><Message>Slow down</Message></Error>".to_owned()))
    });
    let mut child = agent.command(&["backup", "claims"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let is_writing = || {
        let seen = cluster.s3.seen();
        seen.iter().any(|request| request.method != "GET" && request.uri.contains("claim.shop.data")).then_some(())
    };
    wait_for("upload of the frozen volume", FROZEN, is_writing);
    child.kill().unwrap();
    child.wait().unwrap();
    let owed = cluster.path("state-n1/hooks/claims.json");
    assert!(owed.exists() && *log.lock().unwrap() == ["shop/db freeze"]);

    let daemon = Daemon::start(agent.command(&["--log-format", "json", "run"]), cluster.path("log"));
    daemon.allow_log("WARN", "an earlier run was stopped between the commands of pods");
    wait_for("thaw", FROZEN, || (log.lock().unwrap().len() == 2 && !owed.exists()).then_some(()));
    assert_eq!(log.lock().unwrap()[1], "shop/db thaw");
    assert_eq!(daemon.stop(), Some(0));
    // And only once.
    cluster.s3.refuse(|_| None);
    agent.good(&["backup", "claims"]);
    assert_eq!(log.lock().unwrap()[2..], ["shop/db freeze", "shop/db thaw"]);
}

#[test]
fn a_thaw_that_fails_stays_owed_until_it_succeeds_or_the_pod_is_another() {
    let cluster = Cluster::new();
    fs::write(cluster.claim("shop/data").join("file"), "x").unwrap();
    cluster.pod("shop/db", "n1", &hooks(&[]), &[claimed("v", "data")]);
    let log = commands(&cluster, |command| Some(u8::from(command.argv[0] == "thaw")));
    let agent = cluster.agent("n1", "hooks = true");
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, saved(&answer)), (1, set(["shop/data"])), "the backup is good, but a pod is frozen: {answer:#}");
    let owed = cluster.path("state-n1/hooks/claims.json");
    assert!(fs::read_to_string(&owed).unwrap().contains("\"tried\":1"));
    // A pod of the same name that was made anew is not frozen.
    cluster.remove("/api/v1/namespaces/shop/pods/db");
    cluster.pod("shop/db", "n1", &json!({}), &[claimed("v", "data")]);
    agent.good(&["backup", "claims"]);
    assert!(!owed.exists());
    assert_eq!(*log.lock().unwrap(), ["shop/db freeze", "shop/db thaw"]);
}

#[test]
fn a_record_that_cannot_be_read_switches_commands_off_and_stops_no_backup() {
    let cluster = Cluster::new();
    for claim in ["shop/frozen", "shop/plain"] {
        fs::write(cluster.claim(claim).join("file"), "x").unwrap();
    }
    cluster.pod("shop/plain", "n1", &json!({}), &[claimed("v", "plain")]);
    let log = commands(&cluster, |_| Some(0));
    let agent = cluster.agent("n1", "hooks = true");
    let owed = cluster.path("state-n1/hooks/claims.json");
    fs::create_dir_all(owed.parent().unwrap()).unwrap();
    fs::write(&owed, "{\"version\":9}").unwrap();
    let said = |answer: &Value| answer["backups"][0]["warnings"].to_string();
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, saved(&answer)), (1, set(["shop/plain"])), "{answer:#}");
    assert!(said(&answer).contains("no command is run in a pod"), "{answer:#}");
    cluster.pod("shop/db", "n1", &hooks(&[]), &[claimed("v", "frozen")]);
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, saved(&answer)), (1, set(["shop/plain"])), "nothing is read unfrozen: {answer:#}");
    assert_eq!(answer["backups"][0]["failed_items"], json!(["claim.shop.frozen"]));
    // It cannot be locked either.
    fs::remove_file(&owed).unwrap();
    fs::remove_file(owed.with_extension("lock")).unwrap();
    fs::create_dir(owed.with_extension("lock")).unwrap();
    let (code, answer) = agent.json(&["backup", "claims"]);
    assert_eq!((code, saved(&answer)), (1, set(["shop/plain"])), "{answer:#}");
    assert!(said(&answer).contains("could not lock the record"), "{answer:#}");
    assert!(log.lock().unwrap().is_empty());
}

#[test]
fn the_documentation_says_how_much_of_an_output_is_kept() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pod-volumes.md")).unwrap();
    let said: Vec<&str> = page.split_inclusive(" KiB").filter(|text| text.ends_with(" KiB")).collect();
    let of_output: Vec<&&str> = said.iter().filter(|text| text.contains("its output, the last ")).collect();
    assert_eq!(of_output.len(), 1, "{page}");
    assert!(of_output[0].ends_with(&format!("its output, the last {} KiB", MAX_OUTPUT >> 10)), "{}", of_output[0]);
}

#[tokio::test]
async fn a_command_ends_with_its_code_and_the_end_of_its_output() {
    let servers = Servers::start();
    let fake = FakeKubernetes::start(&servers);
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "main" }] } });
    fake.make("/api/v1/namespaces/default/pods", &pod);
    fake.state().commands = Some(Arc::new(|command: &Command| match command.argv[0].as_str() {
        "long" => ("x".repeat(300 << 10) + "end", Some(0)),
        _ => (command.argv.join("|"), Some(7)),
    }));
    let settings = |token: &str| Settings {
        kubeconfig: Some(fake.kubeconfig(&servers, token, token)),
        context: None,
        environment: Environment::default(),
    };
    let client = Client::new(settings(ADMIN)).await.unwrap();
    let argv = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let (long, odd) = (argv(&["long"]), argv(&["sh", "-c", "a&b=c d", "\u{e9}"]));
    let exec =
        |pod: &'static str, container: &'static str, command| Exec { namespace: "default", pod, container, command };
    let ended = client.exec(&exec("p", "main", &long)).await.unwrap();
    assert_eq!((ended.failure, ended.output.len()), (None, MAX_OUTPUT));
    assert!(ended.output.ends_with("xend"));
    let ended = client.exec(&exec("p", "main", &odd)).await.unwrap();
    assert_eq!(ended.output, "sh|-c|a&b=c d|\u{e9}");
    assert_eq!(ended.failure.unwrap(), "command terminated with non-zero exit code: exit status 7");
    let refused = client.exec(&exec("p", "none", &long)).await.unwrap_err();
    assert!(refused.to_string().contains("container none is not valid"), "{refused}");
    let missing = client.exec(&exec("q", "main", &long)).await.unwrap_err();
    assert_eq!(missing.error.status, Some(404));
    let other = Client::new(settings("sa:system:serviceaccount:default:x")).await.unwrap();
    let denied = other.exec(&exec("p", "main", &long)).await.unwrap_err();
    let remedy = denied.error.remedy.unwrap();
    assert!(remedy.contains("resources: [\"pods/exec\"], verbs: [\"get\", \"create\"]"), "{remedy}");
}
