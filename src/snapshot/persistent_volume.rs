//! Makes the PersistentVolume of a restored EBS volume, for static provisioning with the EBS CSI driver.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::disks::Volume;

/// Settings of the driver and the cluster that the volume does not have.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    pub fs_type: &'a str,
    /// Empty: the claim must not ask for a class either.
    pub storage_class: &'a str,
}

/// The manifest, in JSON, which is YAML too. Only the claim that `labels` name, if any, may bind it.
#[must_use]
pub fn manifest(volume: &Volume, labels: &BTreeMap<String, String>, options: Options<'_>) -> Value {
    let mut manifest = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": format!("penstock-{}", volume.id) },
        "spec": {
            "capacity": { "storage": format!("{}Gi", volume.size_gib) },
            "accessModes": ["ReadWriteOnce"],
            // After a restore somebody wants to look at the data before anything is deleted.
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": options.storage_class,
            "volumeMode": "Filesystem",
            "csi": { "driver": "ebs.csi.aws.com", "volumeHandle": volume.id, "fsType": options.fs_type },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "topology.kubernetes.io/zone", "operator": "In", "values": [volume.availability_zone],
            }] }] } },
        },
    });
    if let (Some(namespace), Some(name)) = (labels.get("pvc_namespace"), labels.get("pvc_name")) {
        manifest["spec"]["claimRef"] =
            json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name });
    }
    manifest
}

/// The manifest in block-style YAML. Scalars are JSON's, which YAML reads alike.
#[must_use]
pub fn yaml(manifest: &Value) -> String {
    let mut text = String::new();
    write(&mut text, manifest, 0);
    text
}

fn write(text: &mut String, value: &Value, indent: usize) {
    let pad = " ".repeat(indent);
    let simple = |value: &Value| !value.is_object() && !value.is_array();
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if simple(value) {
                    text.extend([&*pad, key, ": ", &value.to_string(), "\n"]);
                } else {
                    text.extend([&*pad, key, ":\n"]);
                    write(text, value, indent + 2);
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                let mut inner = String::new();
                write(&mut inner, value, indent + 2);
                text.extend([&*pad, "- ", inner.trim_start()]);
            }
        }
        scalar => text.extend([&*pad, &scalar.to_string(), "\n"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::memory;

    #[test]
    fn a_claim_binds_what_is_restored() {
        let volume = memory::volume(&"vol-0123456789abcdef0".parse().unwrap(), &[]);
        let labels =
            [("pvc_namespace", "shop"), ("pvc_name", "db")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        let options = Options { fs_type: "xfs", storage_class: "" };
        let text = yaml(&manifest(&volume, &labels.into(), options));
        assert_eq!(
            text,
            r#"apiVersion: "v1"
kind: "PersistentVolume"
metadata:
  name: "penstock-vol-0123456789abcdef0"
spec:
  accessModes:
    - "ReadWriteOnce"
  capacity:
    storage: "8Gi"
  claimRef:
    apiVersion: "v1"
    kind: "PersistentVolumeClaim"
    name: "db"
    namespace: "shop"
  csi:
    driver: "ebs.csi.aws.com"
    fsType: "xfs"
    volumeHandle: "vol-0123456789abcdef0"
  nodeAffinity:
    required:
      nodeSelectorTerms:
        - matchExpressions:
            - key: "topology.kubernetes.io/zone"
              operator: "In"
              values:
                - "eu-west-1a"
  persistentVolumeReclaimPolicy: "Retain"
  storageClassName: ""
  volumeMode: "Filesystem"
"#
        );
        assert_eq!(manifest(&volume, &BTreeMap::new(), options)["spec"].get("claimRef"), None);
    }
}
