//! Good files: what they come out as.

use std::path::Path;
use std::time::Duration;

use super::super::units::{GIB, MIB};
use super::super::*;
use super::{BASE, environment, good};
use crate::error::Classify as _;
use crate::format::codec::Compression;

#[test]
fn defaults() {
    let config = good(BASE);
    assert_eq!((config.cluster.as_str(), config.node.as_str()), ("c", "host-1"));
    assert_eq!(config.state_dir, Path::new("/var/lib/penstock"));
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:9632");
    assert_eq!(config.admin.socket, Path::new("/run/penstock/control.sock"));
    let Limits { memory, concurrent_jobs, bandwidth, compression_threads } = config.limits;
    assert_eq!((memory, concurrent_jobs, bandwidth, compression_threads), (256 * MIB, 2, None, 1));
    let location = &config.locations["primary"];
    assert_eq!((location.prefix.as_str(), &location.s3_url, location.force_path_style), ("", &None, false));
    assert_eq!(location.checksum, crate::checksum::Algorithm::Crc64nvme);
    assert!(matches!(location.credentials, Credentials::Default) && location.assume_role.is_empty());
    assert_eq!(location.encryption.mode, EncryptionMode::BucketDefault);
    let Upload { part_size, concurrency, object_size, sign_payload } = location.upload;
    assert_eq!(
        (part_size, concurrency, object_size, sign_payload),
        (16 * MIB, Concurrency::AtMost(8), 64 * GIB, SignPayload::Auto)
    );
    let job = config.jobs.values().next().unwrap();
    assert_eq!((job.schedule.as_ref().map(Cron::as_str), job.time_zone.as_str(), job.timeout), (None, "UTC", None));
    assert!(job.incremental && job.retention.is_none());
    assert_eq!((job.full_every, job.min_live), (None, 300));
    assert_eq!(job.compression, Compression::Zstd { level: 1 });
}

#[test]
fn a_cluster_is_found_by_itself_or_as_it_is_configured() {
    assert_eq!(good(BASE).kubernetes, Kubernetes::default());
    let text = format!("{BASE}\n[kubernetes]\nkubeconfig = \"/etc/penstock/kubeconfig\"\ncontext = \"prod\"\n");
    let Kubernetes { kubeconfig, context } = good(&text).kubernetes;
    assert_eq!(
        (kubeconfig.as_deref(), context.as_deref()),
        (Some(Path::new("/etc/penstock/kubeconfig")), Some("prod"))
    );
    let empty = format!("{BASE}\n[kubernetes]\nkubeconfig = \"\"\ncontext = \"\"\n");
    assert_eq!(good(&empty).kubernetes, Kubernetes::default());
}

/// The interface's own example, without what is not yet supported.
#[test]
fn the_interface_document() {
    let text = r#"
cluster   = "prod-eu-1"
node      = "${NODE_NAME:-}"
[limits]
bandwidth         = "0"
[locations.primary]
provider         = "aws"
bucket           = "acme-cluster-backups"
region           = "eu-west-1"
prefix           = "fleet"
s3_url           = ""
force_path_style = false
certificate      = "/etc/penstock/ca.pem"
checksum         = "crc64nvme"
storage_class    = ""
tags             = { team = "platform" }
[locations.primary.credentials]
source = "default"
[[locations.primary.assume_role]]
role_arn    = "arn:aws:iam::222222222222:role/BackupWriter"
external_id = "abc"
duration    = "1h"
session_name = "penstock-${NODE_NAME:-host}"
[locations.primary.encryption]
mode       = "bucket-default"
kms_key_id = ""
bucket_key = true
[jobs.etcd]
location    = "primary"
schedule    = "0 * * * *"
time_zone   = "UTC"
timeout     = "1h"
retention   = { keep_last = 24, keep_daily = 7, keep_weekly = 4, keep_monthly = 6, keep_within = "2d", grace = "36h" }
before      = []
after       = []
[[jobs.etcd.sources]]
type = "command"
name = "objects"
argv = ["kubectl", "get", "nodes", "--output=json"]
[[jobs.volumes.sources]]
type    = "tree"
name    = "pods"
path    = "/var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*/mount"
exclude = ["**/lost+found"]
one_file_system = true
[jobs.volumes]
location = "primary"
"#;
    let config = Config::parse(text, &environment(&[("NODE_NAME", "ip-10-0-0-1")])).unwrap();
    assert_eq!(config.node.as_str(), "ip-10-0-0-1");
    let hop = &config.locations["primary"].assume_role[0];
    assert_eq!((hop.session_name.as_str(), hop.duration), ("penstock-ip-10-0-0-1", Duration::from_hours(1)));
    assert_eq!(hop.external_id.as_ref().unwrap().read().unwrap().expose(), "abc");
    let etcd = &config.jobs[&Name::new("etcd").unwrap()];
    assert_eq!(etcd.timeout, Some(Duration::from_hours(1)));
    let retention = etcd.retention.unwrap();
    assert_eq!(
        (retention.keep_within, retention.grace),
        (Some(Duration::from_hours(48)), Some(Duration::from_hours(36)))
    );
    assert!(matches!(&etcd.sources[0].kind, SourceKind::Command { argv, allow_empty: false } if argv.len() == 4));
    let volumes = &config.jobs[&Name::new("volumes").unwrap()];
    assert!(matches!(&volumes.sources[0].kind, SourceKind::Tree { exclude, .. } if exclude == &["**/lost+found"]));
}

