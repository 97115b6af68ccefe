//! `[[jobs.NAME.sources]]`: one thing that a job saves.

use std::path::PathBuf;

use super::forms;
use super::model::SourceKind;
use super::reader::Section;
use crate::format::key::Name;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Tree,
    File,
    Command,
    Ebs,
}

/// Which types a key belongs to.
const OWNERS: [(&str, &[Type], &str); 11] = [
    ("path", &[Type::Tree, Type::File], "type = \"tree\" or \"file\""),
    ("exclude", &[Type::Tree], "type = \"tree\""),
    ("one_file_system", &[Type::Tree], "type = \"tree\""),
    ("argv", &[Type::Command], "type = \"command\""),
    ("volumes", &[Type::Ebs], "type = \"ebs\""),
    ("select_tags", &[Type::Ebs], "type = \"ebs\""),
    ("attached_to", &[Type::Ebs], "type = \"ebs\""),
    ("tags", &[Type::Ebs], "type = \"ebs\""),
    ("copy_volume_tags", &[Type::Ebs], "type = \"ebs\""),
    ("wait", &[Type::Ebs], "type = \"ebs\""),
    ("wait_timeout", &[Type::Ebs], "type = \"ebs\""),
];

/// EC2 User Guide, "Tag restrictions".
const MAX_EC2_TAGS: usize = 50;

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
    ebs_keys(section);
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
            selection(section);
            section.fault("type", "is \"ebs\", which is not yet supported; remove this source");
            None
        }
        None => None,
    };
    Some(Named { name: name?, kind: built })
}

fn command(section: &Section, argv: Vec<String>) -> SourceKind {
    if argv.first().is_none_or(String::is_empty) && !section.is_faulty("argv") {
        section.fault(
            "argv",
            "names no program; expected a command such as [\"etcdctl\", \"snapshot\", \"save\", \"/dev/stdout\"]",
        );
    }
    SourceKind::Command { argv }
}

/// The form of each key of an `ebs` source.
fn ebs_keys(section: &Section) {
    section.list("volumes", forms::volume);
    section.parsed("attached_to", forms::attached_to);
    for key in ["select_tags", "tags"] {
        let count = section.pairs(key, forms::tag).len();
        if count > MAX_EC2_TAGS {
            section.fault(key, format!("has {count} tags; EC2 keeps at most {MAX_EC2_TAGS} on a resource"));
        }
    }
    section.boolean("copy_volume_tags");
    section.boolean("wait");
    section.duration("wait_timeout");
}

/// Volumes are named or selected, one of the two.
fn selection(section: &Section) {
    match (section.has("volumes"), section.has("select_tags")) {
        (true, true) => {
            section.fault("select_tags", "stands beside volumes; expected one of the two, remove the other");
        }
        (false, false) => section.fault("volumes", "is missing; name the volumes, or select them with select_tags"),
        (true, false) | (false, true) => {}
    }
}
