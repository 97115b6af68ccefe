//! The restore Job as it is shipped, run twice as docs/restore-drill.md says.

use super::*;

const AGAIN: [&str; 5] = ["-n", "penstock", "delete", "job", "penstock-restore"];

/// Needs the agents' configuration ([`install`]) and the backup of the claim `local`.
pub(super) fn twice(node: &Node) {
    let disk = node.disks.join("restored");
    let _ = fs::remove_dir_all(&disk);
    fs::create_dir_all(&disk).unwrap();
    node.apply(&[
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "penstock-settings", "namespace": "penstock" }, "data": {
            "AWS_EC2_METADATA_DISABLED": "true" } }),
        elsewhere(Node::volume("target", &json!({ "hostPath": { "path": disk } }))),
        elsewhere(claim("target")),
    ]);
    assert_eq!(run(node, "/restore/data", &[]), "Complete");
    assert_eq!(fs::read_to_string(disk.join("data/file")).unwrap(), "one\n");
    // What its pod does cannot be changed, and one that has ended does not start again.
    let changed = node.kubectl(&["apply", "-f", "-"], &job("/restore/second", &[]));
    assert!(!changed.status.success(), "{changed:?}");
    node.done(&AGAIN);
    assert_eq!(run(node, "/restore/data", &[]), "Failed", "the folder has what the first run restored");
    let log = node.done(&["-n", "penstock", "logs", "job/penstock-restore"]);
    assert!(log.contains("not empty") && log.contains("--overwrite"), "{log}");
    node.done(&AGAIN);
    assert_eq!(run(node, "/restore/second", &[]), "Complete");
    assert_eq!(fs::read_to_string(disk.join("second/file")).unwrap(), "one\n");
    node.done(&AGAIN);
    fs::write(disk.join("data/file"), "half").unwrap();
    assert_eq!(run(node, "/restore/data", &["--overwrite"]), "Complete");
    assert_eq!(fs::read_to_string(disk.join("data/file")).unwrap(), "one\n");
    node.done(&AGAIN);
}

/// The objects of a claim `target`, in the agents' namespace under the name that the Job uses.
fn elsewhere(mut object: Value) -> Value {
    if object["kind"] == "PersistentVolume" {
        object["spec"]["claimRef"]["namespace"] = json!("penstock");
        object["spec"]["claimRef"]["name"] = json!("restore-target");
    } else {
        object["metadata"] = json!({ "name": "restore-target", "namespace": "penstock" });
    }
    object
}

/// What an overlay makes of the component: the image, the backup and the target; the host's network, since the stand-in for S3 is there.
fn job(to: &str, more: &[&str]) -> Value {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/kubernetes/components/restore/job.yaml");
    let mut job: Value = serde_saphyr::from_str(&fs::read_to_string(shipped).unwrap()).unwrap();
    job["metadata"]["namespace"] = json!("penstock");
    // As the patch of the drill does; an API server of 1.20 does not know the field.
    job["spec"].as_object_mut().unwrap().remove("suspend");
    let pod = &mut job["spec"]["template"]["spec"];
    pod["hostNetwork"] = json!(true);
    let container = &mut pod["containers"][0];
    container["image"] = json!("docker.io/penstock/penstock:test");
    container["imagePullPolicy"] = json!("Never");
    let arguments = ["restore", "volumes@latest", "--claim", "claims/local", "--to", to];
    container["args"] = json!([&arguments[..], more].concat());
    job
}

/// Runs the Job to its end, and returns the condition in which it ended.
fn run(node: &Node, to: &str, more: &[&str]) -> String {
    node.apply(&[job(to, more)]);
    let ended = [
        "-n",
        "penstock",
        "get",
        "job",
        "penstock-restore",
        "-o",
        "jsonpath={.status.conditions[?(@.status==\"True\")].type}",
    ];
    let mut condition = String::new();
    node.until("the end of the restore", || {
        let output = node.kubectl(&ended, &Value::Null);
        condition = String::from_utf8_lossy(&output.stdout).into_owned();
        ["Complete", "Failed"].contains(&condition.as_str())
    });
    condition
}
