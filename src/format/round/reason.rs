//! Why a volume is not saved.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The closed list of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    HostPath,
    Secret,
    ConfigMap,
    Projected,
    DownwardApi,
    Image,
    GitRepo,
    InMemory,
    UnknownKind,
    MirrorPod,
    /// It ends with its pod, or no claim stands for it.
    WithoutClaim,
    NotNamed,
    Excluded,
    PodNotRunning,
    PodEnding,
    NotMounted,
    OtherNode,
    ClaimMissing,
    ClaimNotBound,
    ClaimUnread,
    VolumeMissing,
    VolumeUnread,
    VolumeOfAnother,
    HostPathVolume,
    BadName,
}

/// What a reason says of the backup's completeness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing that a backup of volumes could have: Kubernetes makes it anew, or the objects' backup has it.
    Never,
    /// Somebody chose so.
    Choice,
    /// Not now and not here. Whether that is a loss depends on what was saved before (`claims::record`).
    Absent,
    /// It should be saved, and cannot be.
    Unable,
}

impl Reason {
    pub const ALL: [Self; 25] = [
        Self::HostPath,
        Self::Secret,
        Self::ConfigMap,
        Self::Projected,
        Self::DownwardApi,
        Self::Image,
        Self::GitRepo,
        Self::InMemory,
        Self::UnknownKind,
        Self::MirrorPod,
        Self::WithoutClaim,
        Self::NotNamed,
        Self::Excluded,
        Self::PodNotRunning,
        Self::PodEnding,
        Self::NotMounted,
        Self::OtherNode,
        Self::ClaimMissing,
        Self::ClaimNotBound,
        Self::ClaimUnread,
        Self::VolumeMissing,
        Self::VolumeUnread,
        Self::VolumeOfAnother,
        Self::HostPathVolume,
        Self::BadName,
    ];

    /// The name used in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostPath => "host-path",
            Self::Secret => "secret",
            Self::ConfigMap => "config-map",
            Self::Projected => "projected",
            Self::DownwardApi => "downward-api",
            Self::Image => "image",
            Self::GitRepo => "git-repo",
            Self::InMemory => "in-memory",
            Self::UnknownKind => "unknown-kind",
            Self::MirrorPod => "mirror-pod",
            Self::WithoutClaim => "without-claim",
            Self::NotNamed => "not-named",
            Self::Excluded => "excluded",
            Self::PodNotRunning => "pod-not-running",
            Self::PodEnding => "pod-ending",
            Self::NotMounted => "not-mounted",
            Self::OtherNode => "other-node",
            Self::ClaimMissing => "claim-missing",
            Self::ClaimNotBound => "claim-not-bound",
            Self::ClaimUnread => "claim-unread",
            Self::VolumeMissing => "volume-missing",
            Self::VolumeUnread => "volume-unread",
            Self::VolumeOfAnother => "volume-of-another",
            Self::HostPathVolume => "host-path-volume",
            Self::BadName => "bad-name",
        }
    }

    /// For people, after `NAMESPACE/POD, volume NAME: `.
    #[must_use]
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::HostPath => "is a folder of the host; a source of type \"tree\" saves those",
            Self::Secret => "is a Secret, which the backup of the objects has",
            Self::ConfigMap => "is a ConfigMap, which the backup of the objects has",
            Self::Projected | Self::DownwardApi => "is made of objects by the kubelet",
            Self::Image | Self::GitRepo => "is a copy of what is kept elsewhere",
            Self::InMemory => "is in memory",
            Self::UnknownKind => "is of a kind that this version does not know",
            Self::MirrorPod => "is of a pod that the kubelet read from a file",
            Self::WithoutClaim => "has no claim, or ends with its pod; the pod's annotation would have to name it",
            Self::NotNamed => "is not named by the pod's annotation, and only what is named is saved",
            Self::Excluded => "is excluded by annotation or label",
            Self::PodNotRunning => "is of a pod that does not run, so that it is not mounted",
            Self::PodEnding => "is of a pod that is being deleted",
            Self::NotMounted => "is named by no container, so that the kubelet does not mount it",
            Self::OtherNode => "is saved by another node, which has it mounted too",
            Self::ClaimMissing => "has a claim that does not exist",
            Self::ClaimNotBound => "has a claim that is not bound to a volume",
            Self::ClaimUnread => "has a claim that could not be read",
            Self::VolumeMissing => "has a claim whose persistent volume does not exist",
            Self::VolumeUnread => "has a claim whose persistent volume could not be read",
            Self::VolumeOfAnother => "has a claim whose persistent volume is bound to another one",
            Self::HostPathVolume => "is a folder of the host that is below none of host_paths",
            Self::BadName => "has a name that Kubernetes does not have",
        }
    }

    #[must_use]
    pub const fn standing(self) -> Standing {
        match self {
            Self::HostPath
            | Self::Secret
            | Self::ConfigMap
            | Self::Projected
            | Self::DownwardApi
            | Self::Image
            | Self::GitRepo
            | Self::InMemory
            | Self::MirrorPod => Standing::Never,
            Self::WithoutClaim | Self::NotNamed | Self::Excluded => Standing::Choice,
            Self::PodNotRunning | Self::PodEnding | Self::NotMounted | Self::OtherNode => Standing::Absent,
            Self::UnknownKind
            | Self::ClaimMissing
            | Self::ClaimNotBound
            | Self::ClaimUnread
            | Self::VolumeMissing
            | Self::VolumeUnread
            | Self::VolumeOfAnother
            | Self::HostPathVolume
            | Self::BadName => Standing::Unable,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A volume that is not saved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unsaved {
    pub namespace: String,
    pub pod: String,
    /// The pod's own name for it.
    pub volume: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    pub reason: Reason,
    /// What more is known: a phase, a path, a node, an error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The pod's annotation asks for it by name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asked_for: bool,
}

impl Unsaved {
    /// Whether the backup is incomplete without it.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        match self.reason.standing() {
            Standing::Unable => true,
            Standing::Never | Standing::Choice => self.asked_for,
            Standing::Absent => false,
        }
    }
}

