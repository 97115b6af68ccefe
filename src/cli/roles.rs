//! `penstock policy --kubernetes`.

use serde_json::json;

use super::Failure;
use super::output::Done;
use crate::config::{Config, SourceKind};
use crate::policy::claims::{self, Need};
use crate::policy::kubernetes::{Account, Roles, roles};
use crate::resources::select::Selection;
use crate::snapshot::persistent_volume;

/// The accounts of the manifests and the chart.
const CLUSTER: (&str, &str) = ("penstock", "penstock-cluster");
const NODE: (&str, &str) = ("penstock", "penstock");

/// The roles for all of the configuration's sources of API objects and of claims.
pub(super) fn print(config: &Config, account: Option<&Account>) -> Result<Done, Failure> {
    let sources = || config.jobs.values().flat_map(|job| &job.sources);
    let selections = sources().filter_map(|source| match &source.kind {
        SourceKind::Kubernetes(objects) => Some(Selection::of(objects).map_err(Failure::Usage)),
        _ => None,
    });
    let selections: Vec<_> = selections.collect::<Result<_, _>>()?;
    let needs = sources().filter_map(|source| match &source.kind {
        SourceKind::Claims(claims) => Some(Need { namespaces: claims.namespaces.clone(), hooks: claims.hooks }),
        _ => None,
    });
    let needs: Vec<Need> = needs.collect();
    if selections.is_empty() && needs.is_empty() {
        let message = "no job has a source of type \"kubernetes\" or \"claims\": it needs no permission in the cluster";
        return Err(Failure::Usage(message.to_owned()));
    }
    let of = |(namespace, name): (&str, &str)| {
        let own = Account { namespace: namespace.to_owned(), name: name.to_owned() };
        account.cloned().unwrap_or(own)
    };
    let mut all = Roles::default();
    if !selections.is_empty() {
        all = roles(&selections, &of(CLUSTER));
    }
    if !needs.is_empty() {
        let Roles { notes, manifests } = claims::roles(&needs, &of(NODE));
        all.notes.extend(notes);
        all.manifests.extend(manifests);
    }
    let mut text: String = all.notes.iter().flat_map(|note| ["# ", note.as_str(), "\n"]).collect();
    let manifests: Vec<_> = all.manifests.iter().map(persistent_volume::yaml).collect();
    text += &manifests.join("---\n");
    let json = json!({ "apiVersion": "v1", "kind": "List", "items": all.manifests });
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
        let printed = format!("{:?}", print(&config, None).unwrap());
        for part in ["ClusterRoleBinding", "# RBAC has no exceptions", "penstock-cluster"] {
            assert!(printed.contains(part), "{printed}");
        }
        let head = text.split("[jobs.cluster]").next().unwrap();
        let none = Config::parse(head, &environment).unwrap();
        assert!(matches!(print(&none, None), Err(Failure::Usage(_))));
    }
}
