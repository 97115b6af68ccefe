//! Finds what still names an old namespace after the mapping: it is reported, not changed.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::inventory::cleaned::{self, Fields};
use crate::reinstate::fields::text;

/// The most field paths that [`mentions`] returns for one object.
pub const MOST_MENTIONS: usize = cleaned::MOST_PATHS;

/// Paths of strings in `object` (mapped) that still name one of the namespaces `old`; [`MOST_MENTIONS`] at most. These are a host
/// (`db.OLD.svc`), a name with its namespace (`OLD/db`, `system:serviceaccount:OLD:db`), and a field or label whose value is a namespace.
/// The data of Secrets is searched too, but never shown.
#[must_use]
pub fn mentions(object: &Value, old: &[&str]) -> Vec<String> {
    if old.is_empty() {
        return Vec::new();
    }
    let old: Vec<Old> = old.iter().map(|name| Old::new(name)).collect();
    let mut search = Search { old: &old, fields: Fields::default(), path: String::new() };
    let is_secret = text(object, &["kind"]) == "Secret" && text(object, &["apiVersion"]) == "v1";
    for (key, value) in object.as_object().into_iter().flatten() {
        cleaned::step(&mut search.path, key);
        match key.as_str() {
            // The status is what controllers observed.
            "status" => {}
            "data" if is_secret => search.secret(value),
            _ => search.value(key, value),
        }
        search.path.clear();
    }
    search.fields.paths
}

struct Old<'a> {
    name: &'a str,
    host: String,
    account: String,
    accounts: String,
    prefix: String,
}

impl<'a> Old<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            host: format!(".{name}.svc"),
            account: format!("system:serviceaccount:{name}:"),
            accounts: format!("system:serviceaccounts:{name}"),
            prefix: format!("{name}/"),
        }
    }

    fn is_in(&self, text: &str) -> bool {
        text.contains(&self.host)
            || text.contains(&self.account)
            || text == self.accounts
            || text.match_indices(&self.prefix).any(|(at, _)| begins(&text[..at]))
    }
}

/// Whether a name can begin after `before`: in `registry/team/shop/web` only the first can, unless it is a path of the API.
fn begins(before: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    before.ends_with("namespaces/") || !before.ends_with(is_inner)
}

struct Search<'a> {
    old: &'a [Old<'a>],
    fields: Fields,
    path: String,
}

impl Search<'_> {
    fn value(&mut self, key: &str, value: &Value) {
        let length = self.path.len();
        match value {
            Value::String(text) if self.is_named(key, text) => self.fields.add(&self.path),
            Value::Array(elements) => {
                for (n, element) in elements.iter().enumerate() {
                    write!(self.path, "[{n}]").expect("a string takes all");
                    // The elements of `namespaces` have its meaning.
                    self.value(key, element);
                    self.path.truncate(length);
                }
            }
            Value::Object(fields) => {
                let about = about_namespaces(fields);
                for (key, value) in fields {
                    if is_copy(key) {
                        continue;
                    }
                    cleaned::step(&mut self.path, key);
                    let key = if about && matches!(key.as_str(), "value" | "values") { "namespace" } else { key };
                    self.value(key, value);
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn is_named(&self, key: &str, text: &str) -> bool {
        self.old.iter().any(|old| (text == old.name && is_namespace(key)) || old.is_in(text))
    }

    fn secret(&mut self, data: &Value) {
        let length = self.path.len();
        for (key, value) in data.as_object().into_iter().flatten() {
            let Some(bytes) = value.as_str().and_then(|text| STANDARD.decode(text).ok()) else { continue };
            cleaned::step(&mut self.path, key);
            if self.is_named(key, &String::from_utf8_lossy(&bytes)) {
                self.fields.add(&self.path);
            }
            self.path.truncate(length);
        }
    }
}

/// Copies of other fields, and fields of the server.
fn is_copy(key: &str) -> bool {
    matches!(key, "managedFields" | "kubectl.kubernetes.io/last-applied-configuration")
}

/// `namespace`, `release-namespace`, `targetNamespace`, `namespaces`, `POD_NAMESPACE`, and the label of a namespace with its name.
fn is_namespace(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.ends_with("namespace") || key.ends_with("namespaces") || key == "kubernetes.io/metadata.name"
}

/// An environment variable, or an expression of a selector, whose value is a namespace.
fn about_namespaces(fields: &Map<String, Value>) -> bool {
    ["name", "key"].iter().filter_map(|key| fields.get(*key)?.as_str()).any(is_namespace)
}
