//! The kubelet's volume plugins: which field of a volume means which, and in what folder each mounts.
//!
//! The folder is the plugin's name with `~` for `/`: `kubernetes.io~csi`.

/// A field of a pod's or persistent volume's spec that says what the volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InTree {
    pub field: &'static str,
    pub plugin: &'static str,
    /// Newer kubelets mount it through a CSI driver instead.
    pub migrates: bool,
    /// It can be mounted on several nodes whatever its access modes say.
    pub network: bool,
}

const fn disk(field: &'static str, plugin: &'static str, migrates: bool) -> InTree {
    InTree { field, plugin, migrates, network: false }
}

const fn network(field: &'static str, plugin: &'static str, migrates: bool) -> InTree {
    InTree { field, plugin, migrates, network: true }
}

/// The plugins that are, or were, in Kubernetes itself (pkg/volume of 1.20 to 1.36). Flex volumes name their own.
pub const IN_TREE: [InTree; 18] = [
    disk("awsElasticBlockStore", "kubernetes.io/aws-ebs", true),
    disk("azureDisk", "kubernetes.io/azure-disk", true),
    network("azureFile", "kubernetes.io/azure-file", true),
    network("cephfs", "kubernetes.io/cephfs", false),
    disk("cinder", "kubernetes.io/cinder", true),
    disk("fc", "kubernetes.io/fc", false),
    disk("flocker", "kubernetes.io/flocker", false),
    disk("gcePersistentDisk", "kubernetes.io/gce-pd", true),
    network("glusterfs", "kubernetes.io/glusterfs", false),
    disk("iscsi", "kubernetes.io/iscsi", false),
    network("nfs", "kubernetes.io/nfs", false),
    disk("photonPersistentDisk", "kubernetes.io/photon-pd", false),
    network("portworxVolume", "kubernetes.io/portworx-volume", true),
    network("quobyte", "kubernetes.io/quobyte", false),
    disk("rbd", "kubernetes.io/rbd", true),
    disk("scaleIO", "kubernetes.io/scaleio", false),
    network("storageos", "kubernetes.io/storageos", false),
    disk("vsphereVolume", "kubernetes.io/vsphere-volume", true),
];

pub const CSI: &str = "kubernetes.io/csi";
pub const LOCAL: &str = "kubernetes.io/local-volume";
pub const EMPTY_DIR: &str = "kubernetes.io/empty-dir";

/// The plugin of this field; `None` for a field that is none of these.
#[must_use]
pub fn in_tree(field: &str) -> Option<&'static InTree> {
    IN_TREE.iter().find(|known| known.field == field)
}

/// The folder below a pod's `volumes` or `volumeDevices`.
#[must_use]
pub fn folder(plugin: &str) -> String {
    plugin.replace('/', "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_known_once_and_have_a_folder_of_their_own() {
        assert!(IN_TREE.windows(2).all(|pair| pair[0].field < pair[1].field));
        for plugin in IN_TREE {
            assert_eq!(in_tree(plugin.field), Some(&plugin));
            assert!(IN_TREE.iter().filter(|other| other.plugin == plugin.plugin).count() == 1);
        }
        assert_eq!((folder(CSI), in_tree("csi")), ("kubernetes.io~csi".into(), None));
        assert!(in_tree("nfs").unwrap().network && !in_tree("rbd").unwrap().network);
    }
}
