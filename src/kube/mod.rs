//! The adapter of the port `cluster`: the only module that names the `kube` crates.
//!
//! - **Identity**: a pod's service account, or a kubeconfig with its contexts, tokens, client certificates and credential plugins. The
//!   files are checked every [`LOOK`]; after a change, a 401, or the expiry of a plugin's certificate, the next request reads everything
//!   again. If that fails, the old client stays in use and the error is logged.
//! - **Retries**: none here; the caller owns them. kube's own (15, up to 1,000 s apart) are off.
//! - **Limits**: [`CONNECT`] to connect, [`READ`] without a byte. Only documents, of at most [`MAX_DOCUMENT`], are kept whole in memory.
//! - **Compression**: not requested (docs/decisions/0070).
//!
//! Costs a few `stat` calls in each [`LOOK`] that has requests.

mod answer;
mod exec;
mod failure;
mod load;
mod log;
mod request;
mod write;

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, StatusCode};

use self::answer::{Received, header, refusal};
pub use self::load::{Environment, LoadError, SERVICE_ACCOUNT, Settings};
use self::request::{Asking, asked, encoded, get};
use crate::cluster::classify::{Asked, Freshness, unexpected};
use crate::cluster::{
    Access, Body, Cluster, Discovery, Document, Effect, Exec, Executed, Failure, List, MAX_DOCUMENT, Object, Root,
    Rules, Verdict, Version, Write,
};
use crate::error::{Class, Classify as _, ServiceError};

/// The same as for AWS.
const CONNECT: Duration = Duration::from_secs(10);

/// The API server ends a request after 60 s: a connection without a byte for longer is dead.
const READ: Duration = Duration::from_secs(75);

/// A credential plugin that opens a browser for a login would wait for ever.
const PLUGIN: Duration = Duration::from_secs(60);

/// How often the files are checked, and the least age of credentials at which another 401 makes them be read again.
pub const LOOK: Duration = Duration::from_secs(5);

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
const JSON: &str = "application/json";

