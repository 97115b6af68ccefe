//! Recipients (public keys) and identities (private keys) of the X25519 type, as text and as keys.
//!
//! An error about a text says what kind of text it is and where it is wrong, and never repeats it: it may be a secret in the wrong place.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{self, EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use bech32::primitives::decode::{CheckedHrpstring, CheckedHrpstringError};
use bech32::{Bech32, Hrp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Failed;
use super::cipher::{self, Secret};

/// Bytes of a key, and of a share in a header.
pub(super) const KEY: usize = 32;

const RECIPIENT: Hrp = Hrp::parse_unchecked("age");
const IDENTITY: Hrp = Hrp::parse_unchecked("age-secret-key-");

/// Characters of an identity as text.
const IDENTITY_LEN: usize = "AGE-SECRET-KEY-1".len() + 52 + 6;

/// Why a text is not the key that it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Its own error: taken as a recipient it would have put the private key on every node.
    #[error("is an identity, which is a private key; expected a recipient, its public key (age1…)")]
    IdentityForRecipient,
    #[error("is a recipient, which is a public key; expected an identity (AGE-SECRET-KEY-1…)")]
    RecipientForIdentity,
    #[error("is {found}; expected {expected}")]
    Kind { expected: Kind, found: Kind },
    #[error("is {of} with a fault: {fault}")]
    Damaged { of: Kind, fault: Fault },
    /// Everybody could compute what is encrypted to it.
    #[error("is a recipient that protects nothing: its point has a small order")]
    Weak,
}

/// What a text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Recipient,
    Identity,
    PostQuantumRecipient,
    PostQuantumIdentity,
    PluginRecipient,
    PluginIdentity,
    Ssh,
    /// An age file: an identity file that is encrypted itself.
    AgeFile,
    Pem,
    Empty,
    /// By its number of bytes.
    Other(usize),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recipient => "a recipient (age1…)",
            Self::Identity => "an identity (AGE-SECRET-KEY-1…)",
            Self::PostQuantumRecipient => "a post-quantum recipient (age1pq1…), which is not supported",
            Self::PostQuantumIdentity => "a post-quantum identity (AGE-SECRET-KEY-PQ-1…), which is not supported",
            Self::PluginRecipient => "a recipient of an age plugin, which is not supported",
            Self::PluginIdentity => "an identity of an age plugin, which is not supported",
            Self::Ssh => "an SSH public key, which is not supported",
            Self::AgeFile => "an encrypted file",
            Self::Pem => "a PEM file",
            Self::Empty => "empty",
            Self::Other(bytes) => return write!(f, "a text of {bytes} bytes that is no age key"),
        })
    }
}

/// What is wrong with a key of the right kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it has both upper and lower case")]
    MixedCase,
    #[error("it has {found} characters; expected {expected}")]
    Length { expected: usize, found: usize },
    #[error("it has a character that no key has")]
    Character,
    #[error("its checksum is wrong: a character is mistyped, missing or out of place")]
    Checksum,
    #[error("its last character before the checksum has bits that must be zero")]
    Padding,
}

impl Kind {
    /// By its first characters: what follows them is checked later.
    fn of(text: &str) -> Self {
        let prefixes: [(&str, Self); 9] = [
            ("age-secret-key-pq-1", Self::PostQuantumIdentity),
            ("age-secret-key-", Self::Identity),
            ("age-plugin-", Self::PluginIdentity),
            ("age-encryption.org/", Self::AgeFile),
            ("-----begin age", Self::AgeFile),
            ("-----begin", Self::Pem),
            ("ssh-", Self::Ssh),
            ("ecdsa-", Self::Ssh),
            ("age1pq1", Self::PostQuantumRecipient),
        ];
        let starts = |prefix: &str| {
            text.as_bytes().get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        };
        if let Some((_, kind)) = prefixes.into_iter().find(|(prefix, _)| starts(prefix)) {
            return kind;
        }
        match text.len() {
            0 => Self::Empty,
            // The data of a bech32 text has no `1`: a second one ends a plugin's name.
            _ if starts("age1") && text[4..].contains('1') => Self::PluginRecipient,
            _ if starts("age1") => Self::Recipient,
            other => Self::Other(other),
        }
    }
}

fn decode(text: &str, of: Kind, hrp: Hrp) -> Result<Secret<KEY>, KeyError> {
    let damaged = |fault| KeyError::Damaged { of, fault };
    let expected = hrp.as_bytes().len() + 1 + 52 + 6;
    if text.chars().any(char::is_lowercase) && text.chars().any(char::is_uppercase) {
        return Err(damaged(Fault::MixedCase));
    }
    let found = text.chars().count();
    if found != expected {
        return Err(damaged(Fault::Length { expected, found }));
    }
    let checked = CheckedHrpstring::new::<Bech32>(text).map_err(|error| match error {
        CheckedHrpstringError::Checksum(_) => damaged(Fault::Checksum),
        _ => damaged(Fault::Character),
    })?;
    if checked.hrp() != hrp {
        return Err(damaged(Fault::Character));
    }
    checked.validate_segwit_padding().map_err(|_| damaged(Fault::Padding))?;
    let mut key: Secret<KEY> = Secret::zeros();
    let mut bytes = checked.byte_iter();
    for place in key.iter_mut() {
        *place = bytes.next().ok_or(damaged(Fault::Length { expected, found }))?;
    }
    Ok(key)
}

