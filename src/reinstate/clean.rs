//! Which parts of an object are not sent when it is created, kind by kind. Pure.
//!
//! [`ROWS`] lists all of them: docs/kubernetes-restore.md has the same table, and a test compares them. Labels, annotations and
//! finalizers that it does not name stay.

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

/// The input of cleaning besides the object.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Whether the status is restored too (`--status`).
    pub status: bool,
    /// Whether the persistent volume of this name exists, or will exist, for the claim that is cleaned ([`super::volumes::standing`]). A
    /// claim without its volume gets a new one.
    pub has_volume: &'a (dyn Fn(&str) -> bool + Sync),
}

/// Parts that were removed from an object, and that a later request restores.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taken {
    /// `metadata.managedFields`; without the entries of the status, unless the status is restored.
    pub managed_fields: Option<Value>,
    pub status: Option<Value>,
}

/// One part of an object that is not restored as it was.
#[derive(Clone, Copy)]
pub struct Row {
    /// `deployments.apps`; [`EVERY`] for each kind.
    pub resource: &'static str,
    /// The field, in Markdown.
    pub what: &'static str,
    pub action: Action,
    pub reason: &'static str,
}

/// In place of a resource: every kind.
pub const EVERY: &str = "*";

#[derive(Clone, Copy)]
pub enum Action {
    /// Remove the field at this path; `*` is each element of a list.
    Remove(&'static [&'static str]),
    /// The change that the row describes.
    Change(fn(&mut Value, &Context<'_>)),
    /// Restored after the object is created, or changed elsewhere in this module's parent.
    Later,
}

/// Removes from an object of the kind `resource` (`deployments.apps`) what is valid for the old object only, so that it can be created.
/// Owner references stay for [`super::owners::relink`].
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

/// The managed fields to restore; `None` if there are none.
fn entries(managed: Value, status: bool) -> Option<Value> {
    let Value::Array(mut entries) = managed else { return None };
    entries.retain(|entry| entry.is_object() && (status || fields::text(entry, &["subresource"]) != "status"));
    (!entries.is_empty()).then_some(Value::Array(entries))
}
