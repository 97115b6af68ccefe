//! `penstock kubernetes …`.

use clap::{Args, Subcommand};

use super::volumes::ClaimData;
use super::{Key, Place, help};
use crate::catalog::Selector;
use crate::inventory::archive::Wanted;
use crate::reinstate::{self, Existing};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KubernetesCommand {
    /// The API objects in a backup; or one of them, as YAML.
    Objects(KubernetesObjects),
    /// Compare a backup with the live cluster, object by object.
    Diff(KubernetesDiff),
    /// Ask the cluster what a restore would do, without changing anything.
    Plan(KubernetesPlan),
    /// Restore a backup's objects into a cluster.
    Restore(KubernetesRestore),
}

/// Which objects of a backup.
#[derive(Debug, Args)]
pub(in crate::cli) struct Objects {
    /// Only these namespaces, and what is in them; a glob; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(in crate::cli) namespace: Vec<String>,
    /// Only these kinds, as `deployments.apps`, `deployments` or `*.example.com`; a glob; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(in crate::cli) resource: Vec<String>,
}

/// The API objects in a backup: kind, namespace and name; or one of them, as YAML.
///
/// Only the backup's index is read, and with --yaml the one object.
#[derive(Debug, Args)]
#[command(after_help = help::KUBERNETES_OBJECTS)]
pub(in crate::cli) struct KubernetesObjects {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    #[command(flatten)]
    pub(in crate::cli) objects: Objects,
    /// Print this object, as it was saved: status, UID and a Secret's content too. KIND/NAME for one of the cluster's scope.
    #[arg(long, value_name = "KIND/NAMESPACE/NAME", conflicts_with_all = ["namespace", "resource"])]
    pub(in crate::cli) yaml: Option<Wanted>,
}

/// Compare a backup with the live cluster, object by object.
///
/// Prints which objects changed, and in which fields; which are only in the backup; and which are only in the cluster, of the kinds and
/// namespaces that the backup has. Never a value. What the server owns is not compared: status, and of the metadata uid,
/// resourceVersion, creationTimestamp, generation, managedFields, selfLink and the UIDs of owners. The cluster is that of `[kubernetes]` in the configuration;
/// get and list on the backup's kinds are enough.
#[derive(Debug, Args)]
#[command(after_help = help::KUBERNETES_DIFF)]
pub(in crate::cli) struct KubernetesDiff {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    #[command(flatten)]
    pub(in crate::cli) objects: Objects,
    /// The kubeconfig's context; the one of `[kubernetes]` where not given.
    #[arg(long, value_name = "CONTEXT")]
    pub(in crate::cli) context: Option<String>,
}

/// What to restore into a cluster, and how.
#[derive(Debug, Args)]
pub(in crate::cli) struct Recreation {
    /// ID, JOB@latest, JOB@ID or JOB/NODE@latest.
    #[arg(value_name = "BACKUP")]
    pub(in crate::cli) backup: Selector,
    #[command(flatten)]
    pub(in crate::cli) place: Place,
    #[command(flatten)]
    pub(in crate::cli) key: Key,
    /// Only this namespace, a glob, with its objects and the cluster-scoped objects that they refer to; with :TO under another name; may
    /// be repeated. Without it, everything.
    #[arg(long, value_name = "FROM[:TO]")]
    pub(in crate::cli) namespace: Vec<String>,
    /// Only these kinds, as `deployments.apps`, `deployments` or `*.example.com`; a glob; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(in crate::cli) resource: Vec<String>,
    /// Not these kinds; a glob; may be repeated.
    #[arg(long, value_name = "GLOB")]
    pub(in crate::cli) exclude_resource: Vec<String>,
    /// Only objects with these labels, as in kubectl (`app=web,tier!=cache`), and the cluster-scoped objects that they refer to.
    #[arg(long, value_name = "SELECTOR")]
    pub(in crate::cli) selector: Option<reinstate::Selector>,
    /// Another storage class for claims, volumes and templates of claims; may be repeated.
    #[arg(long, value_name = "FROM:TO")]
    pub(in crate::cli) storage_class: Vec<String>,
    /// What happens to an object that exists and is not as in the backup.
    #[arg(long, value_enum, default_value = "keep", value_name = "POLICY")]
    pub(in crate::cli) existing: ExistingObjects,
    /// Restore the objects' status too.
    #[arg(long)]
    pub(in crate::cli) status: bool,
    /// Restore also what a controller makes again from its owner: pods of a deployment, jobs of a cron job.
    #[arg(long)]
    pub(in crate::cli) dependents: bool,
    /// With --existing update or recreate: the backup is of the cluster with this UID, which is another one (`penstock show` has it).
    #[arg(long, value_name = "UID")]
    pub(in crate::cli) from_cluster: Option<String>,
    /// The kubeconfig's context; the one of `[kubernetes]` where not given.
    #[arg(long, value_name = "CONTEXT")]
    pub(in crate::cli) context: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) volumes: ClaimData,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(in crate::cli) enum ExistingObjects {
    /// It stays as it is, and is reported.
    Keep,
    /// It is changed to be as in the backup.
    Update,
    /// It is deleted, and created as in the backup. Never a namespace, a definition, a claim or a volume, which stay as they are.
    Recreate,
}

impl From<ExistingObjects> for Existing {
    fn from(existing: ExistingObjects) -> Self {
        match existing {
            ExistingObjects::Keep => Self::Keep,
            ExistingObjects::Update => Self::Update,
            ExistingObjects::Recreate => Self::Recreate,
        }
    }
}

/// Ask the cluster what a restore would do, without changing anything.
///
/// Each object is sent with `dryRun=All`, so that admission, validation, quotas and webhooks judge it. What is in a namespace that does not
/// exist yet, or of a kind that is not defined yet, cannot be judged: create-unchecked. Needs the rights that the restore needs.
#[derive(Debug, Args)]
#[command(after_help = help::KUBERNETES_PLAN)]
pub(in crate::cli) struct KubernetesPlan {
    #[command(flatten)]
    pub(in crate::cli) what: Recreation,
}

/// Restore a backup's objects into a cluster.
///
/// Creates what is missing, in the order in which objects need each other. What exists stays as it is, unless --existing says otherwise. Run
/// again after an interruption, it goes on where it ended; run once more, it changes nothing. The rights are those of the kubeconfig.
#[derive(Debug, Args)]
#[command(after_help = help::KUBERNETES_RESTORE)]
pub(in crate::cli) struct KubernetesRestore {
    #[command(flatten)]
    pub(in crate::cli) what: Recreation,
    /// Afterwards, wait up to this long for workloads and claims, and look whether each object is still as it was restored: `10m`.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) wait: Option<humantime::Duration>,
}
