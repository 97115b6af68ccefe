//! `type = "command"`: what a program writes to its standard output.

use super::{Kind, SourceKind};
use crate::config::shapes::{boolean, list, string};

pub(super) const KIND: Kind = Kind {
    word: "command",
    keys: || {
        vec![
            list(
                "argv",
                "the program and its arguments; what it prints is saved.",
                &string("One word; no shell reads it."),
            ),
            boolean("allow_empty", "that it writes nothing at all is no failure.", false),
        ]
    },
    read: |section, _| {
        let argv = section.list("argv", |word| Ok(word.to_owned()));
        if argv.first().is_none_or(String::is_empty) && !section.is_faulty("argv") {
            section.fault("argv", "names no program; expected a command such as [\"pg_dump\", \"shop\"]");
        }
        Some(SourceKind::Command { argv, allow_empty: section.boolean("allow_empty").unwrap_or(false) })
    },
};
