//! PAX extended headers: `length key=value\n`, where a value may hold any bytes.

use std::ffi::CString;

use crate::format::index::FileTime;
use crate::source::tree::acl;
use crate::source::tree::xattr::{ACCESS_ACL, DEFAULT_ACL};

/// By the attribute they become. One that is not understood says why; it is not worth a restore.
pub(super) type Acls = Vec<(CString, Result<Vec<u8>, String>)>;

/// What a header says, as far as anybody asks.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<FileTime>,
    pub(super) xattrs: Vec<(CString, Vec<u8>)>,
    pub(super) acls: Acls,
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
            pax.set(key, value).map_err(|reason| format!("its PAX record {:?} {reason}", super::shown(key)))?;
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
            b"SCHILY.acl.access" => self.acls.push((ACCESS_ACL.to_owned(), acl_value(value))),
            b"SCHILY.acl.default" => self.acls.push((DEFAULT_ACL.to_owned(), acl_value(value))),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err("is of an older sparse format; expected version 1.0".to_owned());
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    let name = CString::new(unescape(name)).map_err(|_| "holds a NUL; expected none".to_owned())?;
                    self.xattrs.push((name, value.to_vec()));
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

fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or_default()
}

fn name(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.is_empty() { Err("is empty; expected a path".to_owned()) } else { Ok(value.to_vec()) }
}

/// Decimal digits only: no sign, no space. At most what a file can have.
pub(super) fn number(value: &[u8]) -> Result<u64, String> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = if digits { text(value).parse().ok() } else { None };
    number.filter(|number| i64::try_from(*number).is_ok()).ok_or_else(|| {
        format!("is {:?}; expected a number from 0 to 2^63-1", super::shown(&value[..value.len().min(40)]))
    })
}

/// All ones mean "leave it" to the kernel.
fn id(value: &[u8]) -> Result<u32, String> {
    let id = u32::try_from(number(value)?).ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| "is no user or group; expected a number below 2^32-1".to_owned())
}

fn time(value: &[u8]) -> Result<FileTime, String> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(number(parts.next().unwrap_or_default())?).unwrap_or(i64::MAX);
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(format!("is {:?}; expected a decimal number", super::shown(&value[..value.len().min(40)])));
    }
    let digit = |position: usize| fraction.get(position).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, position| sum * 10 + digit(position));
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => FileTime { seconds, nanoseconds },
        (true, 0) => FileTime { seconds: -seconds, nanoseconds: 0 },
        (true, nanoseconds) => FileTime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

fn acl_value(value: &[u8]) -> Result<Vec<u8>, String> {
    acl::to_binary(std::str::from_utf8(value).map_err(|error| error.to_string())?)
}

/// The reverse of how GNU tar, and we, write `=` and `%` in an attribute's name.
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
