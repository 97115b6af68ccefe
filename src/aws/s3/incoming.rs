//! Receives an object's body, checks its length, and describes its errors.

use std::ops::Range;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::{Error, S3Store};
use crate::aws::classify::Service;
use crate::aws::failure::Call;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::metrics;
use crate::store::VersionId;

pub(super) struct Incoming {
    pub(super) resource: String,
    pub(super) trust: String,
    pub(super) metrics: metrics::Location,
    pub(super) body: ByteStream,
    pub(super) left: u64,
}

impl Incoming {
    /// The next bytes and the state after them; `None` after an error or the end.
    pub(super) async fn step(state: Option<Self>) -> Option<(Result<Bytes, Error>, Option<Self>)> {
        let mut this = state?;
        let next = this.body.next().await;
        let (resource, trust) = (this.resource.clone(), this.trust.clone());
        let call = Call { service: Service::S3, operation: "GetObject", resource, trust: &trust };
        match next {
            Some(Ok(bytes)) => {
                let count = bytes.len() as u64;
                this.metrics.downloaded(count);
                let Some(left) = this.left.checked_sub(count) else {
                    let message = format!("the body is longer than announced: {} bytes were left", this.left);
                    return Some((Err(call.error(Class::Compat, message)), None));
                };
                this.left = left;
                Some((Ok(bytes), Some(this)))
            }
            Some(Err(error)) => Some((Err(call.transport(&error)), None)),
            None if this.left > 0 => {
                let message = format!("the body ended {} bytes early", this.left);
                Some((Err(call.error(Class::Transient, message)), None))
            }
            None => None,
        }
    }
}

impl S3Store {
    /// The object's size from the reply to a range, for when a proxy removes Content-Length from the answers to HEAD.
    pub(super) async fn size_by_range(&self, key: &ObjectKey, version: Option<&VersionId>) -> Result<u64, Error> {
        let request = self.request("HeadObject", key.as_str());
        let get = self.client.get_object().bucket(&self.bucket).key(key.as_str()).range("bytes=0-0");
        let get = get.set_version_id(version.map(ToString::to_string)).send().await;
        let range = get.as_ref().ok().and_then(|output| shown(output.content_range()?));
        range.and_then(|range| range.total).ok_or_else(|| Error {
            remedy: Some("check that no proxy or gateway removes Content-Length from the answers to HEAD".to_owned()),
            ..request.error(Class::Compat, "no reply says how long the object is")
        })
    }
}

/// The headers of a reply that tell the length of its body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced<'a> {
    /// Content-Length; `None` for a body in chunks.
    pub(super) length: Option<i64>,
    /// Content-Range.
    pub(super) range: Option<&'a str>,
}

/// The body's length: of the requested range, or of the whole object, where the reply may omit it (`None`).
pub(super) fn length(asked: Option<&Range<u64>>, announced: Announced<'_>) -> Result<Option<u64>, (Class, String)> {
    let length = announced.length.and_then(|length| u64::try_from(length).ok());
    let Some(asked) = asked else { return Ok(length) };
    let wanted = asked.end - asked.start;
    let compat = |message: String| Err((Class::Compat, message));
    let short = |offered: u64| {
        Err((Class::Integrity, format!("requested {wanted} bytes and was offered {offered}: the object is shorter")))
    };
    let Some(range) = announced.range else {
        // A server may answer a range that is the whole object as if there were no range.
        return match length {
            None => Ok(Some(wanted)),
            Some(length) if length == wanted => Ok(Some(wanted)),
            Some(length) => compat(format!(
                "requested {wanted} bytes from {} on, and was offered {length} without a Content-Range: the store, or a proxy \
                 before it, does not know ranges",
                asked.start
            )),
        };
    };
    let Some(Shown { first, last, total }) = shown(range) else {
        return compat(format!("the Content-Range is {range:?}; expected bytes FIRST-LAST/SIZE"));
    };
    let end = last.saturating_add(1);
    if first == asked.start && end < asked.end && total.is_none_or(|total| total == end) {
        return short(end.saturating_sub(first));
    }
    if first != asked.start || end != asked.end {
        return compat(format!(
            "requested the bytes {} to {}, and was offered {first} to {last}",
            asked.start,
            asked.end - 1
        ));
    }
    match length {
        Some(length) if length != wanted => {
            compat(format!("the reply holds {wanted} bytes by its Content-Range and {length} by its Content-Length"))
        }
        Some(_) | None => Ok(Some(wanted)),
    }
}

/// A Content-Range.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    first: u64,
    last: u64,
    total: Option<u64>,
}

/// `bytes 0-499/1234`, `bytes 0-499/*`
fn shown(range: &str) -> Option<Shown> {
    let (bounds, total) = range.trim().strip_prefix("bytes")?.trim_start_matches([' ', '=']).split_once('/')?;
    let (first, last) = bounds.split_once('-')?;
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    Some(Shown { first: first.trim().parse().ok()?, last: last.trim().parse().ok()?, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_what_length_and_range_agree_on() {
        let asked = Some(100..200);
        let rows: [(_, _, _, Result<_, Class>); 17] = [
            (&asked, Some(100), Some("bytes 100-199/1000"), Ok(Some(100))),
            (&asked, None, Some("bytes 100-199/1000"), Ok(Some(100))),
            (&asked, None, Some("bytes 100-199/*"), Ok(Some(100))),
            (&asked, None, Some("bytes=100-199/200"), Ok(Some(100))),
            (&asked, Some(100), None, Ok(Some(100))),
            (&asked, None, None, Ok(Some(100))),
            (&asked, Some(50), Some("bytes 100-149/150"), Err(Class::Integrity)),
            (&asked, None, Some("bytes 100-149/150"), Err(Class::Integrity)),
            (&asked, Some(50), Some("bytes 100-149/1000"), Err(Class::Compat)),
            (&asked, Some(100), Some("bytes 0-99/1000"), Err(Class::Compat)),
            (&asked, Some(200), Some("bytes 100-299/1000"), Err(Class::Compat)),
            (&asked, Some(99), Some("bytes 100-199/1000"), Err(Class::Compat)),
            (&asked, Some(1000), None, Err(Class::Compat)),
            (&asked, Some(10), None, Err(Class::Compat)),
            (&asked, Some(100), Some("chunks 1-2/3"), Err(Class::Compat)),
            (&None, Some(7), None, Ok(Some(7))),
            (&None, None, None, Ok(None)),
        ];
        for (asked, announced, range, expected) in rows {
            let found = length(asked.as_ref(), Announced { length: announced, range }).map_err(|(class, _)| class);
            assert_eq!(found, expected, "{asked:?} {announced:?} {range:?}");
        }
    }
}
