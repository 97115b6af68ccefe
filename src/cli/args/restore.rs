//! The arguments of `restore`.

use std::path::PathBuf;

use clap::Args;

use super::{Key, Place, Which, help};
use crate::catalog::Selector;
use crate::format::key::Name;
use crate::restore::Damaged;

/// Write a backup's files below a directory, with owners, modes, times, links and attributes.
#[derive(Debug, Args)]
#[command(after_help = help::RESTORE)]
#[expect(clippy::struct_excessive_bools, reason = "flags")]
pub(in crate::cli) struct Restore {
    #[command(flatten)]
    pub(in crate::cli) which: Which,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    /// The directory to restore into; made where it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) to: PathBuf,
    /// Only this item; may be repeated.
    #[arg(long, value_name = "ITEM")]
    pub(in crate::cli) item: Vec<Name>,
    /// Only files and directories that match, in their directories: a path as `show --files` prints it, or a glob (`etc/*.conf`; without a
    /// slash in any folder: `*.db`); may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(in crate::cli) include: Vec<String>,
    /// Not files and directories that match, whatever --include says; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(in crate::cli) exclude: Vec<String>,
    /// Only list what would be restored.
    #[arg(long)]
    pub(in crate::cli) dry_run: bool,
    /// Read back from the disk what was written, and compare: needs the time of a second read.
    #[arg(long)]
    pub(in crate::cli) verify: bool,
    /// What becomes of files that are damaged in the store, once all others are restored.
    #[arg(long, value_enum, default_value_t)]
    pub(in crate::cli) damaged: Damaged,
    /// Restore files that are damaged in the store as they are in this other backup.
    #[arg(long, value_name = "BACKUP", conflicts_with = "damaged")]
    pub(in crate::cli) heal_from: Option<Selector>,
    /// Write into a directory that is not empty. Replaces existing files of the same type; an existing link in a directory's
    /// place, or a directory in a file's, stays, and the restore leaves out and lists the file that belongs there.
    #[arg(long)]
    pub(in crate::cli) overwrite: bool,
    /// DIR is a volume or a block device to fill with one backup. It must be empty, but for `lost+found` (a device: begin with zeros), or
    /// filled in part by an interrupted restore of the same backup, which goes on: until all is there, it has a mark that says so.
    #[arg(long, conflicts_with_all = ["overwrite", "include", "exclude", "dry_run"])]
    pub(in crate::cli) fill: bool,
}

impl Restore {
    /// What the target may contain.
    pub(in crate::cli) fn onto(&self) -> crate::restore::Onto {
        use crate::restore::Onto;
        match (self.fill, self.overwrite) {
            (true, _) => Onto::Fill,
            (false, true) => Onto::Overwrite,
            (false, false) => Onto::Empty,
        }
    }
}
