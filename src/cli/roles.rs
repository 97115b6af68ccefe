//! `penstock policy --kubernetes`.

use serde_json::json;

use super::Failure;
use super::output::Done;
use crate::config::{Config, SourceKind};
use crate::policy::kubernetes::{Account, Commands, of_claims, roles};
use crate::resources::select::Selection;
use crate::snapshot::persistent_volume;

/// The roles for all of the configuration's sources of API objects, and of claims.
pub(super) fn print(config: &Config, account: &Account) -> Result<Done, Failure> {
    let sources = config.jobs.values().flat_map(|job| &job.sources);
    let selections = sources.filter_map(|source| match &source.kind {
        SourceKind::Kubernetes(objects) => Some(Selection::of(objects).map_err(Failure::Usage)),
        _ => None,
    });
    let selections: Vec<_> = selections.collect::<Result<_, _>>()?;
    let claims = config.jobs.values().flat_map(|job| &job.sources).filter_map(|source| match &source.kind {
        SourceKind::Claims(claims) => Some(claims.hooks),
        _ => None,
    });
    let claims: Vec<bool> = claims.collect();
    if selections.is_empty() && claims.is_empty() {
        let message = "no job has a source of type \"kubernetes\" or \"claims\": it needs no permission in the cluster";
        return Err(Failure::Usage(message.to_owned()));
    }
    let mut roles = roles(&selections, account);
    if !claims.is_empty() {
        let commands = if claims.contains(&true) { Commands::Run } else { Commands::No };
        roles.manifests.append(&mut of_claims(account, commands));
    }
    let mut text: String = roles.notes.iter().flat_map(|note| ["# ", note.as_str(), "\n"]).collect();
    let manifests: Vec<_> = roles.manifests.iter().map(persistent_volume::yaml).collect();
    text += &manifests.join("---\n");
    let json = json!({ "apiVersion": "v1", "kind": "List", "items": roles.manifests });
    Ok(Done::new(text, json))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_shipped_configuration_needs_to_read_everything() {
        let settings = [
            ("NODE_NAME", "cluster"),
            ("PENSTOCK_CLUSTER", "prod"),
            ("PENSTOCK_BUCKET", "acme-backups"),
            ("PENSTOCK_REGION", "eu-west-1"),
            ("PENSTOCK_ROLE_ARN", "arn:aws:iam::222222222222:role/BackupWriter"),
        ];
        let environment: BTreeMap<_, _> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/kubernetes/components/cluster/penstock.toml");
        let text = std::fs::read_to_string(shipped).unwrap();
        let config = Config::parse(&text, &environment).unwrap();
        let account = "penstock/penstock-cluster".parse().unwrap();
        let printed = format!("{:?}", print(&config, &account).unwrap());
        for part in ["ClusterRoleBinding", "# RBAC has no exceptions"] {
            assert!(printed.contains(part), "{printed}");
        }
        let head = text.split("[jobs.cluster]").next().unwrap();
        let none = Config::parse(head, &environment).unwrap();
        assert!(matches!(print(&none, &account), Err(Failure::Usage(_))));
    }
}
