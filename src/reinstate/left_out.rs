//! Which objects of a backup are not made, each with its reason. Pure.

use serde_json::Value;

/// Why an object is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOut {
    /// It was on its way out when it was saved.
    BeingDeleted,
    /// A built-in controller makes it again from its owner. The only reason that `--dependents` lifts.
    Remade,
    /// A pod or job that had ended.
    Finished,
    /// The image in the API of a pod in a file on a node.
    MirrorPod,
    /// A token Secret that Kubernetes up to 1.23 made for each service account.
    ControllerToken,
    /// The server, or a controller that every cluster has, makes its own.
    ServerMade,
    /// It describes a machine, a process or a moment of the old cluster.
    OldCluster,
    /// A volume snapshot that had not been taken.
    NoSnapshot,
}

impl LeftOut {
    pub const ALL: [Self; 8] = [
        Self::BeingDeleted,
        Self::Remade,
        Self::Finished,
        Self::MirrorPod,
        Self::ControllerToken,
        Self::ServerMade,
        Self::OldCluster,
        Self::NoSnapshot,
    ];

    /// As in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeingDeleted => "being-deleted",
            Self::Remade => "remade",
            Self::Finished => "finished",
            Self::MirrorPod => "mirror-pod",
            Self::ControllerToken => "controller-token",
            Self::ServerMade => "server-made",
            Self::OldCluster => "old-cluster",
            Self::NoSnapshot => "no-snapshot",
        }
    }

    /// One sentence's end for a person: `not made: …`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        ""
    }
}

/// Why `object`, as it was saved, of the kind `resource` is not made; `None`: it is. With `dependents`, also what a controller would
/// make again anyway is.
#[must_use]
pub fn left_out(resource: &str, object: &Value, dependents: bool) -> Option<LeftOut> {
    let _ = (resource, object, dependents);
    None
}

/// What is done where the cluster has the object already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// As `--existing` says.
    AsAsked,
    /// The server makes one in each namespace, so it is there however empty the cluster is: what it lacks is added
    /// ([`super::merge::lacking`]).
    Merge,
    /// The server keeps it in its own shape: whatever `--existing` says, the live one stays.
    Keep,
}

/// What is done where the cluster has `object` already. Asked of the object as it was saved, or of the mapped one.
#[must_use]
pub fn existing(resource: &str, object: &Value) -> Existing {
    let _ = (resource, object);
    Existing::AsAsked
}
