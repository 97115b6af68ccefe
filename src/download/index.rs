//! Downloads a stream's index and checks it against the manifest before decrypting and decoding any of it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{Error, sealed};
use crate::age::header::HeaderError;
use crate::age::{self, Identity, Opened};
use crate::error::Classify as _;
use crate::format::index::{self, Reader};
use crate::format::key::ObjectKey;
use crate::format::manifest::{IndexObject, Stream};
use crate::location::Location;
use crate::store::Download;

/// A longer index is kept in a temporary file.
pub const IN_MEMORY: u64 = 4 << 20;

/// A checked index object, still compressed, and encrypted if it is. Clones share it, and it can be opened any number of times.
#[derive(Debug, Clone)]
pub struct IndexFile {
    key: ObjectKey,
    data: Data,
    identities: Arc<[Identity]>,
}

#[derive(Debug, Clone)]
enum Data {
    Memory(Bytes),
    /// Unnamed: it disappears with the last clone, or with the process.
    File(Arc<File>),
}

/// A compressed index as a reader.
#[derive(Debug)]
pub enum Input {
    Plain(Stored),
    Sealed(Box<age::Reader<Stored>>),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stored) => stored.read(buffer),
            Self::Sealed(reader) => reader.read(buffer),
        }
    }
}

/// The bytes of an index object.
#[derive(Debug)]
pub struct Stored {
    data: Data,
    position: u64,
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &self.data {
            Data::Memory(bytes) => {
                let rest = usize::try_from(self.position).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                count
            }
            Data::File(file) => file.read_at(buffer, self.position)?,
        };
        self.position += count as u64;
        Ok(count)
    }
}

/// The records of an index.
pub type Records = Reader<zstd::stream::read::Decoder<'static, BufReader<Input>>>;

impl IndexFile {
    /// Starts reading from the beginning. Reading the records blocks.
    ///
    /// # Errors
    /// When the object is not an index, or none of the identities opens it.
    pub fn open(&self, stream: &Stream) -> Result<Records, Error> {
        let input = if self.key.is_encrypted() {
            let opened = self.header(|bytes| Opened::read(bytes, &self.identities))?;
            let payload = self.stored(opened.layout().prefix());
            Input::Sealed(Box::new(age::Reader::new(opened, payload)))
        } else {
            Input::Plain(self.stored(0))
        };
        index::open(input, stream).map_err(|error| self.refused(error))
    }

    /// Reads the header of an encrypted index.
    ///
    /// # Errors
    /// When it is none, or `read` refuses it.
    pub fn header<T>(&self, read: impl Fn(&[u8]) -> Result<T, HeaderError>) -> Result<T, Error> {
        let mut bytes = Vec::new();
        let failed = |error| Error::Local { action: "read the index from a temporary file", error };
        self.stored(0).take(sealed::LONGEST).read_to_end(&mut bytes).map_err(failed)?;
        read(&bytes).map_err(|error| sealed::refused(&self.key, error))
    }

    fn stored(&self, position: u64) -> Stored {
        Stored { data: self.data.clone(), position }
    }

    /// Adds the index's key to an error.
    #[must_use]
    pub fn refused(&self, error: index::IndexError) -> Error {
        Error::Index { key: self.key.clone(), error }
    }
}

/// Downloads the index of `stream` and checks its size and SHA-256.
///
/// # Errors
/// When the object cannot be fetched, is not the one that the manifest describes, or cannot be kept in a temporary
/// file.
pub async fn fetch(location: &Location, stream: &Stream) -> Result<IndexFile, Error> {
    let mut data = attempt(location, &stream.index).await;
    if let Err(error @ Error::Object { .. }) = &data {
        tracing::debug!(key = %stream.index.key, %error, "could not fetch the index: fetching it once more");
        location.once_more(error.class()).await;
        data = attempt(location, &stream.index).await;
    }
    Ok(IndexFile { key: stream.index.key.clone(), data: data?, identities: Arc::clone(&location.identities) })
}

async fn attempt(location: &Location, index: &IndexObject) -> Result<Data, Error> {
    let download = location.store.get(&index.key, None).await.map_err(Error::store(&index.key))?;
    if download.length != index.size {
        let (expected, found) = (index.size.to_string(), download.length.to_string());
        return Err(Error::Object { key: index.key.clone(), field: "the size", expected, found });
    }
    let mut digest = Sha256::new();
    let data = if index.size <= IN_MEMORY {
        into_memory(download, index, &mut digest).await?
    } else {
        into_file(download, index, &mut digest).await?
    };
    let found: [u8; 32] = digest.finalize().into();
    if found != index.sha256 {
        let (expected, found) = (hex::encode(index.sha256), hex::encode(found));
        return Err(Error::Object { key: index.key.clone(), field: "the SHA-256", expected, found });
    }
    Ok(data)
}

async fn into_memory(mut download: Download, index: &IndexObject, digest: &mut Sha256) -> Result<Data, Error> {
    let mut bytes = Vec::with_capacity(usize::try_from(index.size).unwrap_or_default());
    while let Some(piece) = download.body.next().await {
        let piece = piece.map_err(Error::store(&index.key))?;
        digest.update(&piece);
        bytes.extend_from_slice(&piece);
        check_length(index, bytes.len() as u64, More::MayCome)?;
    }
    check_length(index, bytes.len() as u64, More::None)?;
    Ok(Data::Memory(bytes.into()))
}

async fn into_file(mut download: Download, index: &IndexObject, digest: &mut Sha256) -> Result<Data, Error> {
    let failed = |error| Error::Local { action: "write the index to a temporary file", error };
    let file = tokio::task::spawn_blocking(tempfile::tempfile).await.map_err(|_| Error::Stopped)?.map_err(failed)?;
    let mut writer = tokio::fs::File::from_std(file.try_clone().map_err(failed)?);
    let mut length = 0;
    while let Some(piece) = download.body.next().await {
        let piece = piece.map_err(Error::store(&index.key))?;
        digest.update(&piece);
        length += piece.len() as u64;
        check_length(index, length, More::MayCome)?;
        writer.write_all(&piece).await.map_err(failed)?;
    }
    check_length(index, length, More::None)?;
    writer.flush().await.map_err(failed)?;
    Ok(Data::File(Arc::new(file)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    MayCome,
    None,
}

fn check_length(index: &IndexObject, found: u64, more: More) -> Result<(), Error> {
    let fits = match more {
        More::MayCome => found <= index.size,
        More::None => found == index.size,
    };
    if fits { Ok(()) } else { Err(Error::Body { key: index.key.clone(), expected: index.size, found }) }
}
