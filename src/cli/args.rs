//! The arguments of the command line, with the text of `--help`.

mod backup;
mod find;
mod key;
mod kubernetes;
mod restore;
mod site;
mod snapshot;
mod versions;
mod volumes;

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ContextKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

use super::help;
use crate::catalog::Selector;
use crate::format::claim::ClaimName;
use crate::format::key::Name;

pub(super) use backup::Backup;
pub(super) use find::{Diff, Find, List, Ls, Newest, Whose};
pub(super) use key::{Key, KeyCommand, KeyGenerate, KeyShow};
pub(super) use kubernetes::{
    KubernetesCommand, KubernetesDiff, KubernetesObjects, KubernetesPlan, KubernetesRestore, Recreation,
};
pub(super) use restore::Restore;
pub(super) use site::{Policy, Skipped, Validate};
pub(super) use snapshot::{SnapshotCommand, SnapshotRestore};
pub(super) use versions::{HoldBackup, Undelete};

/// Behind a command's own options in its help.
const GENERAL: &str = "Options of every command";

/// Streams cluster backups to S3 and restores them.
///
/// Results go to standard output, logs and progress to standard error. The exit code tells the class of a failure.
#[derive(Debug, Parser)]
#[command(name = "penstock", version, arg_required_else_help = true, after_help = help::TOP)]
pub(super) struct Cli {
    /// The configuration file.
    #[arg(long, global = true, help_heading = GENERAL, value_name = "FILE", env = "PENSTOCK_CONFIG", hide_env_values = true)]
    #[arg(default_value = "/etc/penstock/penstock.toml")]
    pub(super) config: PathBuf,
    /// One JSON document on standard output, failures too.
    #[arg(long, global = true, help_heading = GENERAL, value_enum, default_value_t = OutputFormat::Human)]
    pub(super) output: OutputFormat,
    /// The format of log lines.
    #[arg(long, global = true, help_heading = GENERAL, value_enum, default_value_t = LogFormat::Text)]
    pub(super) log_format: LogFormat,
    /// More log lines; twice for debugging, thrice for the SDK's own.
    #[arg(short, long, global = true, help_heading = GENERAL, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Options that overwrite or delete: no typing error is to be answered with one.
const DANGEROUS: [&str; 6] = ["--overwrite", "--now", "--existing", "--recreate", "--release", "--allow-plain"];

/// The arguments of this process; ends it where they are wrong, or ask for help.
pub(super) fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        let suggested = error.get(ContextKind::SuggestedArg).map(ToString::to_string).unwrap_or_default();
        if DANGEROUS.iter().any(|option| suggested.contains(option)) {
            error.remove(ContextKind::SuggestedArg);
            error.remove(ContextKind::Usage);
        }
        error.exit()
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    Human,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon: run jobs on their schedules and serve metrics, until SIGTERM.
    #[command(after_help = help::RUN)]
    Run,
    /// Run jobs now, or back up paths, a command's output or standard input.
    Backup(Backup),
    /// List committed backups, newest first.
    List(List),
    /// Show one backup: its time, items, sizes, and the files that could not be read.
    Show(Show),
    /// List a folder of a backup's trees.
    Ls(Ls),
    /// Find the backups that have a file: a line for each version of it.
    Find(Find),
    /// Show the files in which two backups differ.
    Diff(Diff),
    /// Write a backup's files below a directory.
    Restore(Restore),
    /// Write an item's plain stream (a tree's is a tar archive) to standard output.
    Cat(Cat),
    /// Check that manifests, indexes and objects exist and agree.
    Verify(Verify),
    /// Show the running daemon's locations, credentials, jobs and runs.
    #[command(after_help = help::STATUS)]
    Status,
    /// Ask the running daemon to run a job now.
    Trigger(Trigger),
    /// Ask the running daemon to read its configuration again.
    Reload,
    /// Apply retention: delete the backups that no rule keeps, and the objects that no backup needs.
    Prune(Prune),
    /// Delete backups by name.
    Delete(Delete),
    /// Bring back a backup that was deleted or overwritten, in a bucket that keeps versions.
    Undelete(Undelete),
    /// Hold a backup: nobody can delete it until it is released.
    Hold(HoldBackup),
    /// Show the space that the backups of each job and node use in the bucket.
    Stats(Stats),
    /// Abort uploads that a crash left.
    Sweep(Sweep),
    /// Make an EBS volume from a snapshot of a backup.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// A cluster's API objects: list those in a backup, or compare it with the cluster.
    #[command(subcommand)]
    Kubernetes(KubernetesCommand),
    /// Test locations: every permission, connection and credential that Penstock needs there.
    Validate(Validate),
    /// Keys of client-side encryption: make a pair, or show whose a file is.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print IAM policies for a location, ready to paste.
    Policy(Policy),
    /// Check the configuration, or show how to write one.
    #[command(subcommand, after_help = help::CONFIG)]
    Config(ConfigCommand),
    /// Print a script that completes commands in your shell.
    #[command(after_help = help::COMPLETIONS)]
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each command, into a directory.
    #[command(after_help = help::MAN)]
    Man {
        /// The directory, made if it does not exist.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// Ask the running daemon to run a job now.
#[derive(Debug, Args)]
#[command(after_help = help::TRIGGER)]
pub(super) struct Trigger {
    /// A job of the configuration.
    #[arg(value_name = "JOB")]
    pub(super) job: String,
    /// Wait for the run to end, and exit as `backup` would.
    #[arg(long)]
    pub(super) wait: bool,
}

/// Where to look for backups.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The location; without this the job's own, or every one.
    #[arg(long)]
    pub(super) location: Option<String>,
    /// Another cluster's backups.
    #[arg(long)]
    pub(super) cluster: Option<Name>,
    /// The bucket as it was then, deleted and overwritten objects too, if it keeps versions: 2026-11-23T22:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = versions::time)]
    pub(super) as_of: Option<Timestamp>,
}

/// Apply retention: delete the backups that no rule keeps, and the objects that no backup needs.
///
/// Applies each job's `retention` to its backups of this node. A deleted backup is gone at once; objects that only it needs stay for the
/// grace period, so that a restore in progress succeeds, and the next prune after that deletes them. Prune also deletes what a crashed
/// backup left. It may be killed at any time: the next prune completes it. The daemon prunes after each successful backup.
#[derive(Debug, Args)]
#[command(after_help = help::PRUNE)]
pub(super) struct Prune {
    /// Only this job.
    #[arg(long)]
    pub(super) job: Option<Name>,
    /// Another node's backups instead of this one's, by the rules of this node's configuration.
    #[arg(long)]
    pub(super) node: Option<Name>,
    /// The backups of every node of the cluster, those that are gone too, by the rules of this node's configuration.
    #[arg(long, conflicts_with_all = ["node", "claim", "grace"])]
    pub(super) all_nodes: bool,
    /// Only the backups of this claim.
    #[arg(long, value_name = "NAMESPACE/CLAIM", conflicts_with = "node")]
    pub(super) claim: Option<ClaimName>,
    /// The location; without this each job's own.
    #[arg(long)]
    pub(super) location: Option<String>,
    /// Only show what would be deleted, what stays, and why.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// How long to keep the objects of a deleted backup; without this the job's `retention.grace`. `0s`: not at all.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) grace: Option<Duration>,
}

/// Delete backups by name.
///
/// Newer backups stay whole, even if the deleted one was the full one: an object is deleted only when no other backup needs it. As with
/// `prune`, objects that only the deleted backups need stay for the grace period.
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
#[derive(Debug, Args)]
#[command(after_help = help::DELETE)]
pub(super) struct Delete {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest; or several.
    #[arg(value_name = "BACKUP", required_unless_present = "all")]
    pub(super) backups: Vec<Selector>,
    /// Another node's backups instead of this one's.
    #[arg(long)]
    pub(super) node: Option<Name>,
    /// The backups of this claim.
    #[arg(long, value_name = "NAMESPACE/CLAIM", conflicts_with = "node")]
    pub(super) claim: Option<ClaimName>,
    /// With --claim: every backup of it, for a claim that is gone.
    #[arg(long, requires = "claim", conflicts_with = "backups")]
    pub(super) all: bool,
    /// The location; without this the job's own, or the only one.
    #[arg(long)]
    pub(super) location: Option<String>,
    /// Only show what would be deleted.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Delete at once what only these backups need, without a grace period: a restore of one of them in progress fails.
    #[arg(long)]
    pub(super) now: bool,
    /// Do not ask. Without this a person on a terminal is asked; a script never is.
    #[arg(long)]
    pub(super) yes: bool,
}

/// Show the space that the backups of each job and node use in the bucket.
///
/// PLAIN is the size of their restored data, STORED that of their objects in the bucket, LIVE the part of STORED that a backup needs, DEAD
/// the rest: old chunks in objects still in use, and objects in their grace period. FULL is what the newest backup would store if it were
/// a full one. HIDDEN is what a bucket that keeps versions stores besides: deleted and replaced ones. Reads only listings and manifests.
#[derive(Debug, Args)]
#[command(after_help = help::STATS)]
pub(super) struct Stats {
    #[command(flatten)]
    pub(super) place: Place,
    /// Count HIDDEN too, as in a location with object_lock: needs s3:ListBucketVersions.
    #[arg(long)]
    pub(super) versions: bool,
    #[command(flatten)]
    pub(super) whose: Whose,
}

/// Which backup.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest; with --claim the newest where none is given.
    #[arg(value_name = "BACKUP", required_unless_present = "claim")]
    pub(super) backup: Option<Selector>,
    /// A backup of this claim: the volume of a pod that has backups of its own.
    #[arg(long, value_name = "NAMESPACE/CLAIM")]
    pub(super) claim: Option<ClaimName>,
}

