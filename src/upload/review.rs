//! Compares what was sent with what the store has, before an upload is completed.

use super::{Error, Sent};
use crate::checksum::Checksum;
use crate::format::key::ObjectKey;
use crate::store::UploadedPart;

/// The whole object's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole {
    /// `None` where the algorithm does not combine, or there is none.
    pub(super) checksum: Option<Checksum>,
    pub(super) crc64nvme: u64,
}

/// Checks that `parts`, sorted, are 1 to n without a gap, all but the last of `part_size`, `size` bytes together, and that every
/// checksum that the server returned is ours.
pub(super) fn review(
    key: &ObjectKey,
    parts: &[(Sent, UploadedPart)],
    size: u64,
    part_size: u64,
) -> Result<Whole, Error> {
    let wrong = |what, expected: String, found: String| Error::Review { key: key.clone(), what, expected, found };
    let mut total = 0;
    let mut whole: Option<Whole> = None;
    for (index, (sent, uploaded)) in parts.iter().enumerate() {
        let number = sent.number;
        if usize::from(number.get()) != index + 1 || uploaded.number != number {
            return Err(wrong("a part's number", (index + 1).to_string(), uploaded.number.to_string()));
        }
        let last = index + 1 == parts.len();
        if uploaded.size != sent.size || (sent.size != part_size && !(last && sent.size < part_size)) {
            return Err(wrong("a part's size", format!("{part_size} (part {number})"), uploaded.size.to_string()));
        }
        if uploaded.checksum.is_some() && uploaded.checksum != sent.checksum {
            return Err(wrong("a part's checksum", show(sent.checksum), show(uploaded.checksum)));
        }
        total += sent.size;
        whole = Some(append(whole, sent));
    }
    if total != size {
        return Err(wrong("the sum of the parts", size.to_string(), total.to_string()));
    }
    whole.ok_or_else(|| wrong("the number of parts", "at least 1".to_owned(), "0".to_owned()))
}

/// The parts that a store lists after it refused our list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// The parts as sent: the store refused the list for another reason.
    AsSent,
    /// The same bytes, under these ETags.
    WithOtherETags(Vec<UploadedPart>),
}

/// Compares the parts sent with those that the store lists: numbers, sizes, and checksums where it lists them.
pub(super) fn compare(
    key: &ObjectKey,
    parts: &[(Sent, UploadedPart)],
    listed: &[UploadedPart],
) -> Result<Parts, Error> {
    let wrong = |what, expected: String, found: String| Error::Review { key: key.clone(), what, expected, found };
    if listed.len() != parts.len() {
        return Err(wrong("the number of parts the store lists", parts.len().to_string(), listed.len().to_string()));
    }
    let mut other = Vec::new();
    for ((sent, uploaded), have) in parts.iter().zip(listed) {
        if (have.number, have.size) != (sent.number, sent.size) {
            let (expected, found) =
                (format!("{} bytes", sent.size), format!("{} bytes, as part {}", have.size, have.number));
            return Err(wrong("a part the store lists", format!("part {}, {expected}", sent.number), found));
        }
        if have.checksum.is_some() && have.checksum != sent.checksum {
            return Err(wrong("the checksum of a part the store lists", show(sent.checksum), show(have.checksum)));
        }
        let etag = if have.etag.is_empty() { &uploaded.etag } else { &have.etag };
        other.push(UploadedPart { etag: etag.clone(), ..uploaded.clone() });
    }
    let as_sent = other.iter().zip(parts).all(|(other, (_, uploaded))| other.etag == uploaded.etag);
    Ok(if as_sent { Parts::AsSent } else { Parts::WithOtherETags(other) })
}

pub(super) fn show(checksum: Option<Checksum>) -> String {
    checksum.map_or_else(|| "none".to_owned(), Checksum::to_header)
}

