//! Bad files: which faults, where, and that no secret is in them.

mod sources;

use super::super::{Config, Fault};
use super::{BASE, bad, environment, parse};

/// Adds `lines` after BASE, whose 11 lines they follow: the first is line 12.
#[track_caller]
fn after_base(lines: &str) -> Vec<String> {
    bad(&format!("{BASE}{lines}\n"))
}

/// BASE with one line replaced; the fault must be the only one, and begin with `expected`.
#[track_caller]
fn replaced(line: &str, with: &str, expected: &str) {
    assert!(BASE.contains(line), "{line}");
    let faults = bad(&BASE.replacen(line, with, 1));
    assert!(faults.len() == 1 && faults[0].starts_with(expected), "{with}: {faults:#?}");
}

#[test]
fn the_singular_of_locations_is_said_in_whole_sentences() {
    assert_eq!(
        bad(&BASE.replace("[locations.", "[location.")),
        [
            "1:1 locations: has no location; add [locations.NAME]",
            "2:2 location: is not a known key; did you mean `locations`?",
            "7:12 jobs.etcd.location: is \"primary\", which is not under [locations]; add [locations.NAME]",
        ]
    );
}

#[test]
fn top_and_names() {
    for (line, with, expected) in [
        ("cluster = \"c\"", "", "1:1 cluster: is missing; name the cluster"),
        ("cluster = \"c\"", "cluster = \"\"", "1:11 cluster: is empty; name the cluster"),
        (
            "cluster = \"c\"",
            "cluster = \"Prod\"",
            "1:11 cluster: is \"Prod\", which holds 'P'; expected only [a-z0-9._-]",
        ),
        ("cluster = \"c\"", "cluster = 7", "1:11 cluster: expected a string in quotes, found a value of type integer"),
        ("cluster = \"c\"", "cluster = \"${C}\"", "1:11 cluster: names the environment variable C, which is not set"),
        ("cluster = \"c\"", "cluster = \"c\"\nnode = \"N\"", "2:8 node: is \"N\", which holds 'N'"),
        (
            "cluster = \"c\"",
            "cluster = \"c\"\nclustre = \"d\"",
            "2:1 clustre: is not a known key; did you mean `cluster`?",
        ),
        ("cluster = \"c\"", "cluster = \"c\"\nzzz = 1", "2:1 zzz: is not a known key; expected one of admin, cluster,"),
        ("cluster = \"c\"", "cluster = \"c\"\n\"a b\" = 1", "2:1 \"a b\": is not a known key"),
        ("cluster = \"c\"", "cluster = \"c\"\nadmin = 1", "2:9 admin: expected a table, found a value of type integer"),
        (
            "cluster = \"c\"",
            "cluster = \"c\"\nlimits.memory = \"lots\"",
            "2:17 limits.memory: is \"lots\"; expected a whole",
        ),
        ("[jobs.etcd]", "[jobs.etcd.retention]\n[jobs.etcd]", "6:1 jobs.etcd.retention: keeps no backup"),
    ] {
        replaced(line, with, expected);
    }
    let faults = bad(&BASE.replace("jobs.etcd", "jobs.adhoc"));
    assert!(faults.len() == 1 && faults[0].starts_with("6:1 jobs.adhoc: the name adhoc is reserved"), "{faults:#?}");
    assert_eq!(
        bad(""),
        [
            "1:1 cluster: is missing; name the cluster: it is the first part of every backup's key",
            "1:1 locations: has no location; add [locations.NAME]",
        ]
    );
}

