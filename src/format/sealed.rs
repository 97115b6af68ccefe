//! The part of a manifest that only the recipients read: what names paths, commands, or a cluster's objects.
//!
//! In memory a manifest is whole, or what is left of it where no identity opened it; [`Manifest::to_json`] writes what is left and, in
//! base64, an age file of the rest. Readable for all who read the bucket stay what `list`, `prune` and `stats` need: names of items (they
//! are in the keys too), times, outcomes, sizes, counts, classes of failures, and volumes, whose names EC2 shows.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::cluster;
use super::key::Name;
use super::manifest::{Content, Item, Manifest, SEALED_DIGEST, SourceDescription, Warning};
use super::round::{self, Ran, Unsaved};
use crate::age::{self, Fingerprint, Identity, OpenError, Recipient};
use crate::error::Report;

/// How a backup is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// Who can read the objects that this backup wrote.
    pub recipients: Vec<Fingerprint>,
    /// Who of them can read those of earlier backups too that it refers to: all of it.
    pub readers: Vec<Fingerprint>,
    /// Who can read its indexes besides, and the sealed part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_recipient: Option<Fingerprint>,
    /// An age file in base64.
    pub(super) sealed: String,
}

impl Encryption {
    /// Without a sealed part: see [`Manifest::seal`].
    #[must_use]
    pub fn new(recipients: &[Recipient], readers: Vec<Fingerprint>, index_recipient: Option<Fingerprint>) -> Self {
        let recipients = recipients.iter().map(Recipient::fingerprint).collect();
        Self { recipients, readers, index_recipient, sealed: String::new() }
    }
}

/// What the message of a sealed error is.
const SEALED: &str = "the reason is encrypted: an identity shows it";

#[derive(Serialize, Deserialize)]
struct Secrets {
    items: BTreeMap<Name, Secret>,
    warnings: Vec<Warning>,
}

#[derive(Serialize, Deserialize)]
struct Secret {
    source: SourceDescription,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Report>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Box<cluster::Record>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    not_entered: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    round: Option<Round>,
    /// Of the stream.
    #[serde(with = "hex::serde", default)]
    digest: [u8; 32],
}

/// What a round over a node's volumes says in words. Which claims there are is in the keys, and the next round needs it.
#[derive(Default, Serialize, Deserialize)]
struct Round {
    unsaved: Vec<Unsaved>,
    notes: Vec<String>,
    commands: Vec<Ran>,
    /// Why it is not known where the missing claims are, in their order.
    unknown: Vec<String>,
}

impl Round {
    fn take(record: &mut round::Record) -> Self {
        let (unsaved, notes) = (std::mem::take(&mut record.unsaved), std::mem::take(&mut record.notes));
        let unknown = record.missing.iter_mut().map(|missing| std::mem::take(&mut missing.unknown)).collect();
        Self { unsaved, notes, commands: std::mem::take(&mut record.commands), unknown }
    }

    fn put(self, record: &mut round::Record) {
        (record.unsaved, record.notes, record.commands) = (self.unsaved, self.notes, self.commands);
        for (missing, unknown) in record.missing.iter_mut().zip(self.unknown) {
            missing.unknown = unknown;
        }
    }
}

/// Why a manifest's sealed part is refused. The caller adds the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    #[error("the sealed part is not base64")]
    Base64,
    #[error("the sealed part {0}")]
    Open(#[from] OpenError),
    #[error("the sealed part is not that of a manifest: {0}")]
    Syntax(String),
}

impl Manifest {
    /// Seals the secret part for [`Manifest::to_json`]. Later changes of what is secret are not written.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    ///
    /// # Panics
    /// As [`age::Envelope::new`].
    pub fn seal(&mut self, encryption: Encryption, recipients: &[Recipient]) -> Result<(), age::Failed> {
        let secrets = Secrets {
            items: self.items.iter().filter(|item| is_secret(item)).map(secret).collect(),
            warnings: self.warnings.list.clone(),
        };
        let json = serde_json::to_vec(&secrets).expect("string keys and plain values");
        let sealed = BASE64.encode(age::seal(json.into(), recipients)?);
        self.encryption = Some(Encryption { sealed, ..encryption });
        Ok(())
    }

    /// Puts the secret part back, if there is one.
    ///
    /// # Errors
    /// When no identity opens it, or it was changed.
    pub fn unseal(&mut self, identities: &[Identity]) -> Result<(), UnsealError> {
        let Some(encryption) = &self.encryption else { return Ok(()) };
        let sealed = BASE64.decode(&encryption.sealed).map_err(|_| UnsealError::Base64)?;
        let json = age::open(&sealed, identities)?;
        let secrets: Secrets = serde_json::from_slice(&json).map_err(|error| UnsealError::Syntax(error.to_string()))?;
        for (name, secret) in secrets.items {
            // A sealed part of another manifest is not an error: it decides nothing but what is shown.
            if let Some(item) = self.items.iter_mut().find(|item| item.name == name && is_secret(item)) {
                reveal(item, secret);
            }
        }
        self.warnings.list = secrets.warnings;
        Ok(())
    }

    /// What of it is not secret; all of it if it is not encrypted.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut left = self.clone();
        if self.encryption.is_some() {
            left.items.iter_mut().filter(|item| is_secret(item)).for_each(redact);
            left.warnings.list.clear();
        }
        left
    }
}

/// Volumes have no secret: EC2 shows all that is said of them.
fn is_secret(item: &Item) -> bool {
    !matches!(item.content, Content::EbsSnapshot { .. })
}

fn secret(item: &Item) -> (Name, Secret) {
    let (not_entered, digest) = match &item.content {
        Content::Stream { stream: Some(stream) } => (stream.not_entered.list.clone(), stream.digest),
        Content::Stream { stream: None } | Content::EbsSnapshot { .. } => (Vec::new(), SEALED_DIGEST),
    };
    let Item { source, error, kubernetes, claims, .. } = item.clone();
    let round = claims.map(|mut claims| Round::take(&mut claims));
    (item.name.clone(), Secret { source, error, kubernetes, not_entered, round, digest })
}

fn reveal(item: &mut Item, secret: Secret) {
    let Secret { source, error, kubernetes, not_entered, round, digest } = secret;
    // What an item is restored as does not change.
    if std::mem::discriminant(&source) == std::mem::discriminant(&item.source) {
        item.source = source;
    }
    if item.error.is_some() {
        item.error = error;
    }
    item.kubernetes = kubernetes;
    if let (Some(claims), Some(round)) = (&mut item.claims, round) {
        round.put(claims);
    }
    if let Content::Stream { stream: Some(stream) } = &mut item.content {
        stream.not_entered.list = not_entered;
        stream.digest = digest;
    }
}

/// Doing it twice is doing it once.
fn redact(item: &mut Item) {
    item.source.redact();
    item.error = item.error.take().map(|error| Report::new(error.class, SEALED));
    item.kubernetes = None;
    if let Some(claims) = &mut item.claims {
        drop(Round::take(claims));
    }
    if let Content::Stream { stream: Some(stream) } = &mut item.content {
        stream.not_entered.list.clear();
        stream.digest = SEALED_DIGEST;
    }
}

#[cfg(test)]
mod tests;
