//! Cleans and checks every reply before it is used: a proxy, a gateway or a login page may have answered instead of the store.
//!
//! - **Documents are cleaned.** White space, a byte order mark or a second declaration before the document (a gateway keeps a
//!   connection open with it while a Complete takes minutes), control characters, invalid UTF-8 and references to no
//!   character: each would make the SDK refuse the whole document. Characters that XML forbids become U+FFFD: such a key is not one of
//!   Penstock's, and the others are read.
//! - **Documents are bounded**: [`MOST`] bytes, without the white space before them.
//! - **A success must come from the service**: an HTML page, a document of another operation, a truncated one, and a PUT
//!   without an ETag are [`Odd`], whatever the status. The SDK checks a document's root but not its end, and no body
//!   where it expects none.
//!
//! Costs a second pass over each document; the bodies of objects are not touched.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use hyper::body::{Body, Frame};

use super::classify::Service;
use crate::error::Class;

/// A thousand keys, percent-encoded, are 4 MB; a thousand volumes with fifty long tags each are 20 MB.
const MOST: usize = 32 << 20;

/// The longest part of a page's title that an error shows.
const LONGEST_TITLE: usize = 80;

const BLANK: [u8; 4] = *b" \t\r\n";

/// A reply with a status of success that did not come from the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Odd {
    #[error("the answer is an HTML page{0}, not from {1}")]
    Page(String, &'static str),
    #[error("the answer redirects to {0} without an error document, so it is not from {1}")]
    Redirect(String, &'static str),
    #[error("the answer is {found}; expected {expected}")]
    Document { found: String, expected: String },
    #[error("the answer has no ETag, so no S3 store has taken the object")]
    NoETag,
    #[error("the answer is longer than {MOST} bytes")]
    TooLong,
    #[error("the answer is truncated: no </{0}> closes it")]
    Cut(String),
}

impl Odd {
    pub(super) const fn class(&self) -> Class {
        match self {
            Self::Page(..) | Self::Redirect(..) | Self::Document { .. } | Self::NoETag | Self::TooLong => Class::Compat,
            // The connection broke: the next attempt may succeed.
            Self::Cut(_) => Class::Transient,
        }
    }

    /// Whether something other than the service answered.
    pub(super) fn is_elsewhere(&self) -> bool {
        match self {
            Self::Page(..) | Self::Redirect(..) | Self::NoETag => true,
            // A store may send another document than AWS; no store sends something that is not a document.
            Self::Document { found, .. } => !found.starts_with("a <"),
            Self::TooLong | Self::Cut(_) => false,
        }
    }

    pub(super) fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Page(..) | Self::Redirect(..) | Self::NoETag => {
                Some("check the endpoint's URL: a proxy, a gateway or a login page answers in its place")
            }
            Self::Document { expected, .. } if expected.contains("<ListParts") => Some(
                "the store does not answer this request as S3 does: interrupted uploads are not resumed there; change no setting",
            ),
            Self::Document { .. } | Self::TooLong => Some(
                "check the endpoint's URL, and that no proxy answers in its place; a store that answers so is not \
                 compatible here (docs/stores.md)",
            ),
            Self::Cut(_) => None,
        }
    }
}

/// Cleans the reply's document for the SDK's parser. `operation` is the SDK's name.
pub(super) fn tidy(operation: &str, response: &mut HttpResponse) {
    if operation == "GetObject" && response.status().is_success() {
        return;
    }
    let body = std::mem::replace(response.body_mut(), SdkBody::taken());
    *response.body_mut() = SdkBody::from_body_1_x(Document { body, read: Vec::new(), done: false });
}

/// Checks that a reply with a status of success comes from the service. Its body has been read.
pub(super) fn check(service: Service, operation: &str, response: &HttpResponse) -> Result<(), Odd> {
    if !response.status().is_success() {
        return Ok(());
    }
    let header = |name: &str| response.headers().get(name).unwrap_or_default();
    let kind = kind(service, operation);
    if kind == Kind::Object {
        let status = response.status().as_u16();
        if !matches!(status, 200 | 206) {
            return Err(Odd::Document { found: format!("HTTP {status}"), expected: "200 or 206".to_owned() });
        }
        // Penstock's objects are not HTML; a store that labels them so is recognised by its other headers.
        let html = header("content-type").to_ascii_lowercase().starts_with("text/html");
        let page = html && !response.headers().iter().any(|(name, _)| name.starts_with("x-amz-"));
        return if page { Err(Odd::Page(String::new(), name(service))) } else { Ok(()) };
    }
    let document = document(response);
    if let Some(title) = page(&document) {
        return Err(Odd::Page(title, name(service)));
    }
    match kind {
        // The SDK handles an error document in a success of S3 itself, but of no other service.
        _ if service == Service::S3 && root(&document) == Some("Error") => Ok(()),
        Kind::Root(root) => rooted(&document, &root),
        Kind::Written if header("etag").trim_matches(['"', ' ']).is_empty() => Err(Odd::NoETag),
        Kind::Empty | Kind::Written => check_empty(&document),
        Kind::Object => Ok(()),
    }
}

