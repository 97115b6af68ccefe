//! Finds what would refuse objects before any is created: namespaces that are being deleted, webhooks without endpoints, small quotas.

use std::collections::BTreeSet;

use serde_json::Value;

use super::run::Work;
use super::{Error, Summary};
use crate::cluster::{Object, Resource, Scope};
use crate::error::Classify as _;
use crate::resources::item::Item;
use crate::resources::list::Entry;
use crate::resources::outlet::Closed;
use crate::resources::pages::{ListError, ListReport, Sink, Wanted, list};

/// Objects of one list that are kept: there are few webhooks and quotas.
const MOST: usize = 1000;

const WEBHOOKS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];
const GROUP: &str = "admissionregistration.k8s.io";

/// Adds what was found to the summary's notes. What this identity may not read is not reported: a refusal shows at its object.
///
/// # Errors
/// When the server is gone.
pub(super) async fn notes(work: &Work<'_>, deleting: &BTreeSet<String>, summary: &mut Summary) -> Result<(), Error> {
    for name in deleting {
        let silent: Vec<String> =
            work.target.served().stale.iter().chain(&work.target.served().missing).cloned().collect();
        let cause = if silent.is_empty() {
            String::new()
        } else {
            format!("; the API groups {} do not answer, which keeps it from going", silent.join(", "))
        };
        summary.notes.push(format!("the namespace {name} is being deleted, and refuses new objects{cause}"));
    }
    let served = work.target.served();
    for webhook in WEBHOOKS {
        let kind = served
            .kinds
            .iter()
            .find(|kind| kind.is_preferred && kind.resource.group == GROUP && kind.resource.plural == webhook);
        let Some(resource) = kind.map(|kind| &kind.resource) else { continue };
        for configuration in all(work, resource, None).await? {
            for (name, service) in services(&configuration) {
                let is_restored = work.contents.has("services", &service);
                if !is_restored && !has_endpoints(work, &service).await? {
                    summary.notes.push(format!(
                        "the webhook {name} is served by {service}, which has no endpoint: it refuses the objects that it judges"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// The services of webhooks that refuse objects if they do not answer.
fn services(configuration: &Value) -> Vec<(String, String)> {
    let webhooks = configuration["webhooks"].as_array();
    let text = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let refusing = webhooks.into_iter().flatten().filter(|webhook| webhook["failurePolicy"] != "Ignore");
    refusing
        .filter_map(|webhook| {
            let namespace = text(webhook, "/clientConfig/service/namespace")?;
            let name = text(webhook, "/clientConfig/service/name")?;
            Some((text(webhook, "/name")?, format!("{namespace}/{name}")))
        })
        .collect()
}

async fn has_endpoints(work: &Work<'_>, service: &str) -> Result<bool, Error> {
    let resource = core("endpoints", "Endpoints");
    let (namespace, name) = service.split_once('/').unwrap_or(("", service));
    match work.target.get(&Object { resource: &resource, namespace: Some(namespace), name }).await {
        Ok(endpoints) => Ok(endpoints.is_some_and(|endpoints| {
            let subsets = endpoints["subsets"].as_array();
            subsets
                .into_iter()
                .flatten()
                .any(|subset| subset["addresses"].as_array().is_some_and(|all| !all.is_empty()))
        })),
        // This identity may not read it.
        Err(failure) if failure.error.status == Some(403) => Ok(true),
        Err(failure) => Err(failure.into()),
    }
}

/// Compares the objects that a plan would create with what quotas leave: the server judges each of them alone. A quota of CPU or memory is
/// the server's to judge.
///
/// # Errors
/// When the server is gone.
pub(super) async fn quotas(work: &Work<'_>, summary: &mut Summary) -> Result<(), Error> {
    let namespaces: BTreeSet<String> = summary.creates.keys().map(|(namespace, _)| namespace.clone()).collect();
    let resource = core("resourcequotas", "ResourceQuota");
    for namespace in namespaces {
        for quota in all(work, &resource, Some(&namespace)).await? {
            let creates = |kind: &str| summary.creates.get(&(namespace.clone(), kind.to_owned())).copied();
            let exceeded = exceeded(&quota, creates);
            summary.notes.extend(exceeded);
        }
    }
    Ok(())
}

/// A sentence for each kind of which `quota` does not allow as many new objects as `creates` has.
fn exceeded(quota: &Value, creates: impl Fn(&str) -> Option<u64>) -> Vec<String> {
    let text = |key: &str| quota.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default();
    let number = |value: Option<&Value>| value.and_then(Value::as_str).and_then(|text| text.parse::<u64>().ok());
    let limits = quota.pointer("/status/hard").and_then(Value::as_object);
    let of_kind = |(counted, hard): (&String, &Value)| {
        let kind = counted.strip_prefix("count/").unwrap_or(counted);
        let used = number(quota.pointer("/status/used").and_then(|used| used.get(counted)))?;
        let (hard, new) = (number(Some(hard))?, creates(kind)?);
        let (namespace, name) = (text("namespace"), text("name"));
        (used.saturating_add(new) > hard).then(|| {
            format!("the quota {namespace}/{name} allows {hard} {kind}: {used} exist, and {new} would be created")
        })
    };
    limits.into_iter().flatten().filter_map(of_kind).collect()
}

fn core(plural: &str, kind: &str) -> Resource {
    let (group, version) = (String::new(), "v1".to_owned());
    Resource { group, version, plural: plural.to_owned(), kind: kind.to_owned(), scope: Scope::Namespaced }
}

/// All objects of a kind; none where they may not be listed.
async fn all(work: &Work<'_>, resource: &Resource, namespace: Option<&str>) -> Result<Vec<Value>, Error> {
    #[derive(Default)]
    struct Kept(Vec<Value>);
    #[async_trait::async_trait]
    impl Sink for Kept {
        async fn accept(&mut self, entry: Entry) -> Result<(), Closed> {
            let Entry::Object(Item { bytes, .. }) = entry else { return Ok(()) };
            if self.0.len() < MOST {
                self.0.push(serde_json::from_slice(&bytes).unwrap_or_default());
            }
            Ok(())
        }
    }
    let mut kept = Kept::default();
    let wanted = Wanted { resource, namespace, selector: "", fields: "" };
    let (cluster, patience) = (work.restore.cluster, work.restore.patience);
    match list(cluster, patience, wanted, &mut ListReport::default(), &mut kept).await {
        Ok(()) | Err(ListError::Closed) => Ok(kept.0),
        Err(ListError::Failed(failure)) if failure.error.status.is_some() => {
            tracing::info!(class = %failure.class(), error = %failure, "could not list webhooks or quotas: a refusal shows at its object");
            Ok(Vec::new())
        }
        Err(ListError::Failed(failure)) => Err(failure.into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_counts_what_exists_and_what_would_be_created() {
        let quota = json!({
            "metadata": { "namespace": "shop", "name": "q" },
            "status": {
                "hard": { "configmaps": "5", "count/deployments.apps": "2", "requests.cpu": "1500m" },
                "used": { "configmaps": "3", "count/deployments.apps": "0", "requests.cpu": "0" },
            },
        });
        let notes = |maps: u64, deployments: u64| {
            exceeded(&quota, |kind| match kind {
                "configmaps" => Some(maps),
                "deployments.apps" => Some(deployments),
                _ => None,
            })
        };
        assert_eq!(notes(2, 2), Vec::<String>::new());
        assert_eq!(notes(3, 2), ["the quota shop/q allows 5 configmaps: 3 exist, and 3 would be created"]);
        assert_eq!(notes(0, 3).len(), 1);
        assert_eq!(exceeded(&json!({ "status": [] }), |_| Some(1)), Vec::<String>::new());
    }
}
