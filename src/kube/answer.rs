//! The server's answer: a body as a stream, a document, or a refusal.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use kube::client::Body as KubeBody;

use super::failure;
use crate::cluster::classify::{Asked, Freshness, Reply, classify};
use crate::cluster::{Body, Failure};
use crate::error::Class;

/// A Status has some hundred bytes.
const MAX_STATUS: usize = 64 << 10;

/// A reply of success.
pub(super) struct Received {
    pub(super) response: Response<KubeBody>,
    pub(super) trust: Arc<str>,
}

impl Received {
    pub(super) async fn whole(self, asked: &Asked<'_>, most: usize) -> Result<Bytes, Failure> {
        let mut body = self.response.into_body().into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| failure::transport(asked, &error, &self.trust))?;
            if bytes.len() + piece.len() > most {
                return Err(asked.error(Class::Compat, format!("the answer is longer than {most} bytes")).into());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.freeze())
    }

    /// The pieces of the body, as they arrive.
    pub(super) fn stream(self, asked: &Asked<'_>) -> Body {
        let (verb, path) = (asked.verb, asked.path.to_owned());
        let (group, resource) = (asked.group.to_owned(), asked.resource.to_owned());
        let namespace = asked.namespace.map(str::to_owned);
        let trust = self.trust;
        let pieces = self.response.into_body().into_data_stream().map(move |piece| {
            piece.map_err(|error| {
                let namespace = namespace.as_deref();
                let asked =
                    Asked { verb, path: &path, group: &group, resource: &resource, namespace, fresh: Freshness::Kept };
                failure::transport(&asked, &error, &trust)
            })
        });
        pieces.boxed()
    }
}

/// The failure that an unsuccessful reply reports.
pub(super) async fn refusal(asked: &Asked<'_>, response: Response<KubeBody>) -> Failure {
    let (head, body) = response.into_parts();
    let mut pieces = body.into_data_stream();
    let mut bytes = BytesMut::new();
    // The beginning of a longer body, or of one that breaks off, is enough.
    while let Some(Ok(piece)) = pieces.next().await {
        bytes.extend_from_slice(&piece[..piece.len().min(MAX_STATUS - bytes.len())]);
        if bytes.len() == MAX_STATUS {
            break;
        }
    }
    classify(
        asked,
        &Reply {
            status: head.status.as_u16(),
            content_type: header(&head.headers, CONTENT_TYPE.as_str()).unwrap_or_default(),
            retry_after: header(&head.headers, RETRY_AFTER.as_str()),
            request_id: header(&head.headers, "audit-id"),
            body: &bytes,
        },
    )
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
