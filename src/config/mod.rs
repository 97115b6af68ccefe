//! Reads and checks the configuration file, and makes a [`Config`] in which every value is valid.
//!
//! [`Config::load`] returns a configuration whose names fit, whose sizes are in range and whose references exist,
//! or [`Faults`]: *every* fault of the file, each with line, column, key, what was found, what was expected and what to do. A
//! fault never contains a secret. Unknown keys are refused.
//!
//! Reads only the file itself. The modules that use the files it names (certificates, secrets) read them, and again when
//! they change. Strings may hold `${NAME}` and `${NAME:-default}`; `$$` is a plain `$` (`interpolate`).
//!
//! `reader` walks the sections and collects faults, `values` has its typed getters, `forms` and
//! `units` check single values; `location`, `credentials`, `job` and `source` are the sections; `source` has the
//! table of source kinds. Tests compare [`example`] and [`schema()`] with the reader's list of keys.

mod credentials;
mod cron;
mod environment;
mod faults;
mod forms;
mod interpolate;
mod job;
mod location;
pub mod model;
mod reader;
mod schema;
mod shapes;
mod source;
#[cfg(test)]
mod tests;
mod units;
mod values;

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use cron::Cron;
pub use environment::{Environment, System};
pub use faults::{Fault, Faults};
pub use job::AD_HOC;
pub use location::MAX_PARTS;
pub use model::*;
pub use schema::schema;
pub use source::{
    AttachedTo, Claims, ClusterResources, Ebs, Objects, OnNoMatch, Select, Source, SourceKind, Versions, WithoutClaim,
};

use crate::budget;
use crate::format::claim::Chained;
use crate::format::key::{MAX_NAME, Name};
use reader::{Reading, Section};
use units::{MIB, show_size};

/// Far more than any configuration: limits the memory that a wrong path costs.
const MAX_FILE: u64 = MIB;

/// The file name in the faults of [`Config::parse`].
const NO_FILE: &str = "<configuration>";

/// Below this a slow upload looks like a connection that hangs.
const MIN_BANDWIDTH: u64 = 64 << 10;

const DEFAULT_MEMORY: u64 = 256 * MIB;

const DEFAULT_SOCKET: &str = "/run/penstock/control.sock";

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When the file cannot be read; or every fault in it.
    pub fn load(path: &Path, environment: &dyn Environment) -> Result<Self, Faults> {
        let bytes = read_file(path).map_err(|error| Faults::unread(path, &error))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => read(path, text, environment),
            Err(error) => {
                // The text before the first bad byte gives the line and column.
                let before = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
                let (line, column) = faults::position(before, before.len());
                let message = "is not UTF-8 from here on; save the file as UTF-8".to_owned();
                Err(Faults::new(path, vec![Fault { line, column, key: String::new(), message }]))
            }
        }
    }

    /// The daemon's control socket, also of a file with faults: the one that its `[admin]` names, or the default.
    #[must_use]
    pub fn socket(path: &Path, environment: &dyn Environment) -> PathBuf {
        let bytes = read_file(path).unwrap_or_default();
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let read = reader::read(text, environment, |section| section.table("admin", admin).socket);
        read.value.unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Checks a configuration that is not in a file.
    ///
    /// # Errors
    /// Every fault in `text`.
    pub fn parse(text: &str, environment: &dyn Environment) -> Result<Self, Faults> {
        read(Path::new(NO_FILE), text, environment)
    }
}

/// Checks that STS accepts `text` as an external ID.
///
/// # Errors
/// When STS does not. The error is a text that follows the key, and never repeats the value.
pub fn check_external_id(text: &str) -> Result<(), String> {
    forms::external_id(text)
}

/// The commented example: what `penstock config example` prints.
#[must_use]
pub const fn example() -> &'static str {
    include_str!("../../config/penstock.example.toml")
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is longer than {}", show_size(MAX_FILE))));
    }
    Ok(bytes)
}

fn read(file: &Path, text: &str, environment: &dyn Environment) -> Result<Config, Faults> {
    let Reading { value, faults, .. } = reader::read(text, environment, config);
    match value.flatten() {
        Some(config) if faults.is_empty() => Ok(config),
        // Unreachable: a missing configuration has a fault.
        None if faults.is_empty() => Err(Faults::of_file(file, "cannot be used".into())),
        _ => Err(Faults::new(file, faults)),
    }
}

