//! Finds the names of other objects that an object depends on. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use super::fields::{at, list, pod_spec, text};

const SECRETS: &str = "secrets";
const CONFIG_MAPS: &str = "configmaps";
const CLASSES: &str = "storageclasses.storage.k8s.io";
const SERVICES: &str = "services";

/// An object that must exist, or the one that names it waits, fails or is refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    /// `storageclasses.storage.k8s.io`.
    pub resource: &'static str,
    /// `None`: cluster-scoped.
    pub namespace: Option<String>,
    pub name: String,
    /// The path of the field that names it.
    pub field: String,
}

/// The most needs of one object that are found.
pub const MOST_NEEDS: usize = 1000;

/// What `object` (mapped and cleaned) needs, each once; [`MOST_NEEDS`] at most.
#[must_use]
pub fn needs(resource: &str, object: &Value) -> Vec<Need> {
    let mut found =
        Found { namespace: text(object, &["metadata", "namespace"]), needs: Vec::new(), have: BTreeSet::new() };
    if let Some(path) = pod_spec(resource) {
        let spec = at(object, path).unwrap_or(&Value::Null);
        found.pod(spec, &path.join("."), object, resource);
    }
    match resource {
        "persistentvolumeclaims" => found.claim(object, ""),
        "secrets" if text(object, &["type"]) == "kubernetes.io/service-account-token" => {
            // A controller deletes the token of a missing account.
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let account = text(object, &["metadata", "annotations", ACCOUNT]);
            found.own("serviceaccounts", account, format!("metadata.annotations[{ACCOUNT:?}]"));
        }
        "statefulsets.apps" => {
            for (n, claim) in list(object, &["spec", "volumeClaimTemplates"]).iter().enumerate() {
                found.claim(claim, &format!("spec.volumeClaimTemplates[{n}]."));
            }
        }
        "ingresses.networking.k8s.io" => {
            found.cluster("ingressclasses.networking.k8s.io", object, &["spec", "ingressClassName"]);
        }
        "gateways.gateway.networking.k8s.io" => {
            found.cluster("gatewayclasses.gateway.networking.k8s.io", object, &["spec", "gatewayClassName"]);
        }
        "volumesnapshots.snapshot.storage.k8s.io" => {
            let content = &["spec", "source", "volumeSnapshotContentName"];
            found.cluster("volumesnapshotcontents.snapshot.storage.k8s.io", object, content);
        }
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => {
            let name = &["roleRef", "name"];
            match text(object, &["roleRef", "kind"]) {
                "ClusterRole" => found.cluster("clusterroles.rbac.authorization.k8s.io", object, name),
                "Role" => found.own("roles.rbac.authorization.k8s.io", text(object, name), "roleRef.name".into()),
                _ => {}
            }
        }
        "apiservices.apiregistration.k8s.io" => found.service(at(object, &["spec", "service"]), "spec.service"),
        "customresourcedefinitions.apiextensions.k8s.io" => {
            let service = &["spec", "conversion", "webhook", "clientConfig", "service"];
            found.service(at(object, service), &service.join("."));
        }
        "mutatingwebhookconfigurations.admissionregistration.k8s.io"
        | "validatingwebhookconfigurations.admissionregistration.k8s.io" => {
            for (n, webhook) in list(object, &["webhooks"]).iter().enumerate() {
                let field = format!("webhooks[{n}].clientConfig.service");
                found.service(at(webhook, &["clientConfig", "service"]), &field);
            }
        }
        _ => {}
    }
    found.needs
}

struct Found<'a> {
    /// The namespace of the object.
    namespace: &'a str,
    needs: Vec<Need>,
    have: BTreeSet<(&'static str, Option<String>, String)>,
}

