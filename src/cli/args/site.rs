//! `penstock validate` and `penstock policy`.

use clap::{Args, ValueEnum};

use super::{Key, help};
use crate::policy::kubernetes::Account;

/// Test locations: every permission, connection and credential that Penstock needs there.
///
/// Each check is real: it makes objects and uploads below `PREFIX/CLUSTER/.validate/` and removes them again, and calls EC2 with `DryRun`.
/// The exit code is that of the first failure's class.
#[derive(Debug, Args)]
#[command(after_help = help::VALIDATE)]
pub(in crate::cli) struct Validate {
    /// The locations; without names all of them.
    #[arg(value_name = "LOCATION")]
    pub(in crate::cli) locations: Vec<String>,
    /// Skip the checks of what the site does not use: `ec2` if it has no EBS volumes.
    #[arg(long, value_enum)]
    pub(in crate::cli) skip: Vec<Skipped>,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Skipped {
    Ec2,
}

/// Print IAM policies for a location, or a cluster's roles, ready to paste.
///
/// Without options: what the location's role may do in this cluster, below PREFIX/CLUSTER/ of the bucket, and nothing more. `--trust --account 333333333333 --external-id ID` prints the
/// trust policy of that role: for one account (`--account` its own, with `--role` of the nodes or pods), for several
/// (`--account` the one that has to name the external ID, `--also` each that need not), or for a user outside AWS (`--user`). `--caller` prints
/// what the base credentials, and each role before the last, need in order to assume the next one. `--kubernetes` prints what the agents
/// that save a cluster's API objects and its pods' volumes need there: manifests for `kubectl apply`, the smallest that RBAC can say for the configuration's sources.
#[derive(Debug, Args)]
#[command(after_help = help::POLICY)]
pub(in crate::cli) struct Policy {
    /// The location; needed only if the configuration has several.
    #[arg(long)]
    pub(in crate::cli) location: Option<String>,
    /// The key that the bucket or the location encrypts with; without this the location's `kms_key_id`, if that is an ARN.
    #[arg(long, value_name = "ARN", conflicts_with_all = ["trust", "caller"])]
    pub(in crate::cli) kms_key: Option<String>,
    /// Leave out the actions of EBS snapshots.
    #[arg(long, value_enum, conflicts_with_all = ["trust", "caller"])]
    pub(in crate::cli) skip: Vec<Skipped>,
    /// The trust policy instead: who may assume the role.
    #[arg(long, requires = "account", conflicts_with = "caller")]
    pub(in crate::cli) trust: bool,
    /// The trusted account: all of it, unless --role or --user names one.
    #[arg(long, value_name = "ACCOUNT", requires = "trust")]
    pub(in crate::cli) account: Option<String>,
    /// Trust only this role of --account.
    #[arg(long, value_name = "NAME", requires = "trust", conflicts_with = "user")]
    pub(in crate::cli) role: Option<String>,
    /// Trust only this user of --account.
    #[arg(long, value_name = "NAME", requires = "trust")]
    pub(in crate::cli) user: Option<String>,
    /// The external ID that --account has to name.
    #[arg(long, value_name = "ID", requires = "trust")]
    pub(in crate::cli) external_id: Option<String>,
    /// Trust this account, or this role of it, too, without an external ID; may be repeated.
    #[arg(long, value_name = "ACCOUNT[/ROLE]", requires = "trust")]
    pub(in crate::cli) also: Vec<String>,
    /// Print what the callers need instead: the base credentials, and each role before the last.
    #[arg(long)]
    pub(in crate::cli) caller: bool,
    /// The roles in the cluster instead, as YAML, for the configuration's sources of type kubernetes and claims.
    #[arg(long, conflicts_with_all = ["location", "kms_key", "skip", "trust", "caller"])]
    pub(in crate::cli) kubernetes: bool,
    /// Whom the roles are bound to, and named after. Without this penstock/penstock-cluster for sources of type kubernetes, and
    /// penstock/penstock for those of type claims.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "kubernetes")]
    pub(in crate::cli) service_account: Option<Account>,
}
