//! Reads a list as a server sends it, piece by piece, and returns the bytes of each object.
//!
//! - **Exact**: numbers, white space and the order of keys stay. Only if an object has no `kind` or `apiVersion` (objects of built-in
//!   kinds in a list have neither), these are inserted, first in the object.
//! - **Bounded**: it keeps the object that is being read, at most [`MAX_OBJECT`], and the list's own metadata. A larger object is skipped
//!   and reported with its size and, if they stand early enough, its namespace and name; the list continues.
//! - **Hostile input**: all input is untrusted. Depth, lengths, UTF-8 and duplicate keys are checked; a stream that ends early is
//!   [`Fault::Cut`], never a short list.
//!
//! Does no I/O. Costs three passes over each object: where it ends, whether it is UTF-8, and its metadata.

use bytes::Bytes;

use super::item::{self, Item, Kind};
use super::scan::{Scan, Step};

/// etcd stores 1.5 MiB, as protobuf or JSON; base64 and escapes add to it, aggregated APIs have their own limits.
pub const MAX_OBJECT: usize = 16 << 20;

/// The list's metadata contains a continue token of some hundred bytes.
const MAX_METADATA: usize = 1 << 20;

/// `remainingItemCount` is the longest key that is read.
const MAX_KEY: usize = 1024;