/// Finds a failure that did not come from the service: it has no code, though its status may mean something to Penstock.
pub(super) fn elsewhere(service: Service, response: &HttpResponse) -> Option<Odd> {
    let header = |name: &str| response.headers().get(name);
    match response.status().as_u16() {
        // The redirect to another region has no document when it answers HEAD.
        300..=399 if header("x-amz-bucket-region").is_none() => {
            let to = header("location")?.split(['?', '#']).next()?;
            Some(Odd::Redirect(short(to).to_owned(), name(service)))
        }
        // Only a store may say that an object does not exist.
        404 => page(&document(response)).map(|title| Odd::Page(title, name(service))),
        _ => None,
    }
}

const fn name(service: Service) -> &'static str {
    match service {
        Service::S3 => "S3",
        Service::Ec2 => "EC2",
        Service::Sts => "STS",
    }
}

/// The form of an operation's success.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Headers, and perhaps an object's body.
    Object,
    /// An ETag, and no body.
    Written,
    Empty,
    /// A document with this root.
    Root(String),
}

fn kind(service: Service, operation: &str) -> Kind {
    let root = match (service, operation) {
        (Service::Ec2 | Service::Sts, _) => return Kind::Root(format!("{operation}Response")),
        (Service::S3, "ListObjectsV2") => "ListBucketResult",
        (Service::S3, "ListObjectVersions") => "ListVersionsResult",
        (Service::S3, "CopyObject") => "CopyObjectResult",
        (Service::S3, "UploadPartCopy") => "CopyPartResult",
        (Service::S3, "GetObjectRetention") => "Retention",
        (Service::S3, "GetObjectLegalHold") => "LegalHold",
        (Service::S3, "ListParts") => "ListPartsResult",
        (Service::S3, "ListMultipartUploads") => "ListMultipartUploadsResult",
        (Service::S3, "CreateMultipartUpload") => "InitiateMultipartUploadResult",
        (Service::S3, "CompleteMultipartUpload") => "CompleteMultipartUploadResult",
        (Service::S3, "PutObject" | "UploadPart") => return Kind::Written,
        (Service::S3, "GetObject" | "HeadObject") => return Kind::Object,
        (Service::S3, _) => return Kind::Empty,
    };
    Kind::Root(root.to_owned())
}

/// Checks that the document has that root and is complete.
fn rooted(document: &str, expected: &str) -> Result<(), Odd> {
    let odd = |found: String| Odd::Document { found, expected: format!("a <{expected}> document") };
    match root(document) {
        Some(found) if found == expected && is_closed(document, found) => Ok(()),
        Some(found) if found == expected => Err(Odd::Cut(expected.to_owned())),
        Some(found) => Err(odd(format!("a <{}> document", short(found)))),
        None if document.trim().is_empty() => Err(odd("empty".to_owned())),
        None => Err(odd("no XML".to_owned())),
    }
}

/// Whether the document's last tag closes its root. Comments and processing instructions may follow.
fn is_closed(document: &str, name: &str) -> bool {
    let mut rest = document.trim_end();
    loop {
        let start = match rest {
            _ if rest.ends_with("-->") => rest.rfind("<!--"),
            _ if rest.ends_with("?>") => rest.rfind("<?"),
            _ => break,
        };
        let Some(start) = start else { return false };
        rest = rest[..start].trim_end();
    }
    let Some((before, tag)) = rest.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) else { return false };
    match tag.strip_prefix('/') {
        Some(closing) => closing.trim_end().rsplit(':').next() == Some(name),
        None => tag.ends_with('/') && root(before).is_none(),
    }
}

/// Checks a body that should be empty: an XML document does no harm, but text does not come from S3.
fn check_empty(document: &str) -> Result<(), Odd> {
    if document.trim().is_empty() || root(document).is_some() {
        return Ok(());
    }
    Err(Odd::Document { found: "text that is not XML".to_owned(), expected: "an empty body".to_owned() })
}

/// A reply's body as text; empty if it is a stream.
pub(super) fn document(raw: &HttpResponse) -> Cow<'_, str> {
    raw.body().bytes().map(String::from_utf8_lossy).unwrap_or_default()
}

/// The text of the first element of that name: an error document is flat, and short.
pub(super) fn element(document: &str, name: &str) -> Option<String> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    rest.split_once('<').map(|(text, _)| unescaped(text))
}

/// Text with its references resolved.
fn unescaped(text: &str) -> String {
    let mut pieces = text.split('&');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let resolved = piece.split_once(';').and_then(|(name, rest)| Some((referred(name)?, rest)));
        if let Some((c, rest)) = resolved {
            out.push(c);
            out.push_str(rest);
        } else {
            out.push('&');
            out.push_str(piece);
        }
    }
    out
}

