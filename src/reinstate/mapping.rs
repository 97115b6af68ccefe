//! Namespaces and storage classes under other names. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// An option that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

/// Old names to new ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mapping {
    pub namespaces: BTreeMap<String, String>,
    /// Storage classes.
    pub classes: BTreeMap<String, String>,
}

impl Mapping {
    /// Reads `--namespace FROM[:TO]` and `--storage-class FROM:TO`; a namespace without `TO` keeps its name, and may be a glob.
    ///
    /// # Errors
    /// When an option is not of this form, a name cannot be one, or two namespaces would become one.
    pub fn new(namespaces: &[String], classes: &[String]) -> Result<Self, Unusable> {
        let _ = (namespaces, classes);
        Ok(Self::default())
    }

    /// What `--namespace FROM[:TO]` chooses in the backup: each `FROM`.
    #[must_use]
    pub fn chosen(namespaces: &[String]) -> Vec<String> {
        namespaces.iter().map(|option| option.split(':').next().unwrap_or_default().to_owned()).collect()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.classes.is_empty()
    }

    /// # Errors
    /// When two of the backup's namespaces that are restored would become one.
    pub fn check(&self, restored: &BTreeSet<String>) -> Result<(), Unusable> {
        let _ = restored;
        Ok(())
    }

    /// The new name of a namespace.
    #[must_use]
    pub fn namespace<'a>(&'a self, old: &'a str) -> &'a str {
        self.namespaces.get(old).map_or(old, String::as_str)
    }

    /// The old names of namespaces, for [`mentions`].
    #[must_use]
    pub fn old_namespaces(&self) -> Vec<&str> {
        self.namespaces.iter().filter(|(from, to)| from != to).map(|(from, _)| from.as_str()).collect()
    }

    /// Gives `object` and what it refers to by a known field the new names.
    pub fn apply(&self, resource: &str, object: &mut Value) {
        let _ = (resource, object);
    }
}

/// Paths of strings in `object` that still name one of the namespaces `old`; [`MOST_MENTIONS`] of them at most.
#[must_use]
pub fn mentions(object: &Value, old: &[&str]) -> Vec<String> {
    let _ = (object, old);
    Vec::new()
}

/// Field paths that [`mentions`] gives of one object.
pub const MOST_MENTIONS: usize = 20;
