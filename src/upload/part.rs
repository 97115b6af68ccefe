//! A part from its first byte to what is sent: filled, sealed with its checksums, compared with what is held of it already.

use bytes::Bytes;

use super::Error;
use super::journal::Part;
use crate::budget::Buffer;
use crate::checksum::{Algorithm, Checksum, Crc64nvme};
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
    buffer: Buffer,
    /// Of what is in it, as it came: a byte that the buffer does not keep is the server's to find.
    crc64nvme: Crc64nvme,
}

impl Filling {
    pub(super) fn new(buffer: Buffer) -> Self {
        Self { buffer, crc64nvme: Crc64nvme::new() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.buffer.room() == 0
    }

    /// Appends as much as there is room for, and returns how much that was. The checksum follows the copy while the bytes are in
    /// the processor's cache.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let mut filled = 0;
        for piece in bytes.chunks(128 << 10) {
            let count = self.buffer.fill(piece);
            self.crc64nvme.update(&piece[..count]);
            filled += count;
            if count < piece.len() {
                break;
            }
        }
        filled
    }

    pub(super) fn freeze(self) -> (Bytes, u64) {
        (self.buffer.freeze(), self.crc64nvme.finish())
    }
}

/// Adds the checksum that the server checks, unless it is the one there is: away from the runtime's threads, since 16 MiB of SHA-256
/// take 11 ms.
pub(super) async fn seal(
    number: PartNumber,
    data: Bytes,
    crc64nvme: u64,
    algorithm: Algorithm,
    key: &ObjectKey,
) -> Result<(Sent, Payload), Error> {
    let checksum = match algorithm {
        Algorithm::None => None,
        Algorithm::Crc64nvme => Some(Checksum::Crc64nvme(crc64nvme)),
        Algorithm::Crc32c | Algorithm::Sha256 => {
            let data = data.clone();
            let computed = tokio::task::spawn_blocking(move || algorithm.compute(&data)).await;
            computed.map_err(|error| Error::Task { key: key.clone(), reason: error.to_string() })?
        }
    };
    Ok((Sent { number, size: data.len() as u64, checksum, crc64nvme }, Payload { data, checksum }))
}
