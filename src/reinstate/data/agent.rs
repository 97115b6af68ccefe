//! What the Jobs have of the node agent: its image, configuration and credentials. Pure.
//!
//! A Job runs in the namespace of its claim, because a pod can mount no other. What the agent's pod refers to in its own namespace,
//! [`Need`]s, is copied there for as long as the Jobs run.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::checksum::fingerprint;

/// The container of the manifests and the chart.
pub(super) const CONTAINER: &str = "penstock";

/// The subcommand of the agent: its arguments before are options that the Jobs have too.
const RUN: &str = "run";

/// Arguments that a Job sets itself.
const OWN: [&str; 2] = ["--log-format", "--output"];

/// Parts of the agent's pod that its image, identity and network depend on.
const FROM_POD: [&str; 7] =
    ["imagePullSecrets", "hostNetwork", "dnsPolicy", "dnsConfig", "hostAliases", "priorityClassName", "nodeSelector"];

const FROM_CONTAINER: [&str; 6] = ["image", "imagePullPolicy", "command", "env", "envFrom", "resources"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ConfigMap,
    Secret,
}

/// An object in the agent's namespace that its pod names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) is_optional: bool,
}

impl Need {
    /// The name of its copy. No longer than any, and the same in each run.
    pub(super) fn copy(&self) -> String {
        format!("penstock-restore-{}", digits(&format!("{:?}/{}", self.kind, self.name)))
    }
}

/// 16 hex digits of a name of any length.
pub(super) fn digits(name: &str) -> String {
    format!("{:032x}", u128::from_be_bytes(fingerprint(name.as_bytes())))[..16].to_owned()
}

/// A pod's specification, without the claim, the arguments and the placement.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    pub(super) spec: Value,
    /// The agent's options before `run`.
    pub(super) arguments: Vec<String>,
    /// The agent's service account.
    pub(super) account: String,
    pub(super) needs: BTreeSet<Need>,
}

/// Why a workload is no agent that Jobs can be like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("has no container with an image")]
    NoContainer,
    #[error(
        "has the volume {0:?} of a type that cannot be had in another namespace; expected configMap, secret, projected, emptyDir or hostPath"
    )]
    Volume(String),
}

impl Template {
    /// Of a DaemonSet.
    pub(super) fn of(agent: &Value) -> Result<Self, Unfit> {
        let pod = agent.pointer("/spec/template/spec").unwrap_or(&Value::Null);
        let containers = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let container = containers.iter().find(|container| container["name"] == CONTAINER).or(containers.first());
        let container = container.filter(|container| container["image"].is_string()).ok_or(Unfit::NoContainer)?;
        let mut needs = Needs::default();
        let mut spec = Map::new();
        for key in FROM_POD {
            if let Some(value) = pod.get(key) {
                spec.insert(key.to_owned(), value.clone());
            }
        }
        let mut made = Map::new();
        for key in FROM_CONTAINER {
            if let Some(value) = container.get(key) {
                made.insert(key.to_owned(), value.clone());
            }
        }
        for secret in list(spec.get_mut("imagePullSecrets")) {
            needs.renamed(secret, "name", Kind::Secret);
        }
        needs.environment(&mut made);
        let (volumes, mounts) = needs.volumes(pod, container)?;
        made.extend([("name".to_owned(), json!(CONTAINER)), ("volumeMounts".to_owned(), json!(mounts))]);
        spec.insert("volumes".to_owned(), json!(volumes));
        spec.insert("containers".to_owned(), json!([made]));
        spec.insert("securityContext".to_owned(), security(pod));
        let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let arguments = arguments.take_while(|argument| *argument != RUN);
        let arguments = arguments.filter(|argument| !OWN.iter().any(|own| argument.starts_with(&format!("{own}="))));
        let account = pod["serviceAccountName"].as_str().unwrap_or("default").to_owned();
        Ok(Self {
            spec: Value::Object(spec),
            arguments: arguments.map(str::to_owned).collect(),
            account,
            needs: needs.0,
        })
    }
}

