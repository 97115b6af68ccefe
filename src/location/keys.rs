//! The keys of a location: to whom objects are encrypted, and what opens them again.
//!
//! Recipients are public. An identity is a secret: read into memory that is zeroed, shown by no error, and named by its fingerprint.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::age::{
    self, Fingerprint, HeaderError, Identity, KeyError, Kind, ListError, OpenError, Reason, Recipient, wire::WireError,
};
use crate::config::{self, ClientEncryption};
use crate::error::{Class, Classify, Report};
use crate::format::key::ObjectKey;

/// The longest file of keys that is read; the parser refuses what is longer.
const MAX_FILE: u64 = (1 << 20) + 1;

/// The recipients of what one run writes.
#[derive(Debug, Clone)]
pub struct Recipients {
    /// Of data.
    pub data: Arc<[Recipient]>,
    /// Of indexes and of the manifest's sealed part: those of data, and the index's identity if there is one.
    pub index: Arc<[Recipient]>,
    /// What opens indexes of earlier backups on this machine.
    pub index_identity: Arc<[Identity]>,
}

impl Recipients {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub fn of(config: &ClientEncryption) -> Result<Self, Error> {
        let data = match &config.recipients {
            config::Recipients::Inline(recipients) => recipients.clone(),
            config::Recipients::File(path) => recipients(path)?,
        };
        let Some(path) = &config.index_identity_file else {
            let data: Arc<[Recipient]> = data.into();
            return Ok(Self { index: Arc::clone(&data), data, index_identity: Arc::default() });
        };
        let identities = identities(path)?;
        let wrong = |reason| Error::Refused { path: path.clone(), class: Class::Config, reason };
        let [identity] = identities.as_slice() else {
            return Err(wrong(format!("has {} identities; expected one", identities.len())));
        };
        let recipient = identity.recipient();
        if data.contains(&recipient) {
            let reason =
                "has the identity of one of the recipients, which reads content too; expected one for indexes only";
            return Err(wrong(reason.to_owned()));
        }
        let index = data.iter().copied().chain([recipient]).collect();
        Ok(Self { data: data.into(), index, index_identity: identities.into() })
    }

    /// The index's identity, if there is one.
    #[must_use]
    pub fn index_recipient(&self) -> Option<Fingerprint> {
        self.index_identity.first().map(|identity| identity.recipient().fingerprint())
    }
}

fn recipients(path: &Path) -> Result<Vec<Recipient>, Error> {
    let refused = |reason: String| Error::Refused { path: path.to_owned(), class: Class::Config, reason };
    let file = read(path, Class::Config)?;
    let recipients = age::recipients(&file).map_err(|error: ListError| refused(error.to_string()))?;
    if recipients.len() > config::MAX_RECIPIENTS {
        let (found, most) = (recipients.len(), config::MAX_RECIPIENTS);
        return Err(refused(format!("has {found} recipients; expected 1 to {most}")));
    }
    Ok(recipients)
}

/// The identities of a file, or of a pipe. Logs a warning if others than its owner may read the file.
///
/// # Errors
/// When it cannot be read, or has a line that is no identity.
pub fn identities(path: &Path) -> Result<Vec<Identity>, Error> {
    let file = read(path, Class::Identity)?;
    let identities = age::identities(&file).map_err(|error| Error::Identities { path: path.to_owned(), error })?;
    warn_of_readers(path);
    Ok(identities)
}

fn warn_of_readers(path: &Path) {
    // A pipe has no file that somebody could read later.
    let Some(metadata) = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let file = path.display();
        tracing::warn!(%file, "the private key in this file may be used by others than its owner (mode {mode:04o}): chmod 600");
    }
}

/// The recipients of a file of recipients, or of identities.
///
/// # Errors
/// When it cannot be read, or is neither.
pub fn recipients_of_either(path: &Path) -> Result<Vec<Recipient>, Error> {
    // Once: it may be a pipe.
    let file = read(path, Class::Config)?;
    let failed = |error| Error::Identities { path: path.to_owned(), error };
    match age::recipients(&file) {
        Ok(recipients) => Ok(recipients),
        Err(error) if error.reason == Reason::Key(KeyError::IdentityForRecipient) => {
            let identities = age::identities(&file).map_err(failed)?;
            warn_of_readers(path);
            Ok(identities.iter().map(Identity::recipient).collect())
        }
        Err(error) => Err(failed(error)),
    }
}

