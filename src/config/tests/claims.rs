//! Jobs that save claims.

use super::super::{Claims, SourceKind};
use super::{bad, good};

const HEAD: &str = r#"cluster = "c"
node = "n1"
[locations.primary]
provider = "aws"
bucket = "acme-backups"
region = "eu-west-1"
[jobs.volumes]
location = "primary"
"#;

const SOURCE: &str = "[[jobs.volumes.sources]]\ntype = \"claims\"\nname = \"claims\"\n";

#[test]
fn a_source_without_keys_saves_every_claim() {
    let config = good(&format!("{HEAD}{SOURCE}"));
    let job = config.jobs.into_values().next().unwrap();
    assert_eq!(job.sources[0].kind, SourceKind::Claims(Claims::default()));
}

#[test]
fn what_claims_cannot_have_beside_them_is_refused() {
    let tree = "[[jobs.volumes.sources]]\ntype = \"tree\"\nname = \"t\"\npath = \"/srv\"\n";
    let no_grace = "retention = { keep_last = 1, grace = \"0s\" }\n";
    for (text, expected) in [
        (
            format!("{HEAD}{SOURCE}{tree}"),
            "jobs.volumes.sources: has a source of type \"claims\", which stands beside others",
        ),
        (format!("{HEAD}{no_grace}{SOURCE}"), "jobs.volumes.retention: has a grace of 0; expected a time"),
        (
            format!("{HEAD}{}", SOURCE.replace("\"claims\"\n\n", ""))
                .replace("name = \"claims\"", "name = \"claim.shop.data\""),
            "jobs.volumes.sources: has the name claim.shop.data, the name under which the backups of the volume shop/data are",
        ),
        (
            format!("{HEAD}{SOURCE}").replace("\"n1\"", "\"claim.shop.data\""),
            "node: is the name under which the backups of the volume shop/data are",
        ),
        (format!("{HEAD}{SOURCE}path = \"/srv\"\n"), "jobs.volumes.sources[0].path: "),
    ] {
        let faults = bad(&text);
        let (_, fault) = faults[0].split_once(' ').unwrap();
        assert!(faults.len() == 1 && fault.starts_with(expected), "{faults:#?}");
    }
    // A host's name that only begins like one of a volume's.
    good(&format!("{HEAD}{SOURCE}").replace("\"n1\"", "\"pod.example\""));
}
