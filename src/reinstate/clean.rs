//! What of an object is not sent when it is made, kind by kind. Pure.
//!
//! [`ROWS`] is the whole of it: docs/kubernetes-restore.md has the same table, and a test compares them. Labels, annotations and finalizers
//! that are not named there stay.

mod kinds;
mod pods;
mod rows;
mod services;
#[cfg(test)]
mod tests;

use serde_json::Value;

use super::fields;
pub use rows::ROWS;
pub use services::unfix;

/// What cleaning needs to know besides the object.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The status is given back too (`--status`).
    pub status: bool,
    /// Whether the persistent volume of this name is, or will be, there for the claim that is cleaned ([`super::volumes::standing`]).
    /// A claim whose volume is not gets a new one.
    pub has_volume: &'a (dyn Fn(&str) -> bool + Sync),
}

/// What was taken out of an object and is given back by a later request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// `metadata.managedFields`; without the entries of the status, unless that is given back.
    pub managed_fields: Option<Value>,
    pub status: Option<Value>,
}

/// One thing that is not restored as it was.
#[derive(Clone, Copy)]
pub struct Row {
    /// `deployments.apps`; [`EVERY`] for each kind.
    pub resource: &'static str,
    /// What it is about, in Markdown.
    pub what: &'static str,
    pub action: Action,
    pub reason: &'static str,
}

/// In place of a resource: every kind.
pub const EVERY: &str = "*";

#[derive(Clone, Copy)]
pub enum Action {
    /// The field at this path is removed; `*` is each element of a list.
    Remove(&'static [&'static str]),
    /// As the row says.
    Change(fn(&mut Value, &Context<'_>)),
    /// Given back once the object is made, or changed elsewhere in this module's parent.
    Later,
}

/// Removes from an object of the kind `resource` (`deployments.apps`) what only the old one could have, so that it can be made.
/// Owner references stay: [`super::owners::relink`] comes next.
pub fn clean(resource: &str, object: &mut Value, context: &Context<'_>) -> Taken {
    // The kind's own rows read the managed fields and the status, which the rows of every kind remove.
    for row in ROWS.iter().filter(|row| row.resource == resource) {
        act(row, object, context);
    }
    let taken = Taken {
        managed_fields: fields::remove(object, &["metadata", "managedFields"])
            .and_then(|managed| entries(managed, context.status)),
        status: object.as_object_mut().and_then(|fields| fields.remove("status")),
    };
    for row in ROWS.iter().filter(|row| row.resource == EVERY) {
        act(row, object, context);
    }
    taken
}

fn act(row: &Row, object: &mut Value, context: &Context<'_>) {
    match row.action {
        Action::Remove(path) => drop(fields::remove(object, path)),
        Action::Change(change) => change(object, context),
        Action::Later => {}
    }
}

/// The managed fields that are given back; `None` where there are none.
fn entries(managed: Value, status: bool) -> Option<Value> {
    let Value::Array(mut entries) = managed else { return None };
    entries.retain(|entry| entry.is_object() && (status || fields::text(entry, &["subresource"]) != "status"));
    (!entries.is_empty()).then_some(Value::Array(entries))
}
