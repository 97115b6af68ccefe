//! `penstock kubernetes …`.

use clap::{Args, Subcommand};

use super::{Place, help};
use crate::catalog::Selector;
use crate::inventory::archive::Wanted;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KubernetesCommand {
    /// The API objects in a backup; or one of them, as YAML.
    Objects(KubernetesObjects),
    /// Compare a backup with the live cluster, object by object.
    Diff(KubernetesDiff),
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
    pub(in crate::cli) objects: Objects,
    /// Print this object, as it was saved: status, UID and a Secret's content too. KIND/NAME for one of the cluster's scope.
    #[arg(long, value_name = "KIND/NAMESPACE/NAME", conflicts_with_all = ["namespace", "resource"])]
    pub(in crate::cli) yaml: Option<Wanted>,
}

/// Compare a backup with the live cluster, object by object.
///
/// Prints which objects changed, and in which fields; which are only in the backup; and which are only in the cluster, of the kinds and
/// namespaces that the backup has. Never a value. What the server owns is not compared: status, and of the metadata uid,
/// resourceVersion, creationTimestamp, generation, managedFields and selfLink. The cluster is that of `[kubernetes]` in the configuration;
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
    pub(in crate::cli) objects: Objects,
    /// The kubeconfig's context; the one of `[kubernetes]` where not given.
    #[arg(long, value_name = "CONTEXT")]
    pub(in crate::cli) context: Option<String>,
}