/// The pod runs as root, since it restores the files of any user; the rest is as the agent has it.
fn security(pod: &Value) -> Value {
    let mut context = json!({ "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false });
    for key in ["seccompProfile", "seLinuxOptions"] {
        if let Some(value) = pod["securityContext"].get(key) {
            context[key] = value.clone();
        }
    }
    context
}

fn list(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value.and_then(Value::as_array_mut).into_iter().flatten()
}

#[derive(Default)]
struct Needs(BTreeSet<Need>);

impl Needs {
    /// Notes what `of[key]` names, and names its copy instead.
    fn renamed(&mut self, of: &mut Value, key: &str, kind: Kind) {
        let Some(name) = of.get(key).and_then(Value::as_str) else { return };
        let need = Need { kind, name: name.to_owned(), is_optional: of["optional"] == true };
        of[key] = json!(need.copy());
        self.0.insert(need);
    }

    fn environment(&mut self, container: &mut Map<String, Value>) {
        for from in list(container.get_mut("envFrom")) {
            for (key, kind) in [("configMapRef", Kind::ConfigMap), ("secretRef", Kind::Secret)] {
                if let Some(of) = from.get_mut(key) {
                    self.renamed(of, "name", kind);
                }
            }
        }
        for variable in list(container.get_mut("env")) {
            for (key, kind) in [("configMapKeyRef", Kind::ConfigMap), ("secretKeyRef", Kind::Secret)] {
                if let Some(of) = variable.get_mut("valueFrom").and_then(|from| from.get_mut(key)) {
                    self.renamed(of, "name", kind);
                }
            }
        }
    }

    /// The agent's volumes and their mounts, but for the node's folders: one that it writes to, its state, is a new one in a Job.
    fn volumes(&mut self, pod: &Value, container: &Value) -> Result<(Vec<Value>, Vec<Value>), Unfit> {
        let mounts = container["volumeMounts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let (mut volumes, mut kept) = (Vec::new(), Vec::new());
        for volume in pod["volumes"].as_array().into_iter().flatten() {
            let name = volume["name"].as_str().unwrap_or_default();
            let mut of_volume = mounts.iter().filter(|mount| mount["name"] == name).peekable();
            let Some(mount) = of_volume.peek() else { continue };
            let mut volume = volume.clone();
            if volume.get("hostPath").is_some() {
                if mount["readOnly"] == true {
                    continue;
                }
                volume = json!({ "name": name, "emptyDir": {} });
            } else if volume.get("configMap").is_some() {
                self.renamed(&mut volume["configMap"], "name", Kind::ConfigMap);
            } else if volume.get("secret").is_some() {
                self.renamed(&mut volume["secret"], "secretName", Kind::Secret);
            } else if volume.get("projected").is_some() {
                for source in list(volume["projected"].get_mut("sources")) {
                    for (key, kind) in [("configMap", Kind::ConfigMap), ("secret", Kind::Secret)] {
                        if let Some(of) = source.get_mut(key) {
                            self.renamed(of, "name", kind);
                        }
                    }
                }
            } else if volume.get("emptyDir").is_none() && volume.get("downwardAPI").is_none() {
                return Err(Unfit::Volume(name.to_owned()));
            }
            kept.extend(of_volume.cloned());
            volumes.push(volume);
        }
        Ok((volumes, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Value {
        json!({ "spec": { "template": { "spec": {
            "serviceAccountName": "penstock", "hostNetwork": false, "tolerations": [{ "operator": "Exists" }],
            "imagePullSecrets": [{ "name": "registry" }],
            "securityContext": { "runAsUser": 0, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [
                { "name": "sidecar", "image": "other" },
                { "name": "penstock", "image": "registry/penstock:1", "args": ["--log-format=json", "--config=/etc/penstock/penstock.toml", "run"],
                  "env": [{ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                          { "name": "ID", "valueFrom": { "secretKeyRef": { "name": "external-id", "key": "id" } } }],
                  "envFrom": [{ "configMapRef": { "name": "penstock-settings-abc" } }],
                  "livenessProbe": { "httpGet": { "path": "/healthz" } },
                  "volumeMounts": [
                      { "name": "config", "mountPath": "/etc/penstock", "readOnly": true }, { "name": "state", "mountPath": "/var/lib/penstock" },
                      { "name": "pods", "mountPath": "/var/lib/kubelet/pods", "readOnly": true }, { "name": "keys", "mountPath": "/keys" }] }],
            "volumes": [
                { "name": "config", "configMap": { "name": "penstock-xyz" } }, { "name": "state", "hostPath": { "path": "/var/lib/penstock" } },
                { "name": "pods", "hostPath": { "path": "/var/lib/kubelet/pods" } }, { "name": "of-the-sidecar", "csi": {} },
                { "name": "keys", "projected": { "sources": [{ "secret": { "name": "aws", "optional": true } }, { "serviceAccountToken": { "path": "t" } }] } }]
        } } } })
    }

    #[test]
    fn a_job_has_the_agents_image_configuration_and_credentials_and_none_of_the_nodes_folders() {
        let template = Template::of(&agent()).unwrap();
        let needs: Vec<(Kind, &str, bool)> =
            template.needs.iter().map(|need| (need.kind, need.name.as_str(), need.is_optional)).collect();
        assert_eq!(
            needs,
            [
                (Kind::ConfigMap, "penstock-settings-abc", false),
                (Kind::ConfigMap, "penstock-xyz", false),
                (Kind::Secret, "aws", true),
                (Kind::Secret, "external-id", false),
                (Kind::Secret, "registry", false),
            ]
        );
        assert_eq!(template.arguments, ["--config=/etc/penstock/penstock.toml"]);
        let text = template.spec.to_string();
        for absent in
            ["hostPath", "livenessProbe", "Exists", "sidecar", "penstock-xyz", "/var/lib/kubelet", r#""registry""#]
        {
            assert!(!text.contains(absent), "{absent}: {text}");
        }
        let container = &template.spec["containers"][0];
        assert_eq!(container["image"], "registry/penstock:1");
        assert_eq!(container["volumeMounts"].as_array().unwrap().len(), 3);
        assert_eq!(template.spec["volumes"][1], json!({ "name": "state", "emptyDir": {} }));
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        assert_eq!(Template::of(&json!(null)).unwrap_err(), Unfit::NoContainer);
        let mut agent = agent();
        agent["spec"]["template"]["spec"]["volumes"][0] = json!({ "name": "config", "csi": { "driver": "x" } });
        assert_eq!(Template::of(&agent).unwrap_err(), Unfit::Volume("config".into()));
    }
}
