//! The place of an object in an archive, parsed from a member's path. Pure; the paths are untrusted.

use std::fmt;

use super::discovery::is_label;
use super::skip::is_segment;
use crate::cluster::Scope;

/// The kind in whose folder an object is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Filed {
    pub scope: Scope,
    /// `deployments.apps`.
    pub resource: String,
    /// Of a kind that is saved in several versions: a version other than the preferred one; else empty.
    pub version: String,
}

/// The parts of an object's path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub filed: Filed,
    /// Empty for a cluster-scoped object.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Filed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if self.version.is_empty() { Ok(()) } else { write!(f, "/{}", self.version) }
    }
}

impl Filed {
    #[must_use]
    pub fn plural(&self) -> &str {
        self.resource.split_once('.').map_or(&self.resource, |(plural, _)| plural)
    }

    /// Empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.resource.split_once('.').map_or("", |(_, group)| group)
    }
}

impl Place {
    /// The place of the member at `path`; `None` if that is not a path of [`super::skip::path`].
    #[must_use]
    pub fn of(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix("resources/")?.strip_suffix(".json")?;
        let parts: Vec<&str> = path.split('/').collect();
        let (resource, version, namespace, name) = match parts[..] {
            [resource, "namespaces", namespace, name] => (resource, "", Some(namespace), name),
            [resource, version, "namespaces", namespace, name] => (resource, version, Some(namespace), name),
            [resource, "cluster", name] => (resource, "", None, name),
            [resource, version, "cluster", name] => (resource, version, None, name),
            _ => return None,
        };
        let usable = [resource, name].into_iter().all(is_segment) && namespace.is_none_or(is_label);
        if !usable || !(version.is_empty() || is_segment(version)) {
            return None;
        }
        let scope = if namespace.is_some() { Scope::Namespaced } else { Scope::Cluster };
        let filed = Filed { scope, resource: resource.to_owned(), version: version.to_owned() };
        Some(Self { filed, namespace: namespace.unwrap_or_default().to_owned(), name: name.to_owned() })
    }

    /// `shop/web`, or the name alone.
    #[must_use]
    pub fn key(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }

    /// The namespace that the object is, or is in.
    #[must_use]
    pub fn within(&self) -> Option<&str> {
        match self.filed.scope {
            Scope::Namespaced => Some(&self.namespace),
            Scope::Cluster => (self.filed.resource == "namespaces").then_some(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Resource;
    use crate::resources::skip::{Folder, path};

    #[test]
    fn every_path_that_is_written_is_read_back() {
        for (group, plural) in [("", "pods"), ("apps", "deployments"), ("rbac.authorization.k8s.io", "roles")] {
            for (folder, namespace, name) in [
                (Folder::Plain, "shop", "web"),
                (Folder::Versioned, "shop", "web"),
                (Folder::Plain, "", "system:node"),
                (Folder::Versioned, "", "cluster"),
                (Folder::Plain, "cluster", "namespaces"),
                (Folder::Plain, "namespaces", "x.json"),
            ] {
                let scope = if namespace.is_empty() { Scope::Cluster } else { Scope::Namespaced };
                let resource = Resource {
                    group: group.into(),
                    version: "v1beta1".into(),
                    plural: plural.into(),
                    kind: "K".into(),
                    scope,
                };
                let path = path(&resource, folder, namespace, name).unwrap();
                let place = Place::of(path.as_bytes()).unwrap();
                let version = if folder == Folder::Versioned { "v1beta1" } else { "" };
                assert_eq!((place.namespace.as_str(), place.name.as_str()), (namespace, name), "{path}");
                assert_eq!((place.filed.plural(), place.filed.group()), (plural, group), "{path}");
                assert_eq!((place.filed.version.as_str(), place.filed.scope), (version, scope), "{path}");
            }
        }
    }

    #[test]
    fn what_is_not_such_a_path_is_none() {
        for path in [
            "metadata/version",
            "resources/pods/namespaces/shop/web",
            "resources/pods/namespaces/../web.json",
            "resources/pods/namespaces/shop/../web.json",
            "resources/../namespaces/shop/web.json",
            "resources/pods/cluster/a/b/c.json",
            "resources/pods/cluster/.json",
            "resources//cluster/a.json",
            "/resources/pods/cluster/a.json",
            "resources/pods/namespaces/shop/a\u{1b}[2J.json",
        ] {
            assert_eq!(Place::of(path.as_bytes()), None, "{path:?}");
        }
        assert_eq!(Place::of(b"resources/pods/cluster/\xff.json"), None);
    }
}
