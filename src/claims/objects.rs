//! Pods, claims and persistent volumes, as far as a backup of volumes looks at them.
//!
//! Everything in them is somebody's text. Names are checked where they become part of a path or a key ([`super::place`],
//! `format::claim`), not here: an object with an impossible name must fail by itself and not end the list.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::Value;

use super::plugins::{self, InTree};
use crate::format::round::Reason;

/// The annotations that are kept: a pod may have 256 KiB of others.
const KEPT: [&str; 3] = ["backup.penstock/", "backup.velero.io/", "kubernetes.io/config.mirror"];

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "annotations")]
    pub annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "exclusion", rename = "labels")]
    pub has_exclude_label: bool,
    #[serde(deserialize_with = "or_default")]
    pub owner_references: Vec<Owner>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Owner {
    pub uid: String,
    pub controller: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Metadata,
    pub spec: PodSpec,
    pub status: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub volumes: Vec<PodVolume>,
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
    #[serde(deserialize_with = "or_default")]
    pub ephemeral_containers: Vec<Container>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Phase {
    pub phase: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub volume_mounts: Vec<Named>,
    #[serde(deserialize_with = "or_default")]
    pub volume_devices: Vec<Named>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Named {
    pub name: String,
}

/// How the pod's containers have a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Folder,
    Device,
    /// No container names it, so that the kubelet does not mount it.
    None,
}

impl Pod {
    /// The kubelet mounts what any container names, of whatever sort, for the pod's whole life.
    #[must_use]
    pub fn use_of(&self, volume: &str) -> Use {
        let PodSpec { containers, init_containers, ephemeral_containers, .. } = &self.spec;
        let all = || containers.iter().chain(init_containers).chain(ephemeral_containers);
        let has = |list: &[Named]| list.iter().any(|named| named.name == volume);
        if all().any(|container| has(&container.volume_mounts)) {
            Use::Folder
        } else if all().any(|container| has(&container.volume_devices)) {
            Use::Device
        } else {
            Use::None
        }
    }

    /// Whether it is still the pod with this UID, and its containers have not ended for good.
    #[must_use]
    pub fn is_alive(&self, uid: &str) -> bool {
        self.metadata.uid == uid && !matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The copy of a pod that the kubelet read from a file. Its folder has another UID than the object.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.metadata.annotations.contains_key("kubernetes.io/config.mirror")
    }
}

/// A volume as a pod's spec has it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "RawVolume")]
pub struct PodVolume {
    pub name: String,
    pub origin: Origin,
}

/// Where a pod's volume comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Claim(String),
    /// A claim that the controller makes for the pod: `POD-VOLUME`.
    Ephemeral,
    EmptyDir {
        in_memory: bool,
    },
    /// Of a CSI driver, without a claim.
    InlineCsi,
    /// Of another plugin, without a claim.
    Inline(String),
    HostPath,
    Secret,
    ConfigMap,
    Projected,
    DownwardApi,
    Image,
    GitRepo,
    /// A field that this version does not know; empty: none at all, which means an emptyDir in old objects.
    Unknown(String),
}

impl Default for Origin {
    fn default() -> Self {
        Self::Unknown(String::new())
    }
}