impl fmt::Display for Unsaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, pod, volume, claim, reason, detail, asked_for } = self;
        write!(f, "{namespace}/{pod}, volume {volume}")?;
        if let Some(claim) = claim {
            write!(f, " (claim {claim})")?;
        }
        let although = if *asked_for { ", although the pod's annotation names it" } else { "" };
        write!(f, ": {}{although}", reason.in_words())?;
        if detail.is_empty() { Ok(()) } else { write!(f, ": {detail}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_name_and_as_str_agree_for_every_reason() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert_eq!(reason as usize, index, "each is listed once");
        }
    }

    #[test]
    fn what_was_asked_for_in_vain_is_a_loss() {
        let unsaved = |reason, asked_for| Unsaved {
            namespace: "shop".into(),
            pod: "db-0".into(),
            volume: "data".into(),
            claim: Some("data-db-0".into()),
            reason,
            detail: String::new(),
            asked_for,
        };
        for (reason, plain, asked) in [
            (Reason::Secret, false, true),
            (Reason::Excluded, false, true),
            (Reason::PodNotRunning, false, false),
            (Reason::OtherNode, false, false),
            (Reason::ClaimUnread, true, true),
            (Reason::HostPathVolume, true, true),
        ] {
            assert_eq!([plain, asked], [false, true].map(|asked| unsaved(reason, asked).is_loss()), "{reason}");
        }
        let text = unsaved(Reason::Excluded, true).to_string();
        assert_eq!(
            text,
            "shop/db-0, volume data (claim data-db-0): is excluded by annotation or label, although the pod's annotation names it"
        );
        let json = serde_json::to_string(&unsaved(Reason::OtherNode, false)).unwrap();
        assert!(!json.contains("detail") && !json.contains("asked_for"), "{json}");
        assert_eq!(serde_json::from_str::<Unsaved>(&json).unwrap(), unsaved(Reason::OtherNode, false));
    }
}
