//! Decides which objects of a saved kind are not saved, each with its reason. Pure.

use super::item::Item;
use crate::cluster::Resource;

/// Why an object is not saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Skipped {
    /// It has a deletion timestamp.
    BeingDeleted,
    /// The kubelet's copy in the API of a pod that is defined by a file on the node.
    MirrorPod,
    /// An EndpointSlice that a controller maintains.
    OwnedSlice,
    /// A token Secret that Kubernetes up to 1.23 made for each service account.
    ControllerToken,
    /// An APIService that the server registers for its own groups.
    OwnApiService,
    /// No object of a chosen namespace refers to it.
    NotReferred,
    /// Larger than [`super::list::MAX_OBJECT`].
    TooLarge,
    /// Its name, or its namespace's, cannot be a file name.
    UnusableName,
}

impl Skipped {
    pub const ALL: [Self; 8] = [
        Self::BeingDeleted,
        Self::MirrorPod,
        Self::OwnedSlice,
        Self::ControllerToken,
        Self::OwnApiService,
        Self::NotReferred,
        Self::TooLarge,
        Self::UnusableName,
    ];

    /// As in metrics and the manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BeingDeleted => "being-deleted",
            Self::MirrorPod => "mirror-pod",
            Self::OwnedSlice => "owned-slice",
            Self::ControllerToken => "controller-token",
            Self::OwnApiService => "own-api-service",
            Self::NotReferred => "not-referred",
            Self::TooLarge => "too-large",
            Self::UnusableName => "unusable-name",
        }
    }

    /// Whether the backup lacks an object that a restore would need.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        match self {
            Self::TooLarge | Self::UnusableName => true,
            Self::BeingDeleted
            | Self::MirrorPod
            | Self::OwnedSlice
            | Self::ControllerToken
            | Self::OwnApiService
            | Self::NotReferred => false,
        }
    }
}

/// Why `item` of the kind `resource` is not saved; `None`: it is saved.
#[must_use]
pub fn skipped(resource: &Resource, item: &Item) -> Option<Skipped> {
    let metadata = &item.metadata;
    if metadata.deletion_timestamp.is_some() {
        return Some(Skipped::BeingDeleted);
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") if metadata.annotations.contains_key("kubernetes.io/config.mirror") => Some(Skipped::MirrorPod),
        ("discovery.k8s.io", "endpointslices") if is_kept_slice(item) => Some(Skipped::OwnedSlice),
        ("", "secrets") if is_controller_token(item) => Some(Skipped::ControllerToken),
        ("apiregistration.k8s.io", "apiservices")
            if metadata.labels.contains_key("kube-aggregator.kubernetes.io/automanaged") =>
        {
            Some(Skipped::OwnApiService)
        }
        _ => None,
    }
}

fn is_kept_slice(item: &Item) -> bool {
    const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
    const CONTROLLERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    let metadata = &item.metadata;
    let managed = metadata.labels.get(MANAGED_BY).is_some_and(|by| CONTROLLERS.contains(&by.as_str()));
    managed || metadata.owner_references.iter().any(|owner| owner.controller == Some(true))
}

/// A Secret made by a person has another name and is saved: a restore lets the cluster fill in its content.
fn is_controller_token(item: &Item) -> bool {
    // Kubernetes's generator of names leaves out vowels, and characters that resemble others.
    const SUFFIX: &str = "bcdfghjklmnpqrstvwxz2456789";
    let account = item.metadata.annotations.get("kubernetes.io/service-account.name");
    let suffix = account.and_then(|account| item.metadata.name.strip_prefix(account.as_str())?.strip_prefix("-token-"));
    item.secret_type == "kubernetes.io/service-account-token"
        && suffix.is_some_and(|suffix| suffix.len() == 5 && suffix.chars().all(|c| SUFFIX.contains(c)))
}

/// The path in the archive: Velero's layout. `None` if a name cannot be a part of it.
#[must_use]
pub fn path(resource: &Resource, folder: Folder, namespace: &str, name: &str) -> Option<String> {
    let folder = match folder {
        Folder::Plain => resource.name(),
        Folder::Versioned => format!("{}/{}", resource.name(), resource.version),
    };
    match namespace {
        "" => is_segment(name).then(|| format!("resources/{folder}/cluster/{name}.json")),
        _ => (is_segment(namespace) && is_segment(name))
            .then(|| format!("resources/{folder}/namespaces/{namespace}/{name}.json")),
    }
}

/// The folder of a kind's objects. The preferred version has Velero's place, so that an archive of several versions reads like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folder {
    Plain,
    Versioned,
}

