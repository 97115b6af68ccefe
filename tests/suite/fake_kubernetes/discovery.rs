//! What the fake serves: discovery in the aggregated form and in that of old.

use hyper::Response;
use serde_json::{Value, json};

use super::{Reply, State, answer, body, plain};
use crate::servers::Seen;

impl State {
    pub(super) fn root(&self, path: &str, request: &Seen) -> Reply {
        let core = path == "/api";
        let asked = request.header("accept").unwrap_or_default().contains("apidiscovery.k8s.io");
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        let alive = self.kinds.iter().map(|kind| (kind.group.as_str(), kind.version.as_str()));
        let dead = self.dead.iter().map(|dead| dead.split_once('/').unwrap());
        for (group, version) in alive.chain(dead).filter(|(group, _)| group.is_empty() == core) {
            match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
                None => groups.push((group, vec![version])),
            }
        }
        if self.aggregated && asked {
            let items: Vec<Value> = groups
                .iter()
                .map(|(group, versions)| {
                    let versions: Vec<Value> =
                        versions.iter().map(|version| self.version_discovery(group, version)).collect();
                    json!({ "metadata": { "name": group }, "versions": versions })
                })
                .collect();
            let list = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items });
            let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            return Response::builder().header("content-type", kind).body(body(list.to_string())).unwrap();
        }
        if core {
            return answer(200, &json!({ "kind": "APIVersions", "versions": ["v1"] }));
        }
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|(group, versions)| {
                let versions: Vec<Value> =
                    versions.iter().map(|v| json!({ "groupVersion": format!("{group}/{v}"), "version": v })).collect();
                json!({ "name": group, "preferredVersion": versions[0], "versions": versions })
            })
            .collect();
        answer(200, &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
    }

    fn version_discovery(&self, group: &str, version: &str) -> Value {
        if self.dead.contains(&format!("{group}/{version}")) {
            return json!({ "version": version, "freshness": "Stale" });
        }
        let kinds = self.kinds.iter().filter(|kind| kind.group == group && kind.version == version);
        let resources: Vec<Value> = kinds
            .map(|kind| {
                json!({ "resource": kind.plural, "responseKind": { "group": group, "version": version, "kind": kind.singular },
                    "scope": if kind.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": "", "verbs": kind.verbs,
                    "subresources": [{ "subresource": "status", "verbs": ["get"] }] })
            })
            .collect();
        json!({ "version": version, "freshness": "Current", "resources": resources })
    }

    pub(super) fn resources(&self, group_version: &str) -> Reply {
        if self.dead.iter().any(|dead| dead == group_version) {
            return plain(503, "service unavailable\n");
        }
        let resources: Vec<Value> = self
            .kinds
            .iter()
            .filter(|kind| kind.api_version() == group_version)
            .flat_map(|kind| {
                let entry = |name: String, verbs: &[&str]| json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind.singular, "verbs": verbs });
                [entry(kind.plural.clone(), kind.verbs), entry(format!("{}/status", kind.plural), &["get"])]
            })
            .collect();
        if resources.is_empty() {
            return plain(404, "404 page not found\n");
        }
        answer(200, &json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": resources }))
    }
}
