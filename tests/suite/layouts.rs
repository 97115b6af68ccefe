//! The three account layouts, end to end: the real binary, over HTTPS with a private CA, against servers of S3, STS, EC2 and IAM
//! that check every signature and enforce exactly the policies that `penstock policy` prints.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::servers::{Scheme, Scripted, Servers};

const CLUSTER: &str = "111111111111";
const BACKUP: &str = "222222222222";
const MANAGEMENT: &str = "333333333333";
const WRITER: &str = "arn:aws:iam::222222222222:role/BackupWriter";
const EXTERNAL_ID: &str = "acme-7f3a";

/// moto, in its own process.
struct StandIn {
    child: Child,
    made: Value,
}

/// Installs moto once; a test that cannot have it fails.
fn python() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("tests/tools/moto.sh")).output().unwrap();
    assert!(output.status.success(), "moto could not be installed: {}", String::from_utf8_lossy(&output.stderr));
    let server = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    server.with_file_name("python")
}

impl StandIn {
    fn start(servers: &Servers, site: &Value) -> Self {
        let file = servers.folder().join("site.json");
        fs::write(&file, site.to_string()).unwrap();
        let (certificate, key) = servers.certificate();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/standin.py");
        let log = fs::File::create(servers.folder().join("standin.log")).unwrap();
        let child = Command::new(python())
            .arg(script)
            .args([file, certificate, key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn();
        let mut child = child.unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let made = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("{error}: {}", fs::read_to_string(servers.folder().join("standin.log")).unwrap())
        });
        Self { child, made }
    }

    fn url(&self) -> &str {
        self.made["url"].as_str().unwrap()
    }

    /// The metadata service's answer of a node in that role.
    fn session(&self, role: &str) -> String {
        let mut session = self.made["sessions"][role].clone();
        for (name, value) in [("Code", "Success"), ("Type", "AWS-HMAC"), ("LastUpdated", "2026-01-01T00:00:00Z")] {
            session[name] = value.into();
        }
        session.to_string()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // It ends when its standard input does; this only makes sure.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Site {
    servers: Servers,
    stand_in: Option<StandIn>,
}

impl Site {
    fn new() -> Self {
        let site = Self { servers: Servers::start(), stand_in: None };
        let tree = site.path("tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/app.conf"), "port = 1\n").unwrap();
        // Three parts of 5 MiB that do not compress, so that a multipart upload happens.
        let noise: Vec<u8> =
            (0..3_u32 << 20).flat_map(|n| (n.wrapping_mul(2_654_435_761)).rotate_left(n % 31).to_le_bytes()).collect();
        fs::write(tree.join("noise.bin"), noise).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.servers.folder().join(name)
    }

    fn secret(&self, name: &str, value: &str) -> String {
        let path = self.path(name);
        fs::write(&path, format!("{value}\n")).unwrap();
        path.display().to_string()
    }

    /// The configuration of this layout: `who` is its credentials and hops.
    fn penstock(&self, who: &str) -> Penstock {
        let url = self.stand_in.as_ref().map_or("https://127.0.0.1:1", StandIn::url);
        let config = format!(
            r#"
cluster = "prod"
node = "node-1"
state_dir = "{state}"
[limits]
memory = "64MiB"
[locations.primary]
provider = "aws"
bucket = "acme-backups"
region = "eu-west-1"
prefix = "fleet"
s3_url = "{url}"
sts_url = "{url}"
ec2_url = "{url}"
force_path_style = true
certificate = "{ca}"
certificate_mode = "only"
{who}
[locations.primary.upload]
part_size = "5MiB"
[jobs.site]
location = "primary"
[[jobs.site.sources]]
type = "tree"
name = "files"
path = "{tree}"
[jobs.disks]
location = "primary"
retention = {{ keep_last = 1 }}
[[jobs.disks.sources]]
type = "ebs"
name = "data"
volumes = ["{volume}"]
tags = {{ team = "data platform + ops" }}
"#,
            volume = self.volume(),
            state = self.path("state").display(),
            ca = self.servers.ca_path().display(),
            tree = self.path("tree").display(),
        );
        Penstock::new(self.servers.folder(), &config)
    }

    fn start(&mut self, accounts: &Value, sessions: &[&str]) {
        let site = json!({
            "region": "eu-west-1", "buckets": { "acme-backups": BACKUP }, "accounts": accounts, "sessions": sessions,
            "volumes": [BACKUP],
        });
        self.stand_in = Some(StandIn::start(&self.servers, &site));
    }

