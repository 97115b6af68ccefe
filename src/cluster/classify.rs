//! Classifies the refusal of a Kubernetes server: a pure function from the reply to a [`Failure`].
//!
//! The reason in the server's Status decides, or else the HTTP status. A 5xx alone is no ground for a retry: some mean that a request is
//! invalid, or that an object in etcd cannot be read. A reply that is not a Status was written by something in between (a proxy, a load
//! balancer, a login page), or by the server for a path that it does not serve.

mod refused;

use std::time::Duration;

use serde::Deserialize;

use super::{Expired, Failure};
use crate::error::{Class, NOT_THE_SERVICE, ServiceError};

pub const SERVICE: &str = "kubernetes";

/// The cause that a Status names beside the reason `Forbidden`; it becomes the failure's code.
pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// The longest wait that is honoured. No server needs more, and a hostile one must not stop a backup for a day.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// The most characters of foreign text in a message.
const MAX_WORDS: usize = 600;

/// The request.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// `list`, as Kubernetes names it.
    pub verb: &'static str,
    /// The path, for messages.
    pub path: &'a str,
    pub group: &'a str,
    /// Plural; empty for a document that is not an object.
    pub resource: &'a str,
    pub namespace: Option<&'a str>,
    /// The credentials were read again for this request: another read would give the same.
    pub fresh: Freshness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    Kept,
    JustRead,
}

/// The reply.
#[derive(Debug, Clone, Default)]
pub struct Reply<'a> {
    pub status: u16,
    pub content_type: &'a str,
    /// The value of `Retry-After`, in seconds.
    pub retry_after: Option<&'a str>,
    /// `Audit-Id`.
    pub request_id: Option<&'a str>,
    /// The body, or only its beginning.
    pub body: &'a [u8],
}

/// The fields of `metav1.Status` that are used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    kind: String,
    message: String,
    reason: String,
    metadata: StatusMetadata,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StatusMetadata {
    r#continue: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    /// Plural: the resource that the Status is about, which may differ from the request's.
    kind: String,
    retry_after_seconds: Option<u64>,
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
    field: String,
}

impl Asked<'_> {
    fn is_change(&self) -> bool {
        matches!(self.verb, "create" | "update" | "patch" | "delete")
    }

    /// A failure of Penstock itself, or of the connection.
    #[must_use]
    pub fn error(&self, class: Class, message: impl Into<String>) -> ServiceError {
        ServiceError::at(SERVICE, self.verb, self.path, class, message)
    }
}

/// The failure that `reply` reports.
#[must_use]
pub fn classify(asked: &Asked<'_>, reply: &Reply<'_>) -> Failure {
    let status = serde_json::from_slice::<Option<Status>>(reply.body).ok().flatten();
    match status.filter(|status| status.kind == "Status") {
        Some(status) => of_status(asked, reply, &status),
        None => of_another(asked, reply),
    }
}

/// The failure of a successful reply whose body is not of the expected form.
#[must_use]
pub fn unexpected(asked: &Asked<'_>, status: u16, what: &str) -> Failure {
    let error = asked.error(Class::Compat, what);
    let remedy = "the answer comes from a proxy or another server, not from the API server: check the cluster's URL and HTTPS_PROXY";
    ServiceError {
        status: Some(status),
        code: Some(NOT_THE_SERVICE.to_owned()),
        remedy: Some(remedy.to_owned()),
        ..error
    }
    .into()
}

fn of_status(asked: &Asked<'_>, reply: &Reply<'_>, status: &Status) -> Failure {
    let (class, remedy) = meaning(asked, reply.status, status);
    let seconds = status.details.retry_after_seconds.filter(|seconds| *seconds > 0).or_else(|| header(reply));
    let expired = matches!(status.reason.as_str(), "Expired" | "Gone") || reply.status == 410;
    let token = status.metadata.r#continue.clone().filter(|token| !token.is_empty());
    let code = if is_terminating(status) { NAMESPACE_TERMINATING } else { &status.reason };
    let message = if asked.is_change() { refused::message(status) } else { words(&status.message) };
    Failure {
        error: ServiceError {
            status: Some(reply.status),
            code: Some(code.to_owned()).filter(|code| !code.is_empty()),
            request_id: reply.request_id.map(str::to_owned),
            remedy,
            ..asked.error(class, message)
        },
        retry_after: pause(seconds),
        expired: expired.then(|| Box::new(Expired { token })),
    }
}

