//! `type = "ebs"`: snapshots of EBS volumes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Kind, SourceKind};
use crate::config::forms;
use crate::config::reader::Section;
use crate::config::shapes::{boolean, default_text, default_words, integer, list, string, tags, text};
use crate::format::ebs::{InstanceId, MAX_TAGS, VolumeId};
use crate::format::key::MAX_NAME;

/// Penstock's own tags on each snapshot begin so; nobody else's may, or a snapshot could pass for one of its backups'.
const OWN_TAGS: &str = "penstock:";

/// With `-vol-0123456789abcdef0` behind it, it is still a name.
const MAX_EBS_NAME: usize = MAX_NAME - 22;

/// Far below EC2's bucket of 100 mutating requests, which the whole account shares.
const DEFAULT_CONCURRENCY: u32 = 8;

/// The first snapshot of a large volume takes hours; later ones only what changed.
const DEFAULT_WAIT: Duration = Duration::from_hours(4);

pub(super) const KIND: Kind = Kind {
    word: "ebs",
    keys: || {
        vec![
            list("volumes", "the volumes; not together with select_tags.", &string("A volume's ID.")),
            tags("select_tags", "the tags that select volumes.", 50),
            text("attached_to", "only volumes attached to this-instance, or to an instance's ID."),
            tags("tags", "put on the snapshots.", 50),
            boolean("copy_volume_tags", "put the volume's tags on the snapshots too.", true),
            default_words("on_no_match", "what it means that no volume is selected.", &["error", "warn", "ignore"]),
            integer("concurrency", "snapshots being created at a time.", 1, 100, DEFAULT_CONCURRENCY),
            boolean("wait", "wait until the snapshots are complete.", true),
            default_text("wait_timeout", "for how long.", "4h"),
        ]
    },
    read: |section, name| {
        let ebs = ebs(section);
        selection(section, &ebs);
        if let Some(long) = name.map(|name| name.as_str().len()).filter(|length| *length > MAX_EBS_NAME) {
            let why = "a volume's ID is added to it for each item's name";
            section.fault("name", format!("is {long} characters long; expected at most {MAX_EBS_NAME}: {why}"));
        }
        Some(SourceKind::Ebs(ebs))
    },
};

/// EBS volumes to take snapshots of: those that fit everything that is given, which is something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ebs {
    /// Empty: any.
    pub volumes: Vec<VolumeId>,
    pub select_tags: BTreeMap<String, String>,
    pub attached_to: Option<AttachedTo>,
    pub on_no_match: OnNoMatch,
    /// Put on the snapshots.
    pub tags: BTreeMap<String, String>,
    pub copy_volume_tags: bool,
    /// Snapshots being created at a time, at least 1.
    pub concurrency: usize,
    /// How long to wait until they are complete; `None` is not at all.
    pub wait: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachedTo {
    /// The one this process runs on, as the instance metadata service says.
    ThisInstance,
    Instance(InstanceId),
}

/// What it means that no volume is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNoMatch {
    #[default]
    Error,
    /// The backup is partial, and says so.
    Warn,
    /// Nothing: a node may have no volumes.
    Ignore,
}

/// What the keys say, each by itself.
fn ebs(section: &Section) -> Ebs {
    let volumes = section.list("volumes", forms::volume);
    let wait = section.boolean("wait").unwrap_or(true);
    let wait_timeout = section.duration("wait_timeout");
    section.only_with("wait_timeout", wait, "wait = true");
    let none = [("error", OnNoMatch::Error), ("warn", OnNoMatch::Warn), ("ignore", OnNoMatch::Ignore)];
    Ebs {
        volumes,
        select_tags: ebs_tags(section, "select_tags", forms::tag),
        attached_to: section.parsed("attached_to", forms::attached_to),
        on_no_match: section.choice("on_no_match", &none).unwrap_or_default(),
        tags: ebs_tags(section, "tags", |key, value| match forms::tag(key, value) {
            Ok(()) if key.starts_with(OWN_TAGS) => {
                Err(format!("begins with {OWN_TAGS}, which Penstock keeps for itself; expected another"))
            }
            checked => checked,
        }),
        copy_volume_tags: section.boolean("copy_volume_tags").unwrap_or(true),
        concurrency: section.integer("concurrency", 1..=100).unwrap_or(DEFAULT_CONCURRENCY) as usize,
        wait: wait.then_some(wait_timeout.unwrap_or(DEFAULT_WAIT)),
    }
}

fn ebs_tags(
    section: &Section,
    key: &'static str,
    check: impl Fn(&str, &str) -> Result<(), String>,
) -> BTreeMap<String, String> {
    let tags = section.pairs(key, check);
    if tags.len() > MAX_TAGS {
        section.fault(key, format!("has {} tags; EC2 keeps at most {MAX_TAGS} on a resource", tags.len()));
    }
    tags
}

/// Volumes are named, or selected by tags, or by where they are attached.
fn selection(section: &Section, ebs: &Ebs) {
    let empty = |key: &'static str, none: bool| {
        if none && !section.is_faulty(key) {
            let what = if section.has(key) { "is empty" } else { "is missing" };
            section.fault(key, format!("{what}; name the volumes, or select them with select_tags or attached_to"));
        }
    };
    match (section.has("volumes"), section.has("select_tags")) {
        (true, true) => {
            section.fault("select_tags", "stands beside volumes; expected one of the two, remove the other");
        }
        (true, false) => empty("volumes", ebs.volumes.is_empty()),
        (false, true) => empty("select_tags", ebs.select_tags.is_empty()),
        (false, false) => empty("volumes", ebs.attached_to.is_none() && !section.is_faulty("attached_to")),
    }
}
