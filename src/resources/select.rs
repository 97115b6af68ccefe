//! Which of the served kinds are listed, in which order, and why the others are not. Pure.

use std::collections::{BTreeMap, BTreeSet};

use globset::{GlobBuilder, GlobMatcher};

use super::discovery::{Served, ServedKind};
use super::skip::Folder;
use crate::cluster::{Resource, Scope};
use crate::config::Objects;
pub use crate::config::{ClusterResources, Versions};
use crate::nearest::nearest;

/// Kinds that no restore can use, with the reason: the default of `exclude_resources`.
pub const DEFAULT_EXCLUDED: [(&str, &str); 8] = [
    ("events", "they record what happened in the old cluster, and expire in an hour"),
    ("events.events.k8s.io", "they record what happened in the old cluster, and expire in an hour"),
    ("leases.coordination.k8s.io", "processes of the old cluster renew them every few seconds"),
    ("nodes", "each machine registers its own"),
    ("csinodes.storage.k8s.io", "each machine registers its own"),
    ("csistoragecapacities.storage.k8s.io", "storage drivers measure it again"),
    ("volumeattachments.storage.k8s.io", "they bind a volume to a machine of the old cluster"),
    ("ipaddresses.networking.k8s.io", "the server creates them from its Services"),
];

/// The same objects under several groups: the first that is served is listed. Kubernetes 1.33 has one pair left (events).
const COHABITING: [(&str, &[&str]); 11] = [
    ("deployments", &["apps", "extensions"]),
    ("daemonsets", &["apps", "extensions"]),
    ("replicasets", &["apps", "extensions"]),
    ("ingresses", &["networking.k8s.io", "extensions"]),
    ("networkpolicies", &["networking.k8s.io", "extensions"]),
    ("podsecuritypolicies", &["policy", "extensions"]),
    ("events", &["events.k8s.io", ""]),
    // OpenShift shows the objects of RBAC a second time.
    ("roles", &["rbac.authorization.k8s.io", "authorization.openshift.io"]),
    ("rolebindings", &["rbac.authorization.k8s.io", "authorization.openshift.io"]),
    ("clusterroles", &["rbac.authorization.k8s.io", "authorization.openshift.io"]),
    ("clusterrolebindings", &["rbac.authorization.k8s.io", "authorization.openshift.io"]),
];

/// Why a kind is not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unlisted {
    /// No pattern of `resources` matches.
    NotSelected,
    /// A pattern of `exclude_resources` matches.
    Excluded,
    /// The server cannot list it: it is a command, not a kind of objects.
    NotListable,
    /// It cannot be created, so no restore can use it: measurements, for instance.
    NotCreatable,
    /// The same objects are listed under another group.
    Cohabiting,
    /// Another version of it is listed.
    OtherVersion,
    /// `cluster_resources` is `never`.
    ClusterScoped,
}

impl Unlisted {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSelected => "not-selected",
            Self::Excluded => "excluded",
            Self::NotListable => "not-listable",
            Self::NotCreatable => "not-creatable",
            Self::Cohabiting => "cohabiting",
            Self::OtherVersion => "other-version",
            Self::ClusterScoped => "cluster-scoped",
        }
    }
}

/// A glob over names; `*` also matches dots.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    glob: GlobMatcher,
}

impl Pattern {
    /// # Errors
    /// When it is not a glob; the text is the end of a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
        let glob = glob.map_err(|error| format!("is not a glob: {}", error.kind()))?.compile_matcher();
        Ok(Self { text: text.to_owned(), glob })
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        self.glob.is_match(name)
    }

    /// `deployments` matches `deployments.apps`, as in kubectl.
    fn fits_resource(&self, resource: &Resource) -> bool {
        self.fits(&resource.name()) || self.fits(&resource.plural)
    }

    /// No `*`, `?`, `[` or `{`.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.text.contains(['*', '?', '[', '{', '\\'])
    }
}

/// Patterns that include names, and patterns that exclude them.
#[derive(Debug, Clone)]
pub struct Patterns {
    pub include: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
}