/// The local name of the first element.
pub(super) fn root(document: &str) -> Option<&str> {
    let mut rest = document.trim_start();
    loop {
        let (_, after) = match rest {
            _ if rest.starts_with("<?") => rest.split_once("?>")?,
            _ if rest.starts_with("<!--") => rest.split_once("-->")?,
            _ if rest.starts_with("<!") => rest.split_once('>')?,
            _ => break,
        };
        rest = after.trim_start();
    }
    let name = rest.strip_prefix('<')?.split([' ', '\t', '\r', '\n', '/', '>']).next()?;
    let local = name.rsplit(':').next()?;
    (!local.is_empty()).then_some(local)
}

/// The title of an HTML page, for an error text; `None` if the document is not HTML.
pub(super) fn page(document: &str) -> Option<String> {
    let doctype = document.trim_start().get(..14).is_some_and(|start| start.eq_ignore_ascii_case("<!doctype html"));
    let elements = ["html", "head", "body", "title", "meta", "script", "center", "h1"];
    let html = root(document).is_some_and(|root| elements.iter().any(|name| root.eq_ignore_ascii_case(name)));
    let title = || {
        let (_, rest) = document.split_once("<title>").or_else(|| document.split_once("<TITLE>"))?;
        let title = short(rest.split('<').next()?.trim());
        (!title.is_empty()).then(|| format!(" titled {title:?}"))
    };
    (doctype || html).then(|| title().unwrap_or_default())
}

fn short(text: &str) -> &str {
    text.char_indices().nth(LONGEST_TITLE).map_or(text, |(end, _)| &text[..end])
}

/// A body that collects the whole document, cleans it, and yields it in one piece.
#[derive(Debug)]
struct Document {
    body: SdkBody,
    read: Vec<u8>,
    done: bool,
}

impl Body for Document {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while !self.done {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    // White space may arrive for minutes.
                    let blank = if self.read.is_empty() {
                        data.iter().take_while(|byte| BLANK.contains(byte)).count()
                    } else {
                        0
                    };
                    self.read.extend_from_slice(&data[blank..]);
                    if self.read.len() > MOST {
                        (self.done, self.read) = (true, Vec::new());
                        return Poll::Ready(Some(Err(Odd::TooLong.into())));
                    }
                }
                Some(Err(error)) => {
                    self.done = true;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.done = true;
                    let legible = legible(std::mem::take(&mut self.read));
                    return Poll::Ready((!legible.is_empty()).then(|| Ok(Frame::data(legible))));
                }
            }
        }
        Poll::Ready(None)
    }
}

/// The document from its root on, without anything that an XML parser refuses.
fn legible(document: Vec<u8>) -> Bytes {
    let document =
        String::from_utf8(document).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    let start = document.len() - undeclared(&document).len();
    let stands = |(at, c): (usize, char)| is_xml(c) && (c != '&' || is_reference(&document[at..]));
    if document[start..].char_indices().map(|(at, c)| (start + at, c)).all(stands) {
        return Bytes::from(document).slice(start..);
    }
    let legible = |(at, c): (usize, char)| if stands((start + at, c)) { c } else { char::REPLACEMENT_CHARACTER };
    Bytes::from(document[start..].char_indices().map(legible).collect::<String>())
}

/// Removes white space, byte order marks and declarations from the start: XML is UTF-8 without them.
fn undeclared(document: &str) -> &str {
    let mut rest = document;
    loop {
        let blank = |c: char| c == '\u{feff}' || c.is_ascii_whitespace();
        rest = rest.trim_start_matches(blank);
        match rest.strip_prefix("<?xml").and_then(|rest| rest.split_once("?>")) {
            Some((_, after)) => rest = after,
            None => return rest,
        }
    }
}

/// Whether XML allows the character (XML 1.0, 2.2).
const fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

/// Whether `text`, which begins with `&`, begins with a reference that the SDK resolves.
fn is_reference(text: &str) -> bool {
    /// `&#x10FFFF;`
    const LONGEST: usize = 10;
    let bytes = text.as_bytes();
    let Some(end) = bytes.iter().take(LONGEST).position(|byte| *byte == b';') else { return false };
    referred(&text[1..end]).is_some()
}

/// The character that the reference stands for.
fn referred(name: &str) -> Option<char> {
    let code = match name {
        "lt" => return Some('<'),
        "gt" => return Some('>'),
        "amp" => return Some('&'),
        "quot" => return Some('"'),
        "apos" => return Some('\''),
        number => match (number.strip_prefix("#x"), number.strip_prefix('#')) {
            (Some(hex), _) => u32::from_str_radix(hex, 16),
            (None, Some(decimal)) => decimal.parse(),
            (None, None) => return None,
        },
    };
    char::from_u32(code.ok()?)
}
