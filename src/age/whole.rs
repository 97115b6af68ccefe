//! Small things that are sealed and opened in one piece, in memory: a part of a manifest, a probe.

use bytes::Bytes;

use super::{Decryptor, Encryptor, Envelope, Failed, HeaderError, Identity, Opened, PayloadError, Recipient};

/// Why a piece cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

/// One age file of `plain`.
///
/// # Errors
/// When the system gives no random bytes.
///
/// # Panics
/// As [`Envelope::new`].
pub fn seal(plain: Bytes, recipients: &[Recipient]) -> Result<Vec<u8>, Failed> {
    let envelope = Envelope::new(recipients)?;
    let mut sealed = envelope.prefix().to_vec();
    let mut encryptor = Encryptor::new(envelope);
    let mut runs = encryptor.write(plain);
    runs.push(encryptor.finish());
    for run in runs {
        let start = sealed.len();
        sealed.resize(start + run.sealed_len(), 0);
        run.seal_into(&mut sealed[start..]).expect("a new object has nothing to diverge from");
    }
    Ok(sealed)
}

/// What [`seal`] was given. Returns nothing of a file that is not whole.
///
/// # Errors
/// When no identity opens it, and when it was changed.
pub fn open(sealed: &[u8], identities: &[Identity]) -> Result<Vec<u8>, OpenError> {
    let opened = Opened::read(sealed, identities)?;
    let prefix =
        usize::try_from(opened.layout().prefix()).expect("the header is shorter than the slice that it was read from");
    let (mut decryptor, mut plain) = (Decryptor::new(opened), Vec::new());
    decryptor.write(&sealed[prefix..], &mut plain)?;
    decryptor.finish(&mut plain)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;

    #[test]
    fn a_piece_is_opened_whole_or_not_at_all() {
        let (ours, other) = ([Identity::generate().unwrap()], [Identity::generate().unwrap()]);
        for len in [0, 1, 1000, 200_000] {
            let plain = noise(len);
            let sealed = seal(plain.clone().into(), &[ours[0].recipient()]).unwrap();
            assert_eq!(open(&sealed, &ours), Ok(plain));
            let refused = HeaderError::NoIdentity { stanzas: 1, identities: 1 };
            assert_eq!(open(&sealed, &other), Err(refused.into()));
            for cut in [0, 10, sealed.len() - 1] {
                assert!(open(&sealed[..cut], &ours).is_err());
            }
        }
    }
}