/// A connection to one API server. Cheap to clone; all clones are one client.
#[derive(Clone)]
pub struct Client {
    settings: Arc<Settings>,
    current: Arc<Mutex<Current>>,
    /// Held by the task that makes a new client; the others wait for it.
    making: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Current {
    client: kube::Client,
    address: String,
    trust: Arc<str>,
    files: Vec<(PathBuf, Option<Stamp>)>,
    made: Instant,
    looked: Instant,
    freshness: Freshness,
    /// Why a new client is needed, if it is.
    outdated: Option<Outdated>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outdated {
    /// The server did not accept the credentials.
    Refused,
    /// A file has changed.
    Changed,
    /// The certificate of a plugin has expired.
    Expired,
}

/// The version of a file: an updated Secret mount links to another inode, a rewritten file has another time or length.
type Stamp = (u64, u64, i64, i64, u64);

impl Client {
    /// Reads the files that `settings` names. Sends nothing.
    ///
    /// # Errors
    /// When no cluster is found, or its kubeconfig cannot be used.
    pub async fn new(settings: Settings) -> Result<Self, LoadError> {
        let current = make(settings.clone(), Freshness::Kept).await?;
        Ok(Self { settings: settings.into(), current: Mutex::new(current).into(), making: Arc::default() })
    }

    /// Which certificates are trusted, for messages.
    #[must_use]
    pub fn trust(&self) -> String {
        self.lock().trust.to_string()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // No code under the lock panics between two dependent changes.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client to use now; a new one if something has changed.
    async fn current(&self, now: Instant) -> Current {
        if let Ok(current) = self.usable(now) {
            return current;
        }
        let _alone = self.making.lock().await;
        // Another task may have made it meanwhile.
        let outdated = match self.usable(now) {
            Ok(current) => return current,
            Err(outdated) => outdated,
        };
        let freshness = if outdated == Outdated::Refused { Freshness::JustRead } else { Freshness::Kept };
        match make(Settings::clone(&self.settings), freshness).await {
            Ok(made) => {
                tracing::debug!(cluster = made.address, "the cluster's credentials and certificates were read again");
                *self.lock() = made.clone();
                made
            }
            Err(error) => {
                let remedy = error.report().remedy;
                tracing::error!(remedy, "{error}: the credentials and certificates that were read before stay in use");
                let mut current = self.lock();
                (current.looked, current.outdated, current.freshness) = (now, None, freshness);
                // The next attempt is made when the files change again.
                current.files = stamps(current.files.iter().map(|(path, _)| path.clone()).collect());
                current.clone()
            }
        }
    }

    fn usable(&self, now: Instant) -> Result<Current, Outdated> {
        let mut current = self.lock();
        let expired = current.client.valid_until().as_ref().is_some_and(|until| {
            // kube depends on another version of jiff.
            std::time::SystemTime::from(*until) <= std::time::SystemTime::now()
        });
        if current.outdated.is_none() && expired {
            current.outdated = Some(Outdated::Expired);
        }
        if current.outdated.is_none() && now.saturating_duration_since(current.looked) >= LOOK {
            current.looked = now;
            let changed = current.files.iter().any(|(path, stamp)| self::stamp(path) != *stamp);
            current.outdated = changed.then_some(Outdated::Changed);
        }
        current.outdated.map_or_else(|| Ok(current.clone()), Err)
    }

    /// Notes that the server did not accept `used`: the next request reads the credentials again, unless they have just been read.
    fn refuse(&self, used: &Current) {
        let mut current = self.lock();
        if current.made == used.made && (current.freshness == Freshness::Kept || current.made.elapsed() >= LOOK) {
            current.outdated = Some(Outdated::Refused);
        }
    }

    async fn send(&self, asked: &Asked<'_>, request: Asking<'_>) -> Result<Received, Failure> {
        let current = self.current(Instant::now()).await;
        let asked = Asked { fresh: current.freshness, ..asked.clone() };
        let fault = |error: &dyn std::fmt::Display| {
            Failure::from(asked.error(Class::Internal, format!("could not build the request: {error}")))
        };
        let request = request.built().map_err(|error| fault(&error))?;
        let answer = current.client.send(request).await;
        let response = answer.map_err(|error| failure::transport(&asked, &error, &current.trust))?;
        let trust = current.trust.clone();
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.accepted(&current);
            return Ok(Received { response, trust });
        }
        if response.status().as_u16() == 401 {
            self.refuse(&current);
        }
        Err(refusal(&asked, response).await)
    }

    /// The server accepted these credentials: a 401 before is resolved.
    fn accepted(&self, used: &Current) {
        if used.freshness == Freshness::JustRead {
            let mut current = self.lock();
            if current.made == used.made {
                current.freshness = Freshness::Kept;
            }
        }
    }

    async fn document(&self, asked: &Asked<'_>, request: Asking<'_>) -> Result<Document, Failure> {
        let received = self.send(asked, request).await?;
        let content_type = header(received.response.headers(), CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        let status = received.response.status().as_u16();
        let bytes = received.whole(asked, MAX_DOCUMENT).await?;
        if !content_type.starts_with(JSON) {
            return Err(unexpected(asked, status, &format!("the answer is {content_type:?}, not JSON")));
        }
        Ok(Document { bytes, content_type })
    }

    async fn parsed<T: serde::de::DeserializeOwned>(
        &self,
        asked: &Asked<'_>,
        request: Asking<'_>,
    ) -> Result<T, Failure> {
        let document = self.document(asked, request).await?;
        // The error's text may quote the document.
        serde_json::from_slice(&document.bytes)
            .map_err(|error| unexpected(asked, 200, &format!("the answer cannot be parsed at line {}", error.line())))
    }

    async fn review<T: serde::de::DeserializeOwned>(
        &self,
        kind: &'static str,
        spec: serde_json::Value,
    ) -> Result<T, Failure> {
        let plural = format!("{}s", kind.to_lowercase());
        let path = format!("/apis/authorization.k8s.io/v1/{plural}");
        let asked = Asked { verb: "create", resource: &plural, group: "authorization.k8s.io", ..asked(&path) };
        let body = serde_json::json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec });
        let request = Asking { method: Method::POST, body: Some((JSON, body.to_string().into_bytes())), ..get(&path) };
        let review: Review<T> = self.parsed(&asked, request).await?;
        Ok(review.status)
    }
}

/// Debug output must not show the client's credentials.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.lock().address).finish_non_exhaustive()
    }
}

/// The answer to a review.
#[derive(serde::Deserialize)]
struct Review<T> {
    status: T,
}

/// Reads everything and makes a client. It may run a credential plugin, which takes up to [`PLUGIN`].
async fn make(settings: Settings, freshness: Freshness) -> Result<Current, LoadError> {
    let making = tokio::task::spawn_blocking(move || make_blocking(&settings, freshness));
    match tokio::time::timeout(PLUGIN, making).await {
        Ok(Ok(made)) => made,
        Ok(Err(_)) => Err(LoadError::Client("the thread that makes it ended".to_owned())),
        Err(_) => Err(LoadError::Credentials {
            message: format!("the credential plugin did not end within {} s", PLUGIN.as_secs()),
            remedy: "run it by hand; a daemon needs a plugin that works without input from a person".to_owned(),
        }),
    }
}

fn make_blocking(settings: &Settings, freshness: Freshness) -> Result<Current, LoadError> {
    let loaded = load::load(settings)?;
    let address = loaded.config.cluster_url.to_string();
    // Taken before the files are read, so that a change in between is noticed.
    let files = stamps(loaded.files);
    let mut config = loaded.config;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    let client = kube::Client::try_from(config).map_err(|error| match &error {
        kube::Error::Auth(auth) => {
            let (message, remedy) = failure::credentials(auth);
            LoadError::Credentials { message, remedy }
        }
        other => LoadError::Client(crate::network::reason(other)),
    })?;
    let now = Instant::now();
    let address = address.trim_end_matches('/').to_owned();
    Ok(Current {
        client,
        address,
        trust: loaded.trust.into(),
        files,
        made: now,
        looked: now,
        freshness,
        outdated: None,
    })
}

