//! Kubernetes roles for the agent that saves a cluster's objects: exactly what it must read, as manifests to apply.
//!
//! - If the configuration names every namespace (no glob), each kind is listed in each of them: a Role and a RoleBinding in each, and a
//!   ClusterRole for the cluster-scoped kinds only. Otherwise a ClusterRole, since a list is then one of the whole cluster.
//! - RBAC has neither patterns nor exceptions. The notes say what a glob of `resources` becomes, and what is granted beyond what is read.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde_json::{Value, json};

use crate::resources::refer::REFERRED;
use crate::resources::select::{ClusterResources, Pattern, Patterns, Selection};

/// The account that the roles are bound to; they have its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let (namespace, name) = text.split_once('/').unwrap_or_default();
        let good = [(namespace, 63), (name, 253)].iter().all(|(part, most)| {
            (1..=*most).contains(&part.len()) && part.chars().all(|c| fits(c) || (c == '.' && *most > 63))
        });
        if !good {
            return Err("expected NAMESPACE/NAME, in lower case".to_owned());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roles {
    /// What the manifests cannot express, one sentence each.
    pub notes: BTreeSet<String>,
    pub manifests: Vec<Value>,
}

/// What must be readable, as group and plural; `*` is all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rules(BTreeSet<(String, String)>);

impl Rules {
    fn add(&mut self, (group, plural): (&str, &str)) {
        self.0.insert((group.to_owned(), plural.to_owned()));
    }

    /// Without the rules that another one, or one of `others`, covers.
    fn reduced(&self, others: &Self) -> Self {
        let covers = |rule: &(String, String), of: &(String, String)| {
            (rule.0 == "*" || rule.0 == of.0) && (rule.1 == "*" || rule.1 == of.1)
        };
        let needed = self.0.iter().filter(|rule| {
            let by_own = self.0.iter().any(|own| own != *rule && covers(own, rule));
            !by_own && !others.0.iter().any(|other| covers(other, rule))
        });
        Self(needed.cloned().collect())
    }

    /// One rule for each group.
    fn to_json(&self) -> Vec<Value> {
        let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (group, plural) in &self.0 {
            groups.entry(group).or_default().push(plural);
        }
        let rule = |(group, plurals): (&str, Vec<&str>)| json!({ "apiGroups": [group], "resources": plurals, "verbs": ["get", "list"] });
        groups.into_iter().map(rule).collect()
    }
}

/// What the selections need together.
#[derive(Default)]
struct Needs {
    cluster: Rules,
    namespaces: BTreeMap<String, Rules>,
    notes: BTreeSet<String>,
}

/// The roles for all of `selections`, bound to `account`.
#[must_use]
pub fn roles(selections: &[Selection], account: &Account) -> Roles {
    let mut needs = Needs::default();
    for selection in selections {
        needs.add(selection);
    }
    let cluster = needs.cluster.reduced(&Rules::default());
    let mut manifests = Vec::new();
    if !cluster.0.is_empty() {
        manifests.extend(pair(account, None, &cluster));
    }
    for (namespace, rules) in &needs.namespaces {
        let rules = rules.reduced(&cluster);
        if !rules.0.is_empty() {
            manifests.extend(pair(account, Some(namespace), &rules));
        }
    }
    Roles { notes: needs.notes, manifests }
}

impl Needs {
    fn add(&mut self, selection: &Selection) {
        let mut kinds = Rules::default();
        for pattern in &selection.resources.include {
            if !is_excluded(&selection.resources, pattern) {
                let rule = rule(pattern.text());
                self.note_pattern(pattern, rule);
                kinds.add(rule);
            }
        }
        if kinds.0.iter().any(|(_, plural)| plural == "*") && !selection.resources.exclude.is_empty() {
            self.note("RBAC has no exceptions: the agent may read what `exclude_resources` names, but does not; list `resources` to deny it a kind");
        }
        // The list of namespaces, and kube-system, whose UID identifies the cluster.
        let namespaces = ("", "namespaces");
        let patterns = &selection.namespaces;
        if !patterns.include.iter().all(Pattern::is_literal) {
            self.cluster.0.extend(kinds.0);
            return self.cluster.add(namespaces);
        }
        match selection.cluster_resources {
            ClusterResources::Always => {
                self.note("`cluster_resources = \"always\"` beside named namespaces: RBAC cannot grant cluster-scoped kinds alone, so every namespace's objects may be read");
                self.cluster.0.extend(kinds.0);
                return self.cluster.add(namespaces);
            }
            ClusterResources::Auto => {
                let referred = REFERRED.iter().map(|name| name.split_once('.').unwrap_or((name, "")));
                for (plural, group) in
                    referred.filter(|(plural, group)| is_selected(&selection.resources, plural, group))
                {
                    self.cluster.add((group, plural));
                }
                self.note("a cluster-scoped custom resource that owns a saved object needs a rule of its own; without it the backup is partial and names it");
            }
            ClusterResources::Never => {}
        }
        kinds.add(namespaces);
        for name in patterns.include.iter().map(Pattern::text).filter(|name| patterns.fit(name)) {
            self.namespaces.entry(name.to_owned()).or_default().0.extend(kinds.0.clone());
        }
    }

    fn note(&mut self, text: &str) {
        self.notes.insert(text.to_owned());
    }

    fn note_pattern(&mut self, pattern: &Pattern, (group, plural): (&str, &str)) {
        if pattern.is_literal() || (group, plural) == ("*", "*") && is_all(pattern.text()) {
            return;
        }
        let text = pattern.text();
        let beyond = match group {
            "*" => String::new(),
            group => format!("; a group whose name ends with {:?} needs a rule of its own", format!(".{group}")),
        };
        self.notes.insert(format!(
            "RBAC has no patterns: {text:?} is granted as resources {plural:?} of the group {group:?}{beyond}"
        ));
    }
}

fn is_all(pattern: &str) -> bool {
    matches!(pattern, "*" | "**")
}

/// Group and plural that a pattern of `resources` needs: `deployments.apps`, `pods` (which matches a plural of any group),
/// `*.example.com`.
fn rule(pattern: &str) -> (&str, &str) {
    let part =
        |text: &'_ str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    match pattern.split_once('.') {
        Some((plural, group)) => (if part(group) { group } else { "*" }, if part(plural) { plural } else { "*" }),
        None => ("*", if part(pattern) { pattern } else { "*" }),
    }
}

