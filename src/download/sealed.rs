//! Encrypted objects: what opens their headers, and what their errors are.
//!
//! An object's key is in its own header, so a stream costs one more request for each object that it reads. Up to
//! [`MOST_KEPT`] opened headers are kept while a stream is read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::{Error, get_into};
use crate::age::header::{Header, HeaderError};
use crate::age::wire::{MAX_HEADER, WireError};
use crate::age::{Opened, Ranged};
use crate::format::key::ObjectKey;
use crate::format::manifest::DataObject;
use crate::location::Location;

/// The first bytes of an object that are fetched for its header: room for forty recipients.
const FIRST: u64 = 4 << 10;

/// The longest header that is read, and the nonce behind it.
pub(super) const LONGEST: u64 = (MAX_HEADER + 16) as u64;

/// A manifest may list a hundred thousand objects; an opened header takes a kilobyte.
const MOST_KEPT: usize = 1024;

/// Says which object a header belongs to.
pub(super) fn refused(key: &ObjectKey, error: HeaderError) -> Error {
    let key = key.clone();
    match error {
        HeaderError::NoIdentity { .. } | HeaderError::Passphrase => Error::Identity { key, error },
        error => Error::Header { key, error },
    }
}

/// A header of another version of age is one that a newer Penstock reads.
pub(super) fn is_newer(error: &HeaderError) -> bool {
    matches!(error, HeaderError::Wire(WireError::Version))
}

/// The first bytes of an object, more of them if `enough` says that they are cut within its header.
pub(super) async fn header<T>(
    location: &Location,
    key: &ObjectKey,
    size: u64,
    read: impl Fn(&[u8]) -> Result<T, HeaderError>,
) -> Result<T, Error> {
    let mut first = FIRST;
    loop {
        let mut bytes = vec![0; usize::try_from(size.min(first)).expect("at most the longest header")];
        if !bytes.is_empty() {
            get_into(&*location.store, key, 0, &mut bytes).await?;
        }
        match read(&bytes) {
            Err(error) if error.is_incomplete() && first < LONGEST && size > first => first = LONGEST,
            result => return result.map_err(|error| refused(key, error)),
        }
    }
}

/// A part of an object that is being fetched: the payload's bytes, and what opens them.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) of: Arc<Ranged>,
    pub(super) payload: Range<u64>,
    /// The encrypted bytes to fetch for it.
    pub(super) fetch: Range<u64>,
}

impl Part {
    /// Bytes to fetch.
    pub(super) fn length(&self) -> usize {
        usize::try_from(self.fetch.end - self.fetch.start).unwrap_or(usize::MAX)
    }
}

/// The opened headers of one stream's objects, by position. Each is fetched once, even by concurrent readers.
#[derive(Debug, Default)]
pub(super) struct Headers(Mutex<HashMap<u32, Arc<OnceCell<Arc<Ranged>>>>>);

impl Headers {
    fn cell(&self, number: u32) -> Arc<OnceCell<Arc<Ranged>>> {
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.len() >= MOST_KEPT && !cells.contains_key(&number) {
            cells.clear();
        }
        Arc::clone(cells.entry(number).or_default())
    }

    /// What was read of an object does not fit its header: it is fetched anew the next time.
    pub(super) fn forget(&self, number: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// How to fetch `payload` of the object at that position.
    pub(super) async fn part(
        &self,
        location: &Location,
        (number, object): (u32, &DataObject),
        payload: Range<u64>,
    ) -> Result<Part, Error> {
        let cell = self.cell(number);
        let of = cell.get_or_try_init(|| async { open(location, object).await.map(Arc::new) }).await?;
        let fetch = of.fetch(&payload).ok_or_else(|| Error::Object {
            key: object.key.clone(),
            field: "the length of the payload",
            expected: format!("at least {}", payload.end),
            found: of.plain_len().to_string(),
        })?;
        Ok(Part { of: Arc::clone(of), payload, fetch })
    }
}

/// Opens an object's header.
async fn open(location: &Location, object: &DataObject) -> Result<Ranged, Error> {
    let DataObject { key, size, .. } = object;
    let opened = header(location, key, *size, |bytes| Opened::read(bytes, &location.identities)).await?;
    Ranged::new(opened, *size).map_err(|error| Error::Payload { key: key.clone(), error: error.into() })
}

/// Reads an encrypted object's header, without any key, and the length of the payload, which follows from the object's.
///
/// # Errors
/// When the header cannot be read, is none, or no payload makes an object of that length.
pub async fn inspect(location: &Location, object: &DataObject) -> Result<(Header, u64), Error> {
    let DataObject { key, size, .. } = object;
    let header = header(location, key, *size, Header::read).await?;
    let length = header.layout().plain_len(*size);
    let length = length.map_err(|error| Error::Payload { key: key.clone(), error: error.into() })?;
    Ok((header, length))
}

/// Checks an encrypted object's header against its key, and that the object ends where its length says.
///
/// # Errors
/// When either is wrong, or none of the identities opens the header.
pub async fn prove_end(location: &Location, object: &DataObject, header: &Header) -> Result<(), Error> {
    let DataObject { key, size, .. } = object;
    let refused = |error| Error::Payload { key: key.clone(), error };
    let opened = header.open(&location.identities).map_err(|error| self::refused(key, error))?;
    let ranged = Ranged::new(opened, *size).map_err(|error| refused(error.into()))?;
    let end = ranged.end();
    let mut last = vec![0; usize::try_from(end.end - end.start).expect("at most a chunk")];
    get_into(&*location.store, key, end.start, &mut last).await?;
    ranged.prove_end(&last).map_err(refused)
}