fn read(path: &Path, class: Class) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |error| Error::Read { path: path.to_owned(), class, error };
    let file = std::fs::File::open(path).map_err(failed)?;
    // Never grows, which would leave a copy of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    let size = file.metadata().map_err(failed)?.len().min(MAX_FILE);
    bytes.reserve(usize::try_from(size).unwrap_or_default() + 1);
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A file of keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not read {}: {error}", .path.display())]
    Read {
        path: PathBuf,
        class: Class,
        #[source]
        error: io::Error,
    },
    #[error("could not use {}: {reason}", .path.display())]
    Refused { path: PathBuf, class: Class, reason: String },
    #[error("could not use {}: {error}", .path.display())]
    Identities {
        path: PathBuf,
        #[source]
        error: ListError,
    },
}

impl Classify for Error {
    fn report(&self) -> Report {
        let (class, remedy) = match self {
            Self::Identities { error, .. } => (Class::Identity, remedy_of(error)),
            Self::Read { class: Class::Config, .. } | Self::Refused { class: Class::Config, .. } => {
                let remedy = "correct the file that client_encryption names; `penstock key show` prints the recipient of an identity";
                (Class::Config, remedy)
            }
            Self::Read { class, .. } | Self::Refused { class, .. } => (*class, IDENTITIES),
        };
        Report::new(class, self.to_string()).remedy(remedy)
    }
}

const IDENTITIES: &str =
    "give a file of identities, AGE-SECRET-KEY-1…, as `penstock key generate` and `age-keygen` write it";

const fn remedy_of(error: &ListError) -> &'static str {
    match error.reason {
        Reason::Key(KeyError::Kind { found: Kind::AgeFile, .. }) => {
            "the file is protected by a passphrase: decrypt it on the way, with --identity <(age --decrypt FILE)"
        }
        Reason::Key(KeyError::RecipientForIdentity) => {
            "a public key opens nothing: give the file of its private key, which `penstock key generate` wrote"
        }
        _ => IDENTITIES,
    }
}

/// An object that none of the identities opens, or there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not decrypt {key}: {}", Held { held, recipients })]
pub struct Locked {
    pub key: ObjectKey,
    /// Who can read it, as its backup's manifest says.
    pub recipients: Vec<Fingerprint>,
    /// The identities that were tried.
    pub held: Vec<Fingerprint>,
}

struct Held<'a> {
    held: &'a [Fingerprint],
    recipients: &'a [Fingerprint],
}

impl fmt::Display for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.held {
            [] => f.write_str("it is encrypted and no identity was given")?,
            [one] => write!(f, "the identity {one} does not open it")?,
            all => write!(f, "none of the identities {} opens it", list(all))?,
        }
        write!(f, "; its recipients are {}", list(self.recipients))
    }
}

fn list(fingerprints: &[Fingerprint]) -> String {
    let texts: Vec<String> = fingerprints.iter().map(Fingerprint::to_string).collect();
    if texts.is_empty() { "unknown".to_owned() } else { texts.join(", ") }
}

impl Classify for Locked {
    fn report(&self) -> Report {
        Report::new(Class::Identity, self.to_string()).remedy(
            "give the identity of one of its recipients with --identity or PENSTOCK_IDENTITY_FILE; `penstock key show` prints the fingerprint of an identity",
        )
    }
}