#[test]
fn locations() {
    for (line, with, expected) in [
        ("provider = \"aws\"", "provider = \"gcp\"", "3:12 locations.primary.provider: is \"gcp\"; expected \"aws\""),
        ("provider = \"aws\"\n", "", "2:1 locations.primary.provider: is missing"),
        (
            "bucket = \"acme-backups\"",
            "bucket = \"Acme\"",
            "4:10 locations.primary.bucket: is \"Acme\"; expected a bucket's",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"garage\"",
            "5:10 locations.primary.region: is \"garage\"; expected a region",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"eu-west-1\"\nprefix = \"/a\"",
            "6:10 locations.primary.prefix: is \"/a\", which begins",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"eu-west-1\"\nregoin = 1",
            "6:1 locations.primary.regoin: is not a known key; did you mean `region`?",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"r\"\n s3_url = \"https://a/b\"",
            "6:11 locations.primary.s3_url: is \"https://a/b\", which has a path",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"eu-west-1\"\ncertificate_mode = \"only\"",
            "6:20 locations.primary.certificate_mode: is \"only\" without a certificate",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"eu-west-1\"\nforce_path_style = \"yes\"",
            "6:20 locations.primary.force_path_style: expected true or false",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"eu-west-1\"\ntags = { a = \"b\", \"c?\" = \"\" }",
            "6:26 locations.primary.tags.\"c?\": holds '?'",
        ),
        (
            "region = \"eu-west-1\"",
            "region = \"eu-west-1\"\ntags = { aws = 1 }",
            "6:16 locations.primary.tags.\"aws\": expected a string",
        ),
        (
            "location = \"primary\"",
            "location = \"secondary\"",
            "7:12 jobs.etcd.location: is \"secondary\", which is not under [locations]; expected \"primary\"",
        ),
    ] {
        replaced(line, with, expected);
    }
    let tags: Vec<_> = (0..11).map(|n| format!("t{n} = \"\"")).collect();
    let faults = after_base(&format!("[locations.primary.tags]\n{}", tags.join("\n")));
    assert_eq!(faults, ["12:1 locations.primary.tags: has 11 tags; S3 keeps at most 10 on an object"]);
    let faults = bad("cluster = \"c\"\n[locations]\nprimary = 1\n");
    assert_eq!(faults, ["3:11 locations.primary: expected a table, `[locations.NAME]`, found a value of type integer"]);
}

