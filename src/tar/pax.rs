//! PAX extended headers, in both directions: records of `length key=value\n`, where a value may hold any bytes. An
//! attribute of a member that ustar has no field for is one line in [`encode`] and one in [`Pax::set`].

use std::ffi::CString;

use super::ustar::fits;
use super::xattr::Attributes;
use super::{Member, shown};
use crate::format::index::FileTime;

/// The records that a member needs; none where ustar's fields hold all of it. For files with a time that is not a whole
/// second, which is nearly all, there is one. `path` is as in the archive, `content` the bytes behind the headers.
pub(super) fn encode(member: &Member, path: &[u8], content: u64) -> Vec<u8> {
    let mut out = Vec::new();
    if member.map.is_some() {
        put(&mut out, b"GNU.sparse.major", b"1");
        put(&mut out, b"GNU.sparse.minor", b"0");
        put(&mut out, b"GNU.sparse.name", path);
        put(&mut out, b"GNU.sparse.realsize", member.size.to_string().as_bytes());
    } else if path.len() > 100 {
        put(&mut out, b"path", path);
    }
    if member.link.len() > 100 {
        put(&mut out, b"linkpath", &member.link);
    }
    for (key, value, digits) in
        [(&b"size"[..], content, 11), (&b"uid"[..], u64::from(member.uid), 7), (&b"gid"[..], u64::from(member.gid), 7)]
    {
        if !fits(value, digits) {
            put(&mut out, key, value.to_string().as_bytes());
        }
    }
    let FileTime { seconds, nanoseconds } = member.mtime;
    if nanoseconds != 0 || !u64::try_from(seconds).is_ok_and(|seconds| fits(seconds, 11)) {
        put(&mut out, b"mtime", decimal(member.mtime).as_bytes());
    }
    let Attributes { xattrs, access_acl, default_acl } = &member.attributes;
    for (key, acl) in [(&b"SCHILY.acl.access"[..], access_acl), (&b"SCHILY.acl.default"[..], default_acl)] {
        if let Some(acl) = acl {
            put(&mut out, key, acl);
        }
    }
    for (name, value) in xattrs {
        put(&mut out, &xattr_key(name.to_bytes()), value);
    }
    out
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// `length key=value\n`, where the length counts its own digits.
fn put(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let digits = |length: usize| length.ilog10() as usize + 1;
    let mut length = rest + 1;
    while length < rest + digits(length) {
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

/// An attribute's name with `=` and `%` escaped as GNU tar does: a record's key ends at the first `=`.
fn xattr_key(name: &[u8]) -> Vec<u8> {
    let mut key = XATTR.to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            other => key.push(*other),
        }
    }
    key
}

/// What a header says, as far as a member has it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<FileTime>,
    pub(super) attributes: Attributes,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
}

impl Pax {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            pax.set(key, value).map_err(|reason| format!("its PAX record {:?} {reason}", shown(key)))?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(id(value)?),
            b"gid" => self.gid = Some(id(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"GNU.sparse.major" => self.sparse_major = Some(number(value)?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(number(value)?),
            b"GNU.sparse.name" => self.sparse_name = Some(name(value)?),
            b"GNU.sparse.realsize" => self.sparse_size = Some(number(value)?),
            b"SCHILY.acl.access" => self.attributes.access_acl = Some(value.to_vec()),
            b"SCHILY.acl.default" => self.attributes.default_acl = Some(value.to_vec()),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err("is of an older sparse format; expected version 1.0".to_owned());
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    let name = CString::new(unescape(name)).map_err(|_| "holds a NUL; expected none".to_owned())?;
                    self.attributes.xattrs.push((name, value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// A sparse file's name and apparent size.
    pub(super) fn sparse(&mut self) -> Result<Option<(Vec<u8>, u64)>, String> {
        match (self.sparse_major, self.sparse_minor, self.sparse_name.take(), self.sparse_size) {
            (None, None, None, None) => Ok(None),
            (Some(1), Some(0), Some(name), Some(size)) => Ok(Some((name, size))),
            _ => Err("it is incompletely sparse; expected GNU.sparse.major=1, minor=0, name and realsize".to_owned()),
        }
    }
}

/// A key, its value, and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// The first record, and what follows it.
fn record(bytes: &[u8]) -> Result<Record<'_>, String> {
    let malformed = || "its PAX header is malformed; expected `length key=value` and a line feed".to_owned();
    let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
    let length = usize::try_from(number(&bytes[..space]).map_err(|_| malformed())?).map_err(|_| malformed())?;
    if length <= space || length > bytes.len() {
        let left = bytes.len();
        return Err(format!(
            "a record of its PAX header is {length} bytes long; expected at most the {left} there are"
        ));
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
    let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
    Ok((&record[..equals], &record[equals + 1..], rest))
}

fn name(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.is_empty() { Err("is empty; expected a path".to_owned()) } else { Ok(value.to_vec()) }
}

/// Decimal digits only: no sign, no space. At most what a file can have.
pub(super) fn number(value: &[u8]) -> Result<u64, String> {
    natural(value)
        .filter(|number| i64::try_from(*number).is_ok())
        .ok_or_else(|| format!("is {:?}; expected a number from 0 to 2^63-1", shown(&value[..value.len().min(40)])))
}

fn natural(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// All ones mean "leave it" to the kernel.
fn id(value: &[u8]) -> Result<u32, String> {
    let id = u32::try_from(number(value)?).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| "is no user or group; expected a number below 2^32-1".to_owned())
}

fn time(value: &[u8]) -> Result<FileTime, String> {
    parse_time(value)
        .ok_or_else(|| format!("is {:?}; expected a decimal number of seconds", shown(&value[..value.len().min(40)])))
}

/// The reverse of [`decimal`]; digits behind the ninth of a fraction are dropped.
fn parse_time(value: &[u8]) -> Option<FileTime> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = natural(parts.next().unwrap_or_default())?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |position: usize| fraction.get(position).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, position| sum * 10 + digit(position));
    Some(match (negative, nanoseconds) {
        (false, nanoseconds) => FileTime { seconds: i64::try_from(seconds).ok()?, nanoseconds },
        (true, 0) => FileTime { seconds: 0_i64.checked_sub_unsigned(seconds)?, nanoseconds: 0 },
        (true, nanoseconds) => {
            FileTime { seconds: (-1_i64).checked_sub_unsigned(seconds)?, nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}

/// The reverse of the escaping in [`xattr_key`].
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        let (plain, left) = match rest {
            [b'%', b'2', b'5', left @ ..] => (b'%', left),
            [b'%', b'3', b'D', left @ ..] => (b'=', left),
            _ => (*byte, after),
        };
        out.push(plain);
        rest = left;
    }
    out
}
