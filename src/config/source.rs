//! `[[jobs.NAME.sources]]`: the sources of a job, and the table of source kinds.
//!
//! The module of a kind has its keys, their schema, and their reader. `job/kinds.rs` has what a run does with the kind.

mod claims;
mod command;
mod ebs;
mod file;
mod kubernetes;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

pub use self::claims::{Claims, Select, WithoutClaim};
pub use self::ebs::{AttachedTo, Ebs, OnNoMatch};
pub use self::kubernetes::{ClusterResources, Objects, Versions};
use super::forms;
use super::reader::Section;
use super::shapes::{Object, Property, text, words};
use crate::format::key::Name;

/// The table of source kinds, in the order in which messages name them.
static KINDS: [Kind; 6] = [tree::KIND, file::KIND, command::KIND, ebs::KIND, kubernetes::KIND, claims::KIND];

struct Kind {
    /// The value of `type`.
    word: &'static str,
    /// Its keys besides `type` and `name`, each with its schema.
    keys: fn() -> Vec<Property>,
    /// Reads these keys. `None` if a fault leaves no source to build.
    read: fn(&Section, Option<&Name>) -> Option<SourceKind>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: Name,
    pub kind: SourceKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    Tree {
        /// A glob; each match is an item.
        path: String,
        /// Globs against the path relative to the root; `**/` crosses folders.
        exclude: Vec<String>,
        one_file_system: bool,
    },
    File {
        path: PathBuf,
    },
    Command {
        argv: Vec<String>,
        /// Whether an empty output is accepted.
        allow_empty: bool,
    },
    /// Only ad hoc: `penstock backup … -`.
    Stdin {
        allow_empty: bool,
    },
    Ebs(Ebs),
    Kubernetes(Objects),
    Claims(Claims),
}

/// A source's name, and its kind unless that has a fault.
pub(super) fn read(section: &Section) -> Option<(Name, Option<SourceKind>)> {
    let name = section.parsed("name", forms::name);
    let name = section.required("name", name, "it becomes part of the objects' keys: [a-z0-9._-]");
    let kind = section.choice("type", &KINDS.each_ref().map(|kind| (kind.word, kind)));
    let kind =
        section.required("type", kind, &format!("expected {}", alternatives(&KINDS.each_ref().map(|kind| kind.word))));
    for (key, (_, owners)) in keys() {
        match kind {
            Some(kind) if !owners.contains(&kind.word) => {
                section.only_with(key, false, &format!("type = {}", alternatives(&owners)));
            }
            // Marks the key as known, even if the type has a fault.
            Some(_) | None => drop(section.value(key)),
        }
    }
    let kind = kind.and_then(|kind| (kind.read)(section, name.as_ref()));
    Some((name?, kind))
}

pub(super) fn schema() -> Value {
    let own = [
        words("type", "The kind of source.", &KINDS.each_ref().map(|kind| kind.word)),
        text("name", "Names the item in the backup, once in a job: [a-z0-9._-]."),
    ];
    let of_kinds = keys().into_iter().map(|(key, (schema, _))| (key, schema));
    Object("One source that a job saves.", &["type", "name"]).of(own.into_iter().chain(of_kinds))
}

/// The keys of all kinds, each with its schema, a description for each kind that has the key, and the words of these kinds.
fn keys() -> BTreeMap<&'static str, (Value, Vec<&'static str>)> {
    let mut keys = BTreeMap::<_, (Value, Vec<_>)>::new();
    for kind in &KINDS {
        for (key, schema) in (kind.keys)() {
            let text = format!("{}: {}", kind.word, schema["description"].as_str().unwrap_or_default());
            let (known, owners) = keys.entry(key).or_insert((schema, Vec::new()));
            known["description"] = match known["description"].as_str() {
                Some(others) if !owners.is_empty() => json!(format!("{others} {text}")),
                _ => json!(text),
            };
            owners.push(kind.word);
        }
    }
    keys
}

/// `"tree", "file" or "ebs"`.
fn alternatives(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => quoted.concat(),
    }
}
