//! `penstock key`, and the identities of the commands that read backups.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{Timestamp, Unit};
use serde_json::json;

use super::args::{Key, KeyCommand, OutputFormat};
use super::output::Done;
use super::{Failure, args};
use crate::age::{Fingerprint, Identity, Recipient};
use crate::config::{self, Config, Environment as _};
use crate::error::{Class, Report};
use crate::format::key::ObjectKey;
use crate::format::manifest::Manifest;
use crate::location::Location;
use crate::location::keys::{self, Locked};

const VARIABLE: &str = "PENSTOCK_IDENTITY_FILE";

pub(super) fn run(command: &KeyCommand, format: OutputFormat) -> Result<Done, Failure> {
    match command {
        KeyCommand::Generate(args::KeyGenerate { file }) => generate(file, format),
        KeyCommand::Show(args::KeyShow { file }) => show(file),
    }
}

/// The identities of the option, the variable or the configuration, in this order; none if no file is named.
pub(super) fn identities(config: &Config, key: &Key) -> Result<Arc<[Identity]>, Failure> {
    let variable = || config::System.variable(VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from);
    match key.identity.clone().or_else(variable).or_else(|| config.identity_file.clone()) {
        Some(file) => Ok(keys::identities(&file)?.into()),
        None => Ok(Arc::default()),
    }
}

/// What of a backup a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Names and digests.
    Index,
    Content,
}

/// Reads the sealed part of an encrypted backup's manifest. Refuses a backup that the location's identities do not open, before any of it is
/// fetched.
pub(super) fn unlock(location: &Location, manifest: &mut Manifest, need: Need) -> Result<(), Locked> {
    let Some(encryption) = &manifest.encryption else { return Ok(()) };
    let held: Vec<Fingerprint> = location.identities.iter().map(|key| key.recipient().fingerprint()).collect();
    let index = encryption.index_recipient.filter(|_| need == Need::Index);
    if !encryption.recipients.iter().chain(&index).any(|recipient| held.contains(recipient)) {
        let recipients = encryption.recipients.clone();
        let key = manifest.named().next().cloned().unwrap_or_else(|| ObjectKey::new(manifest.id.as_str()));
        return Err(Locked { key, recipients, held });
    }
    if need == Need::Content && !encryption.readers.iter().any(|reader| held.contains(reader)) {
        let readers: Vec<String> = encryption.readers.iter().map(Fingerprint::to_string).collect();
        tracing::warn!(backup = %manifest.id, readers = readers.join(", "), "the identity opens what this backup stored, and not all of the earlier objects that it refers to: what is in these fails; the readers' identities open all");
    }
    reveal(location, manifest);
    Ok(())
}

/// Puts the sealed part of an encrypted backup's manifest back, if the location's identities open it. Where it is damaged the rest is as good:
/// a warning says so.
pub(super) fn reveal(location: &Location, manifest: &mut Manifest) {
    if location.identities.is_empty() {
        return;
    }
    if let Err(error) = manifest.unseal(&location.identities) {
        tracing::warn!(backup = %manifest.id, %error, "could not read what is encrypted in the manifest: paths, warnings and reasons are missing");
    }
}

/// What `show` says of an encrypted backup.
pub(super) fn described(manifest: &Manifest, location: &Location) -> Vec<String> {
    let Some(encryption) = &manifest.encryption else { return Vec::new() };
    let list = |keys: &[Fingerprint]| keys.iter().map(Fingerprint::to_string).collect::<Vec<_>>().join(", ");
    let mut lines = vec![format!("encrypted to {}", list(&encryption.recipients))];
    if encryption.readers != encryption.recipients {
        let readers =
            if encryption.readers.is_empty() { "none of these alone".into() } else { list(&encryption.readers) };
        lines.push(format!(
            "          objects of earlier backups have other recipients; all of it can be read by {readers}"
        ));
    }
    lines.extend(encryption.index_recipient.map(|key| format!("          indexes also to {key}")));
    if location.identities.is_empty() {
        lines.push("          paths, warnings and reasons are encrypted too: --identity FILE shows them".to_owned());
    }
    lines
}

fn generate(file: &Path, format: OutputFormat) -> Result<Done, Failure> {
    let made = Identity::generate().map_err(|error| Report::new(Class::Internal, error.to_string()))?;
    let now = Timestamp::now();
    let text = made.to_file(now.round(Unit::Second).unwrap_or(now));
    if file == Path::new("-") {
        if format == OutputFormat::Json || io::stdout().is_terminal() {
            let message = "a private key is written to a file or a pipe, never to a terminal or into JSON: name a file";
            return Err(Failure::Usage(message.to_owned()));
        }
        let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        written.map_err(|error| Failure::local("write the key to standard output", &error))?;
        eprintln!("Public key: {}", made.recipient());
        return Ok(Done::text(""));
    }
    write(file, &text).map_err(|error| refused(file, &error))?;
    let (recipient, fingerprint) = (made.recipient().to_string(), made.recipient().fingerprint());
    let shown = format!("Public key: {recipient}\n");
    Ok(Done::new(shown, json!({ "file": file, "recipient": recipient, "fingerprint": fingerprint })))
}

/// Makes the file, which must not exist, with its name on the disk too.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    made.write_all(text.as_bytes())?;
    made.sync_all()?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

fn refused(file: &Path, error: &io::Error) -> Failure {
    let message = format!("could not write the key to {}: {error}", file.display());
    if error.kind() == io::ErrorKind::AlreadyExists {
        let remedy = "name another file: a key that was overwritten takes its backups with it";
        return Report::new(Class::Conflict, message).remedy(remedy).into();
    }
    Report::new(Class::Local, message).into()
}

fn show(file: &Path) -> Result<Done, Failure> {
    let keys = keys::recipients_of_either(file)?;
    let line = |key: &Recipient| format!("{key}  {}\n", key.fingerprint());
    let row = |key: &Recipient| json!({ "recipient": key.to_string(), "fingerprint": key.fingerprint() });
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(Done::new(keys.iter().map(line).collect::<String>(), json!({ "keys": rows })))
}