/// Why a stream is not a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The connection ended before the list: a retry may help.
    #[error("the answer ends in the middle of the list")]
    Cut,
    #[error("it is not JSON: {0}")]
    NotJson(&'static str),
    #[error("an object in the list is not JSON: {0}")]
    Object(String),
    #[error("an object in the list is not UTF-8")]
    NotUtf8,
    #[error("it is nested deeper than {} levels", super::scan::MAX_DEPTH)]
    Deep,
    #[error("its {0} occurs twice")]
    Twice(&'static str),
    #[error("its {0} is not in the form that Kubernetes writes")]
    Malformed(&'static str),
    #[error("its {0} is larger than any server sends")]
    Large(&'static str),
    #[error("it is a {0}, not a list of objects")]
    NotAList(String),
    #[error("unexpected data follows the list")]
    Trailing,
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Object(Item),
    /// Larger than the limit. Namespace and name are empty if its beginning does not contain them.
    TooLarge {
        size: u64,
        namespace: String,
        name: String,
    },
}

/// The list's own metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMetadata {
    pub resource_version: String,
    /// Empty on the last page.
    #[serde(rename = "continue")]
    pub next: String,
    /// Absent with a selector.
    pub remaining_item_count: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before `{`.
    Start,
    /// After `{` or `,`: a key, or `}` after `{`.
    Key {
        first: bool,
    },
    /// In the key.
    InKey,
    Colon,
    /// Before the value of the current key.
    Value,
    /// In a value that is kept whole, or skipped.
    InValue(Field),
    /// In `items`: an object, or `]` after `[`.
    Item {
        first: bool,
    },
    InItem,
    /// After an object.
    AfterItem,
    /// After a value: `,` or `}`.
    AfterValue,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Kind,
    ApiVersion,
    Metadata,
    Items,
    Other,
}

#[derive(Debug)]
pub struct ListReader {
    expected: Kind,
    most: usize,
    state: State,
    scan: Scan,
    field: Field,
    /// The key, value or object that is being read, if it is kept.
    kept: Vec<u8>,
    /// Bytes of the object that is being read, kept or not.
    size: u64,
    seen: [bool; 4],
    metadata: ListMetadata,
    piece: Bytes,
}

impl ListReader {
    /// Objects without `kind` and `apiVersion` get those of `expected`.
    #[must_use]
    pub fn new(expected: Kind) -> Self {
        Self::with_limit(expected, MAX_OBJECT)
    }

    /// The same with another [`MAX_OBJECT`].
    #[must_use]
    pub fn with_limit(expected: Kind, most: usize) -> Self {
        Self {
            expected,
            most,
            state: State::Start,
            scan: Scan::default(),
            field: Field::Other,
            kept: Vec::new(),
            size: 0,
            seen: [false; 4],
            metadata: ListMetadata::default(),
            piece: Bytes::new(),
        }
    }

    /// Sets the next piece of the stream. The entries of the previous piece must have been read with [`ListReader::next`].
    pub fn feed(&mut self, piece: Bytes) {
        debug_assert!(self.piece.is_empty(), "a piece was not read to its end");
        self.piece = piece;
    }

    /// The next entry of the fed pieces; `None`: feed more.
    ///
    /// # Errors
    /// When this is not a list. The entries returned before stay valid.
    #[expect(clippy::should_implement_trait, reason = "an Iterator would promise to end for good")]
    pub fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let piece = std::mem::take(&mut self.piece);
        let mut at = 0;
        while at < piece.len() {
            let (used, entry) = self.step(&piece[at..])?;
            at += used;
            if let Some(entry) = entry {
                self.piece = piece.slice(at..);
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Call it at the stream's end.
    ///
    /// # Errors
    /// When the list had not ended, or was not a list.
    pub fn finish(self) -> Result<ListMetadata, Fault> {
        match self.state {
            State::End if self.seen[Field::Items as usize] => Ok(self.metadata),
            State::End => Err(Fault::NotAList("JSON object with no items".to_owned())),
            _ => Err(Fault::Cut),
        }
    }

    /// Bytes in the buffer now.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.kept.capacity()
    }

    /// Continues in `rest`, which is not empty: returns how much was used, and an entry that it completed.
    fn step(&mut self, rest: &[u8]) -> Result<(usize, Option<Entry>), Fault> {
        match self.state {
            State::InKey => return self.key(rest).map(|used| (used, None)),
            State::InValue(field) => return self.value(field, rest).map(|used| (used, None)),
            State::InItem => return self.item(rest),
            _ => {}
        }
        let byte = rest[0];
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return Ok((1, None));
        }
        self.state = match (self.state, byte) {
            (State::Start, b'{') => State::Key { first: true },
            (State::Start, _) => return Err(Fault::NotJson("it does not begin with {")),
            (State::Key { .. }, b'"') => return Ok(self.begin(State::InKey)),
            (State::Key { first: true } | State::AfterValue, b'}') => State::End,
            (State::Colon, b':') => State::Value,
            (State::Value, b'[') if self.field == Field::Items => State::Item { first: true },
            (State::Value, _) => return Ok(self.begin(State::InValue(self.field))),
            (State::Item { .. }, b'{') => return Ok(self.begin(State::InItem)),
            (State::Item { first: true } | State::AfterItem, b']') => State::AfterValue,
            (State::Item { .. }, _) => return Err(Fault::Malformed("items")),
            (State::AfterItem, b',') => State::Item { first: false },
            (State::AfterValue, b',') => State::Key { first: false },
            (State::End, _) => return Err(Fault::Trailing),
            _ => return Err(Fault::NotJson("a character is in a place where none is allowed")),
        };
        Ok((1, None))
    }

    /// The value, key or object begins with the next byte.
    fn begin(&mut self, state: State) -> (usize, Option<Entry>) {
        (self.scan, self.size, self.state) = (Scan::default(), 0, state);
        self.kept.clear();
        (0, None)
    }

    /// How much of `rest` belongs to the value that is being read, and whether it ends there.
    fn scan(&mut self, rest: &[u8]) -> Result<(usize, bool), Fault> {
        Ok(match self.scan.step(rest)? {
            Step::More => (rest.len(), false),
            Step::End(at) => (at, true),
        })
    }

    fn key(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let (used, ended) = self.scan(rest)?;
        if self.kept.len() + used > MAX_KEY {
            return Err(Fault::Large("key"));
        }
        self.kept.extend_from_slice(&rest[..used]);
        if ended {
            let key: String =
                serde_json::from_slice(&self.kept).map_err(|_| Fault::NotJson("a key is not a string"))?;
            self.field = self.known(&key)?;
            self.state = State::Colon;
        }
        Ok(used)
    }

    fn known(&mut self, key: &str) -> Result<Field, Fault> {
        let (field, name) = match key {
            "kind" => (Field::Kind, "kind"),
            "apiVersion" => (Field::ApiVersion, "apiVersion"),
            "metadata" => (Field::Metadata, "metadata"),
            "items" => (Field::Items, "items"),
            _ => return Ok(Field::Other),
        };
        if std::mem::replace(&mut self.seen[field as usize], true) { Err(Fault::Twice(name)) } else { Ok(field) }
    }

    fn value(&mut self, field: Field, rest: &[u8]) -> Result<usize, Fault> {
        let (used, ended) = self.scan(rest)?;
        if field != Field::Other {
            if self.kept.len() + used > MAX_METADATA {
                return Err(Fault::Large("metadata"));
            }
            self.kept.extend_from_slice(&rest[..used]);
        }
        if ended {
            self.field(field)?;
            self.state = State::AfterValue;
        }
        Ok(used)
    }

    /// The value of `field` is complete.
    fn field(&mut self, field: Field) -> Result<(), Fault> {
        match field {
            Field::Kind => {
                let kind: String = serde_json::from_slice(&self.kept).map_err(|_| Fault::Malformed("kind"))?;
                // A Table, a Status, or metadata alone, despite the request.
                if !kind.ends_with("List") || kind.starts_with("PartialObjectMetadata") {
                    return Err(Fault::NotAList(kind.chars().take(64).collect()));
                }
            }
            Field::ApiVersion => {
                serde_json::from_slice::<String>(&self.kept).map_err(|_| Fault::Malformed("apiVersion"))?;
            }
            // serde would accept a list as an object.
            Field::Metadata if self.kept.first() != Some(&b'{') => return Err(Fault::Malformed("metadata")),
            Field::Metadata => {
                self.metadata = serde_json::from_slice(&self.kept).map_err(|_| Fault::Malformed("metadata"))?;
            }
            // Go writes an empty list as null.
            Field::Items if self.kept == b"null" => {}
            Field::Items => return Err(Fault::Malformed("items")),
            Field::Other => {}
        }
        Ok(())
    }

    fn item(&mut self, rest: &[u8]) -> Result<(usize, Option<Entry>), Fault> {
        let (used, ended) = self.scan(rest)?;
        self.size += used as u64;
        let free = self.most - self.kept.len().min(self.most);
        self.kept.extend_from_slice(&rest[..used.min(free)]);
        if !ended {
            return Ok((used, None));
        }
        self.state = State::AfterItem;
        let entry = if self.size > self.most as u64 {
            let (namespace, name) = item::name_in_prefix(&self.kept);
            Entry::TooLarge { size: self.size, namespace, name }
        } else {
            Entry::Object(item::read(&self.kept, &self.expected)?)
        };
        self.kept.clear();
        Ok((used, Some(entry)))
    }
}

#[cfg(test)]
mod tests;
