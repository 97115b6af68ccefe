//! One member's header: a ustar block, and before it a PAX extended header for whatever ustar has no room for.
//!
//! Names are raw bytes in both, as GNU tar writes them. A PAX header is only there when something needs it; for files
//! with a time that is not a whole second, which is nearly all, that is 1 KiB. Nothing in it depends on anything but
//! the member, so an unchanged file has an unchanged header.

use super::xattr::Attributes;
use crate::format::index::FileTime;

/// What everything in a tar stream is a multiple of.
pub(crate) const BLOCK: usize = 512;

/// An extractor refuses a longer PAX header before it holds it: two paths of 64 KiB and 768 KiB of attributes fit.
pub(crate) const MAX_PAX: usize = 1 << 20;

/// Types of members (POSIX.1-2001, `pax`).
pub(crate) mod kind {
    pub(crate) const REGULAR: u8 = b'0';
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHAR_DEVICE: u8 = b'3';
    pub(crate) const BLOCK_DEVICE: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const PAX: u8 = b'x';
}

/// The owner in the ustar block of a member whose owner only PAX can hold: not root, for readers that ignore PAX.
const NOBODY: u32 = 65534;

#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) kind: u8,
    /// A directory's ends with `/`.
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: FileTime,
    /// Bytes of data that follow, without padding.
    pub(super) stored: u64,
    /// The apparent size of a sparse file: its data starts with the map then (GNU sparse format 1.0).
    pub(super) sparse: Option<u64>,
    pub(super) rdev: (u32, u32),
    pub(super) attributes: &'a Attributes,
}

impl Header<'_> {
    /// Appends the header to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let mut path = b"PaxHeaders/".to_vec();
            path.extend_from_slice(self.path.strip_suffix(b"/").unwrap_or(self.path));
            Block {
                kind: kind::PAX,
                path: &path,
                link: b"",
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: 0,
                size: records.len() as u64,
                rdev: (0, 0),
            }
            .encode(out);
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        Block {
            kind: self.kind,
            path: self.path,
            link: self.link,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            mtime: self.mtime.seconds,
            size: self.stored,
            rdev: self.rdev,
        }
        .encode(out);
    }

    fn records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(size) = self.sparse {
            record(&mut out, b"GNU.sparse.major", b"1");
            record(&mut out, b"GNU.sparse.minor", b"0");
            record(&mut out, b"GNU.sparse.name", self.path);
            record(&mut out, b"GNU.sparse.realsize", size.to_string().as_bytes());
        } else if self.path.len() > 100 {
            record(&mut out, b"path", self.path);
        }
        if self.link.len() > 100 {
            record(&mut out, b"linkpath", self.link);
        }
        for (key, value, digits) in [
            (&b"size"[..], self.stored, 11),
            (&b"uid"[..], u64::from(self.uid), 7),
            (&b"gid"[..], u64::from(self.gid), 7),
        ] {
            if !fits(value, digits) {
                record(&mut out, key, value.to_string().as_bytes());
            }
        }
        let whole = self.mtime.nanoseconds == 0 && u64::try_from(self.mtime.seconds).is_ok_and(|time| fits(time, 11));
        if !whole {
            record(&mut out, b"mtime", decimal(self.mtime).as_bytes());
        }
        for (key, acl) in [
            (&b"SCHILY.acl.access"[..], &self.attributes.access_acl),
            (&b"SCHILY.acl.default"[..], &self.attributes.default_acl),
        ] {
            if let Some(acl) = acl {
                record(&mut out, key, acl.as_bytes());
            }
        }
        for (name, value) in &self.attributes.xattrs {
            record(&mut out, &xattr_key(name), value);
        }
        out
    }
}

/// `SCHILY.xattr.` and the name, with `=` and `%` escaped the way GNU tar does: a record's key ends at the first `=`.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"SCHILY.xattr.".to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            other => key.push(*other),
        }
    }
    key
}

/// `length key=value\n`, where the length counts its own digits.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length < rest + length.to_string().len() {
        length += 1;
    }
    out.extend_from_slice(format!("{length} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A time as PAX writes it: exact, and before 1970 the whole number is negative.
fn decimal(time: FileTime) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (false, nanoseconds) => ("", time.seconds.unsigned_abs(), nanoseconds),
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, nanoseconds) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

const fn fits(value: u64, octal_digits: u32) -> bool {
    value < 1 << (3 * octal_digits)
}

/// One ustar block. What does not fit its field is 0 there, or cut, and stands in a PAX record before it.
struct Block<'a> {
    kind: u8,
    path: &'a [u8],
    link: &'a [u8],
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    size: u64,
    rdev: (u32, u32),
}

impl Block<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + BLOCK, 0);
        let block = &mut out[start..];
        let mut path = &self.path[..self.path.len().min(100)];
        // A cut name must not look like a directory's.
        while path.len() < self.path.len() && path.ends_with(b"/") {
            path = &path[..path.len() - 1];
        }
        block[..path.len()].copy_from_slice(path);
        let owner = |id: u32| u64::from(if fits(u64::from(id), 7) { id } else { NOBODY });
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], owner(self.uid));
        octal(&mut block[116..124], owner(self.gid));
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], u64::try_from(self.mtime).unwrap_or(0));
        block[156] = self.kind;
        let link = &self.link[..self.link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], u64::from(self.rdev.0));
        octal(&mut block[337..345], u64::from(self.rdev.1));
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum);
    }
}

/// Fills a field with octal digits and a NUL; with 0 when the value is too large for it.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let value = if fits(value, u32::try_from(digits).unwrap_or(0)) { value } else { 0 };
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

/// Whether a device number fits a ustar block: Linux's all do, today.
pub(super) const fn device_fits(rdev: (u32, u32)) -> bool {
    fits(rdev.0 as u64, 7) && fits(rdev.1 as u64, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (value, length) in [(0, 6), (3, 9), (4, 11), (92, 99), (93, 101), (988, 997), (989, 998), (991, 1001)] {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; value]);
            let text = String::from_utf8(out.clone()).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!((said, out.len()), (out.len(), said), "{value} {length}");
        }
    }

    #[test]
    fn times_are_exact() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-1, 999_999_999, "-0.000000001"),
            (-2, 500_000_000, "-1.5"),
            (i64::MIN, 1, "-9223372036854775807.999999999"),
        ] {
            assert_eq!(decimal(FileTime { seconds, nanoseconds }), text);
        }
    }

    #[test]
    fn only_what_does_not_fit_costs_a_pax_header() {
        let attributes = Attributes::default();
        let plain = Header {
            kind: kind::REGULAR,
            path: b"a",
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: FileTime { seconds: 1, nanoseconds: 0 },
            stored: 0,
            sparse: None,
            rdev: (0, 0),
            attributes: &attributes,
        };
        let length = |header: &Header<'_>| {
            let mut out = Vec::new();
            header.encode(&mut out);
            out.len()
        };
        assert_eq!(length(&plain), BLOCK);
        assert_eq!(length(&Header { path: &[b'a'; 100], ..plain }), BLOCK);
        assert_eq!(length(&Header { path: &[b'a'; 101], ..plain }), 3 * BLOCK);
        assert_eq!(length(&Header { uid: 3_000_000_000, ..plain }), 3 * BLOCK);
        assert_eq!(length(&Header { stored: 8 << 30, ..plain }), 3 * BLOCK);
        assert_eq!(length(&Header { stored: (8 << 30) - 1, ..plain }), BLOCK);
    }
}