/// A name that `exclude` removes again.
fn is_excluded(patterns: &Patterns, name: &Pattern) -> bool {
    let plural = name.text().split('.').next().unwrap_or_default();
    name.is_literal() && patterns.exclude.iter().any(|pattern| pattern.fits(name.text()) || pattern.fits(plural))
}

fn is_selected(patterns: &Patterns, plural: &str, group: &str) -> bool {
    let name = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(&name) || pattern.fits(plural));
    any(&patterns.include) && !any(&patterns.exclude)
}

fn pair(account: &Account, namespace: Option<&str>, rules: &Rules) -> [Value; 2] {
    role_and_binding(account, "cluster", namespace, &rules.to_json())
}

/// The role and its binding; without a namespace, a ClusterRole.
pub(super) fn role_and_binding(
    account: &Account,
    component: &str,
    namespace: Option<&str>,
    rules: &[Value],
) -> [Value; 2] {
    const API: &str = "rbac.authorization.k8s.io";
    let scope = if namespace.is_some() { "" } else { "Cluster" };
    let mut metadata = json!({
        "name": account.name,
        "labels": { "app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": component },
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    let kind = format!("{scope}Role");
    let role = json!({
        "apiVersion": format!("{API}/v1"), "kind": kind, "metadata": metadata, "rules": rules,
    });
    let binding = json!({
        "apiVersion": format!("{API}/v1"),
        "kind": format!("{kind}Binding"),
        "metadata": metadata,
        "roleRef": { "apiGroup": API, "kind": kind, "name": account.name },
        "subjects": [{ "kind": "ServiceAccount", "name": account.name, "namespace": account.namespace }],
    });
    [role, binding]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { namespace: "penstock".into(), name: "penstock-cluster".into() }
    }

    fn selection(namespaces: &[&str], resources: &[&str], exclude: &[&str]) -> Selection {
        Selection {
            namespaces: Patterns::new(namespaces, &[]).unwrap(),
            resources: Patterns::new(resources, exclude).unwrap(),
            ..Selection::everything()
        }
    }

    /// `Kind` or `Kind/namespace`, and `group: plurals` of each rule, without bindings.
    fn brief(selections: &[Selection]) -> Vec<String> {
        let words = |value: &Value| {
            let words: Vec<_> = value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
            words.join(" ")
        };
        let manifests = roles(selections, &account()).manifests;
        manifests.iter().filter(|manifest| manifest.get("rules").is_some()).fold(Vec::new(), |mut all, manifest| {
            let namespace = manifest["metadata"].get("namespace").map(|name| format!("/{}", name.as_str().unwrap()));
            all.push(format!("{}{}", manifest["kind"].as_str().unwrap(), namespace.unwrap_or_default()));
            for rule in manifest["rules"].as_array().unwrap() {
                assert_eq!(rule["verbs"], json!(["get", "list"]));
                all.push(format!("{}: {}", words(&rule["apiGroups"]), words(&rule["resources"])));
            }
            all
        })
    }

    #[test]
    fn an_account_has_a_namespace() {
        assert_eq!("penstock/penstock-cluster".parse(), Ok(account()));
        for bad in ["penstock", "/x", "x/", "a b/c", "A/b", "a.b/c", "a/b/c"] {
            assert!(bad.parse::<Account>().is_err(), "{bad}");
        }
    }

    #[test]
    fn everything_is_one_cluster_role_that_only_reads() {
        let roles = roles(&[Selection::everything()], &account());
        let metadata = json!({
            "name": "penstock-cluster",
            "labels": { "app.kubernetes.io/name": "penstock", "app.kubernetes.io/component": "cluster" },
        });
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata,
            "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"] }],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "penstock-cluster" },
            "subjects": [{ "kind": "ServiceAccount", "name": "penstock-cluster", "namespace": "penstock" }],
        });
        assert_eq!(roles.manifests, [role, binding]);
        let notes: Vec<_> = roles.notes.into_iter().collect();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("`exclude_resources`"));
    }

    #[test]
    fn a_list_of_kinds_is_granted_and_nothing_else() {
        let kinds = ["deployments.apps", "statefulsets.apps", "configmaps", "secrets"];
        let found = brief(&[selection(&["*"], &kinds, &["secrets"])]);
        assert_eq!(found, ["ClusterRole", ": namespaces", "*: configmaps", "apps: deployments statefulsets"]);
        let roles = roles(&[selection(&["*"], &kinds, &["secrets"])], &account());
        assert_eq!(roles.notes, BTreeSet::new());
    }

    #[test]
    fn patterns_become_what_rbac_can_say() {
        assert_eq!(rule("*"), ("*", "*"));
        assert_eq!(rule("pods"), ("*", "pods"));
        assert_eq!(rule("ingresses.*"), ("*", "ingresses"));
        assert_eq!(rule("de*.apps"), ("apps", "*"));
        assert_eq!(rule("*.example.com"), ("example.com", "*"));
        assert_eq!(rule("{pods,deployments.apps}"), ("*", "*"));
        assert_eq!(rule("{a.b,c.d}.e"), ("*", "*"));
        assert_eq!(rule("a[.]b.c"), ("*", "*"));
        let notes = roles(&[selection(&["*"], &["*.example.com", "ingresses.*"], &[])], &account()).notes;
        let notes: Vec<_> = notes.into_iter().collect();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("\"*.example.com\"") && notes[0].contains("ends with \".example.com\""));
        assert!(notes[1].contains("\"ingresses\" of the group \"*\"") && !notes[1].contains("ends with"));
    }

    #[test]
    fn named_namespaces_get_a_role_each() {
        let never = Selection {
            cluster_resources: ClusterResources::Never,
            ..selection(&["shop", "web"], &["deployments.apps"], &[])
        };
        let role = ["namespaces", "deployments"];
        let expected: Vec<String> = ["shop", "web"]
            .iter()
            .flat_map(|name| [format!("Role/{name}"), format!(": {}", role[0]), format!("apps: {}", role[1])])
            .collect();
        assert_eq!(brief(std::slice::from_ref(&never)), expected);
        let bindings = roles(&[never], &account()).manifests;
        assert_eq!(bindings[1]["kind"], "RoleBinding");
        assert_eq!(bindings[1]["metadata"]["namespace"], "shop");
        assert_eq!(bindings[1]["roleRef"]["kind"], "Role");
        assert_eq!(bindings[1]["subjects"][0]["namespace"], "penstock");

        let auto = selection(&["shop"], &["*"], &["*.admissionregistration.k8s.io"]);
        let found = brief(&[auto]);
        assert_eq!(found[0], "ClusterRole");
        assert!(found.contains(&": namespaces persistentvolumes".to_owned()), "{found:?}");
        assert!(!found.iter().any(|line| line.contains("webhook")), "{found:?}");
        assert_eq!(found[found.len() - 2..], ["Role/shop", "*: *"]);

        let mixed = selection(&["shop", "team-*"], &["configmaps"], &[]);
        assert_eq!(brief(&[mixed]), ["ClusterRole", ": namespaces", "*: configmaps"]);
        let always = Selection { cluster_resources: ClusterResources::Always, ..selection(&["shop"], &["*"], &[]) };
        assert_eq!(brief(std::slice::from_ref(&always)), ["ClusterRole", "*: *"]);
        assert!(roles(&[always], &account()).notes.iter().any(|note| note.contains("always")));
    }

    #[test]
    fn what_one_source_may_read_anyway_is_not_granted_again() {
        let all = [selection(&["shop"], &["secrets", "configmaps"], &[]), selection(&["*"], &["secrets"], &[])];
        assert_eq!(brief(&all), ["ClusterRole", ": namespaces", "*: secrets", "Role/shop", "*: configmaps"]);
    }
}
