//! An item's source in the manifest, and the result of restoring it: one variant for each kind of source.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum SourceDescription {
    Tree {
        path: String,
    },
    File {
        path: String,
    },
    Command {
        argv: Vec<String>,
    },
    Stdin,
    /// A volume, and the rule that selected it.
    Ebs {
        selected_by: String,
    },
    /// A cluster's API objects. What was saved of them is in the item's record ([`super::cluster`]).
    Kubernetes {
        /// The API server's URL; empty where the client could not be made.
        address: String,
        /// What the configuration selects, in words.
        selection: String,
    },
}

impl fmt::Display for SourceDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tree { path } if path.is_empty() => f.write_str("tree (encrypted)"),
            Self::File { path } if path.is_empty() => f.write_str("file (encrypted)"),
            Self::Command { argv } if argv.is_empty() => f.write_str("command (encrypted)"),
            Self::Kubernetes { selection, .. } if selection.is_empty() => f.write_str("Kubernetes objects (encrypted)"),
            Self::Tree { path } => write!(f, "tree {path}"),
            Self::File { path } => write!(f, "file {path}"),
            Self::Command { argv } => write!(f, "command {}", argv.join(" ")),
            Self::Stdin => f.write_str("standard input"),
            Self::Ebs { selected_by } => write!(f, "EBS volume, by {selected_by}"),
            Self::Kubernetes { address, selection } if address.is_empty() => {
                write!(f, "Kubernetes objects: {selection}")
            }
            Self::Kubernetes { address, selection } => write!(f, "Kubernetes objects of {address}: {selection}"),
        }
    }
}

/// The result of restoring an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A folder: the stream is a tar archive, which is unpacked.
    Folder,
    /// A file, named like the last component of this path, or else like the item.
    File(Option<&'a str>),
    /// A volume, made from a snapshot: there is no stream.
    Volume,
}

impl SourceDescription {
    /// Empties what names a path, a command or a cluster.
    pub(super) fn redact(&mut self) {
        match self {
            Self::Tree { path } | Self::File { path } => path.clear(),
            Self::Command { argv } => argv.clear(),
            Self::Kubernetes { address, selection } => (*address, *selection) = (String::new(), String::new()),
            Self::Stdin | Self::Ebs { .. } => {}
        }
    }

    #[must_use]
    pub fn target(&self) -> Target<'_> {
        match self {
            Self::Tree { .. } | Self::Kubernetes { .. } => Target::Folder,
            Self::File { path } => Target::File(Some(path)),
            Self::Command { .. } | Self::Stdin => Target::File(None),
            Self::Ebs { .. } => Target::Volume,
        }
    }

    /// Whether the item's stream is a tar archive, which a restore unpacks, or one file's bytes.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        self.target() == Target::Folder
    }
}