/// Show one backup: its time, items, sizes, and the files that could not be read.
#[derive(Debug, Args)]
#[command(after_help = help::SHOW)]
pub(super) struct Show {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) place: Place,
    #[command(flatten)]
    pub(super) key: Key,
    /// List the files of its trees.
    #[arg(long)]
    pub(super) files: bool,
}

/// Write an item's plain stream to standard output: for a tree a tar archive, for a file or a command its bytes.
#[derive(Debug, Args)]
#[command(after_help = help::CAT)]
pub(super) struct Cat {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    pub(super) place: Place,
    #[command(flatten)]
    pub(super) key: Key,
    /// Which item, where the backup has several.
    #[arg(long, value_name = "ITEM")]
    pub(super) item: Option<Name>,
}

/// Check that manifests, indexes and objects exist and agree.
///
/// Reads manifests and indexes and asks for each object's size and checksum; with --data it reads everything, as a restore would.
#[derive(Debug, Args)]
#[command(after_help = help::VERIFY)]
pub(super) struct Verify {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest; the newest of each job and node where none is given.
    #[arg(value_name = "BACKUP", conflicts_with_all = ["latest", "all"])]
    pub(super) backup: Option<Selector>,
    /// Only backups of this claim.
    #[arg(long, value_name = "NAMESPACE/CLAIM")]
    pub(super) claim: Option<ClaimName>,
    #[command(flatten)]
    pub(super) place: Place,
    #[command(flatten)]
    pub(super) key: Key,
    /// The newest backup of each job and node.
    #[arg(long, conflicts_with = "all")]
    pub(super) latest: bool,
    /// Every backup.
    #[arg(long)]
    pub(super) all: bool,
    /// Read and hash every chunk.
    #[arg(long)]
    pub(super) data: bool,
}

/// Abort uploads that a crash left.
///
/// Finds the uploads in the journal below `state_dir`. Skips uploads of a running process, so this may run at any time. The daemon sweeps
/// when it starts and every hour, `penstock backup` when it ends.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = help::SWEEP)]
pub(super) struct Sweep {
    /// Only show what would be aborted.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Remove the record of an upload that cannot be aborted: its location is gone, or the store refuses. The upload may still cost storage.
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) give_up: bool,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every fault in the configuration file, with line and column.
    Check,
    /// Print a commented example.
    Example,
    /// Print the file's JSON Schema.
    Schema,
}
