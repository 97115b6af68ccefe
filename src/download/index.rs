//! A stream's index, downloaded and checked against the manifest before a byte of it is decoded.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::Error;
use crate::error::Classify as _;
use crate::format::index::{self, Reader};
use crate::format::key::ObjectKey;
use crate::format::manifest::{IndexObject, Stream};
use crate::location::Location;
use crate::store::Download;

/// A longer index goes into a temporary file.
pub const IN_MEMORY: u64 = 4 << 20;

/// A checked index object, still compressed. Clones share it, and it can be opened any number of times.
#[derive(Debug, Clone)]
pub struct IndexFile {
    key: ObjectKey,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    Memory(Bytes),
    /// Unnamed: it is gone with the last clone, or with the process.
    File(Arc<File>),
}

/// An index being read, compressed.
#[derive(Debug)]
pub struct Input {
    data: Data,
    position: u64,
}

impl Read for Input {
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
    /// Starts reading, from the beginning. The records are read on a thread that may block.
    ///
    /// # Errors
    /// When it is no index.
    pub fn open(&self, stream: &Stream) -> Result<Records, Error> {
        let input = Input { data: self.data.clone(), position: 0 };
        index::open(input, stream).map_err(|error| self.refused(error))
    }

    /// The error with the key that it lacks.
    #[must_use]
    pub fn refused(&self, error: index::IndexError) -> Error {
        Error::Index { key: self.key.clone(), error }
    }
}

/// Downloads the index of `stream` and checks its size and SHA-256.
///
/// # Errors
/// When it cannot be fetched, is not the object the manifest describes, or there is no room for it.
pub async fn fetch(location: &Location, stream: &Stream) -> Result<IndexFile, Error> {
    let mut data = attempt(location, &stream.index).await;
    if let Err(error @ Error::Object { .. }) = &data {
        tracing::debug!(%error, "fetching the index again");
        location.endpoint.once_more("s3", error.class()).await;
        data = attempt(location, &stream.index).await;
    }
    Ok(IndexFile { key: stream.index.key.clone(), data: data? })
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
    let failed = |error| Error::Local { action: "writing the index to a temporary file", error };
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
