//! The Job that fills one claim. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::agent::{CONTAINER, Template, digits};
use super::choice::Chosen;
use super::placement::Placement;

/// On everything that a restore makes for its Jobs, and on their pods.
pub(super) const LABEL: &str = "backup.penstock/restore";

/// Selects them.
pub(super) const LABELLED: &str = "backup.penstock/restore=true";

/// On a Job and its pods: which claim they fill.
const OF: &str = "backup.penstock/restored-claim";

/// On a Job: the backup from which it fills the claim.
const FROM: &str = "backup.penstock/restored-backup";

/// On a Job: the UID of the claim. One that was made anew under the same name is empty.
const UID: &str = "backup.penstock/restored-claim-uid";

/// The service account that is made for the Jobs of a namespace, if the operator names none.
pub(super) const ACCOUNT: &str = "penstock-restore";

/// The volume in the container; as a device, the same path is one.
const VOLUME: &str = "/restore/volume";

/// Attempts after the first, for failures that pass: the Job's controller waits 10, 20 and 40 s before them.
const RETRIES: u32 = 3;

/// The exit code of a restore that has ended, with warnings. Another attempt would find the volume filled.
pub(super) const WITH_WARNINGS: i64 = 1;

/// Owners, modes, links, extended attributes and devices of any user's files. All of them are among those of the Pod Security level `baseline`.
const CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"];

/// What the operator chose for the Jobs.
#[derive(Debug, Clone, Default)]
pub struct Jobs {
    /// Namespace and name of the DaemonSet that they are like.
    pub agent: (String, String),
    /// Instead of the agent's.
    pub image: Option<String>,
    /// One that is in each claim's namespace; without this, one is made with the annotations of the agent's.
    pub service_account: Option<String>,
    /// A Secret in each claim's namespace with the private key of encrypted backups, under the key [`IDENTITY`].
    pub identity_secret: Option<String>,
    pub node_selector: BTreeMap<String, String>,
    /// As in a pod's specification.
    pub tolerations: Vec<Value>,
    /// Secrets of the agent may be copied into the claims' namespaces.
    pub copies_secrets: bool,
    /// How many run at a time.
    pub at_once: usize,
    /// How long one may take.
    pub limit: Duration,
}

/// A claim in the cluster that is to be filled.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// `shop/data` as in the backup.
    pub(super) key: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// Empty in a plan.
    pub(super) uid: String,
    /// `volumeMode: Block`.
    pub(super) is_block: bool,
}

impl Claim {
    fn digits(&self) -> String {
        digits(&format!("{}/{}", self.namespace, self.name))
    }

    /// The name of its Job: the same in each run.
    pub(super) fn job(&self) -> String {
        format!("penstock-restore-{}", self.digits())
    }

    /// Selects the pods of its Job.
    pub(super) fn selector(&self) -> String {
        format!("{OF}={}", self.digits())
    }
}

/// Where a Job's container has the private key, and its name in the Secret.
const IDENTITIES: &str = "/run/penstock-identity";
const IDENTITY: &str = "identity";

/// Mounts the Secret with the private key, and names the file to the program.
fn give_identity(spec: &mut Value, secret: &str) {
    let name = "penstock-identity";
    let file = format!("{IDENTITIES}/{IDENTITY}");
    let source =
        json!({ "secretName": secret, "defaultMode": 0o400, "items": [{ "key": IDENTITY, "path": IDENTITY }] });
    push(&mut spec["volumes"], json!({ "name": name, "secret": source }));
    let container = &mut spec["containers"][0];
    push(&mut container["volumeMounts"], json!({ "name": name, "mountPath": IDENTITIES, "readOnly": true }));
    push(&mut container["env"], json!({ "name": "PENSTOCK_IDENTITY_FILE", "value": file }));
}

/// Appends to a list that may not be there.
fn push(list: &mut Value, entry: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(entry),
        None => *list = json!([entry]),
    }
}

/// Whether a Job that is there does the same.
pub(super) fn does(job: &Value, claim: &Claim, backup: &str) -> bool {
    filled(job).is_some_and(|of| (of.claim, of.uid, of.backup) == (&claim.name, &claim.uid, backup))
}

