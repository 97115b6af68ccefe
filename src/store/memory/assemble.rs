//! An object of the parts of its upload.

use super::{Object, Upload, error};
use crate::checksum::Checksum;
use crate::error::Class;
use crate::store::{Error, UploadedPart};

pub(super) fn assemble(
    held: &Upload,
    parts: &[UploadedPart],
    size: u64,
    checksum: Option<Checksum>,
    min_part_size: u64,
    modified: jiff::Timestamp,
) -> Result<Object, Error> {
    let fail = |class, code, message: &str| error("CompleteMultipartUpload", &held.key, class, 400, code, message);
    if parts.is_empty() {
        return Err(fail(Class::Internal, "MalformedXML", "a part list needs at least one part"));
    }
    if !parts.is_sorted_by(|a, b| a.number < b.number) {
        return Err(fail(Class::Internal, "InvalidPartOrder", "The list of parts was not in ascending order."));
    }
    let mut pieces = Vec::with_capacity(parts.len());
    let mut total = 0;
    let mut combined = None;
    for (index, part) in parts.iter().enumerate() {
        let found = held
            .parts
            .get(&part.number)
            .filter(|(have, _)| have.etag == part.etag && (part.checksum.is_none() || have.checksum == part.checksum));
        let Some((have, data)) = found else {
            let message = format!("Part {} could not be found, or its entity tag or checksum differs.", part.number);
            return Err(fail(Class::Integrity, "InvalidPart", &message));
        };
        if index + 1 < parts.len() && have.size < min_part_size {
            let message = "Your proposed upload is smaller than the minimum allowed size";
            return Err(fail(Class::Internal, "EntityTooSmall", message));
        }
        combined = match (index, combined, have.checksum) {
            (0, _, own) => own,
            (_, Some(so_far), Some(own)) => Checksum::combine(so_far, own, have.size),
            (_, _, _) => None,
        };
        total += have.size;
        pieces.push(data.clone());
    }
    if total != size {
        let message = format!("x-amz-mp-object-size is {size}, the parts have {total} bytes");
        return Err(fail(Class::Integrity, "InvalidRequest", &message));
    }
    // SHA-256 has no full-object value for an object of parts.
    let full = combined.filter(|checksum| !matches!(checksum, Checksum::Sha256(_)));
    if checksum.is_some() && checksum != full {
        return Err(fail(Class::Integrity, "BadDigest", "The full-object checksum did not match."));
    }
    Ok(Object { pieces, size: total, checksum: full, modified })
}
