//! The cryptography that age is made of, from aws-lc: HKDF-SHA-256, HMAC-SHA-256, ChaCha20-Poly1305, random bytes.

use std::fmt;
use std::ops::{Deref, DerefMut};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::{hmac, rand};
use zeroize::Zeroizing;

use super::Failed;
use super::size::TAG;
use crate::scrub;

/// Bytes of a file key.
pub(super) const FILE_KEY: usize = 16;

/// Bytes of the nonce between header and payload.
pub(super) const NONCE: usize = 16;

/// Fills `out` with random bytes.
pub(super) fn random(out: &mut [u8]) -> Result<(), Failed> {
    rand::fill(out).map_err(|_| Failed("get random bytes"))
}

/// A key in one place: moving it leaves no copy on the stack, and dropping it zeroes it.
pub(super) struct Secret<const N: usize>(Box<Zeroizing<[u8; N]>>);

impl<const N: usize> Secret<N> {
    /// To be filled in its place.
    pub(super) fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; N])))
    }
}

impl<const N: usize> Deref for Secret<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> DerefMut for Secret<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

/// HKDF-SHA-256 with 32 bytes of output.
pub(super) fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> Secret<32> {
    let mut key = Secret::zeros();
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    let info = [info];
    let output = prk.expand(&info, HKDF_SHA256).expect("the output has the length of the hash");
    output.fill(&mut *key).expect("the buffer has the length of the output");
    scrub::call();
    key
}

/// One key, for one object's header or payload.
pub(super) struct AeadKey(LessSafeKey);

impl AeadKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the cipher's length");
        scrub::call();
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `plain` into `sealed`, which is [`TAG`] bytes longer.
    ///
    /// # Panics
    /// When the lengths differ, or aws-lc refuses what it must take.
    pub(super) fn seal(&self, nonce: [u8; NONCE_LEN], plain: &[u8], sealed: &mut [u8]) {
        let (text, tag) = sealed.split_at_mut(plain.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let done = self.0.seal_out_of_place_scatter(nonce, Aad::empty(), plain, text, &[], tag);
        scrub::call();
        done.expect("the output has the input's length and a tag");
    }

    /// Decrypts `sealed` into `plain`, which is [`TAG`] bytes shorter. When it returns false, `plain` has no meaning.
    #[must_use]
    pub(super) fn open(&self, nonce: [u8; NONCE_LEN], sealed: &[u8], plain: &mut [u8]) -> bool {
        let Some((text, tag)) = sealed.split_last_chunk::<TAG>() else { return false };
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened =
            text.len() == plain.len() && self.0.open_separate_gather(nonce, Aad::empty(), text, tag, plain).is_ok();
        scrub::call();
        opened
    }
}

/// The key that all else of one object is derived from.
pub(super) struct FileKey(pub(super) Secret<FILE_KEY>);

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey(…)")
    }
}

impl FileKey {
    pub(super) fn random() -> Result<Self, Failed> {
        let mut key = Secret::zeros();
        random(&mut *key)?;
        Ok(Self(key))
    }

    /// The MAC of a header, over everything up to and with `---`.
    pub(super) fn mac(&self, signed: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.mac_key(), signed);
        scrub::call();
        tag.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    #[must_use]
    pub(super) fn verify(&self, signed: &[u8], mac: &[u8; 32]) -> bool {
        let verified = hmac::verify(&self.mac_key(), signed, mac).is_ok();
        scrub::call();
        verified
    }

    fn mac_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*derive(&*self.0, &[], b"header"))
    }

    pub(super) fn payload(&self, nonce: &[u8; NONCE]) -> PayloadKey {
        PayloadKey(AeadKey::new(&derive(&*self.0, nonce, b"payload")))
    }
}

/// Whether a chunk ends the payload. It is part of the chunk's nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Inner,
    Last,
}

impl Place {
    pub(super) fn last(last: bool) -> Self {
        if last { Self::Last } else { Self::Inner }
    }

    pub(super) fn other(self) -> Self {
        Self::last(self == Self::Inner)
    }
}

/// Seals and opens the chunks of one object.
pub(super) struct PayloadKey(AeadKey);

impl fmt::Debug for PayloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PayloadKey(…)")
    }
}

impl PayloadKey {
    /// The caller must not use a chunk's number for two plaintexts.
    pub(super) fn seal(&self, chunk: u64, place: Place, plain: &[u8], sealed: &mut [u8]) {
        self.0.seal(nonce(chunk, place), plain, sealed);
    }

    /// See [`AeadKey::open`].
    #[must_use]
    pub(super) fn open(&self, chunk: u64, place: Place, sealed: &[u8], plain: &mut [u8]) -> bool {
        self.0.open(nonce(chunk, place), sealed, plain)
    }
}

/// Eleven bytes of counter, big endian, and the last flag.
fn nonce(chunk: u64, place: Place) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[3..11].copy_from_slice(&chunk.to_be_bytes());
    nonce[11] = u8::from(place == Place::Last);
    nonce
}
