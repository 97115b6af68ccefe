//! `type = "claims"`: the data of the claims that pods of this node have mounted.

use std::path::PathBuf;
use std::time::Duration;

use super::kubernetes::namespace;
use super::{Kind, SourceKind};
use crate::config::forms;
use crate::config::reader::Section;
use crate::config::shapes::{boolean, default_text, default_words, list, string};
use crate::config::values::shown;

/// Where the kubelet keeps its pods if nobody told it otherwise (`--root-dir`).
const KUBELET_ROOT: &str = "/var/lib/kubelet";

/// Long enough for the first backup of a large volume, and short enough for a file server that is away not to hold up the next day's.
const CLAIM_TIMEOUT: Duration = Duration::from_hours(12);

pub(super) const KIND: Kind = Kind {
    word: "claims",
    keys: || {
        let glob = string("A name or a glob; `*` passes over dots.");
        vec![
            list("namespaces", "the namespaces whose claims are saved; all of them without it.", &glob),
            list("exclude_namespaces", "those of them whose claims are not.", &glob),
            default_words(
                "select",
                "opt-out saves every claim that is not excluded by annotation, opt-in those that are named by one.",
                &["opt-out", "opt-in"],
            ),
            default_words(
                "without_claim",
                "volumes that end with their pod or have no claim; named: those that the pod's annotation names.",
                &["named", "always", "never"],
            ),
            boolean("hooks", "run the commands that pods name by annotation before and after; needs pods/exec.", false),
            default_text("claim_timeout", "how long one volume may take; then it fails, and the others go on.", "12h"),
            list("exclude", "paths to leave out.", &string("A glob against the path below the folder.")),
            default_text("kubelet_root", "the kubelet's folder on the host (--root-dir).", KUBELET_ROOT),
            list(
                "host_paths",
                "folders of the host; a volume of type hostPath is saved if it is below one of them.",
                &string("An absolute path."),
            ),
        ]
    },
    read: |section, _| Some(SourceKind::Claims(claims(section))),
};

/// Which volumes of this node's pods are saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Globs.
    pub namespaces: Vec<String>,
    pub exclude_namespaces: Vec<String>,
    pub select: Select,
    pub without_claim: WithoutClaim,
    pub hooks: bool,
    /// Above 0.
    pub claim_timeout: Duration,
    /// Globs, as of a tree.
    pub exclude: Vec<String>,
    pub kubelet_root: PathBuf,
    pub host_paths: Vec<PathBuf>,
}

/// What a claim is that no annotation speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Select {
    /// Saved.
    #[default]
    OptOut,
    /// Not saved.
    OptIn,
}

/// Whether volumes are saved that end with their pod (emptyDir, ephemeral) or that a pod defines without a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WithoutClaim {
    /// Those that the pod's annotation names.
    #[default]
    Named,
    Always,
    Never,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            namespaces: vec!["*".to_owned()],
            exclude_namespaces: Vec::new(),
            select: Select::default(),
            without_claim: WithoutClaim::default(),
            hooks: false,
            claim_timeout: CLAIM_TIMEOUT,
            exclude: Vec::new(),
            kubelet_root: KUBELET_ROOT.into(),
            host_paths: Vec::new(),
        }
    }
}

impl Claims {
    /// What is not at its default, for people: `namespaces shop, team-*; opt-in; hooks`.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut words = Vec::new();
        if self.namespaces != ["*"] {
            words.push(format!("namespaces {}", self.namespaces.join(", ")));
        }
        if !self.exclude_namespaces.is_empty() {
            words.push(format!("exclude_namespaces {}", self.exclude_namespaces.join(", ")));
        }
        if self.select == Select::OptIn {
            words.push("opt-in".to_owned());
        }
        match self.without_claim {
            WithoutClaim::Named => {}
            WithoutClaim::Always => words.push("without_claim always".to_owned()),
            WithoutClaim::Never => words.push("without_claim never".to_owned()),
        }
        if self.hooks {
            words.push("hooks".to_owned());
        }
        if words.is_empty() { "every claim".to_owned() } else { words.join("; ") }
    }
}