/// The class of a failure to open an age file: the wrong key, a newer format, or damage.
#[must_use]
pub const fn class_of(error: &OpenError) -> Class {
    match error {
        OpenError::Header(HeaderError::NoIdentity { .. }) => Class::Identity,
        OpenError::Header(HeaderError::Wire(WireError::Version)) => Class::Compat,
        OpenError::Header(_) | OpenError::Payload(_) => Class::Integrity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn files_are_read_at_each_run_and_their_faults_name_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let (reader, agent) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let public = file(&folder, "public", &reader.recipient().to_string());
        let secret = file(&folder, "secret", &agent.to_file("now"));
        let config = |recipients, index_identity_file| ClientEncryption { recipients, index_identity_file };
        let read = Recipients::of(&config(config::Recipients::File(public.clone()), Some(secret.clone()))).unwrap();
        assert_eq!(*read.data, [reader.recipient()]);
        assert_eq!(*read.index, [reader.recipient(), agent.recipient()]);
        assert_eq!(read.index_recipient(), Some(agent.recipient().fingerprint()));
        let refused = |recipients, index| Recipients::of(&config(recipients, index)).unwrap_err().report();
        let inline = || config::Recipients::Inline(vec![agent.recipient()]);
        let many: Vec<String> = (0..64).map(|_| Identity::generate().unwrap().recipient().to_string()).collect();
        for (recipients, index, class, expected) in [
            (inline(), Some(secret.clone()), Class::Config, "identity of one of the recipients"),
            (config::Recipients::File(secret.clone()), None, Class::Config, "line 3 is an identity"),
            (config::Recipients::File(folder.path().join("none")), None, Class::Config, "No such file"),
            (
                config::Recipients::File(file(&folder, "many", &many.join("\n"))),
                None,
                Class::Config,
                "has 64 recipients",
            ),
            (inline(), Some(public), Class::Identity, "line 1 is a recipient"),
        ] {
            let report = refused(recipients, index);
            assert_eq!(report.class, class, "{report:?}");
            assert!(report.message.contains(expected), "{report:?}");
            assert!(!report.message.contains(agent.to_text().as_str()));
        }
    }

    #[test]
    fn what_is_no_identity_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let made = [Identity::generate().unwrap(), Identity::generate().unwrap()];
        let both = format!("# operators\n{}\n\n{}", *made[0].to_file("now"), *made[1].to_text());
        let read = identities(&file(&folder, "good", &both)).unwrap();
        let fingerprints = |list: &[Identity]| list.iter().map(|key| key.recipient().fingerprint()).collect::<Vec<_>>();
        assert_eq!(fingerprints(&read), fingerprints(&made));
        for (content, message, remedy) in [
            (made[0].recipient().to_string(), "line 1 is a recipient", "private key"),
            ("age-encryption.org/v1\n-> scrypt x 18\n".to_owned(), "line 1 is an encrypted file", "age --decrypt"),
            ("AGE-PLUGIN-YUBIKEY-1QQQ".to_owned(), "of an age plugin, which is not supported", "AGE-SECRET-KEY"),
            ("ssh-ed25519 AAAA me".to_owned(), "an SSH public key, which is not supported", "AGE-SECRET-KEY"),
            ("# nothing\n".to_owned(), "has no key", "AGE-SECRET-KEY"),
        ] {
            let report = identities(&file(&folder, "bad", &content)).unwrap_err().report();
            assert_eq!(report.class, Class::Identity);
            assert!(report.message.contains(message), "{}", report.message);
            assert!(report.remedy.unwrap().contains(remedy), "{message}");
        }
        let public = file(&folder, "public", &made[0].recipient().to_string());
        assert_eq!(recipients_of_either(&public).unwrap(), [made[0].recipient()]);
        let good = recipients_of_either(&file(&folder, "good", &both)).unwrap();
        assert_eq!(good, made.each_ref().map(Identity::recipient));
    }

    #[test]
    fn what_is_locked_says_who_can_open_it() {
        let fingerprint = |byte| Fingerprint([byte; 8]);
        let locked = |held: &[u8]| Locked {
            key: ObjectKey::new("k.age"),
            recipients: vec![fingerprint(1), fingerprint(2)],
            held: held.iter().map(|byte| fingerprint(*byte)).collect(),
        };
        let theirs = "; its recipients are 0101010101010101, 0202020202020202";
        for (held, expected) in [
            (&[][..], "it is encrypted and no identity was given"),
            (&[3], "the identity 0303030303030303 does not open it"),
            (&[3, 4], "none of the identities 0303030303030303, 0404040404040404 opens it"),
        ] {
            assert_eq!(locked(held).to_string(), format!("could not decrypt k.age: {expected}{theirs}"));
        }
        assert_eq!((locked(&[]).class(), locked(&[]).class().exit_code()), (Class::Identity, 77));
    }
}