impl Found<'_> {
    fn add(&mut self, resource: &'static str, namespace: Option<&str>, name: &str, field: String) {
        if name.is_empty() || self.needs.len() >= MOST_NEEDS {
            return;
        }
        let namespace = namespace.map(str::to_owned);
        if self.have.insert((resource, namespace.clone(), name.to_owned())) {
            self.needs.push(Need { resource, namespace, name: name.to_owned(), field });
        }
    }

    /// A need in the object's own namespace.
    fn own(&mut self, resource: &'static str, name: &str, field: String) {
        let namespace = self.namespace.to_owned();
        self.add(resource, Some(&namespace), name, field);
    }

    fn cluster(&mut self, resource: &'static str, object: &Value, path: &[&str]) {
        self.add(resource, None, text(object, path), path.join("."));
    }

    fn service(&mut self, service: Option<&Value>, field: &str) {
        let Some(service) = service else { return };
        self.add(SERVICES, Some(text(service, &["namespace"])), text(service, &["name"]), format!("{field}.name"));
    }

    fn claim(&mut self, claim: &Value, prefix: &str) {
        const BETA: &str = "volume.beta.kubernetes.io/storage-class";
        let volume = text(claim, &["spec", "volumeName"]);
        if !volume.is_empty() {
            // With a named volume, the class is only a name that both share, with or without an object.
            return self.add("persistentvolumes", None, volume, format!("{prefix}spec.volumeName"));
        }
        match text(claim, &["metadata", "annotations", BETA]) {
            "" => self.add(
                CLASSES,
                None,
                text(claim, &["spec", "storageClassName"]),
                format!("{prefix}spec.storageClassName"),
            ),
            class => self.add(CLASSES, None, class, format!("{prefix}metadata.annotations[{BETA:?}]")),
        }
        let attributes = text(claim, &["spec", "volumeAttributesClassName"]);
        let field = format!("{prefix}spec.volumeAttributesClassName");
        self.add("volumeattributesclasses.storage.k8s.io", None, attributes, field);
    }

    fn pod(&mut self, spec: &Value, path: &str, object: &Value, resource: &str) {
        for (resource, field) in [
            ("priorityclasses.scheduling.k8s.io", "priorityClassName"),
            ("runtimeclasses.node.k8s.io", "runtimeClassName"),
        ] {
            self.add(resource, None, text(spec, &[field]), format!("{path}.{field}"));
        }
        // The account `default`, which each namespace has, is no need.
        let account = text(spec, &["serviceAccountName"]);
        if account != "default" {
            self.own("serviceaccounts", account, format!("{path}.serviceAccountName"));
        }
        for (n, volume) in list(spec, &["volumes"]).iter().enumerate() {
            self.volume(volume, &format!("{path}.volumes[{n}]"));
        }
        for containers in ["initContainers", "containers"] {
            for (n, container) in list(spec, &[containers]).iter().enumerate() {
                self.container(container, &format!("{path}.{containers}[{n}]"));
            }
        }
        if resource == "statefulsets.apps" {
            self.add_service_name(object);
        }
    }

    /// The service that gives the pods of a stateful set their names.
    fn add_service_name(&mut self, set: &Value) {
        self.own(SERVICES, text(set, &["spec", "serviceName"]), "spec.serviceName".into());
    }

    fn volume(&mut self, volume: &Value, path: &str) {
        let mut source = |source: &Value, path: &str, secret: &str| {
            if !is_optional(source.get("secret")) {
                self.own(SECRETS, text(source, &["secret", secret]), format!("{path}.secret.{secret}"));
            }
            // The server creates `kube-root-ca.crt` in each namespace.
            let map = text(source, &["configMap", "name"]);
            if !is_optional(source.get("configMap")) && map != "kube-root-ca.crt" {
                self.own(CONFIG_MAPS, map, format!("{path}.configMap.name"));
            }
        };
        source(volume, path, "secretName");
        for (n, each) in list(volume, &["projected", "sources"]).iter().enumerate() {
            source(each, &format!("{path}.projected.sources[{n}]"), "name");
        }
        let claim = text(volume, &["persistentVolumeClaim", "claimName"]);
        self.own("persistentvolumeclaims", claim, format!("{path}.persistentVolumeClaim.claimName"));
        if let Some(template) = at(volume, &["ephemeral", "volumeClaimTemplate"]) {
            self.claim(template, &format!("{path}.ephemeral.volumeClaimTemplate."));
        }
    }

    fn container(&mut self, container: &Value, path: &str) {
        let mut reference = |source: &Value, path: &str, (secret, map): (&str, &str)| {
            for (resource, key) in [(SECRETS, secret), (CONFIG_MAPS, map)] {
                if !is_optional(source.get(key)) {
                    self.own(resource, text(source, &[key, "name"]), format!("{path}.{key}.name"));
                }
            }
        };
        for (n, source) in list(container, &["envFrom"]).iter().enumerate() {
            reference(source, &format!("{path}.envFrom[{n}]"), ("secretRef", "configMapRef"));
        }
        for (n, variable) in list(container, &["env"]).iter().enumerate() {
            if let Some(source) = variable.get("valueFrom") {
                reference(source, &format!("{path}.env[{n}].valueFrom"), ("secretKeyRef", "configMapKeyRef"));
            }
        }
    }
}

