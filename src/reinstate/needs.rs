//! Names of other objects that an object cannot do without. Pure.

use serde_json::Value;

/// An object that must be there, or its dependent will wait, fail or be refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    /// `storageclasses.storage.k8s.io`.
    pub resource: &'static str,
    /// `None`: of the cluster's scope.
    pub namespace: Option<String>,
    pub name: String,
    /// The path of the field that names it.
    pub field: String,
}

/// What `object` (mapped and cleaned) needs, each once; [`MOST_NEEDS`] at most.
#[must_use]
pub fn needs(resource: &str, object: &Value) -> Vec<Need> {
    let _ = (resource, object);
    Vec::new()
}

/// Needs of one object that are found.
pub const MOST_NEEDS: usize = 1000;