/// Class and remedy by the reason; by the HTTP status if the reason is empty or unknown.
fn meaning(asked: &Asked<'_>, code: u16, status: &Status) -> (Class, Option<String>) {
    let plain = |class| (class, None);
    let with = |class, remedy: &str| (class, Some(remedy.to_owned()));
    match status.reason.as_str() {
        // An admission webhook chooses reason and code itself.
        _ if asked.is_change() && code < 429 && status.message.contains(DENIED) => plain(Class::AccessDenied),
        "Unauthorized" => unauthorized(asked),
        "Forbidden" => forbidden(asked, status),
        "NotFound" => plain(Class::NotFound),
        // Concurrent requests count in one quota or one range of addresses: the next attempt sees the new count.
        "Conflict" if asked.verb == "create" && status.details.kind != plural(asked) => plain(Class::Transient),
        "AlreadyExists" | "Conflict" | "Expired" | "Gone" => plain(Class::Conflict),
        "TooManyRequests" => plain(Class::Throttled),
        "ServerTimeout" | "Timeout" | "ServiceUnavailable" => plain(Class::Transient),
        "BadRequest" | "Invalid" if asked.is_change() => with(
            Class::Config,
            "this server does not accept the object in this form: exclude it, or create it by hand in a form that the server accepts",
        ),
        "BadRequest" | "Invalid" => with(
            Class::Config,
            "the server refuses the request itself; check `selector` and the names in the configuration",
        ),
        "MethodNotAllowed" | "NotAcceptable" | "UnsupportedMediaType" => plain(Class::Compat),
        "RequestEntityTooLarge" => with(Class::Quota, "the object is larger than the server accepts"),
        "StorageReadError" => with(Class::Integrity, UNREADABLE),
        _ if code >= 500 => of_500(&status.message),
        _ => of_code(asked, code),
    }
}

/// In the message of an admission webhook that refuses a request.
const DENIED: &str = "denied the request";

const UNREADABLE: &str = "an object in etcd cannot be read or decrypted: check the server's --encryption-provider-config; kube-apiserver's log names the key";

/// The resource itself: `pods` of `pods/status`.
fn plural<'a>(asked: &Asked<'a>) -> &'a str {
    asked.resource.split('/').next().unwrap_or_default()
}

/// Class and remedy of a 5xx whose reason does not decide.
fn of_500(message: &str) -> (Class, Option<String>) {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&["request is too large", "ResourceExhausted", "trying to send message larger than max"]) {
        return (Class::Quota, Some("the object is larger than etcd accepts (1.5 MiB by default)".to_owned()));
    }
    if has(&["unable to transform key", "unable to decode", "data from the storage is not transformable"]) {
        return (Class::Integrity, Some(UNREADABLE.to_owned()));
    }
    if has(&["resourceVersion should not be set"]) {
        return (Class::Internal, None);
    }
    if has(&["database space exceeded"]) {
        return (
            Class::Quota,
            Some(
                "etcd is full and refuses writes: compact and defragment it, or raise --quota-backend-bytes".to_owned(),
            ),
        );
    }
    if has(&["failed calling webhook", "failed calling admission webhook"]) {
        let remedy = "the admission webhook does not answer: repair its service, or delete its configuration";
        return (Class::Transient, Some(remedy.to_owned()));
    }
    if has(&["conversion webhook"]) {
        let remedy = "the conversion webhook of the resource's definition does not answer: repair its service, or list another version";
        return (Class::Transient, Some(remedy.to_owned()));
    }
    (Class::Transient, None)
}

fn unauthorized(asked: &Asked<'_>) -> (Class, Option<String>) {
    match asked.fresh {
        Freshness::Kept => (Class::CredentialsExpired, None),
        Freshness::JustRead => {
            let remedy = "the server does not accept these credentials, which were just read: check the kubeconfig's user, or the service account and its token";
            (Class::AccessDenied, Some(remedy.to_owned()))
        }
    }
}

fn is_terminating(status: &Status) -> bool {
    status.reason == "Forbidden" && status.details.causes.iter().any(|cause| cause.reason == NAMESPACE_TERMINATING)
}

/// Objects that admission looks up by name.
const ABSENT: &[&str] =
    &["error looking up service account", "no PriorityClass with name", "pod rejected: RuntimeClass"];

fn forbidden(asked: &Asked<'_>, status: &Status) -> (Class, Option<String>) {
    if is_terminating(status) {
        return (Class::Conflict, Some("the namespace is being deleted: wait until it is gone".to_owned()));
    }
    if status.message.contains("exceeded quota") {
        return (Class::Quota, Some("raise the namespace's ResourceQuota".to_owned()));
    }
    if asked.is_change() && ABSENT.iter().any(|words| status.message.contains(words)) {
        return (Class::NotFound, Some("create the missing object first; the message names it".to_owned()));
    }
    if status.message.contains(" cannot ") || status.message.is_empty() {
        return (Class::AccessDenied, Some(rule(asked, &status.message)));
    }
    // A refusal by admission, not by RBAC.
    (Class::AccessDenied, None)
}