#[derive(Deserialize)]
struct RawVolume {
    #[serde(default)]
    name: String,
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

impl From<RawVolume> for PodVolume {
    fn from(RawVolume { name, fields }: RawVolume) -> Self {
        let origins = fields.iter().filter(|(_, value)| !value.is_null());
        let mut origins: Vec<Origin> = origins.map(|(field, value)| origin(field, value)).collect();
        // One that is known before one that is not.
        origins.sort_by_key(|origin| matches!(origin, Origin::Unknown(_)));
        Self { name, origin: origins.into_iter().next().unwrap_or_default() }
    }
}

fn origin(field: &str, value: &Value) -> Origin {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    match field {
        "persistentVolumeClaim" => Origin::Claim(text("claimName")),
        "ephemeral" => Origin::Ephemeral,
        "emptyDir" => Origin::EmptyDir { in_memory: value["medium"].as_str() == Some("Memory") },
        "csi" => Origin::InlineCsi,
        "hostPath" => Origin::HostPath,
        "secret" => Origin::Secret,
        "configMap" => Origin::ConfigMap,
        "projected" => Origin::Projected,
        "downwardAPI" => Origin::DownwardApi,
        "image" => Origin::Image,
        "gitRepo" => Origin::GitRepo,
        "flexVolume" => Origin::Inline(text("driver")),
        other => match plugins::in_tree(other) {
            Some(InTree { plugin, .. }) => Origin::Inline((*plugin).to_owned()),
            None => Origin::Unknown(other.to_owned()),
        },
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Claim {
    pub metadata: Metadata,
    pub spec: ClaimSpec,
    pub status: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    pub volume_name: String,
    #[serde(deserialize_with = "or_default")]
    pub access_modes: Vec<String>,
}

/// A persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub metadata: Metadata,
    pub spec: VolumeSpec,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "RawVolumeSpec")]
pub struct VolumeSpec {
    pub claim: ClaimRef,
    pub access_modes: Vec<String>,
    pub is_block: bool,
    pub backing: Backing,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// What a persistent volume is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backing {
    Csi,
    Local,
    /// A folder of the host, which the kubelet does not mount.
    HostPath(String),
    InTree(InTree),
    /// The plugin's own name.
    Flex(String),
    /// A field that this version does not know.
    #[default]
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVolumeSpec {
    #[serde(default, deserialize_with = "or_default")]
    claim_ref: ClaimRef,
    #[serde(default, deserialize_with = "or_default")]
    access_modes: Vec<String>,
    #[serde(default)]
    volume_mode: Option<String>,
    #[serde(flatten)]
    fields: BTreeMap<String, Value>,
}

impl From<RawVolumeSpec> for VolumeSpec {
    fn from(RawVolumeSpec { claim_ref, access_modes, volume_mode, fields }: RawVolumeSpec) -> Self {
        let backing = fields.iter().filter(|(_, value)| !value.is_null()).find_map(|(field, value)| {
            let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
            match field.as_str() {
                "csi" => Some(Backing::Csi),
                "local" => Some(Backing::Local),
                "hostPath" => Some(Backing::HostPath(text("path"))),
                "flexVolume" => Some(Backing::Flex(text("driver"))),
                other => plugins::in_tree(other).copied().map(Backing::InTree),
            }
        });
        let is_block = volume_mode.as_deref() == Some("Block");
        Self { claim: claim_ref, access_modes, is_block, backing: backing.unwrap_or_default() }
    }
}

/// Go writes what is empty as `null` where it writes it at all.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let mut all: BTreeMap<String, String> = or_default(deserializer)?;
    all.retain(|key, _| KEPT.iter().any(|kept| key.contains(kept)));
    Ok(all)
}

/// Velero's label, which leaves an object out of a backup.
fn exclusion<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let labels: BTreeMap<String, String> = or_default(deserializer)?;
    Ok(labels.get("velero.io/exclude-from-backup").is_some_and(|value| value == "true"))
}

