//! Tests of the whole file; single values are tested where their forms are.

mod accepted;
mod claims;
mod drift;
mod encryption;
mod object_lock;
mod refused;

use std::collections::BTreeMap;

use super::{Config, Faults};

/// What every file here begins with: one location and one job, all required keys and no more. 11 lines.
const BASE: &str = r#"cluster = "c"
[locations.primary]
provider = "aws"
bucket = "acme-backups"
region = "eu-west-1"
[jobs.etcd]
location = "primary"
[[jobs.etcd.sources]]
type = "file"
name = "ca"
path = "/etc/ca.crt"
"#;

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let host = [("HOSTNAME", "host-1")];
    host.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str) -> Result<Config, Faults> {
    Config::parse(text, &environment(&[]))
}

#[track_caller]
fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

/// The faults of a bad file as `LINE:COLUMN KEY: MESSAGE`.
#[track_caller]
fn bad(text: &str) -> Vec<String> {
    let faults = parse(text).map(|_| text).expect_err("the file has faults");
    faults.faults.iter().map(|fault| format!("{}:{} {fault}", fault.line, fault.column)).collect()
}