/// The exact rule that is missing. `message` is RBAC's: `User "U" cannot list resource "pods" in API group "" in the namespace "shop"`.
fn rule(asked: &Asked<'_>, message: &str) -> String {
    let quoted = |after: &str| {
        let (_, rest) = message.split_once(after)?;
        rest.split_once('"').map(|(word, _)| word.to_owned())
    };
    let user = quoted("User \"").unwrap_or_else(|| "this identity".to_owned());
    let resource = quoted("resource \"").unwrap_or_else(|| asked.resource.to_owned());
    let group = quoted("API group \"").unwrap_or_else(|| asked.group.to_owned());
    let verbs = match asked.verb {
        // A WebSocket begins with a GET: older servers ask for one right, newer ones for both.
        "create" if asked.resource == "pods/exec" => "\"get\", \"create\"".to_owned(),
        "get" | "list" => "\"get\", \"list\"".to_owned(),
        verb => format!("\"{verb}\""),
    };
    let place = match asked.namespace {
        Some(namespace) => format!("in the namespace {namespace}, or in all namespaces"),
        None => "in the whole cluster (a ClusterRoleBinding)".to_owned(),
    };
    format!(
        "grant {user} {place} a role with this rule: {{apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [{verbs}]}}"
    )
}

/// Class and remedy by the HTTP status alone.
fn of_code(asked: &Asked<'_>, code: u16) -> (Class, Option<String>) {
    let plain = |class| (class, None);
    match code {
        401 => unauthorized(asked),
        403 => (Class::AccessDenied, Some(rule(asked, ""))),
        404 => plain(Class::NotFound),
        407 => (
            Class::Config,
            Some("the proxy asks for a user and password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT".to_owned()),
        ),
        409 | 410 => plain(Class::Conflict),
        413 => plain(Class::Quota),
        429 => plain(Class::Throttled),
        400 | 422 => plain(Class::Config),
        501 | 505 => plain(Class::Compat),
        408 | 425 | 500.. => plain(Class::Transient),
        _ => plain(Class::Compat),
    }
}

/// A reply without a Status: another server's text, or this one's for a path that it does not serve.
fn of_another(asked: &Asked<'_>, reply: &Reply<'_>) -> Failure {
    let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(4 * MAX_WORDS)]);
    let html = reply.content_type.starts_with("text/html") || text.trim_start().starts_with('<');
    // The server itself writes these as plain text: 404 for what it does not serve, 503 for an aggregated API with no backend, 401 and
    // 429 before a request is looked at.
    let own = !html && matches!(reply.status, 401 | 404 | 429 | 503);
    let (class, remedy) = match reply.status {
        200..=399 => {
            return unexpected(
                asked,
                reply.status,
                &format!("the answer is not a Kubernetes object: {}", describe(&text, html)),
            );
        }
        // The text of a proxy, a login page or a firewall tells nothing about the server's rules.
        401 | 403 | 404 if html => (Class::Compat, None),
        code => of_code(asked, code),
    };
    let remedy = remedy.or_else(|| {
        (!own).then(|| {
            "a proxy or load balancer answered in the server's place: check the cluster's URL and HTTPS_PROXY"
                .to_owned()
        })
    });
    Failure {
        error: ServiceError {
            status: Some(reply.status),
            code: (!own).then(|| NOT_THE_SERVICE.to_owned()),
            request_id: reply.request_id.map(str::to_owned),
            remedy,
            ..asked.error(class, describe(&text, html))
        },
        retry_after: pause(header(reply)),
        // Without a token: the list starts again.
        expired: (reply.status == 410).then(|| Box::new(Expired { token: None })),
    }
}

fn describe(text: &str, html: bool) -> String {
    let text = text.trim();
    match (text.is_empty(), html) {
        (true, _) => "with an empty body".to_owned(),
        (_, true) => "with a page of HTML".to_owned(),
        (_, false) => words(text),
    }
}

/// A server's text, shortened and on one line.
fn words(text: &str) -> String {
    let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WORDS).collect();
    one_line.trim().to_owned()
}

fn header(reply: &Reply<'_>) -> Option<u64> {
    reply.retry_after?.trim().parse().ok()
}

fn pause(seconds: Option<u64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds).min(MOST_RETRY_AFTER))
}

#[cfg(test)]
mod tests;