    /// The volume that the disks job backs up.
    fn volume(&self) -> &str {
        self.stand_in.as_ref().map_or("vol-00000000", |stand_in| stand_in.made["volumes"][BACKUP].as_str().unwrap())
    }

    /// IMDSv2, as a node in that role has it.
    fn metadata(&self, role: &str) -> Scripted {
        let (name, session) =
            (role.rsplit('/').next().unwrap().to_owned(), self.stand_in.as_ref().unwrap().session(role));
        self.servers.metadata_of_role(&name, session)
    }
}

/// All that a user does, under the policies that are in force.
fn whole_demo(site: &Site, penstock: &Penstock) {
    let proof = penstock.good(&["validate"]);
    let checks = proof["locations"][0]["checks"].as_array().unwrap();
    assert!(checks.iter().all(|check| check["ok"] == true), "{proof:#}");
    let named = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap()["message"].to_string();
    assert!(named("TLS s3").contains("TLSv1.3") && named("TLS s3").contains("Penstock test CA"), "{}", named("TLS s3"));
    assert!(named("certificate").contains("Penstock test CA"));

    let backup = penstock.good(&["backup", "site"]);
    let id = backup["backups"][0]["id"].as_str().unwrap();
    assert_eq!(penstock.good(&["list"])["backups"][0]["id"], id);
    penstock.good(&["verify", "--all", "--data"]);
    let restored = site.path("restored");
    let _ = fs::remove_dir_all(&restored);
    penstock.good(&["restore", id, "--to", restored.to_str().unwrap()]);
    let same = Command::new("diff").arg("-r").arg(site.path("tree")).arg(&restored).output().unwrap();
    assert!(same.status.success(), "{same:?}");
    let cat = penstock.run(&["cat", id]);
    assert!(cat.status.success() && cat.stdout.len() > 12 << 20, "{:?}", cat.stderr);
    penstock.good(&["sweep"]);
    penstock.good(&["delete", id]);
    assert_eq!(penstock.good(&["list"])["backups"].as_array().unwrap().len(), 0);
    disks(site, penstock);
}

