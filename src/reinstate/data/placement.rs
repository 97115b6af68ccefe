//! Where a claim's pods may run. Pure.
//!
//! A volume is made where its first pod is scheduled, if its class binds volumes that way: a Job that ran anywhere would make it in a zone, or
//! on a node, where its workload never runs.

use serde_json::{Value, json};

/// What decides the node of a pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::reinstate) struct Placement {
    selector: Option<Value>,
    /// `requiredDuringSchedulingIgnoredDuringExecution` of its node affinity.
    required: Option<Value>,
    tolerations: Vec<Value>,
}

impl Placement {
    /// Of a pod's specification.
    pub(in crate::reinstate) fn of(spec: &Value) -> Self {
        let object = |pointer: &str| spec.pointer(pointer).filter(|value| value.is_object()).cloned();
        let tolerations = spec["tolerations"].as_array().into_iter().flatten();
        // The kubelet's own, with times: of every pod.
        let is_own = |toleration: &&Value| toleration.get("tolerationSeconds").is_none();
        Self {
            selector: object("/nodeSelector"),
            required: object("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution"),
            tolerations: tolerations.filter(is_own).cloned().collect(),
        }
    }

    /// What it takes of memory.
    pub(in crate::reinstate) fn size(&self) -> usize {
        let texts = self.selector.iter().chain(&self.required).chain(&self.tolerations);
        texts.map(|value| 4 * value.to_string().len()).sum::<usize>() + size_of::<Self>()
    }

    /// Adds it to a pod's specification.
    pub(super) fn apply(&self, spec: &mut Value) {
        if let Some(selector) = self.selector.as_ref().and_then(Value::as_object) {
            if !spec["nodeSelector"].is_object() {
                spec["nodeSelector"] = json!({});
            }
            for (key, value) in selector {
                spec["nodeSelector"][key] = value.clone();
            }
        }
        if let Some(required) = &self.required {
            spec["affinity"] =
                json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": required } });
        }
        if !self.tolerations.is_empty() {
            spec["tolerations"] = json!(self.tolerations);
        }
    }
}

/// The specifications of the pods that an object is, or makes, and the claims that each of them names.
pub(in crate::reinstate) fn users<'a>(resource: &str, object: &'a Value) -> Option<(&'a Value, Vec<&'a str>)> {
    let pointer = match resource {
        "pods" => "/spec",
        "deployments.apps" | "statefulsets.apps" | "daemonsets.apps" | "replicasets.apps" | "jobs.batch" => {
            "/spec/template/spec"
        }
        "cronjobs.batch" => "/spec/jobTemplate/spec/template/spec",
        _ => return None,
    };
    let spec = object.pointer(pointer)?;
    let volumes = spec["volumes"].as_array()?;
    let claims: Vec<&str> =
        volumes.iter().filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str()).collect();
    (!claims.is_empty()).then_some((spec, claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_runs_where_the_claims_pod_ran() {
        let spec = json!({
            "nodeSelector": { "zone": "a" }, "volumes": [{ "persistentVolumeClaim": { "claimName": "data" } }, { "emptyDir": {} }],
            "affinity": { "podAntiAffinity": {}, "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [1] } } },
            "tolerations": [{ "key": "gpu" }, { "key": "node.kubernetes.io/not-ready", "tolerationSeconds": 300 }],
        });
        let deployment = json!({ "spec": { "template": { "spec": spec } } });
        let (found, claims) = users("deployments.apps", &deployment).unwrap();
        assert_eq!(claims, ["data"]);
        let mut job = json!({ "nodeSelector": { "kubernetes.io/os": "linux" } });
        Placement::of(found).apply(&mut job);
        assert_eq!(job["nodeSelector"], json!({ "kubernetes.io/os": "linux", "zone": "a" }));
        assert_eq!(job["tolerations"], json!([{ "key": "gpu" }]));
        assert_eq!(
            job["affinity"],
            json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [1] } } })
        );
        for odd in [json!(null), json!({ "spec": [] }), json!({ "spec": { "volumes": [3] } })] {
            assert!(users("pods", &odd).is_none());
        }
        assert!(users("configmaps", &deployment).is_none());
    }
}