impl Patterns {
    /// # Errors
    /// As [`Pattern::new`], with the pattern.
    pub fn new(include: &[&str], exclude: &[&str]) -> Result<Self, String> {
        let compile = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| Pattern::new(text).map_err(|why| format!("{text:?} {why}")))
                .collect::<Result<_, _>>()
        };
        Ok(Self { include: compile(include)?, exclude: compile(exclude)? })
    }

    #[must_use]
    pub fn fit(&self, name: &str) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(name));
        any(&self.include) && !any(&self.exclude)
    }

    /// Whether every possible name matches.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.exclude.is_empty() && self.include.iter().any(|pattern| pattern.text == "*" || pattern.text == "**")
    }
}

/// What is saved.
#[derive(Debug, Clone)]
pub struct Selection {
    pub namespaces: Patterns,
    pub resources: Patterns,
    pub cluster_resources: ClusterResources,
    /// A label selector of Kubernetes; empty: everything.
    pub selector: String,
    pub versions: Versions,
}

impl Selection {
    /// The selection of the configuration, which has checked the globs.
    ///
    /// # Errors
    /// When a pattern is not a glob nevertheless.
    pub fn of(objects: &Objects) -> Result<Self, String> {
        let defaults = DEFAULT_EXCLUDED.map(|(name, _)| name);
        let excluded = objects.exclude_resources.as_deref().map_or_else(|| defaults.to_vec(), texts);
        Ok(Self {
            namespaces: Patterns::new(&texts(&objects.namespaces), &texts(&objects.exclude_namespaces))?,
            resources: Patterns::new(&texts(&objects.resources), &excluded)?,
            cluster_resources: objects.cluster_resources,
            selector: objects.selector.clone(),
            versions: objects.versions,
        })
    }

    /// Everything that a restore can use.
    #[must_use]
    pub fn everything() -> Self {
        let excluded = DEFAULT_EXCLUDED.map(|(name, _)| name);
        Self {
            namespaces: Patterns::new(&["*"], &[]).expect("\"*\" is a glob"),
            resources: Patterns::new(&["*"], &excluded).expect("the defaults are names"),
            cluster_resources: ClusterResources::default(),
            selector: String::new(),
            versions: Versions::default(),
        }
    }
}

fn texts(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// A kind to be listed, and where its objects go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub resource: Resource,
    pub folder: Folder,
}

/// What is listed, and what is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Namespaced kinds first, so that their references are known when the others are listed; each part by name, the preferred version
    /// first.
    pub listed: Vec<Listed>,
    pub unlisted: BTreeMap<Resource, Unlisted>,
    /// Patterns of `resources` that match nothing served, with the nearest name.
    pub unknown: Vec<(String, Option<String>)>,
}

/// Decides for each kind that is served.
#[must_use]
pub fn plan(served: &Served, selection: &Selection) -> Plan {
    let groups_of = groups_by_plural(served);
    let mut plan = Plan::default();
    for kind in &served.kinds {
        if let Some(why) = unlisted(kind, &groups_of, selection) {
            plan.unlisted.insert(kind.resource.clone(), why);
        } else {
            let folder = if kind.is_preferred { Folder::Plain } else { Folder::Versioned };
            plan.listed.push(Listed { resource: kind.resource.clone(), folder });
        }
    }
    plan.listed.sort_by_cached_key(|Listed { resource, folder }| {
        (resource.scope, resource.name(), *folder, resource.version.clone())
    });
    plan.unknown = unknown(served, &selection.resources.include);
    plan
}

fn groups_by_plural(served: &Served) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for kind in served.kinds.iter().filter(|kind| kind.verbs.contains("list")) {
        groups.entry(&kind.resource.plural).or_default().insert(&kind.resource.group);
    }
    groups
}

