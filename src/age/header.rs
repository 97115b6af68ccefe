//! A header's meaning: the file key, wrapped for recipients and unwrapped by identities.

use super::Failed;
use super::cipher::{AeadKey, FILE_KEY, FileKey, NONCE, PayloadKey, Secret};
use super::key::{Identity, KEY, Recipient};
use super::size::{Layout, TAG};
use super::wire::{self, Stanza, WireError};

/// The most recipients of an object.
pub const MAX_RECIPIENTS: usize = 64;

/// The most bytes of header and nonce that an [`super::Envelope`] has: what a reader may fetch at first.
pub const MOST_WRITTEN: usize = 22 + MAX_RECIPIENTS * STANZA + 48 + NONCE;

const STANZA: usize = "-> X25519 ".len() + 43 + 1 + 43 + 1;

/// Bytes of a wrapped file key.
const WRAPPED: usize = FILE_KEY + TAG;

const TYPE: &str = "X25519";
const PASSPHRASE: &str = "scrypt";

/// Why an object cannot be read with these identities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Behind the header.
    #[error("is cut behind the age header: {0} of 16 bytes of the nonce are there")]
    Nonce(usize),
    #[error("stanza {number} of the age header {fault}")]
    Stanza { number: usize, fault: StanzaFault },
    #[error("is encrypted with a passphrase; expected recipients")]
    Passphrase,
    /// The wrong key.
    #[error("is encrypted to {stanzas} recipients; none of the {identities} identities is one of theirs")]
    NoIdentity { stanzas: usize, identities: usize },
    #[error("the age header was changed: its MAC is wrong")]
    Mac,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StanzaFault {
    #[error("has not the one argument of an X25519 stanza: a share of 32 bytes in base64")]
    Share,
    #[error("has {0} bytes of wrapped key; expected {WRAPPED}")]
    Body(usize),
    #[error("has a share of small order, which no honest writer makes")]
    Weak,
    #[error("stands beside that of a passphrase")]
    BesidePassphrase,
}

/// Header and nonce for a file key.
pub(super) fn write(file_key: &FileKey, nonce: &[u8; NONCE], recipients: &[Recipient]) -> Result<Vec<u8>, Failed> {
    let stanzas: Result<Vec<Stanza>, Failed> = recipients.iter().map(|recipient| wrap(file_key, recipient)).collect();
    let signed = wire::signed(&stanzas?);
    let mac = file_key.mac(&signed);
    let mut prefix = wire::with_mac(signed, &mac);
    prefix.extend(nonce);
    Ok(prefix)
}

fn wrap(file_key: &FileKey, recipient: &Recipient) -> Result<Stanza, Failed> {
    let (share, key) = recipient.agree()?;
    let mut body = vec![0; WRAPPED];
    // The key is used once: its share is new.
    AeadKey::new(&key).seal([0; 12], &*file_key.0, &mut body);
    Ok(Stanza { args: vec![TYPE.to_owned(), wire::key_text(&share)], body })
}

/// A header whose stanzas are checked, without any key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    shares: Vec<Share>,
    signed: Vec<u8>,
    mac: [u8; 32],
    nonce: [u8; NONCE],
    prefix: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Share {
    /// From 1, among all stanzas.
    number: usize,
    point: [u8; KEY],
    wrapped: [u8; WRAPPED],
}

impl Header {
    /// Reads header and nonce from the beginning of an object; `bytes` may go on behind them. Stanzas of other types are ignored.
    ///
    /// # Errors
    /// When there is none. After [`HeaderError::is_incomplete`] more bytes may help.
    pub fn read(bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = wire::parse(bytes)?;
        let mut shares = Vec::new();
        let passphrase = header.stanzas.iter().any(|stanza| stanza.args[0] == PASSPHRASE);
        if passphrase && header.stanzas.len() == 1 {
            return Err(HeaderError::Passphrase);
        }
        for (number, stanza) in (1..).zip(&header.stanzas) {
            let refused = |fault| HeaderError::Stanza { number, fault };
            if passphrase && (stanza.args[0] != PASSPHRASE || number > 1) {
                return Err(refused(StanzaFault::BesidePassphrase));
            }
            if stanza.args[0] != TYPE {
                continue;
            }
            let [_, share] = stanza.args.as_slice() else { return Err(refused(StanzaFault::Share)) };
            let point = wire::key(share.as_bytes()).ok_or(refused(StanzaFault::Share))?;
            let wrapped = stanza.body.as_slice().try_into();
            let wrapped = wrapped.map_err(|_| refused(StanzaFault::Body(stanza.body.len())))?;
            shares.push(Share { number, point, wrapped });
        }
        let rest = &bytes[header.len..];
        let nonce = *rest.first_chunk().ok_or(HeaderError::Nonce(rest.len()))?;
        let signed = bytes[..header.signed].to_vec();
        Ok(Self { shares, signed, mac: header.mac, nonce, prefix: header.len + NONCE })
    }

