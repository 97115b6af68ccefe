//! Addresses and ports of a Service: those that its author set stay, those that the server chose are removed.

use serde_json::Value;

use super::Context;
use crate::reinstate::fields::{at, list, map, remove, text};

const ADDRESSES: [&str; 3] = ["clusterIP", "clusterIPs", "ipFamilies"];

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn addresses(object: &mut Value, _: &Context<'_>) {
    if is_headless(object) {
        // It has no address, but the server chose its families too.
        if !Author::of(object).fixed("ipFamilies") {
            remove(object, &["spec", "ipFamilies"]);
        }
        return;
    }
    let author = Author::of(object);
    // Both fields hold the same address: either keeps both.
    let fixed = author.fixed("clusterIP") || author.fixed("clusterIPs");
    let gone = [!fixed, !fixed, !author.fixed("ipFamilies")];
    for (field, _) in ADDRESSES.iter().zip(gone).filter(|(_, gone)| *gone) {
        remove(object, &["spec", field]);
    }
}

pub(super) fn ports(object: &mut Value, _: &Context<'_>) {
    let author = Author::of(object);
    let check = author.fixed("healthCheckNodePort");
    let fixed: Vec<bool> = list(object, &["spec", "ports"]).iter().map(|port| author.fixed_port(port)).collect();
    if !check {
        remove(object, &["spec", "healthCheckNodePort"]);
    }
    let ports = map(object, &["spec"]).and_then(|spec| spec.get_mut("ports")?.as_array_mut());
    for (port, _) in ports.into_iter().flatten().zip(fixed).filter(|(_, fixed)| !fixed) {
        remove(port, &["nodePort"]);
    }
}

/// Removes the addresses and ports of a Service that its author set ([`super::clean`] leaves them), for a cluster that refuses them: it
/// has another network, or they are in use. Returns whether there were any.
pub fn unfix(resource: &str, object: &mut Value) -> bool {
    if resource != "services" {
        return false;
    }
    let mut any = false;
    if !is_headless(object) {
        for field in ADDRESSES {
            any |= remove(object, &["spec", field]).is_some();
        }
    }
    any |= remove(object, &["spec", "healthCheckNodePort"]).is_some();
    any |= remove(object, &["spec", "ports", "*", "nodePort"]).is_some();
    any
}

fn is_headless(object: &Value) -> bool {
    text(object, &["spec", "clusterIP"]) == "None"
}

/// The fields that the author set: the server chooses its own values after it has recorded the managers.
struct Author {
    /// The configuration that kubectl applied.
    applied: Value,
    /// `f:spec` of each entry.
    managed: Vec<Value>,
}

impl Author {
    fn of(object: &Value) -> Self {
        let applied = text(object, &["metadata", "annotations", LAST_APPLIED]);
        let managed = list(object, &["metadata", "managedFields"])
            .iter()
            .filter(|entry| text(entry, &["subresource"]).is_empty())
            .filter_map(|entry| at(entry, &["fieldsV1", "f:spec"]).cloned());
        Self { applied: serde_json::from_str(applied).unwrap_or_default(), managed: managed.collect() }
    }

    fn fixed(&self, field: &str) -> bool {
        let key = format!("f:{field}");
        at(&self.applied, &["spec", field]).is_some_and(is_said)
            || self.managed.iter().any(|spec| spec.get(&key).is_some())
    }

    fn fixed_port(&self, port: &Value) -> bool {
        let same = |other: &Value| {
            let protocol = |port: &Value| match text(port, &["protocol"]) {
                "" => "TCP".to_owned(),
                protocol => protocol.to_owned(),
            };
            other.get("port") == port.get("port") && protocol(other) == protocol(port)
        };
        let applied = list(&self.applied, &["spec", "ports"]).iter().filter(|other| same(other));
        let managed = self.managed.iter().filter_map(|spec| spec.get("f:ports")?.as_object()).flatten();
        applied.filter_map(|port| port.get("nodePort")).any(is_said)
            || managed.filter(|(_, fields)| fields.get("f:nodePort").is_some()).any(|(key, _)| {
                // `k:{"port":80,"protocol":"TCP"}`
                let key = key.strip_prefix("k:").and_then(|key| serde_json::from_str::<Value>(key).ok());
                key.is_some_and(|key| same(&key))
            })
    }
}

/// An empty value, or 0, leaves the choice to the server.
fn is_said(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Number(number) => number.as_i64() != Some(0),
        Value::Array(list) => !list.is_empty(),
        Value::Bool(_) | Value::Object(_) => true,
    }
}
