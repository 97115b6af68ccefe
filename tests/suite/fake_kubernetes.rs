//! A Kubernetes API server with a memory on a real socket over TLS: discovery in both forms, lists with pages and snapshots, objects that are
//! made and deleted, RBAC of service accounts, and faults that a test asks for. The conformance suite holds it to a real one.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use serde_json::{Value, json};

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

const KINDS: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "configmaps", "ConfigMap", true),
    ("", "v1", "namespaces", "Namespace", false),
    ("", "v1", "persistentvolumes", "PersistentVolume", false),
    ("", "v1", "pods", "Pod", true),
    ("", "v1", "secrets", "Secret", true),
    ("", "v1", "serviceaccounts", "ServiceAccount", true),
    ("apps", "v1", "deployments", "Deployment", true),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
    ("apiregistration.k8s.io", "v1", "apiservices", "APIService", false),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", false),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", true),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", true),
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
        };
        let state = Arc::new(Mutex::new(state));
        let (script, seen) = (Arc::new(Mutex::new(None::<Script>)), Arc::new(Mutex::new(Vec::new())));
        let sent = Arc::new(AtomicU64::new(0));
        let inner = (state.clone(), script.clone(), seen.clone(), sent.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (state, script, seen, sent) = inner.clone();
            async move {
                let head = see(&request, String::new());
                let bytes = request.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
                let request = Seen { body: String::from_utf8_lossy(&bytes).into_owned(), ..head };
                seen.lock().unwrap().push(request.clone());
                let mut state = state.lock().unwrap();
                let number = state.requests;
                state.requests += 1;
                let fault = script.lock().unwrap().as_mut().and_then(|script| script(&mut state, &request, number));
                let reply = match fault {
                    Some(Fault::Answer { status, headers, body: text }) => {
                        let reply = headers
                            .into_iter()
                            .fold(Response::builder().status(status), |reply, (key, value)| reply.header(key, value));
                        reply.body(body(text)).unwrap()
                    }
                    Some(Fault::Cut(after)) => cut(state.answer(&request, &sent), after),
                    None => state.answer(&request, &sent),
                };
                Ok::<_, std::io::Error>(reply)
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

fn query(uri: &str, key: &str) -> Option<String> {
    let (_, query) = uri.split_once('?')?;
    let pair = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?;
    Some(percent(pair))
}

fn percent(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (*first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
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
        assert_eq!(self.create(&kind, namespace.as_deref(), object.clone()).status(), 201, "{path}");
    }

    /// Changes every object of a kind, `plural.group`.
    pub(crate) fn touch(&mut self, kind: &str, change: impl Fn(&mut Value)) {
        self.revision += 1;
        self.objects.get_mut(kind).unwrap().values_mut().for_each(change);
    }

    pub(crate) fn remove(&mut self, path: &str) {
        let (kind, namespace, name) = self.find(path).unwrap_or_else(|| panic!("no kind is served at {path}"));
        assert_eq!(self.delete(&kind, namespace.as_deref(), &name.unwrap()).status(), 200, "{path}");
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
        let (namespace, rest) = match &rest[1..] {
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
        let verb = match (request.method.as_str(), &name) {
            ("GET", None) => "list",
            ("GET", Some(_)) => "get",
            ("POST", _) => "create",
            ("DELETE", _) => "delete",
            _ => {
                return answer(
                    405,
                    &refusal(
                        405,
                        "MethodNotAllowed",
                        "the server does not allow this method on the requested resource",
                    ),
                );
            }
        };
        // A namespace's own object counts as in it.
        let within = namespace.as_deref().or(name.as_deref().filter(|_| kind.plural == "namespaces"));
        if let Some(user) = account.filter(|user| !self.may(user, verb, &kind.group, &kind.plural, within)) {
            let place =
                within.map_or("at the cluster scope".to_owned(), |namespace| format!("in the namespace {namespace:?}"));
            let full = kind.key();
            let message = format!(
                "{full} is forbidden: User {user:?} cannot {verb} resource {:?} in API group {:?} {place}",
                kind.plural, kind.group
            );
            return answer(403, &refusal(403, "Forbidden", &message));
        }
        match (verb, name) {
            ("list", _) => self.list(&kind, namespace.as_deref(), &request.uri, sent),
            ("create", _) => self.create(&kind, namespace.as_deref(), serde_json::from_str(&request.body).unwrap()),
            ("get", Some(name)) => {
                match self.objects.get(&kind.key()).and_then(|all| all.get(&key(namespace.as_deref(), &name))) {
                    Some(object) => answer(200, &with_kind(&kind, object)),
                    None => missing(&kind, &name),
                }
            }
            (_, name) => self.delete(&kind, namespace.as_deref(), &name.unwrap_or_default()),
        }
    }

    fn root(&self, path: &str, request: &Seen) -> Reply {
        let core = path == "/api";
        let asked = request.header("accept").unwrap_or_default().contains("apidiscovery.k8s.io");
        let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
        let alive = self.kinds.iter().map(|kind| (kind.group.as_str(), kind.version.as_str()));
        let dead = self.dead.iter().map(|dead| dead.split_once('/').unwrap());
        for (group, version) in alive.chain(dead).filter(|(group, _)| group.is_empty() == core) {
            match groups.iter_mut().find(|(name, _)| *name == group) {
                Some((_, versions)) if versions.contains(&version) => {}
                Some((_, versions)) => versions.push(version),
                None => groups.push((group, vec![version])),
            }
        }
        if self.aggregated && asked {
            let items: Vec<Value> = groups
                .iter()
                .map(|(group, versions)| {
                    let versions: Vec<Value> =
                        versions.iter().map(|version| self.version_discovery(group, version)).collect();
                    json!({ "metadata": { "name": group }, "versions": versions })
                })
                .collect();
            let list = json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items });
            let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
            return Response::builder().header("content-type", kind).body(body(list.to_string())).unwrap();
        }
        if core {
            return answer(200, &json!({ "kind": "APIVersions", "versions": ["v1"] }));
        }
        let groups: Vec<Value> = groups
            .into_iter()
            .map(|(group, versions)| {
                let versions: Vec<Value> =
                    versions.iter().map(|v| json!({ "groupVersion": format!("{group}/{v}"), "version": v })).collect();
                json!({ "name": group, "preferredVersion": versions[0], "versions": versions })
            })
            .collect();
        answer(200, &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
    }

    fn version_discovery(&self, group: &str, version: &str) -> Value {
        if self.dead.contains(&format!("{group}/{version}")) {
            return json!({ "version": version, "freshness": "Stale" });
        }
        let kinds = self.kinds.iter().filter(|kind| kind.group == group && kind.version == version);
        let resources: Vec<Value> = kinds
            .map(|kind| {
                json!({ "resource": kind.plural, "responseKind": { "group": group, "version": version, "kind": kind.singular },
                    "scope": if kind.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": "", "verbs": kind.verbs,
                    "subresources": [{ "subresource": "status", "verbs": ["get"] }] })
            })
            .collect();
        json!({ "version": version, "freshness": "Current", "resources": resources })
    }

    fn resources(&self, group_version: &str) -> Reply {
        if self.dead.iter().any(|dead| dead == group_version) {
            return plain(503, "service unavailable\n");
        }
        let resources: Vec<Value> = self
            .kinds
            .iter()
            .filter(|kind| kind.api_version() == group_version)
            .flat_map(|kind| {
                let entry = |name: String, verbs: &[&str]| json!({ "name": name, "singularName": "", "namespaced": kind.namespaced, "kind": kind.singular, "verbs": verbs });
                [entry(kind.plural.clone(), kind.verbs), entry(format!("{}/status", kind.plural), &["get"])]
            })
            .collect();
        if resources.is_empty() {
            return plain(404, "404 page not found\n");
        }
        answer(200, &json!({ "kind": "APIResourceList", "groupVersion": group_version, "resources": resources }))
    }

    fn review(&self, review: &str, account: Option<&str>, request: &str) -> Reply {
        let request: Value = serde_json::from_str(request).unwrap();
        if review == "selfsubjectrulesreviews" {
            let namespace = text(&request, "/spec/namespace");
            let rules: Vec<Value> = match account {
                None => vec![json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] })],
                Some(user) => self.rules(user, Some(namespace)),
            };
            return answer(
                201,
                &json!({ "status": { "resourceRules": rules, "nonResourceRules": [], "incomplete": false } }),
            );
        }
        let attribute = |name: &str| text(&request, &format!("/spec/resourceAttributes/{name}")).to_owned();
        let namespace = Some(attribute("namespace")).filter(|namespace| !namespace.is_empty());
        let allowed = account.is_none_or(|user| {
            self.may(user, &attribute("verb"), &attribute("group"), &attribute("resource"), namespace.as_deref())
        });
        answer(201, &json!({ "status": { "allowed": allowed, "reason": "" } }))
    }

    /// The rules that RBAC gives `user` in a namespace, or at the cluster's scope.
    fn rules(&self, user: &str, namespace: Option<&str>) -> Vec<Value> {
        let empty = Objects::new();
        let all = |key: &str| self.objects.get(&format!("{key}.rbac.authorization.k8s.io")).unwrap_or(&empty);
        let bound = |binding: &&Value| {
            binding["subjects"].as_array().into_iter().flatten().any(|subject| {
                user == format!("system:serviceaccount:{}:{}", text(subject, "/namespace"), text(subject, "/name"))
            })
        };
        let role = |binding: &Value| {
            let name = text(binding, "/roleRef/name");
            let role = match text(binding, "/roleRef/kind") {
                "ClusterRole" => all("clusterroles").get(&key(None, name)),
                _ => all("roles").get(&key(namespace, name)),
            };
            role.and_then(|role| role["rules"].as_array().cloned()).unwrap_or_default()
        };
        let within =
            |binding: &&Value| namespace.is_some_and(|namespace| text(binding, "/metadata/namespace") == namespace);
        let local = all("rolebindings").values().filter(within).filter(bound).flat_map(role);
        all("clusterrolebindings").values().filter(bound).flat_map(role).chain(local).collect()
    }

    fn may(&self, user: &str, verb: &str, group: &str, resource: &str, namespace: Option<&str>) -> bool {
        let has = |rule: &Value, field: &str, name: &str| {
            rule[field].as_array().into_iter().flatten().any(|entry| entry == name || entry == "*")
        };
        self.rules(user, namespace).iter().any(|rule| {
            has(rule, "verbs", verb)
                && has(rule, "apiGroups", group)
                && has(rule, "resources", resource)
                && rule.get("resourceNames").is_none()
        })
    }

    fn create(&mut self, kind: &Kind, namespace: Option<&str>, mut object: Value) -> Reply {
        let name = text(&object, "/metadata/name").to_owned();
        self.revision += 1;
        let metadata = &mut object["metadata"];
        if let Some(namespace) = namespace {
            metadata["namespace"] = json!(namespace);
        }
        metadata["uid"] = json!(format!("uid-{}", self.revision));
        metadata["resourceVersion"] = json!(self.revision.to_string());
        object.as_object_mut().unwrap().remove("kind");
        object.as_object_mut().unwrap().remove("apiVersion");
        if let (None, true) = (namespace, kind.namespaced) {
            return answer(400, &refusal(400, "BadRequest", "an empty namespace may not be set during creation"));
        }
        let objects = self.objects.entry(kind.key()).or_default();
        if objects.contains_key(&key(namespace, &name)) {
            return answer(409, &refusal(409, "AlreadyExists", &format!("{} {name:?} already exists", kind.plural)));
        }
        objects.insert(key(namespace, &name), object.clone());
        self.register(kind, &object);
        answer(201, &with_kind(kind, &object))
    }

    /// A definition makes a kind, an APIService whose service is nowhere a dead group.
    fn register(&mut self, kind: &Kind, object: &Value) {
        match kind.plural.as_str() {
            "customresourcedefinitions" => self.kinds.push(Kind {
                group: text(object, "/spec/group").into(),
                version: text(object, "/spec/versions/0/name").into(),
                plural: text(object, "/spec/names/plural").into(),
                singular: text(object, "/spec/names/kind").into(),
                namespaced: text(object, "/spec/scope") == "Namespaced",
                verbs: ALL,
            }),
            "apiservices" => {
                self.dead.push(format!("{}/{}", text(object, "/spec/group"), text(object, "/spec/version")));
            }
            _ => {}
        }
    }

    fn delete(&mut self, kind: &Kind, namespace: Option<&str>, name: &str) -> Reply {
        self.revision += 1;
        let objects = self.objects.entry(kind.key()).or_default();
        let Some(object) = objects.get_mut(&key(namespace, name)) else { return missing(kind, name) };
        if object["metadata"]["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty()) {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-29T00:00:00Z");
            return answer(200, &with_kind(kind, object));
        }
        objects.remove(&key(namespace, name));
        answer(200, &json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
    }

    fn list(&mut self, kind: &Kind, namespace: Option<&str>, uri: &str, sent: &Arc<AtomicU64>) -> Reply {
        let limit = query(uri, "limit").and_then(|limit| limit.parse::<usize>().ok()).unwrap_or(usize::MAX);
        let selector = query(uri, "labelSelector").unwrap_or_default();
        let Some(matches) = selector_of(&selector) else {
            return answer(
                400,
                &refusal(400, "BadRequest", "unable to parse requirement: found '=', expected: identifier"),
            );
        };
        let (revision, start) = match query(uri, "continue") {
            None => (self.revision, String::new()),
            Some(token) => {
                // `REVISION:KEY`, and `0` for the state of today.
                let (revision, start) = token.split_once(':').unwrap();
                let revision: u64 = revision.parse().unwrap();
                if revision > 0 && revision <= self.compacted {
                    let mut gone = refusal(
                        410,
                        "Expired",
                        "The provided continue parameter is too old to display a consistent list result.",
                    );
                    if self.offers_tokens {
                        gone["metadata"]["continue"] = json!(format!("0:{start}"));
                    }
                    return answer(410, &gone);
                }
                (if revision == 0 { self.revision } else { revision }, start.to_owned())
            }
        };
        let now = self.objects.get(&kind.key()).cloned().unwrap_or_default();
        let snapshot = self.snapshots.entry((revision, kind.key())).or_insert(now);
        let within = |key: &str| namespace.is_none_or(|namespace| key.starts_with(&format!("{namespace}/")));
        let mut rest = snapshot.range(start..).filter(|(key, object)| within(key) && matches(object));
        let items: Vec<Value> = rest.by_ref().take(limit).map(|(_, object)| object.clone()).collect();
        let next = rest.next().map(|(key, _)| format!("{revision}:{key}"));
        let left = rest.count() + 1;
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if let Some(next) = next {
            metadata["continue"] = json!(next);
            if selector.is_empty() {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        stream(kind, &metadata, items, sent)
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

/// `k=v` or nothing; `None` for what the server would not read.
fn selector_of(selector: &str) -> Option<impl Fn(&Value) -> bool + '_> {
    let pair = match selector {
        "" => None,
        _ => Some(selector.split_once('=').filter(|(key, _)| !key.is_empty())?),
    };
    Some(move |object: &Value| pair.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value))
}

/// Object after object, as a server writes it; custom resources with their kinds and with the list's metadata last.
fn stream(kind: &Kind, metadata: &Value, items: Vec<Value>, sent: &Arc<AtomicU64>) -> Reply {
    let custom = kind.group.rsplit('.').next() == Some("test");
    let (list, version) = (format!("{}List", kind.singular), kind.api_version());
    let (head, tail) = if custom {
        (format!(r#"{{"apiVersion":"{version}","items":["#), format!(r#"],"kind":"{list}","metadata":{metadata}}}"#))
    } else {
        (format!(r#"{{"kind":"{list}","apiVersion":"{version}","metadata":{metadata},"items":["#), "]}\n".to_owned())
    };
    let (kind, sent) = (kind.clone(), sent.clone());
    let items = items.into_iter().enumerate().map(move |(index, item)| {
        let item = if custom { with_kind(&kind, &item) } else { item };
        let comma = if index == 0 { "" } else { "," };
        format!("{comma}{item}")
    });
    let pieces = std::iter::once(head).chain(items).chain([tail]).map(move |piece| {
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(Frame::data(Bytes::from(piece)))
    });
    let body = StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync();
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}
