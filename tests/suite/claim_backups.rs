//! Backups of claims, made by the agent of a node of the fake cluster.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::binary::Penstock;
use crate::fake_kubernetes::FakeKubernetes;
use crate::servers::{S3Server, STATIC_KEYS};

/// A node whose pod `NAMESPACE/web-1` mounts a claim, the volume of which is a folder of the host.
pub(crate) struct Agent {
    penstock: Penstock,
    volume: PathBuf,
}

impl Agent {
    /// Of the claim `data` in `namespace`, which exists.
    pub(crate) fn new(fake: &FakeKubernetes, s3: &S3Server, home: &Path, kubeconfig: &Path, namespace: &str) -> Self {
        let (folder, volume) = (home.join("agent"), home.join("agent/disks/data"));
        std::fs::create_dir_all(folder.join("kubelet/pods")).unwrap();
        std::fs::create_dir_all(&volume).unwrap();
        let claim = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        fake.make(&claim, &claim_object());
        let uid = fake.state().object(&format!("{claim}/data"))["metadata"]["uid"].clone();
        let reference = json!({ "namespace": namespace, "name": "data", "uid": uid });
        let volume_object = json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "pv-data" }, "spec": {
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": { "path": volume }, "claimRef": reference, "volumeMode": "Filesystem" } });
        fake.make("/api/v1/persistentvolumes", &volume_object);
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-1" }, "spec": {
            "nodeName": "node-1", "nodeSelector": { "zone": "a" }, "tolerations": [{ "key": "gpu", "operator": "Exists" }],
            "containers": [{ "name": "c", "image": "i", "volumeMounts": [{ "name": "d", "mountPath": "/d" }] }],
            "volumes": [{ "name": "d", "persistentVolumeClaim": { "claimName": "data" } }] } });
        fake.make(&format!("/api/v1/namespaces/{namespace}/pods"), &pod);
        // A status in a POST is dropped.
        fake.state().touch("pods", |pod| pod["status"] = json!({ "phase": "Running" }));
        fake.state().touch("persistentvolumeclaims", |claim| {
            if claim["metadata"]["name"] == "data" {
                claim["status"] = json!({ "phase": "Bound" });
            }
        });
        let head = s3.toml("node-1", &folder.join("state"), &s3.url);
        let config = format!(
            "{head}\n{STATIC_KEYS}\n[kubernetes]\nkubeconfig = \"{}\"\n[jobs.volumes]\nlocation = \"primary\"\n\
             [[jobs.volumes.sources]]\ntype = \"claims\"\nname = \"claims\"\nkubelet_root = \"{}\"\nhost_paths = [\"{}\"]\n",
            kubeconfig.display(),
            folder.join("kubelet").display(),
            folder.join("disks").display(),
        );
        Self { penstock: Penstock::new(&folder, &config), volume }
    }

    /// Saves the volume with one file of this content.
    pub(crate) fn save(&self, path: &str, content: &str) -> Value {
        let file = self.volume.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self.penstock.good(&["backup", "volumes"])
    }
}

fn claim_object() -> Value {
    json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "volumeName": "pv-data",
                      "resources": { "requests": { "storage": "1Gi" } } } })
}
