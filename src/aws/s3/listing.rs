//! Lists objects, parts and uploads, page after page.
//!
//! - **Keys are requested percent-encoded** (`encoding-type=url`), since XML cannot carry all of them. A store may not encode, or not
//!   say that it does: the prefix that each key must have shows which. Invalid UTF-8 becomes U+FFFD: no key of Penstock's has it.
//! - **A listing must advance**: a page of parts or uploads that leads back to an earlier one, a page of objects that leads to itself, and
//!   any that continues without a position, is an error of class compat, never a short listing. The catalog, which sees all pages,
//!   finds longer circles of objects.
//! - **Memory is bounded**: 10,000 parts, [`MAX_UPLOADS`] uploads; the caller gets objects a page at a time.
//!
//! Nothing here depends on the order within a page: S3's directory buckets have none.

use std::borrow::Cow;
use std::collections::HashSet;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::{CommonPrefix, EncodingType, MultipartUpload, Object, Part};

use super::{Request, S3Store, gone, wire};
use crate::checksum::Algorithm;
use crate::error::Class;
use crate::format::key::ObjectKey;
use crate::store::{
    Error, Folders, ListedObject, ListedUpload, PAGING_REMEDY, Page, PartNumber, UploadHandle, UploadId, UploadedPart,
};

/// The listing by prefix has only our own uploads: one for each stream that a crash has interrupted.
const MAX_UPLOADS: usize = 50_000;

/// Enough for [`MAX_UPLOADS`] in pages of 50.
const MAX_UPLOAD_PAGES: usize = 1000;

impl Request<'_> {
    /// The error of a listing that does not advance as S3's do.
    pub(super) fn stuck(&self, message: impl Into<String>) -> Error {
        Error { remedy: Some(PAGING_REMEDY.to_owned()), ..self.error(Class::Compat, message) }
    }
}

/// Where the page after `from` leads.
fn next_page(request: &Request<'_>, output: &ListObjectsV2Output, from: Option<&str>) -> Result<Option<String>, Error> {
    let next = output.next_continuation_token().filter(|token| !token.is_empty());
    // Without `IsTruncated`, a token means that there is more.
    if !output.is_truncated().unwrap_or(next.is_some()) {
        return Ok(None);
    }
    match next {
        None => Err(request.stuck("the listing is truncated, but the reply has no token")),
        Some(next) if from == Some(next) => {
            Err(request.stuck("the listing does not advance: this page's token leads to the same page"))
        }
        Some(next) => Ok(Some(next.to_owned())),
    }
}

