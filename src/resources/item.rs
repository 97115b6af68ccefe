//! One object of a list: its bytes, and the few of its fields that a backup reads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::list::Fault;

/// The `apiVersion` and `kind` of a list's objects, if they do not contain these themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    pub api_version: String,
    pub kind: String,
}

/// An object. Its content is never shown: it may be a Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    pub bytes: Bytes,
    pub metadata: Metadata,
    /// The `type` of a Secret.
    pub secret_type: String,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Metadata { namespace, name, .. } = &self.metadata;
        f.debug_struct("Item")
            .field("namespace", namespace)
            .field("name", name)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// The fields of `metav1.ObjectMeta` that filters need.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub owner_references: Vec<Owner>,
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: Option<bool>,
}

/// Go writes an empty value as `null`, if it writes it at all.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: de::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The object's top level. serde's derive refuses a key that occurs twice.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Top {
    #[serde(default)]
    kind: Present,
    #[serde(default)]
    api_version: Present,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default, rename = "type")]
    type_: Text,
}

/// Whether a key is present, whatever its value.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

/// A string in a Secret; custom resources may have any value there, which is ignored.
#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrAnything)
    }
}

struct TextOrAnything;

impl<'de> Visitor<'de> for TextOrAnything {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Text, A::Error> {
        IgnoredAny.visit_seq(seq).map(|_| Text::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Text, A::Error> {
        IgnoredAny.visit_map(map).map(|_| Text::default())
    }
}

/// `bytes` is one JSON object, from its first bracket to its last.
///
/// # Errors
/// When they are not, or are no object that a list may have.
pub fn read(bytes: &[u8], expected: &Kind) -> Result<Item, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8)?;
    let top: Top = serde_json::from_str(text).map_err(|error| {
        // The error's text may quote the object.
        Fault::Object(format!("at byte {} of it", offset(text, error.line(), error.column())))
    })?;
    let bytes = match (top.api_version.0, top.kind.0) {
        (true, true) => Bytes::copy_from_slice(bytes),
        (version, kind) => splice(text, !version, !kind, expected),
    };
    Ok(Item { bytes, metadata: top.metadata, secret_type: top.type_.0 })
}

fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    before + column
}

/// Inserts the missing fields after the first bracket.
fn splice(text: &str, version: bool, kind: bool, expected: &Kind) -> Bytes {
    let rest = &text[1..];
    let is_empty = rest.trim_start().starts_with('}');
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let version = version.then(|| format!("\"apiVersion\":{}", quoted(&expected.api_version)));
    let kind = kind.then(|| format!("\"kind\":{}", quoted(&expected.kind)));
    let fields: Vec<String> = [version, kind].into_iter().flatten().collect();
    let mut out = Vec::with_capacity(text.len() + 128);
    out.push(b'{');
    out.extend_from_slice(fields.join(",").as_bytes());
    if !is_empty {
        out.push(b',');
    }
    out.extend_from_slice(rest.as_bytes());
    out.into()
}

/// Namespace and name of an object that is too large, if its beginning contains them.
pub(super) fn name_in_prefix(prefix: &[u8]) -> (String, String) {
    let found = RefCell::new(Metadata::default());
    // The text ends in the middle of the object, so parsing always fails.
    let _ = Prefix(&found).deserialize(&mut serde_json::Deserializer::from_slice(prefix));
    let Metadata { namespace, name, .. } = found.into_inner();
    (namespace, name)
}

struct Prefix<'a>(&'a RefCell<Metadata>);

impl<'de> DeserializeSeed<'de> for Prefix<'_> {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Prefix<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "metadata" {
                *self.0.borrow_mut() = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}
