//! `penstock key …`, and the option of the commands that read encrypted backups.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::help;

/// What opens encrypted backups.
#[derive(Debug, Default, Args)]
pub(in crate::cli) struct Key {
    /// The private keys of an encrypted backup: a file of identities, or a pipe. Without this $PENSTOCK_IDENTITY_FILE, or `identity_file` of the configuration.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) identity: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
    /// Make a key pair: the private key into a new file, the public key on standard output.
    Generate(KeyGenerate),
    /// Show the public keys and fingerprints of a file of identities or recipients.
    Show(KeyShow),
}

/// Make a key pair: the private key into a new file, the public key on standard output.
///
/// The file is what age-keygen writes, and only its owner may read it. It is for the machine where one restores, and for a safe; nodes get the
/// public key, the recipient. Whoever loses the last copy of the file has lost the backups.
#[derive(Debug, Args)]
#[command(after_help = help::KEY_GENERATE)]
pub(in crate::cli) struct KeyGenerate {
    /// The file to make; `-` writes to a pipe. Never replaces a file.
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

/// Show the public keys and fingerprints of a file of identities or recipients.
///
/// A manifest names its recipients by their fingerprints: the first 16 hex digits of the SHA-256 of the recipient as text.
#[derive(Debug, Args)]
#[command(after_help = help::KEY_SHOW)]
pub(in crate::cli) struct KeyShow {
    /// A file of identities or of recipients, or a pipe.
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}