#[test]
fn encryption_and_upload() {
    for (lines, expected) in [
        (
            "[locations.primary.encryption]\nkms_key_id = \"k\"",
            "13:14 locations.primary.encryption.kms_key_id: applies only with mode = \"sse-kms\" or",
        ),
        (
            "[locations.primary.encryption]\nbucket_key = false",
            "13:14 locations.primary.encryption.bucket_key: applies only with",
        ),
        (
            "[locations.primary.encryption]\nmode = \"kms\"\nkms_key_id = \"k\"",
            "13:8 locations.primary.encryption.mode: is \"kms\"; expected \"bucket-default\" or",
        ),
        (
            "[locations.primary.upload]\npart_size = \"4MiB\"",
            "13:13 locations.primary.upload.part_size: is 4MiB; expected 5MiB to 1GiB",
        ),
        (
            "[locations.primary.upload]\npart_size = \"2GiB\"\nobject_size = \"1MiB\"",
            "13:13 locations.primary.upload.part_size: is 2GiB",
        ),
        (
            "[locations.primary.upload]\npart_size = -1",
            "13:13 locations.primary.upload.part_size: is -1; expected bytes from 0",
        ),
        (
            "[locations.primary.upload]\nobject_size = \"8MiB\"",
            "13:15 locations.primary.upload.object_size: is 8MiB; expected 16MiB to 160000MiB",
        ),
        (
            "[locations.primary.upload]\npart_size = \"1GiB\"\nobject_size = \"6TiB\"\n[limits]\nmemory = \"4GiB\"",
            "14:15 locations.primary.upload.object_size: is 6TiB; expected 1GiB to 5TiB",
        ),
        (
            "[locations.primary.upload]\nconcurrency = 1001",
            "13:15 locations.primary.upload.concurrency: is 1001; expected a whole number from 0 to 1000",
        ),
        (
            "[locations.primary.upload]\npart_size = \"512MiB\"",
            "1:1 limits.memory: is 256MiB by default, too little for one stream to primary; give at least 537MiB",
        ),
        (
            "[limits]\nmemory = \"32MiB\"",
            "13:10 limits.memory: is 32MiB, too little for one stream to primary; give at least 41MiB",
        ),
        ("[limits]\nbandwidth = \"1KiB\"", "13:13 limits.bandwidth: is 1KiB; expected at least 64KiB a second"),
        ("[limits]\nconcurrent_jobs = 0", "13:19 limits.concurrent_jobs: is 0; expected a whole number from 1 to 1000"),
        (
            "[limits]\ncompression_threads = 1.5",
            "13:23 limits.compression_threads: expected a whole number from 0 to 1024, found a value of type float",
        ),
        (
            "[admin]\nlisten = \"localhost:1\"",
            "13:10 admin.listen: is \"localhost:1\"; expected an IP address and a port",
        ),
    ] {
        let faults = after_base(lines);
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{lines}: {faults:#?}");
    }
}

const ROLE: &str = "role_arn = \"arn:aws:iam::222222222222:role/x\"";

#[test]
fn credentials_and_roles() {
    let web = format!("[locations.primary.credentials]\nsource = \"web-identity\"\ntoken_file = \"/t\"\n{ROLE}\n");
    let hop = format!("[[locations.primary.assume_role]]\n{ROLE}\n");
    let key = "locations.primary.assume_role";
    for (lines, expected) in [
        (format!("{hop}duration = \"14m\""), format!("14:12 {key}[0].duration: is 14m; expected 15m to 12h")),
        (format!("{hop}duration = \"13h\""), format!("14:12 {key}[0].duration: is 13h; expected 15m to 12h")),
        (
            format!("{hop}duration = \"2h\"\n{hop}duration = \"61m\""),
            format!("17:12 {key}[1].duration: is 1h 1m; expected 15m to 1h: a session"),
        ),
        (format!("{web}{hop}duration = \"2h\""), format!("18:12 {key}[0].duration: is 2h; expected 15m to 1h")),
        (format!("{hop}duration = 3600"), format!("14:12 {key}[0].duration: expected a string in quotes")),
        (format!("{hop}session_name = \"a b\""), format!("14:16 {key}[0].session_name: is \"a b\"; expected 2 to 64")),
        (
            format!("{hop}external_id = \"a\""),
            format!("14:15 {key}[0].external_id: is 1 characters long; expected 2 to 1224"),
        ),
        (
            format!("{hop}external_id = \"ab\"\nexternal_id_file = \"/x\""),
            format!("15:20 {key}[0].external_id_file: stands beside external_id"),
        ),
        ("[[locations.primary.assume_role]]".into(), format!("12:1 {key}[0].role_arn: is missing")),
        (
            "[[locations.primary.assume_role]]\nrole_arn = \"x\"".into(),
            format!("13:12 {key}[0].role_arn: is \"x\"; expected a role's ARN"),
        ),
        (
            format!("[locations.primary.assume_role]\n{ROLE}"),
            format!("12:1 {key}: expected tables, each under its own"),
        ),
        (
            "[locations.primary.credentials]\nsource = \"static\"\naccess_key_id = \"A\"".into(),
            "12:1 locations.primary.credentials.secret_access_key: is missing; a static key has two halves".into(),
        ),
        (
            "[locations.primary.credentials]\nsource = \"profile\"".into(),
            "12:1 locations.primary.credentials.profile: is missing".into(),
        ),
        (
            "[locations.primary.credentials]\nprofile = \"x\"".into(),
            "13:11 locations.primary.credentials.profile: applies only with source = \"profile\"".into(),
        ),
        (
            "[locations.primary.credentials]\nsource = \"x\"\nprofile = \"x\"".into(),
            "13:10 locations.primary.credentials.source: is \"x\"; expected \"default\" or".into(),
        ),
    ] {
        let faults = after_base(&lines);
        assert!(faults.len() == 1 && faults[0].starts_with(&expected), "{lines}: {faults:#?}");
    }
}

#[test]
fn jobs() {
    let job = |line: &str| BASE.replacen("location = \"primary\"", &format!("location = \"primary\"\n{line}"), 1);
    for (line, expected) in [
        ("time_zone = \"CEST-ish\"", "8:13 jobs.etcd.time_zone: is \"CEST-ish\", which the time zone database"),
        ("timeout = \"0s\"", "8:11 jobs.etcd.timeout: is 0; expected a time"),
        ("jitter = \"5\"", "8:10 jobs.etcd.jitter: is \"5\"; expected a number with a unit"),
        ("catch_up = \"twice\"", "8:12 jobs.etcd.catch_up: is \"twice\"; expected \"once\" or \"never\""),
        ("compression = \"gzip\"", "8:15 jobs.etcd.compression: is \"gzip\"; expected \"zstd\" or \"none\""),
        ("compression_level = 20", "8:21 jobs.etcd.compression_level: is 20; expected a whole number from 1 to 19"),
        ("compression = \"none\"\ncompression_level = 3", "9:21 jobs.etcd.compression_level: applies only with"),
        (
            "retention = { keep_lats = 1 }",
            "8:15 jobs.etcd.retention.keep_lats: is not a known key; did you mean `keep_last`?",
        ),
        ("retention = { keep_last = 0 }", "8:13 jobs.etcd.retention: keeps no backup"),
        ("retention = { keep_last = -1 }", "8:27 jobs.etcd.retention.keep_last: is -1; expected"),
        ("schedule = \"60 * * * *\"", "8:12 jobs.etcd.schedule: is \"60 * * * *\": "),
        ("schedule = \"daily\"", "8:12 jobs.etcd.schedule: is \"daily\": "),
        ("hook_timeout = \"0s\"", "8:16 jobs.etcd.hook_timeout: is 0; expected a time"),
        ("after = [\"true\"]", "8:10 jobs.etcd.after[0]: expected commands, each an array"),
        ("after = [[]]", "8:10 jobs.etcd.after[0]: names no program"),
    ] {
        let faults = bad(&job(line));
        let found = faults.iter().any(|fault| fault.starts_with(expected));
        // An empty retention is refused beside its unknown key.
        assert!(found && faults.len() <= 2, "{line}: {faults:#?}");
    }
}

/// Every section's faults at once, in the order of the file.
#[test]
fn everything_at_once() {
    let text = r#"cluster = "Prod"
[limits]
memory = "1MiB"
[locations.primary]
provider = "gcp"
bucket = "B"
region = "${REGION}"
sts_url = "sts"
[locations.primary.upload]
part_sise = "16MiB"
[jobs.etcd]
location = "elsewhere"
schedule = "0 * * * *"
retention = { keep_last = "one" }
[[jobs.etcd.sources]]
type = "tree"
path = "relative"
"#;
    let places: Vec<_> = bad(text).iter().map(|fault| fault.split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(
        places,
        [
            "1:11 cluster",
            "3:10 limits.memory",
            "5:12 locations.primary.provider",
            "6:10 locations.primary.bucket",
            "7:10 locations.primary.region",
            "8:11 locations.primary.sts_url",
            "10:1 locations.primary.upload.part_sise",
            "12:12 jobs.etcd.location",
            "14:27 jobs.etcd.retention.keep_last",
            "15:1 jobs.etcd.sources[0].name",
            "17:8 jobs.etcd.sources[0].path",
        ]
    );
    let shown = parse(text).unwrap_err().to_string();
    assert!(
        shown.lines().count() == 11 && shown.starts_with("<configuration>:1:11: cluster: is \"Prod\", which"),
        "{shown}"
    );
}

#[test]
fn syntax() {
    for (text, line, column) in [
        ("cluster = \"c\"\nnode = \n", 2, 8),
        ("cluster = \"c\"\n[limits\n", 2, 8),
        ("a = 1\na = 2\n", 2, 1),
        ("a = 'é' x\n", 1, 9),
    ] {
        let Fault { line: l, column: c, key, message } = parse(text).unwrap_err().faults.remove(0);
        assert_eq!((l, c, &*key), (line, column, ""), "{text}: {message}");
        assert!(message.starts_with("is not TOML: ") && !message.contains('\n'), "{message}");
    }
}

/// No way of getting a secret wrong shows it, in faults or in what is kept.
#[test]
fn secrets_are_never_shown() {
    const CANARY: &str = "hunter2-canary";
    let hop = format!("[[locations.primary.assume_role]]\n{ROLE}\n");
    let keys = "[locations.primary.credentials]\nsource = \"static\"\n";
    for lines in [
        format!("{hop}external_id = \"{CANARY} !\""),
        format!("{hop}external_id = \"{CANARY}\\u0000\""),
        format!("{hop}external_id = \"${{{CANARY}\""),
        format!("{hop}external_id = \"${{{CANARY}}}\""),
        format!("{hop}external_id = \"{}\"", CANARY.repeat(200)),
        format!("{hop}external_id = \"${{CANARY}} !\""),
        format!("{hop}external_id = [\"{CANARY}\"]"),
        format!("{hop}external_id = \"{CANARY}\"\nexternal_id_file = \"/x\""),
        format!("{hop}external_id = \"{CANARY}"),
        format!("{hop}external_id = {CANARY}"),
        format!("{hop}external_id = \"{CANARY}\" {CANARY}"),
        format!("{hop}external_idd = \"{CANARY}\""),
        format!("{keys}secret_access_key = \"{CANARY}\""),
        format!("{keys}access_key_id = \"{CANARY}\"\nsecret_access_key = {{ a = \"{CANARY}\" }}"),
        format!("[locations.primary.credentials]\nsecret_access_key = \"{CANARY}\""),
        format!("[locations.other]\ns3_url = \"https://me:{CANARY}@host\""),
    ] {
        let parsed = Config::parse(&format!("{BASE}{lines}\n"), &environment(&[("CANARY", CANARY)]));
        let faults = parsed.expect_err(&lines);
        assert!(!format!("{faults} {faults:?}").contains("hunter2"), "{faults}");
    }
    let good = format!(
        "{BASE}{hop}external_id = \"{CANARY}\"\n{keys}access_key_id = \"{CANARY}\"\nsecret_access_key = \"${{CANARY}}\"\n"
    );
    let config = Config::parse(&good, &environment(&[("CANARY", CANARY)])).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}
