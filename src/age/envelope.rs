//! What an object's encryption begins with: file key, header, nonce; and its record in the journal.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use zeroize::Zeroizing;

use super::cipher::{self, FILE_KEY, FileKey, NONCE, PayloadKey, Secret};
use super::header::{self, Header, HeaderError, MAX_RECIPIENTS};
use super::key::Recipient;
use super::{Failed, Layout, Tags};

/// A file key and a nonce that no object has had, wrapped for the recipients. For one object; cannot be cloned.
pub struct Envelope {
    pub(super) file_key: FileKey,
    pub(super) nonce: [u8; NONCE],
    /// Header and nonce.
    prefix: Vec<u8>,
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("prefix", &self.prefix.len()).finish_non_exhaustive()
    }
}

impl Envelope {
    /// # Errors
    /// When the system gives no random bytes.
    ///
    /// # Panics
    /// Without a recipient, and with more than [`MAX_RECIPIENTS`]: the configuration is checked for both.
    pub fn new(recipients: &[Recipient]) -> Result<Self, Failed> {
        assert!(
            (1..=MAX_RECIPIENTS).contains(&recipients.len()),
            "the configuration has 1 to {MAX_RECIPIENTS} recipients"
        );
        let file_key = FileKey::random()?;
        let mut nonce = [0; NONCE];
        cipher::random(&mut nonce)?;
        let prefix = header::write(&file_key, &nonce, recipients)?;
        Ok(Self { file_key, nonce, prefix })
    }

    /// The object's first bytes: header and nonce.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::new(self.prefix.len() as u64)
    }

    pub(super) fn payload(&self) -> PayloadKey {
        self.file_key.payload(&self.nonce)
    }

    /// What continues this object in another process, in base64. **It holds the file key**: for a file of mode 0600 that is removed with
    /// the upload. It must be durable before the object's first byte is sent.
    #[must_use]
    pub fn record(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([self.file_key.0.as_slice(), &self.prefix].concat());
        let mut text = Zeroizing::new(String::with_capacity(bytes.len().div_ceil(3) * 4));
        BASE64.encode_string(&*bytes, &mut text);
        text
    }
}

/// Why a record of the journal continues no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("the record of the object's key is damaged")]
    Damaged,
    #[error("the record of the object's key is damaged: {0}")]
    Header(#[from] HeaderError),
    #[error("could not continue the object at chunk {at}: the tags of {known} chunks are recorded")]
    Gap { at: u64, known: u64 },
}

/// An object whose process died, with the tags of every chunk that may have left it.
#[derive(Debug)]
pub struct Interrupted {
    pub(super) envelope: Envelope,
    pub(super) tags: Tags,
}

impl Interrupted {
    /// `tags` must be those of all chunks of which a byte may have been sent; more do no harm.
    ///
    /// # Errors
    /// When the record is not whole: key and header must fit each other.
    pub fn read(record: &str, tags: Tags) -> Result<Self, JournalError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(record.len()));
        BASE64.decode_vec(record, &mut bytes).map_err(|_| JournalError::Damaged)?;
        let (key, prefix) = bytes.split_first_chunk::<FILE_KEY>().ok_or(JournalError::Damaged)?;
        let mut file_key = FileKey(Secret::zeros());
        file_key.0.copy_from_slice(key);
        let header = Header::read(prefix)?;
        header.with(&file_key)?;
        let nonce = *prefix.last_chunk().ok_or(JournalError::Damaged)?;
        if header.layout().prefix() != prefix.len() as u64 {
            return Err(JournalError::Damaged);
        }
        Ok(Self { envelope: Envelope { file_key, nonce, prefix: prefix.to_vec() }, tags })
    }

    /// The chunks whose tags are known.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.tags.chunks()
    }

    /// The object's first bytes, as they were.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        self.envelope.prefix()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;

    #[test]
    fn a_record_is_whole_or_refused() {
        let envelope = Envelope::new(&[Identity::generate().unwrap().recipient()]).unwrap();
        let record = envelope.record();
        let read = Interrupted::read(&record, Tags::default()).unwrap();
        assert_eq!((read.prefix(), *read.envelope.file_key.0), (envelope.prefix(), *envelope.file_key.0));
        let bytes = BASE64.decode(&*record).unwrap();
        for length in 0..bytes.len() {
            assert!(Interrupted::read(&BASE64.encode(&bytes[..length]), Tags::default()).is_err(), "{length}");
        }
        assert!(Interrupted::read(&BASE64.encode([&bytes[..], b"x"].concat()), Tags::default()).is_err());
        let mut other = bytes;
        other[3] ^= 1;
        let refused = Interrupted::read(&BASE64.encode(other), Tags::default()).unwrap_err();
        assert_eq!(refused, JournalError::Header(HeaderError::Mac));
    }

    #[test]
    fn two_envelopes_share_nothing_and_show_nothing() {
        let recipient = Identity::generate().unwrap().recipient();
        let (one, other) = (Envelope::new(&[recipient]).unwrap(), Envelope::new(&[recipient]).unwrap());
        assert!(one.nonce != other.nonce && *one.file_key.0 != *other.file_key.0);
        let shown = format!("{one:?} {:?} {:?}", one.file_key, Interrupted::read(&one.record(), Tags::default()));
        assert!(!shown.contains(&one.file_key.0[0].to_string().repeat(2)) && shown.contains("Envelope"), "{shown}");
        assert!(!shown.contains('['), "{shown}");
    }
}
