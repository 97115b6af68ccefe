//! A part from its first byte to what is sent: filled, sealed with its checksums, compared with what is held of it already.

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

/// A part's checksums: the one the server checks, and the one the manifest wants of the whole object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) number: PartNumber,
    pub(super) size: u64,
    pub(super) checksum: Option<Checksum>,
    pub(super) crc64nvme: u64,
}

impl Sent {
    /// Whether a part that is held has these bytes: by size, checksum, and the names of the chunks that end in it.
    pub(super) fn is(&self, held: &Part, chunks: &[Chunk]) -> bool {
        let ids = |chunks: &[Chunk]| chunks.iter().map(|chunk| (chunk.id, chunk.offset)).collect::<Vec<_>>();
        held.uploaded.size == self.size
            && held.crc64nvme == self.crc64nvme
            && (held.uploaded.checksum.is_none() || held.uploaded.checksum == self.checksum)
            && ids(&held.chunks) == ids(chunks)
    }
}

/// The part that comes next.
#[derive(Debug)]
pub(super) struct Filling {
    segments: Segments,
    /// Of what is in it, as it came: a byte that the memory does not keep is the server's to find.
    crc64nvme: Crc64nvme,
}

impl Filling {
    pub(super) fn new(grant: Grant) -> Self {
        Self { segments: grant.segments(), crc64nvme: Crc64nvme::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.segments.room() == 0
    }

    /// Appends as much as there is room for, and returns how much that was. The checksum follows the copy while the bytes are in
    /// the processor's cache.
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

    /// Adds the checksum that the server checks, unless it is the one there is: away from the runtime's threads, since 16 MiB of SHA-256
    /// take 11 ms.
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