/// A public key: what is encrypted to it, its identity can read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recipient([u8; KEY]);

impl FromStr for Recipient {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match Kind::of(text) {
            Kind::Recipient => {}
            Kind::Identity | Kind::PostQuantumIdentity | Kind::PluginIdentity => {
                return Err(KeyError::IdentityForRecipient);
            }
            found => return Err(KeyError::Kind { expected: Kind::Recipient, found }),
        }
        let recipient = Self(*decode(text, Kind::Recipient, RECIPIENT)?);
        // With a point of small order every agreement fails, whatever the other key.
        recipient.agree().map(|_| recipient).map_err(|_| KeyError::Weak)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_lower_to_fmt::<Bech32, _>(f, RECIPIENT, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({})", self.fingerprint())
    }
}

impl Recipient {
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let digest = digest::digest(&digest::SHA256, self.to_string().as_bytes());
        Fingerprint(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    }

    /// A new share, and the key that only this recipient can derive from it.
    pub(super) fn agree(&self) -> Result<([u8; KEY], Secret<32>), Failed> {
        let failed = Failed("agree on a key with a recipient");
        let ephemeral = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| failed)?;
        let share = ephemeral.compute_public_key().map_err(|_| failed)?;
        let share: [u8; KEY] = share.as_ref().try_into().map_err(|_| failed)?;
        let theirs = UnparsedPublicKey::new(&X25519, &self.0);
        let key = agreement::agree_ephemeral(ephemeral, theirs, failed, |secret| Ok(wrap_key(secret, &share, self)))?;
        Ok((share, key))
    }
}

fn wrap_key(secret: &[u8], share: &[u8; KEY], recipient: &Recipient) -> Secret<32> {
    let salt = [share.as_slice(), &recipient.0].concat();
    cipher::derive(secret, &salt, b"age-encryption.org/v1/X25519")
}

/// Names a recipient where its key has no place: the first 16 hex digits of the SHA-256 of its text,
/// `printf %s age1… | sha256sum | cut -c1-16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(|number| Self(number.to_be_bytes())).ok_or(FingerprintError)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no fingerprint of a recipient; expected 16 hexadecimal digits")]
pub struct FingerprintError;

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

/// A private key. Not `Clone`: there is one copy of it, which is zeroed when it is dropped.
pub struct Identity {
    secret: Secret<KEY>,
    recipient: Recipient,
}

impl FromStr for Identity {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        match Kind::of(text) {
            Kind::Identity => Self::new(decode(text, Kind::Identity, IDENTITY)?).map_err(|_| KeyError::Weak),
            Kind::Recipient => Err(KeyError::RecipientForIdentity),
            found => Err(KeyError::Kind { expected: Kind::Identity, found }),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {})", self.recipient.fingerprint())
    }
}

impl Identity {
    /// A new identity, of random bytes.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, Failed> {
        let mut secret = Secret::zeros();
        cipher::random(&mut *secret)?;
        Self::new(secret)
    }

    fn new(secret: Secret<KEY>) -> Result<Self, Failed> {
        let failed = Failed("compute the public key of an identity");
        let public = private(&secret)?.compute_public_key().map_err(|_| failed)?;
        let recipient = Recipient(public.as_ref().try_into().map_err(|_| failed)?);
        Ok(Self { secret, recipient })
    }

    #[must_use]
    pub fn recipient(&self) -> Recipient {
        self.recipient
    }

    /// `AGE-SECRET-KEY-1…`.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Never grows, which would leave a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(IDENTITY_LEN));
        bech32::encode_upper_to_fmt::<Bech32, _>(&mut *text, IDENTITY, &*self.secret).expect("a string takes it");
        text
    }

    /// An identity file as `age-keygen` writes it. `created` is a time as RFC 3339 has it.
    #[must_use]
    pub fn to_file(&self, created: impl fmt::Display) -> Zeroizing<String> {
        use fmt::Write as _;
        let mut file = Zeroizing::new(String::with_capacity(256));
        let (recipient, secret) = (self.recipient, self.to_text());
        writeln!(file, "# created: {created}\n# public key: {recipient}\n{}", *secret).expect("a string takes it");
        file
    }

    /// The key that the writer derived when it made that share. `None` for a share that no honest writer makes.
    pub(super) fn agree(&self, share: &[u8; KEY]) -> Option<Secret<32>> {
        let theirs = UnparsedPublicKey::new(&X25519, share);
        let derive = |secret: &[u8]| Ok(wrap_key(secret, share, &self.recipient));
        agreement::agree(&private(&self.secret).ok()?, theirs, (), derive).ok()
    }
}

fn private(secret: &[u8; KEY]) -> Result<PrivateKey, Failed> {
    PrivateKey::from_private_key(&X25519, secret).map_err(|_| Failed("read an identity"))
}

#[cfg(test)]
mod tests;
