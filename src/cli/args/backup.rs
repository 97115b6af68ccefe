//! The arguments of `backup`.

use clap::Args;

use super::help;
use crate::format::key::Name;
use crate::job::Reuse;

/// Run jobs now, or back up paths, a command's output or standard input.
///
/// A job's name runs that job of the configuration. --name saves a path, a command's output or standard input, under the job name `adhoc`.
#[derive(Debug, Args)]
#[command(after_help = help::BACKUP)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
pub(in crate::cli) struct Backup {
    /// Job names; or, with --name, absolute paths, or `-` for standard input.
    #[arg(value_name = "JOB|PATH|-")]
    pub(in crate::cli) targets: Vec<String>,
    /// With --name: the command whose output to save.
    #[arg(last = true, value_name = "ARGV")]
    pub(in crate::cli) argv: Vec<String>,
    /// The location to write to; without this the job's own.
    #[arg(long)]
    pub(in crate::cli) location: Option<String>,
    /// The item's name: makes this an ad-hoc backup.
    #[arg(long, value_name = "ITEM")]
    pub(in crate::cli) name: Option<Name>,
    /// With a command or `-`: accept an empty output. Without this it is a failure.
    #[arg(long, requires = "name")]
    pub(in crate::cli) allow_empty: bool,
    /// Store everything again: a full backup needs no other, and is a plain archive for other tools.
    #[arg(long)]
    pub(in crate::cli) full: bool,
    /// Read every file, even if its size, times and inode have not changed; store what the last backup does not have.
    #[arg(long, conflicts_with = "full")]
    pub(in crate::cli) force: bool,
    /// Store everything in plain where the last backup is encrypted and the location has no recipients any more. Refused without this.
    #[arg(long)]
    pub(in crate::cli) allow_plain: bool,
    /// Store `penstock-cat.py` beside the cluster's backups too: with Python and zstd it reads all of them without Penstock.
    #[arg(long)]
    pub(in crate::cli) rescue: bool,
}

impl Backup {
    /// What --full and --force ask for, if one is given.
    pub(in crate::cli) fn reuse(&self) -> Option<Reuse> {
        match (self.full, self.force) {
            (true, _) => Some(Reuse::Nothing),
            (false, true) => Some(Reuse::Chunks),
            (false, false) => None,
        }
    }
}
