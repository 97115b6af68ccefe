//! What the schema says of a key, by the shape of its value.

use serde_json::{Map, Value, json};

/// A string that holds a variable, or nothing, may stand wherever a word does.
const VARIABLE_OR_EMPTY: &str = r"^$|\$\{";

/// A key and the schema of its value.
pub(super) type Property = (&'static str, Value);

/// A table: what it is for, and the keys that it must have.
pub(super) struct Object<'a>(pub &'a str, pub &'a [&'a str]);

impl Object<'_> {
    pub(super) fn of(self, properties: impl IntoIterator<Item = Property>) -> Value {
        let properties: Map<_, _> = properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        json!({
            "description": self.0,
            "type": "object",
            "properties": properties,
            "required": self.1,
            "additionalProperties": false,
        })
    }
}

pub(super) fn string(description: &str) -> Value {
    json!({"description": description, "type": "string"})
}

pub(super) fn array(description: &str, each: &Value) -> Value {
    json!({"description": description, "type": "array", "items": each})
}

pub(super) fn named(key: &'static str, description: &str, each: &Value) -> Property {
    (key, json!({"description": description, "type": "object", "additionalProperties": each}))
}

pub(super) fn list(key: &'static str, description: &str, each: &Value) -> Property {
    (key, array(description, each))
}

pub(super) fn tags(key: &'static str, description: &str, most: u32) -> Property {
    let value = json!({"type": "string"});
    (key, json!({"description": description, "type": "object", "maxProperties": most, "additionalProperties": value}))
}

pub(super) fn text(key: &'static str, description: &str) -> Property {
    (key, string(description))
}

pub(super) fn default_text(key: &'static str, description: &str, default: &str) -> Property {
    (key, json!({"description": description, "type": "string", "default": default}))
}

pub(super) fn boolean(key: &'static str, description: &str, default: bool) -> Property {
    (key, json!({"description": description, "type": "boolean", "default": default}))
}

pub(super) fn integer(key: &'static str, description: &str, least: u32, most: u32, default: u32) -> Property {
    (key, json!({"description": description, "type": "integer", "minimum": least, "maximum": most, "default": default}))
}

pub(super) fn share(key: &'static str, description: &str, default: f64) -> Property {
    (key, json!({"description": description, "type": "number", "minimum": 0, "maximum": 1, "default": default}))
}

pub(super) fn size(key: &'static str, description: &str, default: &str) -> Property {
    (key, json!({"description": description, "type": ["string", "integer"], "minimum": 0, "default": default}))
}

pub(super) fn words(key: &'static str, description: &str, words: &[&str]) -> Property {
    let any_of = json!([{"enum": words}, {"type": "string", "pattern": VARIABLE_OR_EMPTY}]);
    (key, json!({"description": description, "anyOf": any_of}))
}

/// The first word is the default.
pub(super) fn default_words(key: &'static str, description: &str, choices: &[&str]) -> Property {
    let (key, mut schema) = words(key, description, choices);
    schema["default"] = json!(choices.first().copied().unwrap_or_default());
    (key, schema)
}
