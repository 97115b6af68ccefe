//! A Kubernetes API server with a memory on a real socket over TLS: discovery in both forms, lists with pages and snapshots, objects that are
//! made, changed and deleted, RBAC of service accounts, and faults that a test asks for. The conformance suite holds it to a real one.

mod access;
mod discovery;
mod exec;
mod fields;
mod list;
mod uri;
mod write;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use serde_json::{Value, json};

pub(crate) use self::exec::Command;
use self::uri::{percent, query};
use self::write::Change;
pub(crate) use self::write::denial;
use crate::servers::{Scheme, Seen, Servers, see};

pub(crate) const ADMIN: &str = "the-admin-token";

pub(crate) type Reply = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// A kind in one version of its group.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) namespaced: bool,
    /// Its status is a subresource.
    pub(crate) has_status: bool,
    /// Its generation counts the changes of its spec.
    pub(crate) counts: bool,
    verbs: &'static [&'static str],
}

/// What a test does to a request in place of the answer, or to it.
pub(crate) enum Fault {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// The answer, cut off after so many bytes.
    Cut(usize),
    /// No answer; nothing is done.
    Silent,
}

/// Gets the state, the request and how many came before.
type Script = Box<dyn FnMut(&mut State, &Seen, usize) -> Option<Fault> + Send>;

/// Objects by `NAMESPACE/NAME`, in etcd's order.
type Objects = BTreeMap<String, Value>;

pub(crate) struct State {
    pub(crate) kinds: Vec<Kind>,
    /// By `plural.group`.
    objects: BTreeMap<String, Objects>,
    revision: u64,
    /// Lists that began and have not ended, by revision and kind.
    snapshots: BTreeMap<(u64, String), Objects>,
    /// Continue tokens of these revisions and older have expired.
    compacted: u64,
    /// A 410 carries a token.
    pub(crate) offers_tokens: bool,
    pub(crate) aggregated: bool,
    /// `GROUP/VERSION` whose server does not answer.
    pub(crate) dead: Vec<String>,
    pub(crate) admin_token: String,
    requests: usize,
    /// What becomes of a command in a pod; without it, none succeeds.
    pub(crate) commands: Option<exec::Script>,
}

pub(crate) struct FakeKubernetes {
    pub(crate) url: String,
    pub(crate) ca: std::path::PathBuf,
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<Option<Script>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Bytes of lists that were handed to the connection.
    pub(crate) sent: Arc<AtomicU64>,
}

const ALL: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];

/// Those of the built-in kinds below whose status is a subresource.
const WITH_STATUS: &[&str] = &[
    "apiservices",
    "customresourcedefinitions",
    "deployments",
    "jobs",
    "namespaces",
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "replicasets",
    "services",
    "statefulsets",
];

const KINDS: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true),
    ("", "v1", "persistentvolumes", "PersistentVolume", false),
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("", "v1", "services", "Service", true),
    ("apps", "v1", "daemonsets", "DaemonSet", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apps", "v1", "replicasets", "ReplicaSet", true),
    ("apps", "v1", "statefulsets", "StatefulSet", true),
    ("batch", "v1", "jobs", "Job", true),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("apiregistration.k8s.io", "v1", "apiservices", "APIService", false),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", true),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", false),
    ("storage.k8s.io", "v1", "storageclasses", "StorageClass", false),
];

fn body(bytes: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, std::io::Error> {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn answer(status: u16, value: &Value) -> Reply {
    Response::builder().status(status).header("content-type", "application/json").body(body(value.to_string())).unwrap()
}

fn plain(status: u16, text: &str) -> Reply {
    Response::builder().status(status).header("content-type", "text/plain").body(body(text.to_owned())).unwrap()
}

/// `metav1.Status`.
pub(crate) fn refusal(code: u16, reason: &str, message: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code })
}