impl Origin {
    /// Why such a volume is never saved.
    #[must_use]
    pub const fn never_saved(&self) -> Option<Reason> {
        match self {
            Self::HostPath => Some(Reason::HostPath),
            Self::Secret => Some(Reason::Secret),
            Self::ConfigMap => Some(Reason::ConfigMap),
            Self::Projected => Some(Reason::Projected),
            Self::DownwardApi => Some(Reason::DownwardApi),
            Self::Image => Some(Reason::Image),
            Self::GitRepo => Some(Reason::GitRepo),
            Self::Claim(_)
            | Self::Ephemeral
            | Self::EmptyDir { .. }
            | Self::InlineCsi
            | Self::Inline(_)
            | Self::Unknown(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read_as_a_server_sends_it() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"db-0","namespace":"shop","uid":"u","labels":null,
                  "annotations":{"a":"b","backup.penstock/volumes":"x","pre.hook.backup.velero.io/command":"y"}},
                "spec":{"nodeName":"n1","volumes":[
                  {"name":"data","persistentVolumeClaim":{"claimName":"data-db-0"}},
                  {"name":"tmp","emptyDir":{"medium":"Memory"}},{"name":"none","emptyDir":{}},
                  {"name":"nfs","nfs":{"server":"s","path":"/"}},{"name":"flex","flexVolume":{"driver":"v/d"}},
                  {"name":"token","projected":{"sources":[]}},{"name":"new","hologram":{}},
                  {"name":"both","hologram":{},"secret":{"secretName":"s"}},{"name":"bare"}],
                "containers":[{"name":"db","volumeMounts":[{"name":"data","mountPath":"/d"}],"volumeDevices":null}],
                "initContainers":[{"name":"i","volumeMounts":[{"name":"tmp"}]}],
                "ephemeralContainers":[{"name":"e","volumeDevices":[{"name":"flex"}]}]},
                "status":{"phase":"Running"}}"#,
        )
        .unwrap();
        let origins: Vec<&Origin> = pod.spec.volumes.iter().map(|volume| &volume.origin).collect();
        let expected = [
            Origin::Claim("data-db-0".into()),
            Origin::EmptyDir { in_memory: true },
            Origin::EmptyDir { in_memory: false },
            Origin::Inline("kubernetes.io/nfs".into()),
            Origin::Inline("v/d".into()),
            Origin::Projected,
            Origin::Unknown("hologram".into()),
            Origin::Secret,
            Origin::Unknown(String::new()),
        ];
        assert_eq!(origins, expected.iter().collect::<Vec<_>>());
        let uses = ["data", "tmp", "flex", "nfs"].map(|volume| pod.use_of(volume));
        assert_eq!(uses, [Use::Folder, Use::Folder, Use::Device, Use::None]);
        assert_eq!(pod.metadata.annotations.len(), 2, "others are not kept");
        assert!(!pod.is_mirror() && !pod.metadata.has_exclude_label);
    }

    #[test]
    fn claims_and_volumes_are_read_and_what_is_missing_is_empty() {
        let volume = |spec: &str| {
            let text = format!(r#"{{"metadata":{{"name":"pv"}},"spec":{spec}}}"#);
            serde_json::from_str::<Volume>(&text).unwrap().spec
        };
        let csi = volume(
            r#"{"csi":{"driver":"d"},"volumeMode":"Block","accessModes":["ReadWriteMany"],"capacity":{"storage":"1Gi"},
                "claimRef":{"namespace":"shop","name":"data","uid":"c"},"nodeAffinity":{"required":{}}}"#,
        );
        assert_eq!((csi.backing, csi.is_block, csi.claim.uid.as_str()), (Backing::Csi, true, "c"));
        assert_eq!(csi.access_modes, ["ReadWriteMany"]);
        for (spec, backing) in [
            (r#"{"local":{"path":"/mnt/d"}}"#, Backing::Local),
            (r#"{"hostPath":{"path":"/srv","type":""}}"#, Backing::HostPath("/srv".into())),
            (r#"{"nfs":{"server":"s"}}"#, Backing::InTree(*plugins::in_tree("nfs").unwrap())),
            (r#"{"flexVolume":{"driver":"a/b"}}"#, Backing::Flex("a/b".into())),
            (r#"{"csi":null,"hologram":{},"claimRef":null}"#, Backing::Unknown),
        ] {
            assert_eq!(volume(spec), VolumeSpec { backing, ..VolumeSpec::default() }, "{spec}");
        }
        let claim: Claim =
            serde_json::from_str(r#"{"metadata":{"labels":{"velero.io/exclude-from-backup":"true"}}}"#).unwrap();
        assert!(claim.metadata.has_exclude_label && claim.spec.volume_name.is_empty());
        assert_eq!(serde_json::from_str::<Pod>("{}").unwrap(), Pod::default());
    }
}