fn is_optional(reference: Option<&Value>) -> bool {
    reference.and_then(|reference| reference.get("optional")) == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(resource: &str, object: &Value) -> Vec<String> {
        let line = |need: Need| {
            let namespace = need.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
            format!("{} {namespace}{} {}", need.resource, need.name, need.field)
        };
        needs(resource, object).into_iter().map(line).collect()
    }

    #[test]
    fn what_pods_need_wherever_their_template_is() {
        let spec = json!({
            "priorityClassName": "high", "runtimeClassName": "gvisor", "serviceAccountName": "web",
            "volumes": [
                {"secret": {"secretName": "tls"}}, {"configMap": {"name": "maybe", "optional": true}},
                {"persistentVolumeClaim": {"claimName": "data"}},
                {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "more"}}]}},
                {"ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "fast"}}}}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "env"}}], "env": [
                {"valueFrom": {"secretKeyRef": {"name": "tls"}}}, {"valueFrom": {"secretKeyRef": {"name": "x", "optional": true}}},
                {"value": "1"}]}],
        });
        let expected = [
            "priorityclasses.scheduling.k8s.io high P.priorityClassName",
            "runtimeclasses.node.k8s.io gvisor P.runtimeClassName",
            "serviceaccounts shop/web P.serviceAccountName",
            "secrets shop/tls P.volumes[0].secret.secretName",
            "persistentvolumeclaims shop/data P.volumes[2].persistentVolumeClaim.claimName",
            "secrets shop/more P.volumes[3].projected.sources[1].secret.name",
            "storageclasses.storage.k8s.io fast P.volumes[4].ephemeral.volumeClaimTemplate.spec.storageClassName",
            "configmaps shop/env P.containers[0].envFrom[0].configMapRef.name",
        ];
        let metadata = json!({"namespace": "shop"});
        for (resource, object, path) in [
            ("pods", json!({"metadata": metadata, "spec": spec}), "spec"),
            (
                "deployments.apps",
                json!({"metadata": metadata, "spec": {"template": {"spec": spec}}}),
                "spec.template.spec",
            ),
            (
                "cronjobs.batch",
                json!({"metadata": metadata, "spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}}),
                "spec.jobTemplate.spec.template.spec",
            ),
        ] {
            assert_eq!(found(resource, &object), expected.map(|line| line.replace("P.", &format!("{path}."))));
        }
        assert_eq!(found("widgets.example.com", &json!({"spec": spec})), [""; 0]);
    }

    #[test]
    fn what_the_other_kinds_need() {
        let service = json!({"namespace": "ops", "name": "hook"});
        let webhooks =
            json!({"webhooks": [{"clientConfig": {"url": "https://x"}}, {"clientConfig": {"service": service}}]});
        for (resource, object, expected) in [
            (
                "persistentvolumeclaims",
                json!({"spec": {"volumeName": "pv", "storageClassName": "manual"}}),
                "persistentvolumes pv spec.volumeName",
            ),
            (
                "persistentvolumeclaims",
                json!({"spec": {"storageClassName": "fast"}}),
                "storageclasses.storage.k8s.io fast spec.storageClassName",
            ),
            (
                "persistentvolumeclaims",
                json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}}, "spec": {"storageClassName": "fast"}}),
                "storageclasses.storage.k8s.io old metadata.annotations[\"volume.beta.kubernetes.io/storage-class\"]",
            ),
            (
                "statefulsets.apps",
                json!({"spec": {"volumeClaimTemplates": [{"spec": {"storageClassName": "fast"}}]}}),
                "storageclasses.storage.k8s.io fast spec.volumeClaimTemplates[0].spec.storageClassName",
            ),
            (
                "statefulsets.apps",
                json!({"metadata": {"namespace": "shop"}, "spec": {"serviceName": "db"}}),
                "services shop/db spec.serviceName",
            ),
            (
                "secrets",
                json!({"type": "kubernetes.io/service-account-token", "metadata": {"namespace": "shop",
                    "annotations": {"kubernetes.io/service-account.name": "ci"}}}),
                "serviceaccounts shop/ci metadata.annotations[\"kubernetes.io/service-account.name\"]",
            ),
            (
                "ingresses.networking.k8s.io",
                json!({"spec": {"ingressClassName": "nginx"}}),
                "ingressclasses.networking.k8s.io nginx spec.ingressClassName",
            ),
            (
                "rolebindings.rbac.authorization.k8s.io",
                json!({"metadata": {"namespace": "shop"}, "roleRef": {"kind": "Role", "name": "r"}}),
                "roles.rbac.authorization.k8s.io shop/r roleRef.name",
            ),
            (
                "rolebindings.rbac.authorization.k8s.io",
                json!({"roleRef": {"kind": "ClusterRole", "name": "view"}}),
                "clusterroles.rbac.authorization.k8s.io view roleRef.name",
            ),
            (
                "apiservices.apiregistration.k8s.io",
                json!({"spec": {"service": service}}),
                "services ops/hook spec.service.name",
            ),
            (
                "validatingwebhookconfigurations.admissionregistration.k8s.io",
                webhooks,
                "services ops/hook webhooks[1].clientConfig.service.name",
            ),
        ] {
            assert_eq!(found(resource, &object), [expected], "{resource}");
        }
    }

    #[test]
    fn what_needs_nothing_or_is_odd() {
        for (resource, object) in [
            ("persistentvolumeclaims", json!({"spec": {"storageClassName": ""}})),
            ("persistentvolumes", json!({"spec": {"storageClassName": "manual"}})),
            ("apiservices.apiregistration.k8s.io", json!({"spec": {"service": null}})),
            ("pods", json!(null)),
            ("pods", json!({"spec": {"volumes": {"a": 1}, "containers": [7], "priorityClassName": 7}})),
        ] {
            assert_eq!(found(resource, &object), [""; 0], "{resource}");
        }
    }

    #[test]
    fn needs_are_bounded() {
        let volumes: Vec<Value> = (0..5000).map(|n| json!({"secret": {"secretName": format!("s{n}")}})).collect();
        assert_eq!(needs("pods", &json!({"spec": {"volumes": volumes}})).len(), MOST_NEEDS);
    }
}
