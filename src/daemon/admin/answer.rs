//! Makes the answer of each path.

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
use super::{accept, page};
use crate::metrics::text::Format;

/// Shorter answers are not compressed.
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
            let format = format(&accept::list(headers, &header::ACCEPT));
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

/// OpenMetrics if the caller gives it more weight than the text that every scraper reads.
fn format(accepted: &str) -> Format {
    let weight = |format: Format| accept::weight_of_type(accepted, format.content_type());
    if weight(Format::OpenMetrics) > weight(Format::Text) { Format::OpenMetrics } else { Format::Text }
}

/// Whether the caller accepts `gzip`, with no less weight than the plain body.
fn takes_gzip(accepted: &str) -> bool {
    let [gzip, plain] =
        ["gzip", "identity"].map(|coding| accept::weight_of_coding(accepted, coding).unwrap_or_default());
    gzip > 0.0 && gzip >= plain
}

fn respond(content: Content, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let Content { status, kind, body } = content;
    let zip = body.len() >= WORTH_ZIPPING && takes_gzip(&accept::list(headers, &header::ACCEPT_ENCODING));
    let (body, zipped) = match zip.then(|| gzip(&body)) {
        Some(Ok(zipped)) => (zipped, true),
        // Writing to memory does not fail; the plain body would do if it did.
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
    fn gzip_is_sent_to_callers_that_accept_it() {
        for (accepted, takes) in [
            ("gzip", true),
            ("br, gzip;q=0.5", true),
            ("*", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; Q=0.0, *", false),
            ("identity, gzip;q=0.5", false),
            ("identity;q=0.5, gzip", true),
            ("*;q=0, gzip", true),
            ("br", false),
        ] {
            assert_eq!(takes_gzip(accepted), takes, "{accepted}");
        }
    }

    #[test]
    fn open_metrics_are_sent_to_callers_that_prefer_them() {
        for (accepted, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/plain", Format::Text),
            ("application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
            ("text/plain;q=0.5, application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text;q=0.5, text/plain", Format::Text),
            ("application/openmetrics-text;q=0.5, */*;q=0.9", Format::Text),
            ("application/openmetrics-text;q=0, text/plain;q=0.1", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("text/plain;q=0, */*", Format::OpenMetrics),
            ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", Format::Text),
            // As Prometheus 2 and 3 ask.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
        ] {
            assert_eq!(format(accepted), expected, "{accepted}");
        }
    }
}