/// What a Job fills, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled<'a> {
    pub(super) namespace: &'a str,
    pub(super) claim: &'a str,
    pub(super) uid: &'a str,
    pub(super) backup: &'a str,
}

pub(super) fn filled(job: &Value) -> Option<Filled<'_>> {
    let metadata = &job["metadata"];
    let annotation = |name: &str| metadata["annotations"][name].as_str();
    let volumes = job["spec"]["template"]["spec"]["volumes"].as_array()?;
    let claim = volumes.iter().find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())?;
    let (uid, backup) = (annotation(UID)?, annotation(FROM)?);
    Some(Filled { namespace: metadata["namespace"].as_str()?, claim, uid, backup })
}

/// Whether a pod is one of this Job.
pub(super) fn is_of(pod: &Value, job: &Value) -> bool {
    let of = |object: &Value| object["metadata"]["labels"][OF].as_str().map(str::to_owned);
    of(pod).is_some() && of(pod) == of(job)
}

/// The Job's pod.
pub(super) fn pod(
    template: &Template,
    jobs: &Jobs,
    cluster: &str,
    claim: &Claim,
    chosen: &Chosen,
    placement: Option<&Placement>,
) -> Value {
    let mut spec = template.spec.clone();
    let container = &mut spec["containers"][0];
    if let Some(image) = &jobs.image {
        container["image"] = json!(image);
    }
    let own = [
        "--log-format=json",
        "--output=json",
        "restore",
        &chosen.backup,
        "--cluster",
        cluster,
        "--to",
        VOLUME,
        "--fill",
    ];
    let arguments = template.arguments.iter().map(String::as_str).chain(own);
    container["args"] = json!(arguments.collect::<Vec<_>>());
    container["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"], "add": CAPABILITIES },
    });
    // The end of the log has the failure, as a JSON document.
    container["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let volume = json!({ "name": "penstock-restored-volume", "persistentVolumeClaim": { "claimName": claim.name } });
    if claim.is_block {
        container["volumeDevices"] = json!([{ "name": volume["name"], "devicePath": VOLUME }]);
    } else if let Some(mounts) = container["volumeMounts"].as_array_mut() {
        mounts.push(json!({ "name": volume["name"], "mountPath": VOLUME }));
    }
    if let Some(volumes) = spec["volumes"].as_array_mut() {
        volumes.push(volume);
    }
    if let Some(secret) = &jobs.identity_secret {
        give_identity(&mut spec, secret);
    }
    if let Some(placement) = placement {
        placement.apply(&mut spec);
    }
    for (key, value) in &jobs.node_selector {
        if !spec["nodeSelector"].is_object() {
            spec["nodeSelector"] = json!({});
        }
        spec["nodeSelector"][key] = json!(value);
    }
    if !jobs.tolerations.is_empty() {
        let of_workload = spec["tolerations"].as_array().cloned().unwrap_or_default();
        spec["tolerations"] = json!([of_workload, jobs.tolerations.clone()].concat());
    }
    spec["restartPolicy"] = json!("Never");
    spec["serviceAccountName"] = json!(jobs.service_account.as_deref().unwrap_or(ACCOUNT));
    spec["automountServiceAccountToken"] = json!(false);
    spec["enableServiceLinks"] = json!(false);
    json!({ "metadata": metadata(claim, &chosen.backup), "spec": spec })
}

fn metadata(claim: &Claim, backup: &str) -> Value {
    json!({
        "labels": {
            LABEL: "true", OF: claim.digits(),
            // The network policy of the agents selects these.
            "app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "restore",
            // A mesh's proxy would never end, and with it the pod.
            "sidecar.istio.io/inject": "false",
        },
        "annotations": {
            FROM: backup, "linkerd.io/inject": "disabled",
            // No agent saves a volume that is filled in part.
            "backup.penstock/exclude": "*",
        },
    })
}