fn append(whole: Option<Whole>, part: &Sent) -> Whole {
    let Some(whole) = whole else {
        // A SHA-256 of one part is not the object's: multipart SHA-256 is a composite.
        let checksum = part.checksum.filter(|checksum| !matches!(checksum, Checksum::Sha256(_)));
        return Whole { checksum, crc64nvme: part.crc64nvme };
    };
    let checksum = whole.checksum.zip(part.checksum).and_then(|(whole, next)| whole.combine(next, part.size));
    let crc = Checksum::Crc64nvme(whole.crc64nvme).combine(Checksum::Crc64nvme(part.crc64nvme), part.size);
    let Some(Checksum::Crc64nvme(crc64nvme)) = crc else { unreachable!("two CRCs of one kind combine to that kind") };
    Whole { checksum, crc64nvme }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Algorithm;
    use crate::store::PartNumber;

    fn parts(contents: &[&[u8]]) -> Vec<(Sent, UploadedPart)> {
        let part = |(index, data): (usize, &&[u8])| {
            let number = PartNumber::new(u16::try_from(index + 1).unwrap()).unwrap();
            let checksum = Algorithm::Crc32c.compute(data);
            let size = data.len() as u64;
            let sent = Sent { number, size, checksum, crc64nvme: crate::checksum::crc64nvme(data) };
            (sent, UploadedPart { number, size, etag: "e".to_owned(), checksum })
        };
        contents.iter().enumerate().map(part).collect()
    }

    fn check(parts: &[(Sent, UploadedPart)], size: u64) -> Result<Whole, Error> {
        review(&ObjectKey::new("k"), parts, size, 4)
    }

    #[test]
    fn good_parts_combine() {
        let whole = check(&parts(&[b"abcd", b"efgh", b"i"]), 9).unwrap();
        assert_eq!(whole.checksum, Algorithm::Crc32c.compute(b"abcdefghi"));
        assert_eq!(whole.crc64nvme, crate::checksum::crc64nvme(b"abcdefghi"));
    }

    #[test]
    fn everything_that_does_not_match_is_refused() {
        let good = parts(&[b"abcd", b"efgh", b"i"]);
        assert!(check(&good, 10).is_err(), "sum");
        assert!(check(&good[1..], 5).is_err(), "gap at the start");
        assert!(check(&[], 0).is_err(), "no part");
        assert!(check(&parts(&[b"ab", b"efgh"]), 6).is_err(), "short part in the middle");
        assert!(check(&parts(&[b"abcd", b"efghi"]), 9).is_err(), "long last part");
        let mut bad = good.clone();
        bad[1].1.size = 3;
        assert!(check(&bad, 9).is_err(), "size the server took");
        let mut bad = good.clone();
        bad[2].1.checksum = Algorithm::Crc32c.compute(b"j");
        assert!(check(&bad, 9).is_err(), "checksum the server computed");
        let mut bad = good;
        bad[2].1.checksum = None;
        assert!(check(&bad, 9).is_ok(), "a server that returns none");
    }

    #[test]
    fn the_listed_parts_must_be_the_parts_sent() {
        let sent = parts(&[b"abcd", b"efgh", b"i"]);
        let key = ObjectKey::new("k");
        let good: Vec<UploadedPart> = sent.iter().map(|(_, part)| part.clone()).collect();
        assert_eq!(compare(&key, &sent, &good).unwrap(), Parts::AsSent);
        let bare: Vec<_> =
            good.iter().map(|part| UploadedPart { etag: String::new(), checksum: None, ..part.clone() }).collect();
        assert_eq!(compare(&key, &sent, &bare).unwrap(), Parts::AsSent, "a store that lists neither");
        let mut other = good.clone();
        other[1].etag = "other".to_owned();
        let Parts::WithOtherETags(found) = compare(&key, &sent, &other).unwrap() else { panic!("another ETag") };
        assert_eq!(found, other);
        other[1].checksum = Algorithm::Crc32c.compute(b"j");
        assert!(compare(&key, &sent, &other).is_err(), "other bytes");
        assert!(compare(&key, &sent, &good[..2]).is_err(), "a lost part");
        let mut short = good;
        short[2].size = 0;
        assert!(compare(&key, &sent, &short).is_err(), "a short part");
    }
}
