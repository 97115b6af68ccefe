//! Objects for tests.

use super::objects::{Backing, Claim, ClaimRef, Container, Named, Origin, Pod, PodVolume, Volume};
use crate::format::claim::ClaimName;

pub(super) struct Builder(pub(super) Pod);

/// A running pod with one container; its UID is `uid-NAME`.
pub(super) fn pod(namespace: &str, name: &str, node: &str) -> Builder {
    let mut pod = Pod::default();
    pod.metadata.namespace = namespace.to_owned();
    pod.metadata.name = name.to_owned();
    pod.metadata.uid = format!("uid-{name}");
    pod.spec.node_name = node.to_owned();
    pod.spec.containers.push(Container { name: "main".to_owned(), ..Container::default() });
    "Running".clone_into(&mut pod.status.phase);
    Builder(pod)
}

impl Builder {
    /// A volume that no container names.
    pub(super) fn unmounted(mut self, name: &str, origin: Origin) -> Self {
        self.0.spec.volumes.push(PodVolume { name: name.to_owned(), origin });
        self
    }

    pub(super) fn volume(mut self, name: &str, origin: Origin) -> Self {
        self.0.spec.containers[0].volume_mounts.push(Named { name: name.to_owned() });
        self.unmounted(name, origin)
    }

    pub(super) fn device(mut self, name: &str, claim: &str) -> Self {
        self.0.spec.containers[0].volume_devices.push(Named { name: name.to_owned() });
        self.unmounted(name, Origin::Claim(claim.to_owned()))
    }

    pub(super) fn claim(self, name: &str, claim: &str) -> Self {
        self.volume(name, Origin::Claim(claim.to_owned()))
    }

    pub(super) fn empty_dir(self, name: &str) -> Self {
        self.volume(name, Origin::EmptyDir { in_memory: false })
    }

    pub(super) fn annotated(mut self, key: &str, value: &str) -> Self {
        self.0.metadata.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(super) fn phase(mut self, phase: &str) -> Self {
        phase.clone_into(&mut self.0.status.phase);
        self
    }

    pub(super) fn ending(mut self) -> Self {
        self.0.metadata.deletion_timestamp = Some("2026-11-29T00:00:00Z".to_owned());
        self
    }
}

pub(super) fn name(text: &str) -> ClaimName {
    text.parse().unwrap()
}

/// A claim `NS/NAME` that is bound to the volume `pv-NAME`, both with `access` as mode.
pub(super) fn bound(text: &str, access: &str, backing: Backing) -> (Claim, Volume) {
    let (namespace, claim_name) = text.split_once('/').unwrap();
    let (mut claim, mut volume) = (Claim::default(), Volume::default());
    claim.metadata.namespace = namespace.to_owned();
    claim.metadata.name = claim_name.to_owned();
    claim.metadata.uid = format!("uid-of-{claim_name}");
    claim.spec.volume_name = format!("pv-{claim_name}");
    claim.spec.access_modes = vec![access.to_owned()];
    "Bound".clone_into(&mut claim.status.phase);
    volume.metadata.name.clone_from(&claim.spec.volume_name);
    volume.spec.access_modes = vec![access.to_owned()];
    volume.spec.claim =
        ClaimRef { namespace: namespace.to_owned(), name: claim_name.to_owned(), uid: claim.metadata.uid.clone() };
    volume.spec.backing = backing;
    (claim, volume)
}
