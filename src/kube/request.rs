//! Requests as they are sent.

use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    USER_AGENT,
};
use hyper::{Method, Request};
use kube::client::Body as KubeBody;

use super::JSON;
use super::exec::PROTOCOL;
use crate::cluster::classify::{Asked, Freshness};

const AGENT: &str = concat!("penstock/", env!("CARGO_PKG_VERSION"));

/// A request to send.
pub(super) struct Asking<'a> {
    pub(super) method: Method,
    pub(super) uri: String,
    pub(super) accept: &'a str,
    /// The body with its media type.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
    /// The key of a WebSocket that the connection is to become.
    pub(super) upgrade: Option<String>,
}

impl Asking<'_> {
    pub(super) fn built(self) -> Result<Request<KubeBody>, hyper::http::Error> {
        let mut builder = Request::builder().method(self.method).uri(&self.uri).header(USER_AGENT, AGENT);
        builder = builder.header(ACCEPT, self.accept);
        if let Some((content_type, _)) = self.body {
            builder = builder.header(CONTENT_TYPE, content_type);
        }
        if let Some(key) = self.upgrade {
            builder = builder.header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
            builder = builder.header(SEC_WEBSOCKET_VERSION, "13").header(SEC_WEBSOCKET_KEY, key);
            builder = builder.header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
        }
        builder.body(self.body.map_or_else(KubeBody::empty, |(_, bytes)| KubeBody::from(bytes)))
    }
}

pub(super) fn get(uri: &str) -> Asking<'static> {
    Asking { method: Method::GET, uri: uri.to_owned(), accept: JSON, body: None, upgrade: None }
}

pub(super) fn asked(path: &str) -> Asked<'_> {
    Asked { verb: "get", path, group: "", resource: "", namespace: None, fresh: Freshness::Kept }
}

/// Encodes each byte but letters, digits and `-._~` as `%XX`.
pub(super) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}
