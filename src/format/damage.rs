//! The record of a backup's damage: `damaged.json` beside its manifest. `verify --data` writes what it found lost; the next backup of the chain
//! stores these chunks again instead of referring to them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::key::ObjectKey;

const FORMAT: u32 = 1;

/// The most bytes of a record that are read.
pub const MAX_SIZE: u64 = 8 << 20;

/// The most chunks of a record, so that it stays far below [`MAX_SIZE`].
pub const MAX_CHUNKS: usize = 100_000;

/// The places of damaged chunks: for each object the offsets at which they begin, in an encrypted one those in the payload.
pub type Places = HashMap<ObjectKey, HashSet<u64>>;

#[derive(Serialize, Deserialize)]
struct Record {
    format: u32,
    objects: BTreeMap<ObjectKey, Vec<u64>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is not JSON of this form: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its format is {0}; expected {FORMAT}")]
    Format(u32),
}

/// The record of at most [`MAX_CHUNKS`] of these chunks.
///
/// # Panics
/// Never: the record has only strings and numbers.
#[must_use]
pub fn to_json(places: &Places) -> Vec<u8> {
    let mut room = MAX_CHUNKS;
    let sorted: BTreeMap<_, _> = places.iter().collect();
    let mut objects = BTreeMap::new();
    for (key, offsets) in sorted {
        let mut offsets: Vec<u64> = offsets.iter().copied().collect();
        offsets.sort_unstable();
        offsets.truncate(room);
        room -= offsets.len();
        objects.insert(key.clone(), offsets);
    }
    serde_json::to_vec(&Record { format: FORMAT, objects }).expect("only strings and numbers")
}

/// # Errors
/// When `bytes` are no record of this format.
pub fn parse(bytes: &[u8]) -> Result<Places, Error> {
    let Record { format, objects } = serde_json::from_slice(bytes)?;
    if format != FORMAT {
        return Err(Error::Format(format));
    }
    Ok(objects.into_iter().map(|(key, offsets)| (key, offsets.into_iter().collect())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_another_format_is_refused() {
        let key = |name: &str| ObjectKey::new(name);
        let places: Places = [(key("a"), HashSet::from([7, 0])), (key("b"), HashSet::from([u64::MAX]))].into();
        assert_eq!(parse(&to_json(&places)).unwrap(), places);
        assert!(matches!(parse(br#"{"format":2,"objects":{}}"#), Err(Error::Format(2))));
        assert!(matches!(parse(b"[]"), Err(Error::Json(_))));
        let many: Places = [(key("a"), (0..2 * MAX_CHUNKS as u64).collect())].into();
        let json = to_json(&many);
        assert!(json.len() as u64 <= MAX_SIZE && parse(&json).unwrap()[&key("a")].len() == MAX_CHUNKS);
    }
}