impl S3Store {
    pub(super) async fn page_of_objects(&self, prefix: &str, from: Option<&str>) -> Result<Page, Error> {
        let request = self.request("ListObjectsV2", prefix);
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).encoding_type(EncodingType::Url);
        let list = list.set_continuation_token(from.map(str::to_owned));
        let output = list.send().await.map_err(|error| request.failed(&error))?;
        let keys = output.contents().iter().map(Object::key);
        let keys = Keys::of(prefix, output.encoding_type(), keys);
        let objects = output.contents().iter().map(|object| listed_object(keys, object)).collect::<Option<Vec<_>>>();
        let objects = objects.ok_or_else(|| request.error(Class::Compat, "an entry has no key, no size or no date"))?;
        Ok(Page { objects, next: next_page(&request, &output, from)? })
    }

    pub(super) async fn page_of_folders(&self, prefix: &str, from: Option<&str>) -> Result<Folders, Error> {
        let request = self.request("ListObjectsV2", prefix);
        let list = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).delimiter("/");
        let list = list.encoding_type(EncodingType::Url).set_continuation_token(from.map(str::to_owned));
        let output = list.send().await.map_err(|error| request.failed(&error))?;
        let folders = output.common_prefixes().iter().map(CommonPrefix::prefix);
        // A store that knows no delimiter lists what is in the folders.
        let found = folders.chain(output.contents().iter().map(Object::key));
        let keys = Keys::of(prefix, output.encoding_type(), found.clone());
        let name = |key: &str| Some(keys.read(key).strip_prefix(prefix)?.split_once('/')?.0.to_owned());
        let mut names: Vec<String> = found.flatten().filter_map(name).collect();
        names.dedup();
        Ok(Folders { names, next: next_page(&request, &output, from)? })
    }

    /// `None` when there is no such upload.
    pub(super) async fn all_parts(&self, upload: &UploadHandle) -> Result<Option<Vec<UploadedPart>>, Error> {
        let request = self.request("ListParts", upload.key.as_str());
        let mut parts = Vec::new();
        let mut marker = None;
        loop {
            let list = self.client.list_parts().bucket(&self.bucket).key(upload.key.as_str()).upload_id(&upload.id.0);
            let list = list.set_part_number_marker(marker.map(|marker: u32| marker.to_string())).send().await;
            let page = match list.map_err(|error| request.failed(&error)) {
                Ok(page) => page,
                Err(error) if gone(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let read = page.parts().iter().map(|part| listed_part(self.algorithm, part)).collect::<Option<Vec<_>>>();
            let read = read.ok_or_else(|| request.error(Class::Compat, "a part has no number or no size"))?;
            if read.iter().any(|part| part.etag.is_empty()) && self.bare_parts.first() {
                tracing::warn!(
                    bucket = self.bucket,
                    "the store lists parts without ETags: no upload can be resumed; interrupted ones start again"
                );
            }
            parts.extend(read);
            if parts.len() > usize::from(PartNumber::MAX) {
                return Err(request.stuck(format!("more than {} parts are listed", PartNumber::MAX)));
            }
            if page.is_truncated != Some(true) {
                parts.sort_by_key(|part| part.number);
                return Ok(Some(parts));
            }
            let next = page.next_part_number_marker.and_then(|marker| marker.trim().parse().ok());
            let next =
                next.ok_or_else(|| request.stuck("the list of parts is truncated, but the reply has no marker"))?;
            // Part numbers grow, so there are 10,000 pages at most.
            if next <= marker.unwrap_or(0) || next > u32::from(PartNumber::MAX) {
                return Err(request.stuck(format!(
                    "the list of parts does not advance: the page after part {} leads to part {next}",
                    marker.unwrap_or(0)
                )));
            }
            marker = Some(next);
        }
    }

    pub(super) async fn all_uploads(&self, prefix: &str) -> Result<Vec<ListedUpload>, Error> {
        let request = self.request("ListMultipartUploads", prefix);
        let mut uploads = Vec::new();
        let mut seen = HashSet::new();
        let mut marker = (None, None);
        for _ in 0..MAX_UPLOAD_PAGES {
            let list = self.client.list_multipart_uploads().bucket(&self.bucket).prefix(prefix);
            let list = list.encoding_type(EncodingType::Url).set_key_marker(marker.0).set_upload_id_marker(marker.1);
            let page = list.send().await.map_err(|error| self.cannot_list(request.failed(&error)))?;
            let keys = page.uploads.iter().flatten().map(MultipartUpload::key);
            let keys = Keys::of(prefix, page.encoding_type.as_ref(), keys);
            uploads.extend(page.uploads().iter().filter_map(|upload| listed_upload(keys, upload)));
            if uploads.len() > MAX_UPLOADS {
                return Err(request.stuck(format!("more than {MAX_UPLOADS} uploads are in progress here")));
            }
            if page.is_truncated != Some(true) {
                return Ok(uploads);
            }
            let key = page.next_key_marker.filter(|key| !key.is_empty());
            let key =
                key.ok_or_else(|| request.stuck("the list of uploads is truncated, but the reply has no marker"))?;
            marker = (Some(keys.read(&key).into_owned()), page.next_upload_id_marker.filter(|id| !id.is_empty()));
            if !seen.insert(marker.clone()) {
                return Err(request.stuck("the list of uploads does not advance: a page leads to an earlier one"));
            }
        }
        Err(request.stuck(format!("more than {MAX_UPLOAD_PAGES} pages of uploads")))
    }

    fn cannot_list(&self, error: Error) -> Error {
        if matches!(error.class, Class::AccessDenied | Class::Compat) && self.unlisted_uploads.first() {
            // Nothing is wrong: Penstock does not ask for the permission. Should a crash lose an ID, the sweep says so.
            tracing::debug!(bucket = self.bucket, %error, "could not list multipart uploads: an upload whose ID a crash lost is reported, not aborted");
        }
        error
    }
}

/// How the keys of a page are encoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys<'a> {
    prefix: &'a str,
    /// Whether the reply says that they are percent-encoded.
    encoded: bool,
}

impl<'a> Keys<'a> {
    /// `keys` are all keys of the page: some servers say that they encode, and do not.
    pub(super) fn of(
        prefix: &'a str,
        encoding: Option<&EncodingType>,
        mut keys: impl Iterator<Item = Option<&'a str>>,
    ) -> Self {
        Self { prefix, encoded: encoding == Some(&EncodingType::Url) && keys.all(|key| key.is_none_or(may_be_encoded)) }
    }

    /// Decodes a key. The prefix shows how it is encoded: the reply's statement may be wrong, and some stores write a space
    /// as `+`.
    pub(super) fn read<'k>(&self, key: &'k str) -> Cow<'k, str> {
        let raw = || Cow::Borrowed(key);
        let forms = || [decoded(key, Plus::IsSpace), decoded(key, Plus::IsPlus)].into_iter();
        let fits = |form: &Cow<'_, str>| form.starts_with(self.prefix);
        let found = if self.encoded {
            forms().chain([raw()]).find(fits).or_else(|| forms().next())
        } else {
            [raw()].into_iter().chain(forms()).find(fits)
        };
        found.unwrap_or_else(raw)
    }
}

