//! Retention and the commands by claim; claims that are gone; the way from globs over the kubelet's folders.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Cluster, claimed, saved, set};
use crate::daemon_site::{get, wait_for};

fn ids(listed: &Value) -> Vec<String> {
    listed["backups"].as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_claim_has_its_own_history_and_one_that_is_gone_keeps_it() {
    let cluster = Cluster::new();
    for claim in ["shop/a", "shop/b"] {
        fs::write(cluster.claim(claim).join("file"), claim).unwrap();
    }
    cluster.pod("shop/a", "n1", &json!({}), &[claimed("v", "a")]);
    cluster.pod("shop/b", "n1", &json!({}), &[claimed("v", "b")]);
    let config = cluster.config("n1", "retention = { keep_last = 2, grace = \"1h\" }", "");
    let agent = cluster.agent_of("n1", &config);
    for _ in 0..3 {
        agent.good(&["backup", "claims"]);
    }
    cluster.remove("/api/v1/namespaces/shop/pods/a");
    cluster.remove("/api/v1/namespaces/shop/persistentvolumeclaims/a");
    agent.good(&["backup", "claims"]);
    // Without names, the claims of the job are pruned too, the one that is gone by the same rules.
    agent.good(&["prune"]);
    let of = |claim: &str| ids(&agent.good(&["list", "--claim", claim]));
    let (a, b) = (of("shop/a"), of("shop/b"));
    assert_eq!((a.len(), b.len()), (2, 2));
    agent.good(&["prune"]);
    assert_eq!(of("shop/a"), a, "time alone deletes nothing");

    let stats = agent.good(&["stats", "--claim", "shop/a"]);
    assert_eq!((&stats["stats"][0]["node"], &stats["stats"][0]["backups"]), (&json!("claim.shop.a"), &json!(2)));
    let text = String::from_utf8(agent.run(&["stats"]).stdout).unwrap();
    assert!(text.contains("shop/a") && text.contains("shop/b") && text.contains("n1"), "{text}");
    let cat = agent.run(&["cat", "--claim", "shop/a"]);
    assert!(cat.status.success() && cat.stdout.windows(6).any(|bytes| bytes == b"shop/a"));
    let out = cluster.path("out");
    agent.good(&["restore", "--claim", "shop/a", &format!("claims@{}", a[1]), "--to", out.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "shop/a");
    agent.good(&["delete", "--claim", "shop/a", &format!("claims@{}", a[1])]);
    assert_eq!(of("shop/a"), a[..1]);
    agent.good(&["delete", "--claim", "shop/a", "--all", "--now"]);
    assert!(of("shop/a").is_empty() && of("shop/b") == b);

    for (arguments, code) in [
        (&["show", "--claim", "shop/a"][..], 66),
        (&["prune", "--claim", "shop/none"], 66),
        (&["delete", "--claim", "shop/a", "--all"], 66),
        (&["show", "--claim", "shop"], 2),
        (&["list", "--claim", "shop/a", "--node", "n1"], 2),
        (&["show", "--claim", "shop/b", "claims/n1@latest"], 2),
        (&["delete", "--claim", "shop/b"], 2),
        (&["show"], 2),
    ] {
        let output = agent.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_job_with_globs_becomes_one_with_claims_and_loses_nothing() {
    let cluster = Cluster::new();
    let folder = cluster.claim("shop/data");
    fs::write(folder.join("file"), "first").unwrap();
    cluster.pod("shop/db", "n1", &json!({}), &[claimed("data", "data")]);
    let claims = cluster.config("n1", "retention = { keep_last = 1, grace = \"1h\" }", "");
    let (head, _) = claims.split_once("[[jobs.claims.sources]]").unwrap();
    let globs = format!(
        "{head}[[jobs.claims.sources]]\ntype = \"tree\"\nname = \"pods\"\npath = \"{}/*\"\n",
        cluster.path("volumes").display()
    );
    let agent = cluster.agent_of("n1", &globs);
    agent.good(&["backup", "claims"]);
    let old = agent.good(&["show", "claims@latest"]);
    assert_eq!(old["items"][0]["name"], "pods-shop.data");

    let agent = cluster.agent_of("n1", &claims);
    fs::write(folder.join("file"), "second").unwrap();
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/data"]));
    let new = agent.good(&["show", "--claim", "shop/data"]);
    assert_eq!(new["parent"], Value::Null, "the first backup of a claim is a full one");
    for (backup, text) in [(&old, "first"), (&new, "second")] {
        let out = cluster.path(text);
        agent.good(&["restore", backup["id"].as_str().unwrap(), "--to", out.to_str().unwrap()]);
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), text);
    }
    // From here on the old one ages out by the job's own rules.
    agent.good(&["prune"]);
    let left = ids(&agent.good(&["list"]));
    assert_eq!(left.len(), 2, "the claim's, and the node's own: {left:?}");
    assert!(!left.contains(&old["id"].as_str().unwrap().to_owned()));
}

#[test]
fn volumes_of_rounds_that_fail_as_a_whole_are_pruned_too() {
    let cluster = Cluster::new();
    fs::write(cluster.claim("shop/a").join("file"), "x").unwrap();
    cluster.pod("shop/a", "n1", &json!({}), &[claimed("v", "a")]);
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    drop(tcp);
    let admin = format!("[admin]\nlisten = \"{address}\"\nsocket = {:?}\n", cluster.path("control.sock"));
    let config = cluster.config("n1", "retention = { keep_last = 1, grace = \"1h\" }", "");
    let agent = cluster.agent_of("n1", &config.replacen("[limits]", &format!("{admin}[limits]"), 1));
    // The round's own record is refused.
    cluster.s3.refuse(|request| {
        let is_own = matches!(request.method.as_str(), "PUT" | "POST") && request.uri.contains("/claims/n1/");
        is_own.then(|| (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>".to_owned()))
    });
    let mut daemon = agent.command(&["run"]).stderr(Stdio::null()).spawn().unwrap();
    wait_for("readiness", Duration::from_secs(60), || (get(&address, "/readyz", "").status == 200).then_some(()));
    for _ in 0..3 {
        let (_, answer) = agent.json(&["trigger", "claims", "--wait"]);
        assert_eq!(answer["error"]["class"], "access-denied", "{answer:#}");
    }
    let _ = daemon.kill();
    let _ = daemon.wait();
    assert_eq!(ids(&agent.good(&["list", "--claim", "shop/a"])).len(), 1);
}