fn stamps(files: Vec<PathBuf>) -> Vec<(PathBuf, Option<Stamp>)> {
    files.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()))
}

#[async_trait]
impl Cluster for Client {
    fn address(&self) -> String {
        self.lock().address.clone()
    }

    async fn version(&self) -> Result<Version, Failure> {
        self.parsed(&asked("/version"), get("/version")).await
    }

    async fn who(&self) -> Result<Option<String>, Failure> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            user_info: User,
        }
        #[derive(serde::Deserialize)]
        struct User {
            username: String,
        }
        let (group, resource) = ("authentication.k8s.io", "selfsubjectreviews");
        let path = format!("/apis/{group}/v1/{resource}");
        let body = serde_json::json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let asked = Asked { verb: "create", resource, group, ..asked(&path) };
        let request = Asking { method: Method::POST, body: Some((JSON, body.to_string().into_bytes())), ..get(&path) };
        match self.parsed::<Review<Status>>(&asked, request).await {
            Ok(review) => Ok(Some(review.status.user_info.username)),
            // A server without this kind checks the permission to create it first; its refusal contains the user's name.
            Err(failure) if matches!(failure.error.status, Some(403 | 404)) => {
                let rest = failure.error.message.split_once("User \"").map(|(_, rest)| rest);
                Ok(rest.and_then(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()))
            }
            Err(failure) => Err(failure),
        }
    }

    async fn discovery(&self, document: Discovery<'_>) -> Result<Document, Failure> {
        let (path, accept) = match document {
            Discovery::Root(Root::Core) => ("/api".to_owned(), AGGREGATED),
            Discovery::Root(Root::Groups) => ("/apis".to_owned(), AGGREGATED),
            Discovery::Version(version) if version.contains('/') => (format!("/apis/{version}"), JSON),
            Discovery::Version(version) => (format!("/api/{version}"), JSON),
        };
        self.document(&asked(&path), Asking { accept, ..get(&path) }).await
    }

    async fn list(&self, list: &List<'_>) -> Result<Body, Failure> {
        let List { resource, namespace, selector, fields, limit, from } = *list;
        let path = resource.path(namespace);
        let mut uri = format!("{path}?limit={limit}");
        for (key, value) in
            [("labelSelector", selector), ("fieldSelector", fields), ("continue", from.unwrap_or_default())]
        {
            if !value.is_empty() {
                uri.extend(["&", key, "=", &encoded(value)]);
            }
        }
        let asked =
            Asked { verb: "list", group: &resource.group, resource: &resource.plural, namespace, ..asked(&path) };
        let received = self.send(&asked, get(&uri)).await?;
        let content_type = header(received.response.headers(), CONTENT_TYPE.as_str()).unwrap_or_default();
        if !content_type.starts_with(JSON) {
            let what = format!("the answer is {content_type:?}, not JSON");
            return Err(unexpected(&asked, received.response.status().as_u16(), &what));
        }
        Ok(received.stream(&asked))
    }

    async fn get(&self, object: &Object<'_>) -> Result<Bytes, Failure> {
        let path = format!("{}/{}", object.resource.path(object.namespace), encoded(object.name));
        let Object { resource, namespace, .. } = *object;
        let asked = Asked { group: &resource.group, resource: &resource.plural, namespace, ..asked(&path) };
        self.document(&asked, get(&path)).await.map(|document| document.bytes)
    }

    async fn write(&self, object: &Object<'_>, write: &Write<'_>, effect: Effect) -> Result<Bytes, Failure> {
        self.change(object, write, effect).await
    }

    async fn exec(&self, exec: &Exec<'_>) -> Result<Executed, Failure> {
        self.execute(exec).await
    }

    async fn log(&self, namespace: &str, pod: &str, container: &str, lines: u32) -> Result<Bytes, Failure> {
        self.tail(namespace, pod, container, lines).await
    }

    async fn access(&self, access: &Access<'_>) -> Result<Verdict, Failure> {
        #[derive(serde::Deserialize)]
        struct Status {
            allowed: bool,
            #[serde(default)]
            reason: String,
        }
        let (resource, subresource) = access.resource.split_once('/').unwrap_or((access.resource, ""));
        let attributes = serde_json::json!({
            "verb": access.verb,
            "group": access.group,
            "resource": resource,
            "subresource": subresource,
            "namespace": access.namespace.unwrap_or_default(),
        });
        let spec = serde_json::json!({ "resourceAttributes": attributes });
        let Status { allowed, reason } = self.review("SelfSubjectAccessReview", spec).await?;
        Ok(Verdict { allowed, reason })
    }

    async fn rules(&self, namespace: &str) -> Result<Rules, Failure> {
        self.review("SelfSubjectRulesReview", serde_json::json!({ "namespace": namespace })).await
    }
}

impl From<LoadError> for ServiceError {
    fn from(error: LoadError) -> Self {
        let report = error.report();
        let mut failed = Self::local("connect", "the Kubernetes API server", report.class, report.message);
        (failed.service, failed.remedy) = (crate::cluster::classify::SERVICE, report.remedy);
        failed
    }
}

#[cfg(test)]
mod tests;
