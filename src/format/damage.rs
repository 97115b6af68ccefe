//! The record of a backup's damage: `damaged.json` beside its manifest. `verify --data` writes what it found lost; the next backup of the chain
//! stores these chunks again instead of referring to them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::key::ObjectKey;

const FORMAT: u32 = 1;

/// The most bytes of a record.
pub const MAX_SIZE: u64 = 2 << 20;

/// The most chunks of a record, and of all records that a run takes up.
pub const MAX_CHUNKS: usize = 100_000;

/// What an object takes in a record besides its key, and an offset, at most.
const OBJECT: usize = 8;
const OFFSET: usize = 21;

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
    #[error("it names {0} chunks; expected at most {MAX_CHUNKS}")]
    Chunks(usize),
}

/// The record of these chunks, or of as many as fit; and how many those are.
///
/// # Panics
/// Never: the record has only strings and numbers.
#[must_use]
pub fn to_json(places: &Places) -> (Vec<u8>, usize) {
    let (mut chunks, mut bytes) = (0, usize::try_from(MAX_SIZE).unwrap_or(usize::MAX) - 100);
    let sorted: BTreeMap<_, _> = places.iter().collect();
    let mut objects = BTreeMap::new();
    for (key, offsets) in sorted {
        let Some(left) = bytes.checked_sub(key.as_str().len() + OBJECT) else { break };
        let mut offsets: Vec<u64> = offsets.iter().copied().collect();
        offsets.sort_unstable();
        offsets.truncate((left / OFFSET).min(MAX_CHUNKS - chunks));
        bytes = left - offsets.len() * OFFSET;
        chunks += offsets.len();
        objects.insert(key.clone(), offsets);
    }
    (serde_json::to_vec(&Record { format: FORMAT, objects }).expect("only strings and numbers"), chunks)
}

/// # Errors
/// When `bytes` are no record of this format.
pub fn parse(bytes: &[u8]) -> Result<Places, Error> {
    let Record { format, objects } = serde_json::from_slice(bytes)?;
    if format != FORMAT {
        return Err(Error::Format(format));
    }
    let chunks = objects.values().map(Vec::len).sum();
    if chunks > MAX_CHUNKS {
        return Err(Error::Chunks(chunks));
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
        let (json, chunks) = to_json(&places);
        assert_eq!((parse(&json).unwrap(), chunks), (places, 3));
        assert!(matches!(parse(br#"{"format":2,"objects":{}}"#), Err(Error::Format(2))));
        assert!(matches!(parse(b"[]"), Err(Error::Json(_))));
        // However many, and in however many objects: what is written is read.
        let one = |first: u64, count: u64| -> HashSet<u64> { (first..first + count).collect() };
        let long = "k".repeat(900);
        let of_many = (0..5000).map(|n| (key(&format!("{long}{n}")), one(u64::MAX - 10, 5))).collect();
        for many in [
            Places::from([(key("a"), one(u64::MAX - 300_000, 200_000))]),
            Places::from([(key("a"), one(0, 200_000))]),
            of_many,
        ] {
            let (json, chunks) = to_json(&many);
            let found = parse(&json).unwrap();
            assert!(json.len() as u64 <= MAX_SIZE && chunks > 10_000, "{} bytes, {chunks} chunks", json.len());
            assert_eq!(found.values().map(HashSet::len).sum::<usize>(), chunks);
            assert!(found.iter().all(|(key, offsets)| offsets.is_subset(&many[key])));
        }
        let zeros = vec!["0"; MAX_CHUNKS + 1].join(",");
        assert!(matches!(
            parse(format!(r#"{{"format":1,"objects":{{"a":[{zeros}]}}}}"#).as_bytes()),
            Err(Error::Chunks(_))
        ));
    }
}