/// A snapshot of a volume, a new volume from it, and the end of both backups and their snapshots.
fn disks(site: &Site, penstock: &Penstock) {
    let backup = || penstock.good(&["backup", "disks"])["backups"][0]["id"].as_str().unwrap().to_owned();
    // Whether a snapshot may be deleted is judged by its tags, so it takes one to ask.
    let may_delete = || {
        let proof = penstock.good(&["validate"]);
        let checks = proof["locations"][0]["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == "ec2:DeleteSnapshot").unwrap()["state"].clone()
    };
    let before = may_delete();
    let (first, second) = (backup(), backup());
    assert_eq!((before, may_delete()), (json!("warning"), json!("passed")));
    penstock.good(&["verify", "--all"]);
    let restore = |id: &str| {
        penstock.json(&["snapshot", "restore", id, "--volume", site.volume(), "--availability-zone", "eu-west-1b"])
    };
    assert_eq!(restore(&first).1["made"], "now");
    let deleted = |done: &Value| {
        assert_eq!((&done["chains"][0]["deleted"], &done["errors"]), (&1.into(), &json!([])), "{done:#}");
    };
    deleted(&penstock.good(&["prune", "--job", "disks", "--grace", "0s"]));
    assert_eq!(restore(&first).0, 66);
    assert_eq!(restore(&second).1["made"], "now", "the newest one's snapshot is there");
    deleted(&penstock.good(&["delete", "--now", &second]));
    assert_eq!(restore(&second).0, 66);
}

fn fails(penstock: &Penstock, code: i32, class: &str) -> String {
    let (got, value) = penstock.json(&["list"]);
    assert_eq!((got, value["error"]["class"].as_str()), (code, Some(class)), "{value:#}");
    value["error"].to_string()
}

const HOP: &str = "[[locations.primary.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/BackupWriter\"\n";

#[test]
fn one_account_from_the_nodes_role() {
    let mut site = Site::new();
    let who = format!("[locations.primary.credentials]\nsource = \"default\"\n{HOP}");
    let penstock = site.penstock(&who);
    let accounts = json!({ BACKUP: { "roles": [
        { "name": "Node", "trust": { "Statement": [] }, "policy": penstock.good(&["policy", "--caller"]) },
        { "name": "BackupWriter", "policy": penstock.good(&["policy"]),
          "trust": penstock.good(&["policy", "--trust", "--account", BACKUP, "--role", "Node"]) },
        { "name": "Stranger", "trust": { "Statement": [] }, "policy": penstock.good(&["policy", "--caller"]) },
    ]}});
    let (node, stranger) = ("arn:aws:iam::222222222222:role/Node", "arn:aws:iam::222222222222:role/Stranger");
    site.start(&accounts, &[node, stranger]);
    let imds = site.metadata(node);
    let on_node = |imds: &Scripted| {
        site.penstock(&who).without("AWS_EC2_METADATA_DISABLED").with("AWS_EC2_METADATA_SERVICE_ENDPOINT", &imds.url)
    };
    whole_demo(&site, &on_node(&imds));
    assert!(imds.seen().iter().any(|request| request.method == "PUT"), "IMDSv2, with a token");
    // A role of the same account that the trust policy does not name.
    let error = fails(&on_node(&site.metadata(stranger)), 77, "trust-denied");
    assert!(error.contains("hop 1 of 1") && error.contains("trust policy"), "{error}");
}

#[test]
fn several_accounts_through_a_chain() {
    let mut site = Site::new();
    let middle = "arn:aws:iam::111111111111:role/Middle";
    let through = format!(
        "[locations.primary.credentials]\nsource = \"default\"\n[[locations.primary.assume_role]]\nrole_arn = \"{middle}\"\n{HOP}"
    );
    let penstock = site.penstock(&through);
    let callers = penstock.good(&["policy", "--caller"]);
    assert_eq!(callers[1]["attach_to"], middle);
    let trust =
        ["policy", "--trust", "--account", MANAGEMENT, "--external-id", EXTERNAL_ID, "--also", "111111111111/Middle"];
    let operator = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": WRITER }] });
    let accounts = json!({
        CLUSTER: { "roles": [
            { "name": "Pod", "trust": { "Statement": [] }, "policy": callers[0]["policy"] },
            { "name": "Middle", "policy": callers[1]["policy"],
              "trust": penstock.good(&["policy", "--trust", "--account", CLUSTER, "--role", "Pod"]) },
        ]},
        BACKUP: { "roles": [{ "name": "BackupWriter", "trust": penstock.good(&trust), "policy": penstock.good(&["policy"]) }]},
        MANAGEMENT: { "users": [{ "name": "operator", "policy": operator }]},
    });
    let pod = "arn:aws:iam::111111111111:role/Pod";
    site.start(&accounts, &[pod]);

    // The cluster: EKS Pod Identity, a role of its own account, the role of the bucket's account.
    let session = site.stand_in.as_ref().unwrap().session(pod);
    let agent = site.servers.scripted(Scheme::Http, move |request, _| match request.header("authorization") {
        Some("the.pod.token") => (200, session.clone()),
        _ => (401, String::new()),
    });
    // As the kubelet writes it: without a line feed.
    let token = site.path("pod-token");
    fs::write(&token, "the.pod.token").unwrap();
    let token = token.display().to_string();
    let in_pod = |who: &str| {
        let uri = format!("{}/v1/credentials", agent.url);
        site.penstock(who)
            .with("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)
            .with("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token)
    };
    whole_demo(&site, &in_pod(&through));
    // Past the middle the bucket's account knows nobody.
    let direct = format!("[locations.primary.credentials]\nsource = \"default\"\n{HOP}");
    fails(&in_pod(&direct), 77, "trust-denied");
    // The second hop broken: it is the one that is named.
    let error = fails(&in_pod(&through.replace("BackupWriter", "NoSuchRole")), 77, "trust-denied");
    assert!(error.contains("role/NoSuchRole (hop 2 of 2)"), "{error}");

    // The management plane: it has to name the external ID.
    let keys = site.stand_in.as_ref().unwrap().made["users"]["333333333333/operator"].clone();
    let operator = |external_id: &str| {
        let (id, key) = (site.secret("id", keys[0].as_str().unwrap()), site.secret("key", keys[1].as_str().unwrap()));
        site.penstock(&format!(
            "[locations.primary.credentials]\nsource = \"static\"\naccess_key_id_file = \"{id}\"\nsecret_access_key_file = \"{key}\"\n{HOP}{external_id}"
        ))
    };
    operator(&format!("external_id = \"{EXTERNAL_ID}\"\n")).good(&["list"]);
    for wrong in ["", "external_id = \"acme-wrong\"\n"] {
        let error = fails(&operator(wrong), 77, "trust-denied");
        assert!(error.contains("sts:ExternalId") && !error.contains("acme-wrong"), "{error}");
    }
}

#[test]
fn outside_aws_with_keys_from_files() {
    let mut site = Site::new();
    let external_id = site.secret("external-id", EXTERNAL_ID);
    let who = |id: &str, key: &str| {
        format!(
            "[locations.primary.credentials]\nsource = \"static\"\naccess_key_id_file = \"{id}\"\n\
             secret_access_key_file = \"{key}\"\n{HOP}external_id_file = \"{external_id}\"\n"
        )
    };
    let penstock = site.penstock(&who("/nowhere", "/nowhere"));
    let trust = ["policy", "--trust", "--account", MANAGEMENT, "--user", "outside", "--external-id", EXTERNAL_ID];
    let accounts = json!({
        BACKUP: { "roles": [{ "name": "BackupWriter", "trust": penstock.good(&trust), "policy": penstock.good(&["policy"]) }]},
        MANAGEMENT: { "users": [{ "name": "outside", "policy": penstock.good(&["policy", "--caller"]) }]},
    });
    site.start(&accounts, &[]);
    let keys = site.stand_in.as_ref().unwrap().made["users"]["333333333333/outside"].clone();
    let (id, key) = (site.secret("id", keys[0].as_str().unwrap()), site.secret("key", keys[1].as_str().unwrap()));
    let penstock = site.penstock(&who(&id, &key));
    whole_demo(&site, &penstock);
    // Rotated on disk, wrongly: the next start says so.
    site.secret("key", "not-the-secret");
    let error = fails(&penstock, 77, "access-denied");
    assert!(error.contains("secret access key") && !error.contains("not-the-secret"), "{error}");
}

#[test]
fn each_action_that_the_policy_lacks_is_named_by_validate() {
    let mut site = Site::new();
    let who = |keys: &Value, site: &Site| {
        let (id, key) = (site.secret("id", keys[0].as_str().unwrap()), site.secret("key", keys[1].as_str().unwrap()));
        format!(
            "[locations.primary.credentials]\nsource = \"static\"\naccess_key_id_file = \"{id}\"\nsecret_access_key_file = \"{key}\"\n{HOP}"
        )
    };
    let penstock = site.penstock(&format!("[locations.primary.credentials]\nsource = \"default\"\n{HOP}"));
    let whole = penstock.good(&["policy"]);
    let rows = [
        ("s3:ListBucket", "s3:ListBucket"),
        ("s3:PutObject", "s3:PutObject"),
        ("s3:GetObject", "s3:GetObject"),
        ("s3:ListMultipartUploadParts", "s3:ListMultipartUploadParts"),
        ("s3:AbortMultipartUpload", "s3:AbortMultipartUpload"),
        ("s3:DeleteObject", "s3:DeleteObject"),
        ("ec2:DescribeVolumes", "ec2:DescribeVolumes"),
        ("ec2:DescribeSnapshots", "ec2:DescribeSnapshots"),
        ("ec2:CreateVolume", "ec2:CreateVolume"),
        ("ec2:CreateSnapshot", "ec2:CreateSnapshot"),
    ];
    // One account for each row: a role that lacks the action.
    let trust = penstock.good(&["policy", "--trust", "--account", MANAGEMENT]);
    let lacking = |action: &str| {
        let without = whole.to_string().replace(&format!("\"{action}\""), "\"s3:GetObjectTorrent\"");
        serde_json::from_str::<Value>(&without).unwrap()
    };
    let name = |action: &str| action.replace(':', "-");
    let roles: Vec<_> = rows
        .iter()
        .map(|(action, _)| json!({ "name": name(action), "trust": trust, "policy": lacking(action) }))
        .collect();
    let any = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "arn:aws:iam::222222222222:role/*" }] });
    let accounts = json!({
        BACKUP: { "roles": roles }, MANAGEMENT: { "users": [{ "name": "u", "policy": any }] },
    });
    site.start(&accounts, &[]);
    let who = who(&site.stand_in.as_ref().unwrap().made["users"]["333333333333/u"].clone(), &site);
    for (action, check) in rows {
        let penstock = site.penstock(&who.replace("BackupWriter", &name(action)));
        let (code, proof) = penstock.json(&["validate"]);
        assert_eq!(code, 77, "{action}: {proof:#}");
        let failed =
            proof["locations"][0]["checks"].as_array().unwrap().iter().find(|check| check["class"] == "access-denied");
        let failed = failed.unwrap_or_else(|| panic!("{action}: {proof:#}"));
        assert_eq!(failed["name"], check, "{action}: {proof:#}");
        assert!(failed["remedy"].as_str().unwrap_or_default().contains(action), "{action}: {failed:#}");
    }
}
