//! The role for the agents that save pods' volumes: what they read in the API, and with hooks what they may do in pods.

use serde_json::json;

use super::kubernetes::{Account, Roles, role_and_binding};

/// What one source of claims needs beyond reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Globs.
    pub namespaces: Vec<String>,
    /// Commands are run in pods.
    pub hooks: bool,
}

/// The roles for all of `needs`, bound to `account`.
///
/// Pods are listed by the name of their node, which RBAC cannot tell: the right is one to list every pod. To run commands, a Role in each of
/// the namespaces, if they are named without a glob.
#[must_use]
pub fn roles(needs: &[Need], account: &Account) -> Roles {
    let read = |resource: &str, verbs: &[&str]| json!({ "apiGroups": [""], "resources": [resource], "verbs": verbs });
    let mut rules = vec![
        read("pods", &["list"]),
        read("persistentvolumeclaims", &["get", "list"]),
        read("persistentvolumes", &["get", "list"]),
    ];
    let hooked: Vec<&Need> = needs.iter().filter(|need| need.hooks).collect();
    let is_literal = |need: &&Need| {
        !need.namespaces.is_empty() && !need.namespaces.iter().any(|name| name.contains(['*', '?', '[', '{']))
    };
    let mut all = Roles::default();
    // Servers before 1.35 ask for `get` to run a command over a WebSocket, later ones for `create` too.
    let commands = read("pods/exec", &["create", "get"]);
    let (named, everywhere): (Vec<&Need>, Vec<&Need>) = hooked.into_iter().partition(is_literal);
    if !everywhere.is_empty() {
        rules.push(commands.clone());
        all.notes.insert(
            "pods/exec lets the agents run any command in any pod of these namespaces: name `namespaces` without a glob to grant it there only".to_owned(),
        );
    }
    all.manifests.extend(role_and_binding(account, "node", None, &rules));
    let namespaces: std::collections::BTreeSet<&String> = named.iter().flat_map(|need| &need.namespaces).collect();
    for namespace in namespaces.into_iter().filter(|_| everywhere.is_empty()) {
        all.manifests.extend(role_and_binding(account, "node", Some(namespace), std::slice::from_ref(&commands)));
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn rights(of: &Roles) -> Vec<String> {
        let lines = |manifest: &Value| {
            let within = manifest["metadata"]["namespace"].as_str().unwrap_or("*").to_owned();
            let granted = manifest["rules"].as_array().cloned().unwrap_or_default();
            granted.into_iter().map(move |rule| format!("{within} {} {}", rule["resources"], rule["verbs"]))
        };
        of.manifests.iter().flat_map(lines).collect()
    }

    #[test]
    fn commands_in_pods_are_granted_only_where_they_are_run() {
        let account: Account = "penstock/penstock".parse().unwrap();
        let need = |namespaces: &[&str], hooks| Need {
            namespaces: namespaces.iter().map(|&name| name.to_owned()).collect(),
            hooks,
        };
        let read = [
            r#"* ["pods"] ["list"]"#,
            r#"* ["persistentvolumeclaims"] ["get","list"]"#,
            r#"* ["persistentvolumes"] ["get","list"]"#,
        ];
        assert_eq!(rights(&roles(&[need(&["*"], false)], &account)), read);
        let named = rights(&roles(&[need(&["*"], false), need(&["shop"], true)], &account));
        assert_eq!(named[..3], read);
        assert_eq!(named[3..], [r#"shop ["pods/exec"] ["create","get"]"#]);
        let all = roles(&[need(&["shop"], true), need(&["team-*"], true)], &account);
        assert_eq!(rights(&all)[3], r#"* ["pods/exec"] ["create","get"]"#);
        assert_eq!((rights(&all).len(), all.notes.len()), (4, 1));
    }
}
