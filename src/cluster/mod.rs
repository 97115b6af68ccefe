//! The port to a Kubernetes API server: the requests that backups and restores need, and no others.
//!
//! The implementation is `kube`; the tests' fake is a server on a real socket, so that tests cover the adapter too. A method is one
//! request; retries are the caller's. A list comes as a stream: a page is never in memory as a whole.

mod access;
pub mod classify;
mod exec;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::Deserialize;
use tokio::sync::OnceCell;

pub use self::access::{Access, Rule, Rules, Verdict};
pub use self::exec::{Exec, Executed, MAX_OUTPUT};
use crate::error::{Class, Report, ServiceError};

/// The most bytes of a document that is read as a whole: discovery of a cluster with 1,000 custom resources has 2 MiB.
pub const MAX_DOCUMENT: usize = 32 << 20;

/// The name under which Penstock owns fields in `metadata.managedFields`. Managed fields in a POST are lost: all fields are new, so that
/// the request's manager owns them. [`Write::Merge`] of `metadata.managedFields` alone restores them unchanged.
pub const FIELD_MANAGER: &str = "penstock";

/// A failed request, with what Kubernetes adds to the error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    pub error: ServiceError,
    /// How long the server asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
    /// The continue token has expired (410).
    pub expired: Option<Box<Expired>>,
}

/// A server's answer about a list whose state it no longer keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expired {
    /// A token with which the list continues at the next key, in the current state; `None`: the list must start again.
    pub token: Option<String>,
}

impl Failure {
    fn has_code(&self, code: &str) -> bool {
        self.error.code.as_deref() == Some(code)
    }

    /// A POST failed because an object of the same name exists.
    #[must_use]
    pub fn is_there_already(&self) -> bool {
        self.has_code("AlreadyExists")
    }

    /// A POST failed because an object of the same name is being deleted: it exists until its finalizers are removed.
    #[must_use]
    pub fn is_being_deleted(&self) -> bool {
        self.is_there_already() && self.error.message.starts_with("object is being deleted")
    }

    /// An admission webhook with side effects does not support a dry run.
    #[must_use]
    pub fn is_dry_run_unsupported(&self) -> bool {
        self.has_code("BadRequest") && self.error.message.contains("does not support dry run")
    }

    /// The namespace of the object does not exist.
    #[must_use]
    pub fn is_namespace_missing(&self) -> bool {
        self.has_code("NotFound") && self.error.message.starts_with("namespaces \"")
    }

    /// The namespace is being deleted, and accepts no new objects.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        self.has_code(classify::NAMESPACE_TERMINATING)
    }

    /// The object was changed meanwhile, or has another UID.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.has_code("Conflict") && self.error.class == Class::Conflict
    }

    /// The path is not served: the kind does not exist, or not yet. An object that does not exist is a different case.
    #[must_use]
    pub fn is_kind_missing(&self) -> bool {
        let error = &self.error;
        let of_kind = error.code.is_none() || error.message == "the server could not find the requested resource";
        error.class == Class::NotFound && error.status == Some(404) && of_kind
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self { error, retry_after: None, expired: None }
    }
}

impl From<Failure> for ServiceError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl crate::error::Classify for Failure {
    fn report(&self) -> crate::error::Report {
        self.error.report()
    }
}

/// `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Version {
    /// `v1.36.4`.
    pub git_version: String,
    pub major: String,
    /// Some clouds append a `+`.
    pub minor: String,
    pub platform: String,
}

/// A kind of objects as one version of a group serves it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

impl Resource {
    /// The namespaces themselves.
    #[must_use]
    pub fn namespaces() -> Self {
        Self::core("namespaces", "Namespace", Scope::Cluster)
    }

    /// A kind of the core group.
    #[must_use]
    pub fn core(plural: &str, kind: &str, scope: Scope) -> Self {
        let (group, version) = (String::new(), "v1".to_owned());
        Self { group, version, plural: plural.to_owned(), kind: kind.to_owned(), scope }
    }

    /// `deployments.apps`; `pods` in the core group.
    #[must_use]
    pub fn name(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// `apps/v1`; `v1` in the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `/apis/apps/v1/namespaces/shop/deployments`; without a namespace, the path for all of them.
    #[must_use]
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let within = namespace.map(|namespace| format!("/namespaces/{namespace}")).unwrap_or_default();
        format!("{root}/{}{within}/{}", self.api_version(), self.plural)
    }
}

/// What to list, and which page of it.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    pub resource: &'a Resource,
    /// `None`: the whole cluster.
    pub namespace: Option<&'a str>,
    /// A label selector; empty: everything.
    pub selector: &'a str,
    /// A field selector, `spec.nodeName=n1`; empty: everything.
    pub fields: &'a str,
    /// Objects on a page, at least 1.
    pub limit: u32,
    /// The continue token of the previous page.
    pub from: Option<&'a str>,
}

/// A body as it arrives from the network, in pieces of any size. An error is the last element.
pub type Body = BoxStream<'static, Result<Bytes, Failure>>;

/// A document that is read as a whole.
#[derive(Debug, Clone)]
pub struct Document {
    pub bytes: Bytes,
    /// `application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`; empty where the server sends none.
    pub content_type: String,
}