/// `IsValidPathSegmentName` of Kubernetes, without characters that are harmful in a terminal or a file system.
pub(super) fn is_segment(name: &str) -> bool {
    // A file name has at most 255 bytes, `.json` included.
    !name.is_empty()
        && name.len() <= 250
        && name != "."
        && name != ".."
        && !name.contains(['/', '%', '\\'])
        && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Scope;
    use crate::resources::item::{self, Kind};

    fn resource(name: &str) -> Resource {
        let (plural, group) = name.split_once('.').unwrap_or((name, ""));
        Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: "K".into(),
            scope: Scope::Namespaced,
        }
    }

    fn why(name: &str, json: &str) -> Option<Skipped> {
        let kind = Kind { api_version: "v1".into(), kind: "K".into() };
        skipped(&resource(name), &item::read(json.as_bytes(), &kind).unwrap())
    }

    #[test]
    fn the_documentation_has_each_reason_and_says_which_are_losses() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes.md")).unwrap();
        let (_, table) = page.split_once("| reason | object |\n|---|---|\n").unwrap();
        let rows = table.lines().map_while(|line| line.strip_prefix("| `"));
        let rows: Vec<_> = rows.map(|row| (row.split('`').next().unwrap(), row.ends_with("**loss** |"))).collect();
        assert_eq!(rows, Skipped::ALL.map(|reason| (reason.as_str(), reason.is_loss())));
    }

    #[test]
    fn each_reason_and_its_opposite() {
        let mirror = r#"{"metadata":{"name":"p","annotations":{"kubernetes.io/config.mirror":"x"}}}"#;
        let slice = r#"{"metadata":{"name":"s","labels":{"endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io"}}}"#;
        let mesh =
            r#"{"metadata":{"name":"s","labels":{"endpointslice.kubernetes.io/managed-by":"mesh.example.com"}}}"#;
        let owned = r#"{"metadata":{"name":"s","ownerReferences":[{"kind":"Service","name":"s","uid":"u","controller":true}]}}"#;
        let token = |name: &str| {
            format!(
                r#"{{"type":"kubernetes.io/service-account-token","metadata":{{"name":"{name}","annotations":{{"kubernetes.io/service-account.name":"default"}}}}}}"#
            )
        };
        let automanaged =
            r#"{"metadata":{"name":"v1.apps","labels":{"kube-aggregator.kubernetes.io/automanaged":"onstart"}}}"#;
        let rows = [
            (
                "pods",
                r#"{"metadata":{"name":"p","deletionTimestamp":"2026-01-01T00:00:00Z"}}"#,
                Some(Skipped::BeingDeleted),
            ),
            ("pods", r#"{"metadata":{"name":"p","deletionTimestamp":null}}"#, None),
            ("pods", mirror, Some(Skipped::MirrorPod)),
            ("pods.example.com", mirror, None),
            ("endpointslices.discovery.k8s.io", slice, Some(Skipped::OwnedSlice)),
            ("endpointslices.discovery.k8s.io", owned, Some(Skipped::OwnedSlice)),
            ("endpointslices.discovery.k8s.io", mesh, None),
            ("secrets", &token("default-token-x7k2z"), Some(Skipped::ControllerToken)),
            ("secrets", &token("default-token-mine"), None),
            ("secrets", &token("ci"), None),
            ("secrets", r#"{"type":"Opaque","metadata":{"name":"default-token-x7k2z"}}"#, None),
            ("apiservices.apiregistration.k8s.io", automanaged, Some(Skipped::OwnApiService)),
            ("apiservices.apiregistration.k8s.io", r#"{"metadata":{"name":"v1.mine"}}"#, None),
        ];
        for (kind, json, expected) in rows {
            assert_eq!(why(kind, json), expected, "{kind} {json}");
        }
    }

    #[test]
    fn only_names_that_are_one_part_of_a_path_become_paths() {
        let pods = resource("deployments.apps");
        assert_eq!(
            path(&pods, Folder::Plain, "shop", "web").unwrap(),
            "resources/deployments.apps/namespaces/shop/web.json"
        );
        assert_eq!(
            path(&pods, Folder::Versioned, "shop", "web").unwrap(),
            "resources/deployments.apps/v1/namespaces/shop/web.json"
        );
        assert_eq!(path(&resource("nodes"), Folder::Plain, "", "n1").unwrap(), "resources/nodes/cluster/n1.json");
        // RBAC allows colons.
        let roles = resource("clusterroles.rbac.authorization.k8s.io");
        assert!(path(&roles, Folder::Plain, "", "system:node").is_some());
        for bad in ["", ".", "..", "a/b", "../x", "a%2fb", "a\\b", "a\nb", "a\u{7f}", &"x".repeat(251)] {
            assert_eq!(path(&pods, Folder::Plain, "shop", bad), None, "{bad:?}");
            if !bad.is_empty() {
                assert_eq!(path(&pods, Folder::Plain, bad, "web"), None, "{bad:?}");
            }
        }
    }
}