fn claims(section: &Section) -> Claims {
    let globs = |key: &'static str| {
        let globs = section.list(key, |text| {
            namespace(text)?;
            forms::name_glob(text)
        });
        section.has(key).then_some(globs)
    };
    let namespaces = globs("namespaces");
    // What is empty would save nothing, day by day.
    if namespaces.as_ref().is_some_and(Vec::is_empty) && !section.is_faulty("namespaces") {
        let why = "is empty, so that nothing would be saved; remove it for every namespace, or name what to save";
        section.fault("namespaces", why);
    }
    let claim_timeout = section.duration("claim_timeout");
    if claim_timeout.is_some_and(|limit| limit.is_zero()) {
        section.fault("claim_timeout", "is 0; expected a time such as \"12h\"");
    }
    Claims {
        namespaces: namespaces.unwrap_or_else(|| vec!["*".to_owned()]),
        exclude_namespaces: globs("exclude_namespaces").unwrap_or_default(),
        select: section.choice("select", &[("opt-out", Select::OptOut), ("opt-in", Select::OptIn)]).unwrap_or_default(),
        without_claim: section
            .choice(
                "without_claim",
                &[("named", WithoutClaim::Named), ("always", WithoutClaim::Always), ("never", WithoutClaim::Never)],
            )
            .unwrap_or_default(),
        hooks: section.boolean("hooks").unwrap_or(false),
        claim_timeout: claim_timeout.unwrap_or(CLAIM_TIMEOUT),
        exclude: section.list("exclude", forms::glob),
        kubelet_root: section.parsed("kubelet_root", folder).unwrap_or_else(|| KUBELET_ROOT.into()),
        host_paths: section.list("host_paths", folder),
    }
}

/// An absolute path below which something is looked for, so that it must say where that is, and not be the whole host.
fn folder(text: &str) -> Result<PathBuf, String> {
    let path = text.trim_end_matches('/');
    let plain = |component: &str| !matches!(component, "" | "." | "..");
    match path.strip_prefix('/') {
        Some(rest) if rest.split('/').all(plain) => Ok(path.into()),
        _ => Err(format!("is {}; expected an absolute path without `.` and `..`, and not `/` itself", shown(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::reader;

    /// The source of a table's text, or its faults as `KEY: MESSAGE`.
    fn read(text: &str) -> Result<Claims, Vec<String>> {
        let none = std::collections::BTreeMap::<String, String>::new();
        let reading = reader::read(text, &none as &dyn Environment, claims);
        if reading.faults.is_empty() {
            return Ok(reading.value.unwrap());
        }
        Err(reading.faults.iter().map(|fault| format!("{}: {}", fault.key, fault.message)).collect())
    }

    #[test]
    fn without_keys_every_claim_is_saved_and_nothing_else() {
        assert_eq!(read(""), Ok(Claims::default()));
        assert_eq!(Claims::default().in_words(), "every claim");
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            namespaces = ["shop", "team-*"]
            exclude_namespaces = ["team-x"]
            select = "opt-in"
            without_claim = "always"
            hooks = true
            claim_timeout = "2h"
            exclude = ["**/lost+found"]
            kubelet_root = "/var/vcap/data/kubelet/"
            host_paths = ["/opt/local-path-provisioner"]
        "#;
        let claims = read(text).unwrap();
        let expected = Claims {
            namespaces: vec!["shop".into(), "team-*".into()],
            exclude_namespaces: vec!["team-x".into()],
            select: Select::OptIn,
            without_claim: WithoutClaim::Always,
            hooks: true,
            claim_timeout: Duration::from_hours(2),
            exclude: vec!["**/lost+found".into()],
            kubelet_root: "/var/vcap/data/kubelet".into(),
            host_paths: vec!["/opt/local-path-provisioner".into()],
        };
        assert_eq!(claims, expected);
        let words = "namespaces shop, team-*; exclude_namespaces team-x; opt-in; without_claim always; hooks";
        assert_eq!(claims.in_words(), words);
        assert_eq!(read("select = \"\"\nkubelet_root = \"\"\n"), Ok(Claims::default()), "empty is not set");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        for (text, expected) in [
            ("namespaces = []", "namespaces: is empty, so that nothing would be saved"),
            ("namespaces = [\"Shop\"]", "namespaces[0]: is \"Shop\"; expected a namespace's name"),
            ("exclude_namespaces = [\"a[\"]", "exclude_namespaces[0]: "),
            ("select = \"all\"", "select: is \"all\"; expected \"opt-out\" or \"opt-in\""),
            ("without_claim = true", "without_claim: expected a string in quotes"),
            ("hooks = \"yes\"", "hooks: expected true or false"),
            ("claim_timeout = \"0s\"", "claim_timeout: is 0; expected a time"),
            ("claim_timeout = \"soon\"", "claim_timeout: is \"soon\""),
            ("kubelet_root = \"kubelet\"", "kubelet_root: is \"kubelet\"; expected an absolute path"),
            ("kubelet_root = \"/\"", "kubelet_root: is \"/\"; expected an absolute path"),
            ("host_paths = [\"/srv/../etc\"]", "host_paths[0]: is \"/srv/../etc\"; expected an absolute path"),
            ("host_paths = [\"/a//b\"]", "host_paths[0]: is \"/a//b\"; expected an absolute path"),
            ("selekt = \"opt-in\"", "selekt: is not a known key; did you mean `select`?"),
        ] {
            let faults = read(text).unwrap_err();
            assert!(faults.len() == 1 && faults[0].starts_with(expected), "{text}: {faults:?}");
        }
    }
}
