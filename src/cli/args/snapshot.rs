//! `penstock snapshot …`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Place, help};
use crate::catalog::Selector;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SnapshotCommand {
    /// Make a new EBS volume from a snapshot of a backup, like the original except for the given options.
    Restore(SnapshotRestore),
}

/// Make a new EBS volume from a snapshot of a backup, like the original except for the given options, and wait until it is available.
///
/// The same command again finds the same volume; `--copy` makes another. With --manifest nothing but the PersistentVolume goes to
/// standard output: `penstock snapshot restore disks@latest --volume shop/db --availability-zone eu-west-1a --manifest | kubectl apply -f -`.
#[derive(Debug, Args)]
#[command(after_help = help::SNAPSHOT_RESTORE)]
pub(in crate::cli) struct SnapshotRestore {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    /// The original volume: its ID, the item's name, or the claim as NAMESPACE/NAME.
    #[arg(long, value_name = "VOL")]
    pub(in crate::cli) volume: String,
    /// The zone of the new volume: that of the instance it will be attached to.
    #[arg(long, value_name = "AZ")]
    pub(in crate::cli) availability_zone: String,
    /// gp3, io2, …; without this the original's.
    #[arg(long = "type", value_name = "TYPE")]
    pub(in crate::cli) volume_type: Option<String>,
    /// GiB, not less than the original.
    #[arg(long, value_name = "GIB")]
    pub(in crate::cli) size: Option<u32>,
    /// For gp3, io1 and io2.
    #[arg(long)]
    pub(in crate::cli) iops: Option<u32>,
    /// MiB per second, for gp3.
    #[arg(long, value_name = "MIBPS")]
    pub(in crate::cli) throughput: Option<u32>,
    /// Encrypt the volume of an unencrypted snapshot with the account's default key.
    #[arg(long)]
    pub(in crate::cli) encrypted: bool,
    /// Encrypt with this KMS key instead of the snapshot's.
    #[arg(long, value_name = "KEY")]
    pub(in crate::cli) kms_key_id: Option<String>,
    /// A tag to add to the original's; may be repeated.
    #[arg(long, value_name = "K=V", value_parser = tag)]
    pub(in crate::cli) tag: Vec<(String, String)>,
    /// Any word: with another one the same command makes another volume.
    #[arg(long, value_name = "WORD", default_value = "")]
    pub(in crate::cli) copy: String,
    /// How long to wait until the volume is available.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(in crate::cli) timeout: Duration,
    /// Print a PersistentVolume for the new volume.
    #[arg(long)]
    pub(in crate::cli) manifest: bool,
    /// The PersistentVolume's file system.
    #[arg(long, value_name = "TYPE", default_value = "ext4", requires = "manifest")]
    pub(in crate::cli) fs_type: String,
    /// The PersistentVolume's storage class, which must be the claim's.
    #[arg(long, value_name = "CLASS", default_value = "", requires = "manifest")]
    pub(in crate::cli) storage_class: String,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}
