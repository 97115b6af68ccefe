//! `[[jobs.NAME.sources]]`: one thing that a job saves.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::forms;
use super::model::{Ebs, OnNoMatch, SourceKind};
use super::reader::Section;
use crate::format::ebs::MAX_TAGS;
use crate::format::key::{MAX_NAME, Name};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Tree,
    File,
    Command,
    Ebs,
}

/// Which types a key belongs to.
const OWNERS: [(&str, &[Type], &str); 14] = [
    ("path", &[Type::Tree, Type::File], "type = \"tree\" or \"file\""),
    ("exclude", &[Type::Tree], "type = \"tree\""),
    ("one_file_system", &[Type::Tree], "type = \"tree\""),
    ("argv", &[Type::Command], "type = \"command\""),
    ("allow_empty", &[Type::Command], "type = \"command\""),
    ("volumes", &[Type::Ebs], "type = \"ebs\""),
    ("select_tags", &[Type::Ebs], "type = \"ebs\""),
    ("attached_to", &[Type::Ebs], "type = \"ebs\""),
    ("tags", &[Type::Ebs], "type = \"ebs\""),
    ("copy_volume_tags", &[Type::Ebs], "type = \"ebs\""),
    ("on_no_match", &[Type::Ebs], "type = \"ebs\""),
    ("concurrency", &[Type::Ebs], "type = \"ebs\""),
    ("wait", &[Type::Ebs], "type = \"ebs\""),
    ("wait_timeout", &[Type::Ebs], "type = \"ebs\""),
];

/// Penstock's own tags on each snapshot begin so; nobody else's may, or a snapshot could pass for one of its backups'.
const OWN_TAGS: &str = "penstock:";

/// With `-vol-0123456789abcdef0` behind it, it is still a name.
const MAX_EBS_NAME: usize = MAX_NAME - 22;

/// Far below EC2's bucket of 100 mutating requests, which the whole account shares.
const DEFAULT_CONCURRENCY: u32 = 8;

/// The first snapshot of a large volume takes hours; later ones only what changed.
const DEFAULT_WAIT: Duration = Duration::from_hours(4);

/// A source with a name; its kind is absent where that has a fault.
pub(super) struct Named {
    pub name: Name,
    pub kind: Option<SourceKind>,
}

pub(super) fn read(section: &Section) -> Option<Named> {
    let name = section.parsed("name", forms::name);
    let name = section.required("name", name, "it becomes part of the objects' keys: [a-z0-9._-]");
    let types = [("tree", Type::Tree), ("file", Type::File), ("command", Type::Command), ("ebs", Type::Ebs)];
    let kind = section.choice("type", &types);
    let kind = section.required("type", kind, "expected \"tree\", \"file\", \"command\" or \"ebs\"");
    // A tree's path is a glob, a file's is not: `[` in a file's name is only a letter.
    let path = section.parsed("path", |path| match kind {
        Some(Type::Tree) => forms::absolute(path).and_then(|path| forms::glob(&path)),
        Some(Type::File | Type::Command | Type::Ebs) | None => forms::absolute(path),
    });
    let exclude = section.list("exclude", forms::glob);
    let one_file_system = section.boolean("one_file_system").unwrap_or(true);
    let argv = section.list("argv", |word| Ok(word.to_owned()));
    let ebs = ebs(section);
    for (key, owners, which) in OWNERS {
        section.belongs_only(key, kind.is_none_or(|kind| owners.contains(&kind)).into(), which);
    }
    let built = match kind {
        Some(Type::Tree) => section
            .required("path", path, "the folder to save, a glob: one item for each match")
            .map(|path| SourceKind::Tree { path, exclude, one_file_system }),
        Some(Type::File) => section
            .required("path", path, "the file to save")
            .map(|path| SourceKind::File { path: PathBuf::from(path) }),
        Some(Type::Command) => Some(command(section, argv)),
        Some(Type::Ebs) => {
            selection(section, &ebs);
            if let Some(long) = name.as_ref().map(|name| name.as_str().len()).filter(|length| *length > MAX_EBS_NAME) {
                let why = "a volume's ID is added to it for each item's name";
                section.fault("name", format!("is {long} characters long; expected at most {MAX_EBS_NAME}: {why}"));
            }
            Some(SourceKind::Ebs(ebs))
        }
        None => None,
    };
    Some(Named { name: name?, kind: built })
}

fn command(section: &Section, argv: Vec<String>) -> SourceKind {
    if argv.first().is_none_or(String::is_empty) && !section.is_faulty("argv") {
        section.fault("argv", "names no program; expected a command such as [\"pg_dump\", \"shop\"]");
    }
    SourceKind::Command { argv, allow_empty: section.boolean("allow_empty").unwrap_or(false) }
}

/// What the keys of an `ebs` source say, each by itself.
fn ebs(section: &Section) -> Ebs {
    let volumes = section.list("volumes", forms::volume);
    let wait = section.boolean("wait").unwrap_or(true);
    let wait_timeout = section.duration("wait_timeout");
    section.belongs_only("wait_timeout", wait.into(), "wait = true");
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
