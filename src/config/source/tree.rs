//! `type = "tree"`: folders.

use super::{Kind, SourceKind};
use crate::config::forms;
use crate::config::shapes::{boolean, list, string, text};

pub(super) const KIND: Kind = Kind {
    word: "tree",
    keys: || {
        vec![
            text("path", "a glob, one item for each match."),
            list("exclude", "paths to leave out.", &string("A glob against the path below the folder.")),
            boolean(
                "one_file_system",
                "do not enter directories on which another file system or subvolume is mounted; they are listed.",
                true,
            ),
        ]
    },
    read: |section, _| {
        let path = section.parsed("path", |path| forms::absolute(path).and_then(|path| forms::glob(&path)));
        let path = section.required("path", path, "the folder to save, a glob: one item for each match");
        let exclude = section.list("exclude", |pattern| forms::below(pattern).and_then(forms::glob));
        let one_file_system = section.boolean("one_file_system").unwrap_or(true);
        Some(SourceKind::Tree { path: path?, exclude, one_file_system })
    },
};
