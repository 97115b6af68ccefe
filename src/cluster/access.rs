//! What this identity may do.

use serde::Deserialize;

use super::Resource;

/// The question of a SelfSubjectAccessReview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// A plural, or `pods/exec`.
    pub resource: &'a str,
    /// `None`: in every namespace, or at the cluster's scope.
    pub namespace: Option<&'a str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub allowed: bool,
    /// The authorizer's reason, often empty.
    pub reason: String,
}

/// SelfSubjectRulesReview: what this identity may do in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    pub resource_rules: Vec<Rule>,
    /// The authorizer cannot name every rule.
    pub incomplete: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
}

impl Rules {
    /// Whether `verb` is allowed on every object of the resource.
    #[must_use]
    pub fn allow(&self, verb: &str, resource: &Resource) -> bool {
        let has = |list: &[String], name: &str| list.iter().any(|entry| entry == "*" || entry == name);
        self.resource_rules.iter().any(|rule| {
            rule.resource_names.is_empty()
                && has(&rule.verbs, verb)
                && has(&rule.api_groups, &resource.group)
                && has(&rule.resources, &resource.plural)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scope;
    use super::*;

    #[test]
    fn rules_are_matched() {
        let rules: Rules = serde_json::from_str(
            r#"{"resourceRules":[{"verbs":["get","list"],"apiGroups":["apps"],"resources":["deployments"]},
               {"verbs":["*"],"apiGroups":["*"],"resources":["secrets"],"resourceNames":["one"]}],"incomplete":false}"#,
        )
        .unwrap();
        let resource = |group: &str, plural: &str| Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: String::new(),
            scope: Scope::Namespaced,
        };
        assert!(rules.allow("list", &resource("apps", "deployments")));
        assert!(!rules.allow("create", &resource("apps", "deployments")));
        assert!(!rules.allow("list", &resource("", "deployments")));
        assert!(!rules.allow("list", &resource("", "secrets")), "a rule for one name does not allow the kind");
    }
}
