//! Lists with pages, snapshots and continue tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{Kind, Reply, State, answer, query, refusal, with_kind};

impl State {
    pub(super) fn list(&mut self, kind: &Kind, namespace: Option<&str>, uri: &str, sent: &Arc<AtomicU64>) -> Reply {
        let limit = query(uri, "limit").and_then(|limit| limit.parse::<usize>().ok()).unwrap_or(usize::MAX);
        let selector = query(uri, "labelSelector").unwrap_or_default();
        let Some(matches) = selector_of(&selector) else {
            return answer(
                400,
                &refusal(400, "BadRequest", "unable to parse requirement: found '=', expected: identifier"),
            );
        };
        let fields = query(uri, "fieldSelector").unwrap_or_default();
        let Some(has_fields) = fields_of(kind, &fields) else {
            return answer(400, &refusal(400, "BadRequest", &format!("field label not supported: {fields}")));
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
        let mut rest =
            snapshot.range(start..).filter(|(key, object)| within(key) && matches(object) && has_fields(object));
        let items: Vec<Value> = rest.by_ref().take(limit).map(|(_, object)| object.clone()).collect();
        let next = rest.next().map(|(key, _)| format!("{revision}:{key}"));
        let left = rest.count() + 1;
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if let Some(next) = next {
            metadata["continue"] = json!(next);
            if selector.is_empty() && fields.is_empty() {
                metadata["remainingItemCount"] = json!(left);
            }
        }
        stream(kind, &metadata, items, sent)
    }
}

/// `k=v` or nothing; `None` for what the server would not read.
fn selector_of(selector: &str) -> Option<impl Fn(&Value) -> bool + '_> {
    let pair = match selector {
        "" => None,
        _ => Some(selector.split_once('=').filter(|(key, _)| !key.is_empty())?),
    };
    Some(move |object: &Value| pair.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value))
}

/// `PATH=VALUE` or nothing, of the few paths that the server knows.
fn fields_of(kind: &Kind, selector: &str) -> Option<impl Fn(&Value) -> bool + 'static> {
    let known = |path: &str| {
        let of_pods = kind.plural == "pods" && matches!(path, "spec.nodeName" | "status.phase");
        (of_pods || matches!(path, "metadata.name" | "metadata.namespace"))
            .then(|| format!("/{}", path.replace('.', "/")))
    };
    let pair = match selector.split_once('=') {
        None if selector.is_empty() => None,
        None => return None,
        Some((path, value)) => Some((known(path)?, value.to_owned())),
    };
    let has =
        |object: &Value, (path, value): &(String, String)| object.pointer(path).is_some_and(|found| found == value);
    Some(move |object: &Value| pair.as_ref().is_none_or(|pair| has(object, pair)))
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