fn unlisted(kind: &ServedKind, groups_of: &BTreeMap<&str, BTreeSet<&str>>, selection: &Selection) -> Option<Unlisted> {
    let resource = &kind.resource;
    if !kind.verbs.contains("list") {
        return Some(Unlisted::NotListable);
    }
    if !kind.verbs.contains("create") {
        return Some(Unlisted::NotCreatable);
    }
    let elsewhere = COHABITING.iter().find(|(plural, _)| *plural == resource.plural).and_then(|(plural, groups)| {
        let served = &groups_of[plural];
        groups.contains(&resource.group.as_str()).then(|| groups.iter().find(|group| served.contains(**group)))?
    });
    if elsewhere.is_some_and(|first| *first != resource.group) {
        return Some(Unlisted::Cohabiting);
    }
    let patterns = &selection.resources;
    if !patterns.include.iter().any(|pattern| pattern.fits_resource(resource)) {
        return Some(Unlisted::NotSelected);
    }
    if patterns.exclude.iter().any(|pattern| pattern.fits_resource(resource)) {
        return Some(Unlisted::Excluded);
    }
    // A namespace is needed for the objects in it.
    let is_namespaces = resource.group.is_empty() && resource.plural == "namespaces";
    if resource.scope == Scope::Cluster && selection.cluster_resources == ClusterResources::Never && !is_namespaces {
        return Some(Unlisted::ClusterScoped);
    }
    if selection.versions == Versions::Preferred && !kind.is_preferred {
        return Some(Unlisted::OtherVersion);
    }
    None
}

