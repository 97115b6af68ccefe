//! Claims of a location that encrypts: sealed, incremental where the state stays, never plain by mistake.

use std::fs;

use penstock::age::Identity;
use serde_json::{Value, json};

use super::{Cluster, claimed, saved, set};
use crate::model::noise;

/// In contents, in a file's name, and in what a hook writes.
const CANARY: &str = "canary-of-the-claim";

#[test]
fn a_claims_backups_are_sealed_and_are_never_plain_again_by_mistake() {
    let cluster = Cluster::new();
    let folder = cluster.claim("shop/data");
    fs::write(folder.join(CANARY), CANARY).unwrap();
    fs::write(folder.join("large"), noise(8 << 20, 1)).unwrap();
    cluster.pod("shop/db", "n1", &json!({}), &[claimed("data", "data")]);
    let identity = Identity::generate().unwrap();
    let file = cluster.path("identity");
    fs::write(&file, identity.to_file("now").as_bytes()).unwrap();
    let encrypts = format!("client_encryption = {{ recipients = [\"{}\"] }}", identity.recipient());
    let config = |node: &str, encrypts: &str| {
        cluster.config(node, "", "").replacen("[locations.primary]", &format!("[locations.primary]\n{encrypts}"), 1)
    };
    let agent = cluster.agent_of("n1", &config("n1", &encrypts));
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/data"]));
    fs::write(folder.join("new"), noise(64 << 10, 2)).unwrap();
    assert_eq!(saved(&agent.good(&["backup", "claims"])), set(["shop/data"]));
    let newest = |agent: &crate::binary::Penstock| agent.good(&["show", "--claim", "shop/data"]);
    let second = newest(&agent);
    let stream = &second["items"][0]["stream"];
    assert!(stream["new_bytes"].as_u64().unwrap() < 200_000, "incremental by the node's own table: {second:#}");
    assert_eq!(stream["digest"], Value::Null, "a digest of the content confirms a guess");
    let out = cluster.path("out");
    let restore = ["restore", "--claim", "shop/data", "--to", out.to_str().unwrap()];
    assert_eq!(agent.json(&restore).0, 77);
    let desk = agent.clone().with("PENSTOCK_IDENTITY_FILE", file.to_str().unwrap());
    desk.good(&restore);
    assert_eq!(fs::read_to_string(out.join(CANARY)).unwrap(), CANARY);

    // The line is lost, on a node that has never seen the claim: neither an incremental backup nor a full one is made.
    cluster.remove("/api/v1/namespaces/shop/pods/db");
    cluster.pod("shop/db-2", "n2", &json!({}), &[claimed("data", "data")]);
    for more in [&[][..], &["--full"]] {
        let plain = cluster.agent_of("n2", &config("n2", ""));
        let (code, answer) = plain.json(&[&["backup", "claims"], more].concat());
        assert_ne!(code, 0, "{answer:#}");
        assert_eq!(newest(&desk)["id"], second["id"], "{more:?}: {answer:#}");
    }
    let bucket = crate::encryption::all_files(&cluster.s3.folder());
    let shows = |path: &&std::path::PathBuf| {
        fs::read(path).unwrap().windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
    };
    assert_eq!(bucket.iter().find(shows), None);
}