#[test]
fn a_hosts_name_becomes_a_nodes_name() {
    for (host, node) in [("n1", "n1"), ("My_Host.Example\n", "my_host.example"), ("a b/c", "a-b-c"), ("-_x", "x")] {
        let config = Config::parse(BASE, &environment(&[("HOSTNAME", host)])).unwrap();
        assert_eq!(config.node.as_str(), node);
    }
    let long = Config::parse(BASE, &environment(&[("HOSTNAME", &"x".repeat(300))])).unwrap();
    assert_eq!(long.node.as_str().len(), MAX_NAME);
    let none = Config::parse(BASE, &environment(&[("HOSTNAME", "-")])).unwrap_err();
    assert_eq!(none.faults[0].key, "node");
}

#[test]
fn the_default_session_name_is_cleaned_and_cut() {
    let text = format!("{BASE}[[locations.primary.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/x\"\n");
    for (node, expected) in [
        ("", "penstock-host".to_owned()),
        ("a/é b", "penstock-a---b".to_owned()),
        (&*"x".repeat(99), format!("penstock-{}", "x".repeat(55))),
    ] {
        let config = Config::parse(&text, &environment(&[("NODE_NAME", node)])).map_err(|faults| faults.faults);
        match config {
            Ok(config) => assert_eq!(config.locations["primary"].assume_role[0].session_name, expected),
            Err(faults) => panic!("{faults:?}"),
        }
    }
}

#[test]
fn every_kind_of_base_credentials() {
    let credentials = |keys: &str| {
        let config = good(&format!("{BASE}[locations.primary.credentials]\n{keys}\n"));
        config.locations["primary"].credentials.clone()
    };
    assert!(matches!(credentials(""), Credentials::Default));
    let keys = "source = \"static\"\naccess_key_id = \"AKIA\"\nsecret_access_key_file = \"/s\"";
    let Credentials::Static { access_key_id, secret_access_key, session_token: None } = credentials(keys) else {
        panic!()
    };
    assert_eq!(access_key_id.read().unwrap().expose(), "AKIA");
    assert!(matches!(secret_access_key, SecretSource::File(path) if path == Path::new("/s")));
    assert!(
        matches!(credentials("source = \"profile\"\nprofile = \"p\""), Credentials::Profile { profile } if profile == "p")
    );
    let keys = "source = \"web-identity\"\ntoken_file = \"/t\"\nrole_arn = \"arn:aws:iam::222222222222:role/x\"";
    assert!(matches!(credentials(keys), Credentials::WebIdentity { .. }));
}

/// An empty string leaves a key out, so that a variable can.
#[test]
fn empty_is_not_set() {
    let config = good(&BASE.replace(
        "region",
        "s3_url = \"${S3_URL:-}\"\nstorage_class = \"\"\ncertificate = \"\"\nprefix = \"\"\nregion",
    ));
    let location = &config.locations["primary"];
    assert_eq!((&location.s3_url, &location.storage_class, &location.certificate), (&None, &None, &None));
    let hop = "[[locations.primary.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/x\"\nexternal_id = \"${X:-}\"\n";
    let config = good(&format!("{BASE}{hop}external_id_file = \"/x\"\n"));
    assert!(matches!(config.locations["primary"].assume_role[0].external_id, Some(SecretSource::File(_))));
    let keys = "[locations.primary.credentials]\naccess_key_id_file = \"${X:-}\"\nprofile = \"\"\n";
    let config = good(&format!("{BASE}{keys}[locations.primary.encryption]\nkms_key_id = \"\"\n"));
    assert!(
        matches!(config.locations["primary"].credentials, Credentials::Default),
        "keys of other sources, all empty"
    );
}