impl Kind {
    fn key(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Of a definition.
    fn is_custom(&self) -> bool {
        self.group.rsplit('.').next() == Some("test")
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

impl FakeKubernetes {
    pub(crate) fn start(servers: &Servers) -> Self {
        let kind = |(group, version, plural, kind, namespaced): &(&str, &str, &str, &str, bool)| Kind {
            group: (*group).into(),
            version: (*version).into(),
            plural: (*plural).into(),
            singular: (*kind).into(),
            namespaced: *namespaced,
            has_status: WITH_STATUS.contains(plural),
            counts: ["apps", "apiextensions.k8s.io"].contains(group),
            verbs: ALL,
        };
        let state = State {
            kinds: KINDS.iter().map(kind).collect(),
            objects: BTreeMap::new(),
            revision: 100,
            snapshots: BTreeMap::new(),
            compacted: 0,
            offers_tokens: true,
            aggregated: true,
            dead: Vec::new(),
            admin_token: ADMIN.to_owned(),
            requests: 0,
            commands: None,
        };
        let state = Arc::new(Mutex::new(state));
        let (script, seen) = (Arc::new(Mutex::new(None::<Script>)), Arc::new(Mutex::new(Vec::new())));
        let sent = Arc::new(AtomicU64::new(0));
        let inner = (state.clone(), script.clone(), seen.clone(), sent.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (state, script, seen, sent) = inner.clone();
            let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
            async move {
                let head = see(&request, String::new());
                let bytes = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
                let request = Seen { body: String::from_utf8_lossy(&bytes).into_owned(), ..head };
                seen.lock().unwrap().push(request.clone());
                let reply = {
                    let mut state = state.lock().unwrap();
                    let number = state.requests;
                    state.requests += 1;
                    let fault = script.lock().unwrap().as_mut().and_then(|script| script(&mut state, &request, number));
                    match fault {
                        Some(Fault::Answer { status, headers, body: text }) => {
                            let head = Response::builder().status(status);
                            let head = headers.into_iter().fold(head, |head, (key, value)| head.header(key, value));
                            Some(head.body(body(text)).unwrap())
                        }
                        Some(Fault::Cut(after)) => Some(cut(state.answer(&request, &sent), after)),
                        Some(Fault::Silent) => None,
                        None => Some(state.answer(&request, &sent)),
                    }
                };
                match reply {
                    Some(reply) if reply.status() == 101 => {
                        tokio::spawn(exec::serve(upgrade.unwrap(), request, state));
                        Ok(reply)
                    }
                    Some(reply) => Ok::<_, std::io::Error>(reply),
                    None => std::future::pending().await,
                }
            }
        });
        let url = servers.serve(Scheme::Https, service);
        let fake = Self { url, ca: servers.ca_path(), state, script, seen, sent };
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "kube-system" } }));
        fake.make("/api/v1/namespaces", &json!({ "metadata": { "name": "default" } }));
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn script(&self, script: impl FnMut(&mut State, &Seen, usize) -> Option<Fault> + Send + 'static) {
        *self.script.lock().unwrap() = Some(Box::new(script));
    }

    /// Makes an object past all faults.
    pub(crate) fn make(&self, path: &str, object: &Value) {
        self.state().make(path, object);
    }

    /// A kubeconfig for `token`, in the folder of the servers.
    pub(crate) fn kubeconfig(&self, servers: &Servers, name: &str, token: &str) -> std::path::PathBuf {
        let path = servers.folder().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, kubeconfig(&self.url, &self.ca, &format!("{{token: {token:?}}}"))).unwrap();
        path
    }
}

/// A kubeconfig with one context, `test`.
pub(crate) fn kubeconfig(url: &str, ca: &std::path::Path, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
         clusters: [{{name: c, cluster: {{server: {url:?}, certificate-authority: {:?}}}}}]\n\
         users: [{{name: u, user: {user}}}]\n\
         contexts: [{{name: test, context: {{cluster: c, user: u}}}}]\n",
        ca.display().to_string()
    )
}

