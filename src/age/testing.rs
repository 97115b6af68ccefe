//! What the tests of this module share.

use bytes::Bytes;

use super::{Encryptor, Envelope, Identity, Opened};

/// Bytes that do not repeat within a chunk.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A whole object, encrypted to one identity.
pub(super) struct Object {
    pub(super) identity: [Identity; 1],
    pub(super) prefix: usize,
    pub(super) bytes: Vec<u8>,
}

impl Object {
    pub(super) fn of(plain: &[u8]) -> Self {
        let identity = [Identity::generate().unwrap()];
        let envelope = Envelope::new(&[identity[0].recipient()]).unwrap();
        let mut bytes = envelope.prefix().to_vec();
        let prefix = bytes.len();
        let mut encryptor = Encryptor::new(envelope);
        let mut runs = encryptor.write(Bytes::copy_from_slice(plain));
        runs.push(encryptor.finish());
        bytes.extend(runs.into_iter().flat_map(|run| run.seal().unwrap().0));
        Self { identity, prefix, bytes }
    }

    pub(super) fn opened(&self) -> Opened {
        Opened::read(&self.bytes, &self.identity).unwrap()
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[self.prefix..]
    }
}