/// Whether it has no character that every encoding would have replaced.
fn may_be_encoded(key: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>".contains(&byte);
    let escapes = key.split('%').skip(1);
    key.bytes().all(plain)
        && escapes
            .into_iter()
            .all(|after| after.len() >= 2 && after.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plus {
    IsSpace,
    IsPlus,
}

/// Percent-decodes; invalid UTF-8 is replaced.
fn decoded(key: &str, plus: Plus) -> Cow<'_, str> {
    if !key.contains(['%', '+']) {
        return Cow::Borrowed(key);
    }
    let bytes = key.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let value = match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => u8::try_from(high * 16 + low).ok(),
            _ => None,
        };
        decoded.push(value.unwrap_or(if byte == b'+' && plus == Plus::IsSpace { b' ' } else { byte }));
        at += if value.is_some() { 3 } else { 1 };
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// `None` for an entry that makes no sense, which is reported by the caller.
fn listed_object(keys: Keys<'_>, object: &Object) -> Option<ListedObject> {
    let size = object.size().and_then(|size| u64::try_from(size).ok())?;
    let modified = object.last_modified()?;
    let nanos = i32::try_from(modified.subsec_nanos()).ok()?;
    let modified = jiff::Timestamp::new(modified.secs(), nanos).ok()?;
    let etag = object.e_tag().map(str::to_owned);
    Some(ListedObject { key: ObjectKey::new(keys.read(object.key()?)), size, modified, etag })
}

/// `None` for an entry that makes no sense, which is reported by the caller.
fn listed_part(algorithm: Algorithm, part: &Part) -> Option<UploadedPart> {
    let checksums = (part.checksum_crc64_nvme(), part.checksum_crc32_c(), part.checksum_sha256());
    Some(UploadedPart {
        number: PartNumber::new(u16::try_from(part.part_number()?).ok()?)?,
        size: u64::try_from(part.size()?).ok()?,
        etag: part.e_tag().unwrap_or_default().to_owned(),
        checksum: wire::checksum(algorithm, checksums.0, checksums.1, checksums.2),
    })
}

/// `None` for an entry without a key or an ID, which could not be aborted.
fn listed_upload(keys: Keys<'_>, upload: &MultipartUpload) -> Option<ListedUpload> {
    let initiated = upload.initiated().and_then(|time| jiff::Timestamp::from_second(time.secs()).ok());
    let key = ObjectKey::new(keys.read(upload.key()?));
    Some(ListedUpload { upload: UploadHandle { key, id: UploadId(upload.upload_id()?.to_owned()) }, initiated })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_says_to_be_encoded_and_is_not_is_not_decoded() {
        let of =
            |keys: &'static [&str]| Keys::of("k/", Some(&EncodingType::Url), keys.iter().copied().map(Some)).encoded;
        assert!(of(&["k/a%20b", "k/x%2By+z", "k/~.-_'*!()&="]));
        for raw in [&["k/100%"], &["k/a b"], &["k/é"], &["k/<x>"], &["k/\u{1}"], &["k/%zz"]] {
            assert!(!of(raw), "{raw:?}");
        }
        assert!(!Keys::of("k/", None, std::iter::empty()).encoded);
    }

    #[test]
    fn keys_are_read_however_they_are_written() {
        let rows = [
            (true, "c1/", "c1/j/n1/a", "c1/j/n1/a"),
            (true, "c1/", "c1%2Fj/n1/%01junk", "c1/j/n1/\u{1}junk"),
            (true, "c1/", "c1/a+b%2Bc%20d", "c1/a b+c d"),
            (true, "c1/", "c1/%FF%zz%", "c1/\u{fffd}%zz%"),
            (true, "é/", "%C3%A9/x", "é/x"),
            (true, "a+b/", "a%2Bb/x", "a+b/x"),
            (true, "a+b/", "a+b/x%2Fy", "a+b/x/y"),
            (true, "a%20b/", "a%20b/x", "a%20b/x"),
            (true, "a%20b/", "a%2520b/x", "a%20b/x"),
            (false, "c1/", "c1/a%20b+c", "c1/a%20b+c"),
            (false, "c1/", "c1%2Fj", "c1/j"),
            (false, "c1/", "elsewhere%2F", "elsewhere%2F"),
            (true, "c1/", "else%2Fwhere", "else/where"),
            (false, "", "a%2F", "a%2F"),
        ];
        for (encoded, prefix, key, expected) in rows {
            assert_eq!(Keys { prefix, encoded }.read(key), expected, "{encoded} {prefix} {key}");
        }
    }
}
