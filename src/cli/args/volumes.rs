//! The data of claims in `penstock kubernetes plan` and `restore`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::reinstate::{AsOf, Jobs};

/// The data of claims.
#[derive(Debug, Args)]
#[command(next_help_heading = "Data of claims")]
pub(in crate::cli) struct ClaimData {
    /// Also restore the data of the claims that are created, from their own backups (a job with a source of type claims), before custom
    /// resources, pods and workloads. For each claim, a Job in its namespace runs `penstock restore --fill`.
    #[arg(long)]
    pub(in crate::cli) with_volumes: bool,
    /// As of when: `latest`, or a time as `2026-11-23T22:13:00Z`. Of each claim, the newest backup that is not later, else the first one.
    /// Without this, the time of the objects' backup.
    #[arg(long, value_name = "TIME", requires = "with_volumes", value_parser = as_of)]
    pub(in crate::cli) volumes_as_of: Option<AsOf>,
    /// How many claims are filled at a time.
    #[arg(long, value_name = "NUMBER", requires = "with_volumes", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    pub(in crate::cli) volumes_at_once: u8,
    /// How long one claim may take.
    #[arg(long, value_name = "TIME", requires = "with_volumes", default_value = "12h", value_parser = humantime::parse_duration)]
    pub(in crate::cli) volumes_timeout: Duration,
    /// The DaemonSet of the node agents in this cluster: Jobs have its image, configuration and credentials, which are copied into the
    /// claims' namespaces until the claims are filled.
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "with_volumes", default_value = "penstock/penstock", value_parser = namespaced)]
    pub(in crate::cli) agent: (String, String),
    /// Copy the Secrets that the agent's pod uses too. Meanwhile, whoever may read Secrets in a claim's namespace can read them.
    #[arg(long, requires = "with_volumes")]
    pub(in crate::cli) copy_secrets: bool,
    /// Another image than the agent's.
    #[arg(long, value_name = "IMAGE", requires = "with_volumes")]
    pub(in crate::cli) job_image: Option<String>,
    /// A service account that each claim's namespace has. Without this, `penstock-restore` is made there, with the `eks.amazonaws.com/`
    /// annotations of the agent's; the role has to trust it.
    #[arg(long, value_name = "NAME", requires = "with_volumes")]
    pub(in crate::cli) job_service_account: Option<String>,
    /// A Secret that each claim's namespace has, with the private key that opens encrypted backups under the key `identity`. Make it before
    /// the restore and delete it afterwards: whoever may read Secrets there can read all that the key opens.
    #[arg(long, value_name = "NAME", requires = "with_volumes")]
    pub(in crate::cli) identity_secret: Option<String>,
    /// A label of the nodes on which Jobs may run; may be repeated. Without this, a Job runs where a pod of the claim ran: node selector,
    /// required node affinity and tolerations are those of a pod or workload of the backup that names the claim.
    #[arg(long, value_name = "K=V", requires = "with_volumes", value_parser = label)]
    pub(in crate::cli) job_node_selector: Vec<(String, String)>,
    /// A taint that Jobs tolerate, as `KEY[=VALUE][:EFFECT]`, or `*` for every one; may be repeated.
    #[arg(long, value_name = "TAINT", requires = "with_volumes", value_parser = toleration)]
    pub(in crate::cli) job_toleration: Vec<Value>,
}

impl ClaimData {
    pub(in crate::cli) fn jobs(&self) -> Jobs {
        Jobs {
            agent: self.agent.clone(),
            image: self.job_image.clone(),
            service_account: self.job_service_account.clone(),
            identity_secret: self.identity_secret.clone(),
            node_selector: self.job_node_selector.iter().cloned().collect(),
            tolerations: self.job_toleration.clone(),
            copies_secrets: self.copy_secrets,
            at_once: usize::from(self.volumes_at_once),
            limit: self.volumes_timeout,
        }
    }
}

fn as_of(text: &str) -> Result<AsOf, String> {
    match text {
        "latest" => Ok(AsOf::Latest),
        time => time
            .parse::<Timestamp>()
            .map(AsOf::Time)
            .map_err(|error| format!("{error}; expected latest or a time as 2026-11-23T22:13:00Z")),
    }
}

fn namespaced(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or("expected NAMESPACE/NAME")?;
    Ok((namespace.to_owned(), name.to_owned()))
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// As `kubectl taint` writes taints.
fn toleration(text: &str) -> Result<Value, String> {
    if text == "*" {
        return Ok(json!({ "operator": "Exists" }));
    }
    let (taint, effect) = text.split_once(':').map_or((text, None), |(taint, effect)| (taint, Some(effect)));
    let (key, value) = taint.split_once('=').map_or((taint, None), |(key, value)| (key, Some(value)));
    if key.is_empty() {
        return Err("expected KEY[=VALUE][:EFFECT] or *".to_owned());
    }
    let mut toleration = match value {
        Some(value) => json!({ "key": key, "operator": "Equal", "value": value }),
        None => json!({ "key": key, "operator": "Exists" }),
    };
    match effect {
        None => {}
        Some(effect @ ("NoSchedule" | "PreferNoSchedule" | "NoExecute")) => toleration["effect"] = json!(effect),
        Some(_) => return Err("the effect is not NoSchedule, PreferNoSchedule or NoExecute".to_owned()),
    }
    Ok(toleration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_written_as_kubectl_writes_them() {
        assert_eq!(toleration("gpu").unwrap(), json!({ "key": "gpu", "operator": "Exists" }));
        assert_eq!(
            toleration("pool=db:NoSchedule").unwrap(),
            json!({ "key": "pool", "operator": "Equal", "value": "db", "effect": "NoSchedule" })
        );
        assert_eq!(toleration("*").unwrap(), json!({ "operator": "Exists" }));
        for bad in ["", "=x", "a:Never", ":NoExecute"] {
            assert!(toleration(bad).is_err(), "{bad}");
        }
        assert_eq!(as_of("latest").unwrap(), AsOf::Latest);
        assert!(as_of("2026-11-23T22:13:00Z").is_ok() && as_of("yesterday").is_err());
        assert!(namespaced("a/b").is_ok() && namespaced("ab").is_err() && namespaced("/b").is_err());
    }
}