/// Which discovery document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery<'a> {
    /// `/api` or `/apis`, in the aggregated form where the server has it.
    Root(Root),
    /// The resources of a group's version, `apps/v1` or `v1`.
    Version(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Core,
    Groups,
}

/// One object by name.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a> {
    pub resource: &'a Resource,
    pub namespace: Option<&'a str>,
    pub name: &'a str,
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.resource.path(self.namespace), self.name)
    }
}

/// A request that changes an object.
#[derive(Clone, Copy)]
pub enum Write<'a> {
    /// POST of an object, without resourceVersion.
    Create(&'a [u8]),
    /// The same as another field manager, which then owns every field with the operation `Update`. For an object that had one such
    /// manager, this saves the request that restores its managed fields, which takes twice as long as the POST.
    CreateAs { object: &'a [u8], manager: &'a str },
    /// PUT of an object, with the resourceVersion that it replaces.
    Replace(&'a [u8]),
    /// PUT of its `status` subresource, likewise.
    Status(&'a [u8]),
    /// JSON merge patch.
    Merge(&'a [u8]),
    /// DELETE, if the object has this UID. Its dependents are garbage-collected afterwards.
    Delete { uid: &'a str },
}

impl Write<'_> {
    /// The verb, as RBAC rules name it.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) | Self::CreateAs { .. } => "create",
            Self::Replace(_) | Self::Status(_) => "update",
            Self::Merge(_) => "patch",
            Self::Delete { .. } => "delete",
        }
    }
}

/// Debug output must not show an object's content.
impl fmt::Debug for Write<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())
    }
}

/// Whether a change is made, or is a dry run: with admission and validation, but nothing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Real,
    DryRun,
}

#[async_trait]
pub trait Cluster: Send + Sync {
    /// The server's URL, for messages.
    fn address(&self) -> String;
    async fn version(&self) -> Result<Version, Failure>;
    /// The user name that the server sees; `None`: a server older than 1.28 does not report it.
    async fn who(&self) -> Result<Option<String>, Failure>;
    async fn discovery(&self, document: Discovery<'_>) -> Result<Document, Failure>;
    /// One page; the caller reads it to the end.
    async fn list(&self, list: &List<'_>) -> Result<Body, Failure>;
    /// An object's bytes as the server sends them, at most [`MAX_DOCUMENT`].
    async fn get(&self, object: &Object<'_>) -> Result<Bytes, Failure>;
    /// Returns the object after the change; for DELETE, the object or a Status. The field manager is [`FIELD_MANAGER`], if `write` does
    /// not name another.
    ///
    /// After a failure without an answer, the change may have been made: a repeated POST is then refused with
    /// [`Failure::is_there_already`].
    async fn write(&self, object: &Object<'_>, write: &Write<'_>, effect: Effect) -> Result<Bytes, Failure>;
    /// Runs a command and waits for its end. The time limit is the caller's, which drops the future; the command itself may go on then.
    async fn exec(&self, exec: &Exec<'_>) -> Result<Executed, Failure>;
    /// The last `lines` of a pod's log.
    async fn log(&self, namespace: &str, pod: &str, container: &str, lines: u32) -> Result<Bytes, Failure>;
    async fn access(&self, access: &Access<'_>) -> Result<Verdict, Failure>;
    async fn rules(&self, namespace: &str) -> Result<Rules, Failure>;
}

/// Connects to the cluster; `cli` passes the adapter in.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Reads files, and may start a credential plugin; sends nothing.
    ///
    /// # Errors
    /// When no cluster is found, or its configuration cannot be used.
    async fn connect(&self) -> Result<Arc<dyn Cluster>, Report>;
}

/// The process's one client, made when it is first needed. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Shared {
    connect: Arc<dyn Connect>,
    client: Arc<OnceCell<Arc<dyn Cluster>>>,
}

impl Shared {
    #[must_use]
    pub fn new(connect: Arc<dyn Connect>) -> Self {
        Self { connect, client: Arc::default() }
    }

    /// The client. If it cannot be made, the next call tries again.
    ///
    /// # Errors
    /// As [`Connect::connect`].
    pub async fn get(&self) -> Result<Arc<dyn Cluster>, Report> {
        self.client.get_or_try_init(|| self.connect.connect()).await.cloned()
    }
}

/// For a process without a cluster.
impl Default for Shared {
    fn default() -> Self {
        struct Nowhere;
        #[async_trait]
        impl Connect for Nowhere {
            async fn connect(&self) -> Result<Arc<dyn Cluster>, Report> {
                Err(Report::new(Class::Internal, "this process has no connection to a cluster"))
            }
        }
        Self::new(Arc::new(Nowhere))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("is_made", &self.client.initialized()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names() {
        let resource = |group: &str, plural: &str| Resource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: String::new(),
            scope: Scope::Namespaced,
        };
        let (pods, deployments) = (resource("", "pods"), resource("apps", "deployments"));
        assert_eq!((pods.name(), pods.api_version()), ("pods".into(), "v1".into()));
        assert_eq!(pods.path(None), "/api/v1/pods");
        assert_eq!((deployments.name(), deployments.api_version()), ("deployments.apps".into(), "apps/v1".into()));
        assert_eq!(deployments.path(Some("shop")), "/apis/apps/v1/namespaces/shop/deployments");
    }
}