/// The top section. `None` if a fault leaves no configuration to build.
fn config(section: &Section) -> Option<Config> {
    let cluster = section.parsed("cluster", forms::name);
    let cluster = section.required("cluster", cluster, "name the cluster: it is the first part of every backup's key");
    let node = node(section);
    let state_dir = section.path("state_dir").unwrap_or_else(|| PathBuf::from("/var/lib/penstock"));
    let identity_file = section.path("identity_file");
    let admin = section.table("admin", admin);
    let log = section.table("log", log);
    let kubernetes = section.table("kubernetes", kubernetes);
    let locations = section.named("locations", location::read);
    if locations.is_empty() && !section.is_faulty("locations") {
        section.fault("locations", "has no location; add [locations.NAME]");
    }
    let names: BTreeSet<_> = locations.iter().map(|(name, _)| name.clone()).collect();
    let jobs = section.named("jobs", |name, section| job::read(name, section, &names));
    let locations: Vec<_> = locations.into_iter().filter_map(|(name, location)| Some((name, location?))).collect();
    let limits = section.table("limits", |section| limits(section, &locations));
    Some(Config {
        cluster: cluster?,
        node: node?,
        state_dir,
        identity_file,
        admin,
        log,
        limits,
        kubernetes,
        locations: locations.into_iter().collect(),
        jobs: jobs.into_iter().filter_map(|(_, job)| job.map(|job| (job.name.clone(), job))).collect(),
    })
}

/// The node's name, or the host's if the file has none.
fn node(section: &Section) -> Option<Name> {
    let given = section.parsed("node", forms::name);
    if let Some(claim) = given.as_ref().and_then(Chained::of) {
        let why =
            format!("is the name under which the backups of the volume {claim} are; expected the node's own name");
        section.fault("node", why);
    }
    if given.is_some() || section.is_faulty("node") {
        return given;
    }
    let host = section.environment().host_name().unwrap_or_default();
    let name = Name::new(host_as_name(&host)).ok();
    if name.is_none() {
        section.fault("node", "is not set, and the host's name is no valid name; set node");
    }
    name
}

/// A host's name as a [`Name`]: in lower case, with `-` for characters that a name may not have.
fn host_as_name(host: &str) -> String {
    let fit = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c) { c } else { '-' };
    let name: String = host.trim().to_lowercase().chars().map(fit).collect();
    name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).chars().take(MAX_NAME).collect()
}

fn admin(section: &Section) -> Admin {
    let listen = section.parsed("listen", |text| {
        let expected = "expected an IP address and a port, such as \"127.0.0.1:9632\"";
        text.parse().map_err(|_| format!("is {}; {expected}", values::shown(text)))
    });
    let socket = section.path("socket").unwrap_or_else(|| DEFAULT_SOCKET.into());
    let (certificate, key) = (section.path("tls_certificate"), section.path("tls_key"));
    let alone = |key, other| section.fault(key, format!("is set without {other}; expected both"));
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(AdminTls { certificate, key }),
        (Some(_), None) if !section.is_faulty("tls_key") => {
            alone("tls_certificate", "tls_key");
            None
        }
        (None, Some(_)) if !section.is_faulty("tls_certificate") => {
            alone("tls_key", "tls_certificate");
            None
        }
        _ => None,
    };
    Admin { listen: listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9632))), socket, tls }
}

fn log(section: &Section) -> Log {
    Log { level: section.choice("level", &LogLevel::WORDS).unwrap_or_default() }
}

/// `[kubernetes]`.
fn kubernetes(section: &Section) -> Kubernetes {
    Kubernetes { kubeconfig: section.path("kubeconfig"), context: section.text("context") }
}

fn limits(section: &Section, locations: &[(String, Location)]) -> Limits {
    let memory = section.size("memory").unwrap_or(DEFAULT_MEMORY);
    let least = |location: &Location| {
        let sealing = if location.client_encryption.is_some() { budget::stream::SEALING } else { 0 };
        budget::stream::least(location.upload.part_size + sealing)
    };
    let needed = locations.iter().map(|(name, location)| (least(location), name)).max();
    if let Some((needed, location)) = needed.filter(|(needed, _)| memory < *needed && !section.is_faulty("memory")) {
        let (memory, needed) = (show_size(memory), show_size(needed.next_multiple_of(MIB)));
        let default = if section.has("memory") { "" } else { " by default" };
        let message = format!(
            "is {memory}{default}, too little for one stream to {location}; give at least {needed}, or a smaller part_size there"
        );
        section.fault("memory", message);
    }
    let bandwidth = section.size("bandwidth").filter(|bandwidth| *bandwidth > 0);
    if let Some(slow) = bandwidth.filter(|bandwidth| *bandwidth < MIN_BANDWIDTH) {
        section.fault(
            "bandwidth",
            format!("is {}; expected at least 64KiB a second, or \"0\" for no limit", show_size(slow)),
        );
    }
    let threads = section.integer("compression_threads", 0..=1024).filter(|threads| *threads > 0);
    Limits {
        memory,
        concurrent_jobs: section.integer("concurrent_jobs", 1..=1000).unwrap_or(2) as usize,
        bandwidth,
        compression_threads: threads.map_or_else(|| section.environment().cores().max(1), |threads| threads as usize),
    }
}
