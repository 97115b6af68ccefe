//! A part: filled, sealed with its checksums, compared with the stored part of a resumed upload.

use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::journal::Part;
use crate::budget::Grant;
use crate::budget::segments::Segments;
use crate::checksum::{Algorithm, Checksum, Crc64nvme, crc32c, sha256};
use crate::format::index::Chunk;
use crate::format::key::ObjectKey;
use crate::store::{PartNumber, Payload};

/// A part's checksums: the one that the server checks, and the one that the manifest's checksum of the object is combined from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) number: PartNumber,
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
    pub(super) crc64nvme: u64,
}

impl Sent {
    /// Whether the stored part has the same bytes: by size, checksum, and the chunks that end in it.
    pub(super) fn is(&self, stored: &Part, chunks: &[Chunk]) -> bool {
        let ids = |chunks: &[Chunk]| chunks.iter().map(|chunk| (chunk.id, chunk.offset)).collect::<Vec<_>>();
        stored.uploaded.size == self.size
            && stored.crc64nvme == self.crc64nvme
            && (stored.uploaded.checksum.is_none() || stored.uploaded.checksum == self.checksum)
            && ids(&stored.chunks) == ids(chunks)
    }
}

/// The part being filled.
#[derive(Debug)]
pub(super) struct Filling {
    segments: Segments,
    /// Computed as bytes arrive, so that the server's check finds a corruption of the buffer in memory.
    crc64nvme: Crc64nvme,
}

impl Filling {
    pub(super) fn new(grant: Grant) -> Self {
        Self { segments: grant.segments(), crc64nvme: Crc64nvme::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.segments.room() == 0
    }

    /// Appends as many bytes as fit, and returns their number. Computes the checksum while the bytes are in the processor's cache.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut filled = 0;
        loop {
            let count = self.segments.fill(&bytes[filled..]);
            if count == 0 {
                return filled;
            }
            self.crc64nvme.update(&bytes[filled..filled + count]);
            filled += count;
        }
    }

    pub(super) fn freeze(self) -> Filled {
        let (pieces, grant) = self.segments.freeze();
        Filled { pieces, crc64nvme: self.crc64nvme.finish(), _grant: Some(grant) }
    }
}

/// A part to be sent. Holds its memory until it is dropped.
#[derive(Debug)]
pub(super) struct Filled {
    pieces: Arc<[Bytes]>,
    crc64nvme: u64,
    _grant: Option<Grant>,
}

impl Filled {
    pub(super) fn empty() -> Self {
        Self { pieces: Arc::default(), crc64nvme: Crc64nvme::new().finish(), _grant: None }
    }

    pub(super) fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Adds the checksum that the server checks, off the runtime's threads: SHA-256 of 16 MiB takes 11 ms.
    pub(super) async fn seal(
        &self,
        number: PartNumber,
        algorithm: Algorithm,
        key: &ObjectKey,
    ) -> Result<(Sent, Payload), Error> {
        let computed = async |compute: fn(&[Bytes]) -> Checksum| {
            let pieces = Arc::clone(&self.pieces);
            let computed = tokio::task::spawn_blocking(move || compute(&pieces)).await;
            computed.map_err(|error| Error::Task { key: key.clone(), reason: error.to_string() })
        };
        let checksum = match algorithm {
            Algorithm::None => None,
            Algorithm::Crc64nvme => Some(Checksum::Crc64nvme(self.crc64nvme)),
            Algorithm::Crc32c => Some(computed(|pieces| Checksum::Crc32c(crc32c(pieces))).await?),
            Algorithm::Sha256 => Some(computed(|pieces| Checksum::Sha256(sha256(pieces))).await?),
        };
        let sent = Sent { number, size: self.size(), checksum, crc64nvme: self.crc64nvme };
        Ok((sent, Payload { pieces: Arc::clone(&self.pieces), checksum }))
    }
}