/// The Job of this pod.
pub(super) fn job(claim: &Claim, backup: &str, pod: Value, limit: Duration) -> Value {
    let mut metadata = metadata(claim, backup);
    metadata["name"] = json!(claim.job());
    metadata["namespace"] = json!(claim.namespace);
    metadata["annotations"][UID] = json!(claim.uid);
    // Servers before 1.26 drop it. Nothing removes the Job by itself: it says that the claim has its data until the claim says so.
    let with_warnings = json!({ "containerName": CONTAINER, "operator": "In", "values": [WITH_WARNINGS] });
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
        "spec": {
            "backoffLimit": RETRIES, "activeDeadlineSeconds": limit.as_secs().max(1),
            "podFailurePolicy": { "rules": [{ "action": "FailJob", "onExitCodes": with_warnings }] },
            "template": pod,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(is_block: bool) -> Claim {
        let (namespace, name) = ("copy".into(), "data".into());
        Claim { key: "shop/data".into(), namespace, name, uid: "u1".into(), is_block }
    }

    fn chosen() -> Chosen {
        let taken = jiff::Timestamp::UNIX_EPOCH;
        Chosen {
            backup: "volumes/claim.shop.data@20261123T221300Z-4f9a2c".into(),
            taken,
            bytes: 1,
            is_device: false,
            notes: Vec::new(),
        }
    }

    fn template() -> Template {
        let spec = json!({ "containers": [{ "name": "penstock", "image": "p:1", "volumeMounts": [] }], "volumes": [] });
        Template {
            spec,
            arguments: vec!["--config=/c".into()],
            account: "penstock".into(),
            needs: std::collections::BTreeSet::new(),
        }
    }

    #[test]
    fn the_operators_choice_comes_last() {
        let jobs = Jobs {
            image: Some("mirror/p:1".into()),
            service_account: Some("filler".into()),
            identity_secret: Some("key".into()),
            node_selector: BTreeMap::from([("pool".into(), "big".into())]),
            tolerations: vec![json!({ "key": "big" })],
            limit: Duration::from_secs(60),
            ..Jobs::default()
        };
        let users = json!({ "nodeSelector": { "pool": "small", "zone": "a" }, "tolerations": [{ "key": "gpu" }] });
        let pod = pod(&template(), &jobs, "prod", &claim(false), &chosen(), Some(&Placement::of(&users)));
        let spec = &pod["spec"];
        assert_eq!(spec["nodeSelector"], json!({ "pool": "big", "zone": "a" }));
        assert_eq!(spec["tolerations"], json!([{ "key": "gpu" }, { "key": "big" }]));
        let container = &spec["containers"][0];
        assert_eq!((&container["image"], &spec["serviceAccountName"]), (&json!("mirror/p:1"), &json!("filler")));
        assert_eq!(container["args"][0], "--config=/c");
        let key =
            spec["volumes"].as_array().unwrap().iter().find(|volume| volume["secret"]["secretName"] == "key").unwrap();
        let mount =
            &container["volumeMounts"].as_array().unwrap().iter().find(|mount| mount["name"] == key["name"]).unwrap();
        let file =
            format!("{}/{}", mount["mountPath"].as_str().unwrap(), key["secret"]["items"][0]["path"].as_str().unwrap());
        assert_eq!(container["env"], json!([{ "name": "PENSTOCK_IDENTITY_FILE", "value": file }]));
        assert_eq!(container["args"].as_array().unwrap().last().unwrap(), "--fill");
        let job = job(&claim(false), &chosen().backup, pod, jobs.limit);
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 60);
        assert!(does(&job, &claim(false), &chosen().backup));
        assert!(!does(&job, &claim(false), "volumes/claim.shop.data@other"));
        let anew = Claim { uid: "u2".into(), ..claim(false) };
        assert!(!does(&job, &anew, &chosen().backup), "its volume is empty");
        assert!(job["spec"].get("ttlSecondsAfterFinished").is_none(), "{job}");
        assert!(!does(&json!({}), &claim(false), ""));
    }

    #[test]
    fn a_block_claim_is_a_device_of_the_pod() {
        let of = |is_block| pod(&template(), &Jobs::default(), "prod", &claim(is_block), &chosen(), None);
        let (block, files) = (of(true), of(false));
        assert_eq!(block["spec"]["containers"][0]["volumeDevices"][0]["devicePath"], VOLUME);
        assert_eq!(block["spec"]["containers"][0]["volumeMounts"], json!([]));
        assert!(files["spec"]["containers"][0].get("volumeDevices").is_none());
        assert_eq!(files["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], VOLUME);
        assert_eq!(files["spec"]["serviceAccountName"], ACCOUNT);
    }
}
