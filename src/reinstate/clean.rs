//! What of an object is not sent when it is made, kind by kind. Pure.

use serde_json::Value;

/// What cleaning needs to know besides the object.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The status is given back too (`--status`).
    pub status: bool,
    /// Whether the persistent volume of this name is, or will be, there for the claim that is cleaned ([`super::volumes::standing`]). A
    /// claim whose volume is not gets a new one.
    pub has_volume: &'a (dyn Fn(&str) -> bool + Sync),
}

/// What was taken out of an object and is given back by a later request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// `metadata.managedFields`; without the entries of the status, unless that is given back.
    pub managed_fields: Option<Value>,
    pub status: Option<Value>,
}

/// Removes from an object of the kind `resource` (`deployments.apps`) what only the old one could have, so that it can be made.
/// Owner references stay: [`super::owners::relink`] comes next.
pub fn clean(resource: &str, object: &mut Value, context: &Context<'_>) -> Taken {
    let _ = (resource, object, context);
    Taken::default()
}

/// Removes addresses and ports of a Service that its author fixed ([`clean`] leaves them), for a cluster that refuses them: another
/// network, or somebody has them already. Whether there were any.
pub fn unfix(resource: &str, object: &mut Value) -> bool {
    let _ = (resource, object);
    false
}
