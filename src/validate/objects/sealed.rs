//! The check of client-side encryption: a probe is encrypted, stored and read back; and opened, where a private key is at hand.

use super::{Found, Outcome, Writing, content, good, not_tried};
use crate::age::header::Header;
use crate::age::{self, CHUNK, Fingerprint};
use crate::config::ClientEncryption;
use crate::error::{Class, Classify as _, Report};
use crate::format::key::ObjectKey;
use crate::location::keys::{self, Recipients};

impl Writing<'_> {
    pub(super) async fn encrypted(&self, encryption: &ClientEncryption, put: bool) -> Outcome {
        let recipients = Recipients::of(encryption).map_err(|error| error.report())?;
        if !put {
            return Ok(not_tried("s3:PutObject failed"));
        }
        // Longer than one chunk of age.
        let plain = content(self.made).repeat(CHUNK / content(self.made).len() + 2);
        let sealed = age::seal(plain.clone().into(), &recipients.data);
        let sealed = sealed.map_err(|error| Report::new(Class::Internal, error.to_string()))?;
        let key = self.made.object("encrypted.age");
        self.put_as_configured(&key, sealed.clone().into()).await.map_err(|error| error.report())?;
        let stored = self.read(&key, None).await.map_err(|error| error.report())?;
        if stored != sealed {
            let message = format!("read {} bytes of {key}; expected the {} bytes written", stored.len(), sealed.len());
            return Err(Report::new(Class::Integrity, message));
        }
        let header = Header::read(&stored).map_err(|error| damaged(&key, &error.to_string()))?;
        let all: Vec<Fingerprint> = recipients.data.iter().map(age::Recipient::fingerprint).collect();
        if header.recipients() != all.len() {
            return Err(damaged(&key, &format!("has {} recipients; expected {}", header.recipients(), all.len())));
        }
        let done = format!("encrypted to {}, stored and read back", listed(&all));
        self.decrypt(&key, &stored, &plain, &all, &done)
    }

    fn decrypt(&self, key: &ObjectKey, stored: &[u8], plain: &[u8], all: &[Fingerprint], done: &str) -> Outcome {
        let held: Vec<Fingerprint> = self.identities.iter().map(|key| key.recipient().fingerprint()).collect();
        let ours: Vec<Fingerprint> = held.iter().filter(|key| all.contains(key)).copied().collect();
        if held.is_empty() {
            return Ok(good(format!(
                "{done}; not decrypted, since no private key is here, nor should one be on a node"
            )));
        }
        if ours.is_empty() {
            return Ok(Found::Odd(format!(
                "{done}; not decrypted: the identities {} are none of these",
                listed(&held)
            )));
        }
        let opened = age::open(stored, self.identities)
            .map_err(|error| Report::new(keys::class_of(&error), format!("could not decrypt {key}: {error}")))?;
        if opened != plain {
            return Err(damaged(key, "holds other bytes than were encrypted"));
        }
        Ok(good(format!("{done}, and decrypted with {}", listed(&ours))))
    }
}

fn damaged(key: &ObjectKey, found: &str) -> Report {
    Report::new(Class::Integrity, format!("{key} {found}"))
}

fn listed(keys: &[Fingerprint]) -> String {
    keys.iter().map(Fingerprint::to_string).collect::<Vec<_>>().join(", ")
}
