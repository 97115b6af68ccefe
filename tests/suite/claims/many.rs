//! Hundreds of claims on one node.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, claimed};
use crate::daemon_site::{get, wait_for};

const NAMESPACES: usize = 5;
const OF_EACH: usize = 100;

const MIB: u64 = 1 << 20;

fn largest(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[test]
fn five_hundred_claims_take_few_requests_and_little_memory() {
    let cluster = Cluster::new();
    for namespace in 0..NAMESPACES {
        let namespace = format!("ns{namespace}");
        cluster.fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": namespace } }));
        let claims = (0..OF_EACH).map(|number| format!("c{number}"));
        for claim in claims.clone() {
            fs::write(cluster.claim(&format!("{namespace}/{claim}")).join("file"), &claim).unwrap();
        }
        let volumes: Vec<Value> = claims.map(|claim| claimed(&claim, &claim)).collect();
        for (number, some) in volumes.chunks(10).enumerate() {
            cluster.pod(&format!("{namespace}/pod-{number}"), "n1", &json!({}), some);
        }
    }
    let agent = cluster.agent("n1", "");
    let before = cluster.fake.seen().len();
    let mut child = agent.command(&["--output", "json", "backup", "claims"]);
    let file = fs::File::create(cluster.path("answer")).unwrap();
    let mut child = child.stdout(file).stderr(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    let ended = wait_for("end of the backup", Duration::from_secs(600), || {
        most = most.max(largest(child.id()).unwrap_or(0));
        child.try_wait().unwrap()
    });
    let answer: Value = serde_json::from_slice(&fs::read(cluster.path("answer")).unwrap()).unwrap();
    assert_eq!(ended.code(), Some(0), "{answer:#}");
    assert_eq!(answer["backups"][0]["volumes"].as_array().unwrap().len(), NAMESPACES * OF_EACH);
    let asked = cluster.fake.seen().len() - before;
    let store = cluster.s3.requests();
    println!("{asked} requests to the API server, {store} to the store, {} MiB resident", most / MIB);
    // The pods, the claims of each namespace, the volumes.
    assert!(asked <= 2 + NAMESPACES, "{asked}");
    assert!(store <= 9 * NAMESPACES * OF_EACH, "{store}");
    // limits.memory is 64 MiB; what a process of this binary takes besides as in the tests of memory.
    assert!((10 * MIB..=128 * MIB).contains(&most), "{most}");
}

#[test]
fn metrics_and_status_tell_how_the_round_went_and_name_no_claim_in_a_label() {
    let cluster = Cluster::new();
    for claim in ["shop/a", "shop/b"] {
        fs::write(cluster.claim(claim).join("file"), "x").unwrap();
    }
    cluster.claim_of("shop/c", &json!({}), "ReadWriteOnce", &json!({ "hostPath": { "path": "/etc" } }));
    let excludes = json!({ "backup.penstock/exclude": "b" });
    cluster.pod("shop/web", "n1", &excludes, &[claimed("a", "a"), claimed("b", "b"), claimed("c", "c")]);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    drop(tcp);
    let admin = format!("[admin]\nlisten = \"{address}\"\nsocket = {:?}\n", cluster.path("control.sock"));
    let config = cluster.config("n1", "retention = { keep_last = 1, grace = \"1h\" }", "");
    let agent = cluster.agent_of("n1", &config.replacen("[limits]", &format!("{admin}[limits]"), 1));
    let mut daemon = agent.command(&["run"]).stderr(Stdio::null()).spawn().unwrap();
    let ready = || (get(&address, "/readyz", "").status == 200).then_some(());
    wait_for("readiness", Duration::from_secs(60), ready);
    for _ in 0..2 {
        let (code, answer) = agent.json(&["trigger", "claims", "--wait"]);
        assert_eq!((code, &answer["run"]["outcome"]), (1, &json!("partial")), "{answer:#}");
        let said = answer["run"]["error"]["message"].as_str().unwrap();
        assert!(
            said.starts_with("1 of this node's volumes are not saved; the first: shop/web, volume c (claim c)"),
            "{said}"
        );
    }
    let metrics = get(&address, "/metrics", "").body;
    for line in [
        "penstock_claims{job=\"claims\",state=\"saved\"} 1",
        "penstock_claims{job=\"claims\",state=\"failed\"} 0",
        "penstock_claims{job=\"claims\",state=\"missing\"} 0",
        "penstock_claims_unsaved{job=\"claims\",reason=\"excluded\"} 1",
        "penstock_claims_unsaved{job=\"claims\",reason=\"host-path-volume\"} 1",
        "penstock_claims_lost{job=\"claims\"} 1",
        // Of the node's own chain and of the claim's, each pruned to one.
        "penstock_backups{job=\"claims\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("shop"), "{metrics}");
    let status: Value = serde_json::from_str(&get(&address, "/api/v1/status", "").body).unwrap();
    assert_eq!(status["jobs"][0]["last"]["outcome"], "partial", "{status:#}");
    let _ = daemon.kill();
    let _ = daemon.wait();
}
