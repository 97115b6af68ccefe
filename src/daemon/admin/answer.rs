//! What each path answers.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use jiff::Timestamp;

use super::super::Daemon;
use super::super::status::Status;
use super::page;
use crate::metrics::text::Format;

/// Shorter answers gain nothing.
const WORTH_ZIPPING: usize = 1 << 10;

const PLAIN: &str = "text/plain; charset=utf-8";

struct Content {
    status: StatusCode,
    kind: &'static str,
    body: Vec<u8>,
}

impl Content {
    fn new(status: StatusCode, kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, kind, body: body.into() }
    }
}

pub(super) fn answer(daemon: &Daemon, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let content = if method == Method::GET || method == Method::HEAD {
        content(daemon, path, headers)
    } else {
        Content::new(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n")
    };
    respond(content, method, headers)
}

fn content(daemon: &Daemon, path: &str, headers: &HeaderMap) -> Content {
    let now = Timestamp::now();
    match path {
        "/metrics" => {
            let format = Format::accepted(header_text(headers, &header::ACCEPT));
            Content::new(StatusCode::OK, format.content_type(), daemon.observed_metrics().render(format))
        }
        "/healthz" => verdict(daemon.health(), StatusCode::INTERNAL_SERVER_ERROR),
        "/readyz" => verdict(daemon.readiness(now), StatusCode::SERVICE_UNAVAILABLE),
        "/api/v1/status" => {
            let json = serde_json::to_vec(&Status::of(daemon, now)).unwrap_or_default();
            Content::new(StatusCode::OK, "application/json", json)
        }
        "/" => Content::new(StatusCode::OK, "text/html; charset=utf-8", page::render(&Status::of(daemon, now))),
        _ => {
            Content::new(StatusCode::NOT_FOUND, PLAIN, "there are /metrics, /healthz, /readyz, /api/v1/status and /\n")
        }
    }
}

fn verdict(result: Result<(), String>, otherwise: StatusCode) -> Content {
    match result {
        Ok(()) => Content::new(StatusCode::OK, PLAIN, "ok\n"),
        Err(why) => Content::new(otherwise, PLAIN, why + "\n"),
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether `gzip` is among the encodings, and not with a weight of 0.
fn takes_gzip(accepted: &str) -> Result<(), ()> {
    let gzip = accepted.split(',').filter_map(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        matches!(name.trim(), "gzip" | "*").then_some(weight.unwrap_or(1.0))
    });
    if gzip.into_iter().any(|weight| weight > 0.0) { Ok(()) } else { Err(()) }
}

fn respond(content: Content, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let Content { status, kind, body } = content;
    let zip = body.len() >= WORTH_ZIPPING && takes_gzip(header_text(headers, &header::ACCEPT_ENCODING)).is_ok();
    let (body, zipped) = match zip.then(|| gzip(&body)) {
        Some(Ok(zipped)) => (zipped, true),
        // Writing to memory does not fail; if it did, the plain body is as good.
        Some(Err(_)) | None => (body, false),
    };
    let length = HeaderValue::from(body.len());
    let body = if method == Method::HEAD { Bytes::new() } else { body.into() };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let all = response.headers_mut();
    all.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    all.insert(header::CONTENT_LENGTH, length);
    all.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if zipped {
        all.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        all.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        all.insert(name, HeaderValue::from_static(value));
    }
    all.insert(header::CONTENT_SECURITY_POLICY, page::policy());
    response
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        for (accepted, takes) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("*", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("br", false),
        ] {
            assert_eq!(takes_gzip(accepted).is_ok(), takes, "{accepted}");
        }
    }
}