#[test]
fn small_choices() {
    let upload = |keys: &str| good(&format!("{BASE}[locations.primary.upload]\n{keys}\n")).locations["primary"].upload;
    assert_eq!(upload("concurrency = 0").concurrency, Concurrency::Auto);
    assert_eq!(upload("part_size = \"5MiB\"").object_size, 50_000 * MIB, "the default follows a small part_size");
    assert_eq!(upload("part_size = 5_242_880").part_size, 5 * MIB);
    assert_eq!(upload("part_size = 0x500000").part_size, 5 * MIB);
    assert_eq!(upload("object_size = \"16MiB\"").object_size, 16 * MIB);
    let other = BASE.replace("region = \"eu-west-1\"", "region = \"garage\"\ns3_url = \"http://[::1]:3900/\"");
    assert_eq!(good(&other).locations["primary"].s3_url.as_deref(), Some("http://[::1]:3900"));
    assert_eq!(good(&BASE.replace("location =", "time_zone = \"Europe/Berlin\"\nlocation =")).jobs.len(), 1);
}

#[test]
fn a_file_is_loaded_and_named_in_its_faults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("penstock.toml");
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Config::load(&path, &environment(&[])).map_err(|faults| faults.to_string())
    };
    assert!(load(BASE.as_bytes()).is_ok());
    assert!(load(format!("\u{feff}{BASE}").as_bytes()).is_ok(), "a byte order mark");
    assert!(load(BASE.replace('\n', "\r\n").as_bytes()).is_ok(), "DOS line ends");
    let shown = path.display();
    assert_eq!(
        load(b"a = 1\nb = \xff").unwrap_err(),
        format!("{shown}:2:5: is not UTF-8 from here on; save the file as UTF-8")
    );
    assert!(load(&vec![b'#'; 2 << 20]).unwrap_err().contains("longer than 1MiB"));
    let missing = Config::load(Path::new("/no/such/file"), &environment(&[])).unwrap_err().report();
    assert!(missing.message.starts_with("/no/such/file: could not read the file: "), "{missing:?}");
    assert!(
        missing.remedy.is_some_and(|remedy| remedy.contains("config example") && remedy.contains("PENSTOCK_CONFIG"))
    );
}

#[test]
fn ebs_sources() {
    let ebs = |keys: &str| {
        let config = good(&format!("{BASE}[[jobs.etcd.sources]]\ntype = \"ebs\"\nname = \"data\"\n{keys}\n"));
        let job = config.jobs.into_values().next().unwrap();
        match &job.sources[1].kind {
            SourceKind::Ebs(ebs) => ebs.clone(),
            other => panic!("{other:?}"),
        }
    };
    let defaults = ebs("volumes = [\"vol-01234567\"]");
    assert_eq!(
        (defaults.concurrency, defaults.on_no_match, defaults.wait),
        (8, OnNoMatch::Error, Some(Duration::from_hours(4)))
    );
    assert!(defaults.copy_volume_tags && defaults.tags.is_empty() && defaults.attached_to.is_none());
    let other = ebs(
        "select_tags = { \"kubernetes.io/cluster/c\" = \"owned\" }\nattached_to = \"this-instance\"\nwait = false\n\
         on_no_match = \"ignore\"\ncopy_volume_tags = false\ntags = { team = \"x\" }",
    );
    assert_eq!(
        (other.wait, other.on_no_match, other.attached_to),
        (None, OnNoMatch::Ignore, Some(AttachedTo::ThisInstance))
    );
    assert_eq!(other.select_tags["kubernetes.io/cluster/c"], "owned");
    let alone = ebs("attached_to = \"i-0123456789abcdef0\"\nwait_timeout = \"90m\"");
    assert!(matches!(alone.attached_to, Some(AttachedTo::Instance(_))) && alone.volumes.is_empty());
    assert_eq!(alone.wait, Some(Duration::from_mins(90)));
}
