//! The age v1 format (C2SP `age.md`): encrypts an object to public keys, so that the node that wrote it cannot read it.
//!
//! An object is one age file: a [`header`] that wraps a file key for each recipient, 16 bytes of nonce, and the payload in chunks of
//! 64 KiB ([`size`]). Does no I/O. What is read is hostile until its tag is checked.
//!
//! # The invariant
//! **A file key and a counter never meet two plaintexts.** An encrypted byte that has left the process can have been seen; a second
//! plaintext under its key stream would reveal both, and let anybody forge the chunk. It is held so:
//!
//! - [`Envelope::new`] draws a file key and a nonce, cannot be cloned, and is consumed by [`Encryptor::new`].
//! - The [`Encryptor`] alone assigns counters. A [`Run`] has its counters and their plaintext and is consumed by sealing it.
//! - An interrupted object is continued only with the [`Tags`] of every chunk that may have left the process
//!   ([`Interrupted`]). A chunk that has a tag is released if it is sealed to the same tag again, and is [`Diverged`] otherwise; then the
//!   object must be given up and another begun, under another key.
//! - The caller's share: the tags of a chunk are durable before its first byte is sent, and an envelope's record is used by one process at
//!   a time (the journal's lock).
//!
//! Two plaintexts of one length have the same tag with a probability below 2⁻⁹⁰, also where an attacker chooses both and has seen the
//! first one encrypted (Poly1305, one key for each nonce): the tags are the digest, and cost nothing.
//!
//! ```compile_fail,E0382
//! # fn twice(run: penstock::age::Run) {
//! let first = run.seal();
//! let second = run.seal(); // a run is sealed once
//! # }
//! ```
//!
//! ```compile_fail,E0382
//! # fn twice(envelope: penstock::age::Envelope) {
//! let first = penstock::age::Encryptor::new(envelope);
//! let second = penstock::age::Encryptor::new(envelope); // an envelope is for one object
//! # }
//! ```
//!
//! ```compile_fail,E0599
//! # fn twice(envelope: penstock::age::Envelope) {
//! let second = envelope.clone();
//! # }
//! ```
//!
//! # Secrets
//! Keys are zeroed when they are dropped, and no `Debug`, `Display` or error shows one. aws-lc zeroes what it frees.

mod cipher;
mod decrypt;
mod encrypt;
mod envelope;
mod faults;
pub mod header;
mod key;
mod list;
mod ranged;
pub mod size;
mod tags;
#[cfg(test)]
mod testing;
mod whole;
pub mod wire;

pub use decrypt::{Decryptor, Reader};
pub use encrypt::{Diverged, Encryptor, Run};
pub use envelope::{Envelope, Interrupted, JournalError};
pub use faults::PayloadError;
pub use header::{HeaderError, Opened};
pub use key::{Fingerprint, FingerprintError, Identity, KeyError, Kind, Recipient};
pub use list::{ListError, Reason, identities, recipients};
pub use ranged::Ranged;
pub use size::{CHUNK, Layout, SEALED_CHUNK, SizeError, TAG};
pub use tags::Tags;
pub use whole::{OpenError, open, seal};

/// The system gave no random bytes, or aws-lc no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("could not {0}: the cryptography library failed")]
pub struct Failed(pub(crate) &'static str);