fn unknown(served: &Served, patterns: &[Pattern]) -> Vec<(String, Option<String>)> {
    let fits = |pattern: &&Pattern| !served.kinds.iter().any(|kind| pattern.fits_resource(&kind.resource));
    let names = || served.kinds.iter().flat_map(|kind| [kind.resource.name(), kind.resource.plural.clone()]);
    patterns.iter().filter(fits).map(|pattern| (pattern.text.clone(), nearest(&pattern.text, names()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `group/version plural verbs scope`, the preferred version first.
    fn served(rows: &[(&str, &str, &str, &str, Scope)]) -> Served {
        let mut served = Served::default();
        let mut seen = BTreeSet::new();
        for (group, version, plural, verbs, scope) in rows {
            served.groups.insert((*group).to_owned());
            served.kinds.push(ServedKind {
                resource: Resource {
                    group: (*group).to_owned(),
                    version: (*version).to_owned(),
                    plural: (*plural).to_owned(),
                    kind: "Kind".to_owned(),
                    scope: *scope,
                },
                verbs: verbs.split(' ').map(str::to_owned).collect(),
                is_preferred: seen.insert((*group, *plural)),
            });
        }
        served
    }

    const ALL: &str = "create get list";
    use Scope::{Cluster, Namespaced};

    fn cluster() -> Served {
        served(&[
            ("", "v1", "pods", ALL, Namespaced),
            ("", "v1", "events", ALL, Namespaced),
            ("", "v1", "nodes", ALL, Cluster),
            ("", "v1", "namespaces", ALL, Cluster),
            ("", "v1", "bindings", "create", Namespaced),
            ("", "v1", "componentstatuses", "get list", Cluster),
            ("apps", "v1", "deployments", ALL, Namespaced),
            ("events.k8s.io", "v1", "events", ALL, Namespaced),
            ("extensions", "v1beta1", "ingresses", ALL, Namespaced),
            ("networking.k8s.io", "v1", "ingresses", ALL, Namespaced),
            ("networking.k8s.io", "v1beta1", "ingresses", ALL, Namespaced),
            ("example.com", "v1", "ingresses", ALL, Namespaced),
            ("example.com", "v1", "widgets", ALL, Cluster),
            ("metrics.k8s.io", "v1", "pods", "get list", Namespaced),
        ])
    }

    fn listed(selection: &Selection) -> Vec<String> {
        let name = |Listed { resource, .. }: &Listed| format!("{}/{}", resource.name(), resource.version);
        plan(&cluster(), selection).listed.iter().map(name).collect()
    }

    #[test]
    fn by_default_everything_that_a_restore_can_use_is_listed_once() {
        let expected = [
            "deployments.apps/v1",
            "ingresses.example.com/v1",
            "ingresses.networking.k8s.io/v1",
            "pods/v1",
            "namespaces/v1",
            "widgets.example.com/v1",
        ];
        assert_eq!(listed(&Selection::everything()), expected);
        let plan = plan(&cluster(), &Selection::everything());
        let why = |name: &str| {
            let found =
                plan.unlisted.iter().find(|(resource, _)| format!("{}/{}", resource.name(), resource.version) == name);
            *found.unwrap().1
        };
        assert_eq!(why("events/v1"), Unlisted::Cohabiting);
        assert_eq!(why("events.events.k8s.io/v1"), Unlisted::Excluded);
        assert_eq!(why("nodes/v1"), Unlisted::Excluded);
        assert_eq!(why("bindings/v1"), Unlisted::NotListable);
        assert_eq!(why("componentstatuses/v1"), Unlisted::NotCreatable);
        assert_eq!(why("pods.metrics.k8s.io/v1"), Unlisted::NotCreatable);
        assert_eq!(why("ingresses.extensions/v1beta1"), Unlisted::Cohabiting);
        assert_eq!(why("ingresses.networking.k8s.io/v1beta1"), Unlisted::OtherVersion);
        assert_eq!(plan.listed.len() + plan.unlisted.len(), cluster().kinds.len(), "each kind has an answer");
    }

    #[test]
    fn the_documentation_has_what_is_left_out_by_default() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kubernetes.md")).unwrap();
        let (_, table) = page.split_once("| left out by default | why |\n|---|---|\n").unwrap();
        let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
        assert_eq!(rows, DEFAULT_EXCLUDED.map(|(name, why)| format!("| `{name}` | {why} |")));
    }

    #[test]
    fn selections() {
        let with = |include: &[&str], exclude: &[&str]| Selection {
            resources: Patterns::new(include, exclude).unwrap(),
            ..Selection::everything()
        };
        assert_eq!(listed(&with(&["deployments"], &[])), ["deployments.apps/v1"]);
        assert_eq!(listed(&with(&["deployments.apps"], &[])), ["deployments.apps/v1"]);
        assert_eq!(listed(&with(&["*.example.com"], &["widgets*"])), ["ingresses.example.com/v1"]);
        assert_eq!(listed(&with(&["events"], &[])), ["events.events.k8s.io/v1"]);
        assert_eq!(listed(&with(&["nodes"], &[])), ["nodes/v1"]);
        let all = Selection { versions: Versions::All, ..with(&["ingresses"], &[]) };
        let versions =
            ["ingresses.example.com/v1", "ingresses.networking.k8s.io/v1", "ingresses.networking.k8s.io/v1beta1"];
        assert_eq!(listed(&all), versions);
        let never = Selection { cluster_resources: ClusterResources::Never, ..with(&["*"], &[]) };
        assert!(listed(&never).contains(&"namespaces/v1".to_owned()), "a namespace is needed for the objects in it");
        assert!(!listed(&never).contains(&"widgets.example.com/v1".to_owned()));
    }

    #[test]
    fn a_pattern_that_fits_nothing_is_told_with_the_nearest_name() {
        let selection = Selection {
            resources: Patterns::new(&["deployment", "pods", "*.nothing", "widgets.exmple.com"], &[]).unwrap(),
            ..Selection::everything()
        };
        let unknown = plan(&cluster(), &selection).unknown;
        assert_eq!(unknown[0], ("deployment".into(), Some("deployments".into())));
        assert_eq!(unknown[1].0, "*.nothing");
        assert_eq!(unknown[2], ("widgets.exmple.com".into(), Some("widgets.example.com".into())));
        assert_eq!(unknown.len(), 3);
        assert!(Pattern::new("a[").is_err());
    }

    #[test]
    fn everything_is_told_from_a_filter() {
        assert!(Patterns::new(&["*"], &[]).unwrap().is_everything());
        assert!(!Patterns::new(&["*"], &["kube-*"]).unwrap().is_everything());
        assert!(!Patterns::new(&["shop"], &[]).unwrap().is_everything());
        let patterns = Patterns::new(&["shop-*"], &["shop-old"]).unwrap();
        assert!(patterns.fit("shop-eu") && !patterns.fit("shop-old") && !patterns.fit("shop"));
    }
}