    /// The X25519 recipients. Nothing says which.
    #[must_use]
    pub fn recipients(&self) -> usize {
        self.shares.len()
    }

    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout::new(self.prefix as u64)
    }

    /// Finds the stanza of one of the identities and derives the payload's key.
    ///
    /// # Errors
    /// When there is none, or the header was changed.
    pub fn open(&self, identities: &[Identity]) -> Result<Opened, HeaderError> {
        let file_key = self.unwrap(identities)?;
        self.with(&file_key)
    }

    /// Checks the header against its file key.
    pub(super) fn with(&self, file_key: &FileKey) -> Result<Opened, HeaderError> {
        if !file_key.verify(&self.signed, &self.mac) {
            return Err(HeaderError::Mac);
        }
        Ok(Opened { key: file_key.payload(&self.nonce), layout: self.layout() })
    }

    fn unwrap(&self, identities: &[Identity]) -> Result<FileKey, HeaderError> {
        for Share { number, point, wrapped } in &self.shares {
            for identity in identities {
                let weak = HeaderError::Stanza { number: *number, fault: StanzaFault::Weak };
                let key = identity.agree(point).ok_or(weak)?;
                let mut file_key = Secret::zeros();
                if AeadKey::new(&key).open([0; 12], wrapped, &mut *file_key) {
                    return Ok(FileKey(file_key));
                }
            }
        }
        Err(HeaderError::NoIdentity { stanzas: self.shares.len(), identities: identities.len() })
    }
}

impl HeaderError {
    /// The header may go on behind the bytes that were there; at most [`wire::MAX_HEADER`] and 16 bytes are needed.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        matches!(self, Self::Wire(WireError::Incomplete(_)) | Self::Nonce(_))
    }
}

/// An object whose header an identity has opened.
#[derive(Debug)]
pub struct Opened {
    pub(super) key: PayloadKey,
    pub(super) layout: Layout,
}

impl Opened {
    /// [`Header::read`] and [`Header::open`].
    ///
    /// # Errors
    /// As those.
    pub fn read(bytes: &[u8], identities: &[Identity]) -> Result<Self, HeaderError> {
        Header::read(bytes)?.open(identities)
    }

    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

#[cfg(test)]
mod tests {
    use super::super::Envelope;
    use super::*;

    fn identities(count: usize) -> Vec<Identity> {
        (0..count).map(|_| Identity::generate().unwrap()).collect()
    }

    #[test]
    fn each_recipient_opens_and_nobody_else() {
        let ours = identities(3);
        let recipients: Vec<Recipient> = ours.iter().map(Identity::recipient).collect();
        let envelope = Envelope::new(&recipients).unwrap();
        for identity in ours {
            let opened = Opened::read(envelope.prefix(), &[identity]).unwrap();
            assert_eq!(opened.layout.prefix(), envelope.prefix().len() as u64);
        }
        let refused = Opened::read(envelope.prefix(), &identities(2)).unwrap_err();
        assert_eq!(refused, HeaderError::NoIdentity { stanzas: 3, identities: 2 });
    }

    #[test]
    fn a_changed_byte_is_refused_wherever_it_is() {
        let ours = identities(1);
        let prefix = Envelope::new(&[ours[0].recipient()]).unwrap().prefix().to_vec();
        for at in 0..prefix.len() - NONCE {
            let mut changed = prefix.clone();
            changed[at] ^= 1;
            assert!(Opened::read(&changed, &ours).is_err(), "{at}");
        }
        // Behind the header is the nonce, which the payload's tags protect.
        for length in 0..prefix.len() {
            assert!(Header::read(&prefix[..length]).unwrap_err().is_incomplete(), "{length}");
        }
    }

    #[test]
    fn a_stanza_more_or_less_makes_the_mac_wrong() {
        let ours = identities(2);
        let prefix = Envelope::new(&[ours[0].recipient(), ours[1].recipient()]).unwrap().prefix().to_vec();
        let mut header = wire::parse(&prefix).unwrap();
        let removed = header.stanzas.pop().unwrap();
        let read = |header: &wire::Header| Opened::read(&[header.encode(), vec![0; 16]].concat(), &ours).unwrap_err();
        assert_eq!(read(&header), HeaderError::Mac);
        header.stanzas.insert(0, removed);
        assert_eq!(read(&header), HeaderError::Mac, "their order");
        header.stanzas[0].args.push("more".to_owned());
        assert_eq!(read(&header), HeaderError::Stanza { number: 1, fault: StanzaFault::Share });
        header.stanzas[0].args = vec![TYPE.to_owned(), wire::key_text(&[0; 32])];
        assert_eq!(read(&header), HeaderError::Stanza { number: 1, fault: StanzaFault::Weak });
        header.stanzas[0].args[0] = PASSPHRASE.to_owned();
        assert_eq!(read(&header), HeaderError::Stanza { number: 2, fault: StanzaFault::BesidePassphrase });
    }

    #[test]
    fn the_longest_header_that_is_written_is_known() {
        let recipient = identities(1)[0].recipient();
        let file_key = FileKey::random().unwrap();
        let written = write(&file_key, &[0; NONCE], &[recipient; MAX_RECIPIENTS]).unwrap();
        assert_eq!(written.len(), MOST_WRITTEN);
        assert_eq!(Header::read(&written).unwrap().recipients(), MAX_RECIPIENTS);
    }
}