/// The same reply, whose body breaks off.
fn cut(reply: Reply, after: usize) -> Reply {
    let (mut head, body) = reply.into_parts();
    head.headers.remove("content-length");
    let mut left = after;
    let pieces = body.into_data_stream().map(move |piece| {
        let piece = piece?;
        if piece.len() > left {
            let end = std::mem::take(&mut left);
            return if end == 0 { Err(std::io::Error::other("cut off")) } else { Ok(Frame::data(piece.slice(..end))) };
        }
        left -= piece.len();
        Ok(Frame::data(piece))
    });
    let end = futures_util::stream::once(std::future::ready(Err(std::io::Error::other("cut off"))));
    Response::from_parts(head, StreamBody::new(pieces.chain(end)).boxed_unsync())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl State {
    /// Every continue token there is expires, and what they would have shown is gone.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
        self.revision += 1;
        self.snapshots.clear();
    }

    pub(crate) fn make(&mut self, path: &str, object: &Value) {
        let (kind, namespace, _) = self.find(path).unwrap_or_else(|| panic!("no kind is served at {path}"));
        let mut object = object.clone();
        if kind.is_custom() {
            object["kind"] = json!(kind.singular);
        }
        assert_eq!(self.create(&Change::new(&kind, namespace.as_deref(), ""), object).status(), 201, "{path}");
    }

    /// Changes every object of a kind, `plural.group`.
    pub(crate) fn touch(&mut self, kind: &str, change: impl Fn(&mut Value)) {
        self.revision += 1;
        self.objects.get_mut(kind).unwrap().values_mut().for_each(change);
    }

    pub(crate) fn remove(&mut self, path: &str) {
        let (kind, namespace, name) = self.find(path).unwrap_or_else(|| panic!("no kind is served at {path}"));
        let change = Change::new(&kind, namespace.as_deref(), name.as_deref().unwrap());
        assert_eq!(self.delete(&change, None).status(), 200, "{path}");
    }

    /// The object at `path`; `null` if there is none.
    pub(crate) fn object(&self, path: &str) -> Value {
        let (kind, namespace, name) = self.find(path).unwrap_or_else(|| panic!("no kind is served at {path}"));
        self.at(&Change::new(&kind, namespace.as_deref(), name.as_deref().unwrap())).unwrap_or_default()
    }

    /// `NAMESPACE/NAME` of each object of a kind, `plural.group`.
    pub(crate) fn keys(&self, kind: &str) -> Vec<String> {
        self.objects.get(kind).into_iter().flat_map(|objects| objects.keys().cloned()).collect()
    }

    /// Kind, namespace and name that a path means.
    fn find(&self, path: &str) -> Option<(Kind, Option<String>, Option<String>)> {
        let parts: Vec<String> = path.trim_matches('/').split('/').map(percent).collect();
        let (group, rest) = match parts[0].as_str() {
            "api" => (String::new(), &parts[1..]),
            "apis" => (parts.get(1)?.clone(), &parts[2..]),
            _ => return None,
        };
        let version = rest.first()?;
        let whole = rest;
        let (namespace, rest) = match &rest[1..] {
            // A namespace's own subresource is in none.
            [word, _, rest @ ..] if word == "namespaces" && matches!(rest, [only] if only == "status") => {
                (None, &whole[1..])
            }
            [word, namespace, rest @ ..] if word == "namespaces" && !rest.is_empty() => (Some(namespace.clone()), rest),
            rest => (None, rest),
        };
        let plural = rest.first()?;
        let kind = self.kinds.iter().find(|k| k.group == group && k.version == *version && k.plural == *plural)?;
        Some((kind.clone(), namespace, rest.get(1).cloned()))
    }

    fn answer(&mut self, request: &Seen, sent: &Arc<AtomicU64>) -> Reply {
        let path = request.uri.split('?').next().unwrap();
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        let account = token.strip_prefix("sa:").map(str::to_owned);
        if token != self.admin_token && account.is_none() {
            return answer(401, &refusal(401, "Unauthorized", "Unauthorized"));
        }
        match path {
            "/version" => {
                return answer(
                    200,
                    &json!({ "major": "1", "minor": "20", "gitVersion": "v1.20.2", "platform": "linux/amd64" }),
                );
            }
            "/api" | "/apis" => return self.root(path, request),
            _ => {}
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["apis", "authorization.k8s.io", "v1", review] => {
                return self.review(review, account.as_deref(), &request.body);
            }
            ["api", version] => return self.resources(version),
            ["apis", group, version] => return self.resources(&format!("{group}/{version}")),
            ["api", "v1", "namespaces", namespace, "pods", name, "exec"] => {
                return self.open(account.as_deref(), namespace, name, request);
            }
            ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"] => {
                return answer(
                    201,
                    &json!({ "status": { "token": format!("sa:system:serviceaccount:{namespace}:{name}") } }),
                );
            }
            _ => {}
        }
        self.objects_at(path, account.as_deref(), request, sent)
    }

    fn objects_at(&mut self, path: &str, account: Option<&str>, request: &Seen, sent: &Arc<AtomicU64>) -> Reply {
        let Some((kind, namespace, name)) = self.find(path) else { return plain(404, "404 page not found\n") };
        if self.dead.contains(&kind.api_version()) {
            return plain(503, "service unavailable\n");
        }
        let of_status = name.is_some() && path.ends_with("/status");
        let verb = match (request.method.as_str(), &name) {
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", None) => "create",
            ("PUT", Some(_)) => "update",
            ("PATCH", Some(_)) => "patch",
            ("DELETE", Some(_)) => "delete",
            _ => {
                let message = "the server does not allow this method on the requested resource";
                return answer(405, &refusal(405, "MethodNotAllowed", message));
            }
        };
        if of_status && !kind.has_status {
            let message = "the server could not find the requested resource";
            return answer(404, &refusal(404, "NotFound", message));
        }
        // A namespace's own object counts as in it.
        let within = namespace.as_deref().or(name.as_deref().filter(|_| kind.plural == "namespaces"));
        let asked = if of_status { format!("{}/status", kind.plural) } else { kind.plural.clone() };
        if let Some(user) = account.filter(|user| !self.may(user, verb, &kind.group, &asked, within)) {
            let place =
                within.map_or("at the cluster scope".to_owned(), |namespace| format!("in the namespace {namespace:?}"));
            let full = kind.key();
            let message = format!(
                "{full} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
                asked, kind.group
            );
            return answer(403, &refusal(403, "Forbidden", &message));
        }
        match (verb, name.as_deref()) {
            ("list", _) => self.list(&kind, namespace.as_deref(), &request.uri, sent),
            ("get", Some(name)) => {
                match self.objects.get(&kind.key()).and_then(|all| all.get(&key(namespace.as_deref(), name))) {
                    Some(object) => answer(200, &with_kind(&kind, object)),
                    None => missing(&kind, name),
                }
            }
            (_, name) => {
                let change = Change::new(&kind, namespace.as_deref(), name.unwrap_or_default());
                self.write(Change { of_status, ..change }, request)
            }
        }
    }
}

fn key(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

fn missing(kind: &Kind, name: &str) -> Reply {
    answer(404, &refusal(404, "NotFound", &format!("{} {name:?} not found", kind.key())))
}

fn with_kind(kind: &Kind, object: &Value) -> Value {
    let mut object = object.clone();
    object["kind"] = json!(kind.singular);
    object["apiVersion"] = json!(kind.api_version());
    object
}
