//! `type = "file"`: one file, or a block device.

use super::{Kind, SourceKind};
use crate::config::forms;
use crate::config::shapes::text;

pub(super) const KIND: Kind = Kind {
    word: "file",
    keys: || vec![text("path", "the file. Begins with /.")],
    read: |section, _| {
        // Not a glob: `[` in a file's name is only a letter.
        let path = section.required("path", section.parsed("path", forms::absolute), "the file to save")?;
        Some(SourceKind::File { path: path.into() })
    },
};
