//! What an identity may: RBAC of service accounts, and the reviews that tell of it.

use serde_json::{Value, json};

use super::{Objects, Reply, State, answer, key, text};

impl State {
    pub(super) fn review(&self, review: &str, account: Option<&str>, request: &str) -> Reply {
        let request: Value = serde_json::from_str(request).unwrap();
        if review == "selfsubjectrulesreviews" {
            let namespace = text(&request, "/spec/namespace");
            let rules: Vec<Value> = match account {
                None => vec![json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] })],
                Some(user) => self.rules(user, Some(namespace)),
            };
            return answer(
                201,
                &json!({ "status": { "resourceRules": rules, "nonResourceRules": [], "incomplete": false } }),
            );
        }
        let attribute = |name: &str| text(&request, &format!("/spec/resourceAttributes/{name}")).to_owned();
        let namespace = Some(attribute("namespace")).filter(|namespace| !namespace.is_empty());
        let resource = match (attribute("resource"), attribute("subresource")) {
            (resource, subresource) if subresource.is_empty() => resource,
            (resource, subresource) => format!("{resource}/{subresource}"),
        };
        let allowed = account.is_none_or(|user| {
            self.may(user, &attribute("verb"), &attribute("group"), &resource, namespace.as_deref())
        });
        answer(201, &json!({ "status": { "allowed": allowed, "reason": "" } }))
    }

    /// The rules that RBAC gives `user` in a namespace, or at the cluster's scope.
    fn rules(&self, user: &str, namespace: Option<&str>) -> Vec<Value> {
        let empty = Objects::new();
        let all = |key: &str| self.objects.get(&format!("{key}.rbac.authorization.k8s.io")).unwrap_or(&empty);
        let bound = |binding: &&Value| {
            binding["subjects"].as_array().into_iter().flatten().any(|subject| {
                user == format!("system:serviceaccount:{}:{}", text(subject, "/namespace"), text(subject, "/name"))
            })
        };
        let role = |binding: &Value| {
            let name = text(binding, "/roleRef/name");
            let role = match text(binding, "/roleRef/kind") {
                "ClusterRole" => all("clusterroles").get(&key(None, name)),
                _ => all("roles").get(&key(namespace, name)),
            };
            role.and_then(|role| role["rules"].as_array().cloned()).unwrap_or_default()
        };
        let within =
            |binding: &&Value| namespace.is_some_and(|namespace| text(binding, "/metadata/namespace") == namespace);
        let local = all("rolebindings").values().filter(within).filter(bound).flat_map(role);
        all("clusterrolebindings").values().filter(bound).flat_map(role).chain(local).collect()
    }

    pub(super) fn may(&self, user: &str, verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> bool {
        let has = |rule: &Value, field: &str, name: &str| {
            rule[field].as_array().into_iter().flatten().any(|entry| entry == name || entry == "*")
        };
        self.rules(user, namespace).iter().any(|rule| {
            has(rule, "verbs", verb)
                && has(rule, "apiGroups", group)
                && has(rule, "resources", resource)
                && rule.get("resourceNames").is_none()
        })
    }
}
