//! Encodes and decodes the ustar block that every member has.
//!
//! A value that does not fit its field is whole in a PAX record before the block ([`super::pax`]). In the block a name is cut, a
//! size is written as busybox, cpio and old libraries read it, which skip the record ([`put_size`]), and any other number is 0.

use std::borrow::Cow;

use super::{BLOCK, shown};
use crate::format::index::FileKind;

/// The type of a PAX extended header for the next member (POSIX.1-2001, `pax`).
pub(super) const PAX: u8 = b'x';

/// The types of members, from `0` on.
const KINDS: [FileKind; 7] = [
    FileKind::Regular,
    FileKind::HardLink,
    FileKind::Symlink,
    FileKind::CharDevice,
    FileKind::BlockDevice,
    FileKind::Directory,
    FileKind::Fifo,
];

pub(super) fn flag(kind: FileKind) -> u8 {
    (b'0'..).zip(KINDS).find(|(_, known)| *known == kind).map_or(b'0', |(flag, _)| flag)
}

pub(super) fn kind(flag: u8) -> Option<FileKind> {
    KINDS.get(usize::from(flag.checked_sub(b'0')?)).copied()
}

/// The owner in the block if only a PAX record can hold the real one: not root, for readers that ignore PAX.
const NOBODY: u32 = 65534;

#[derive(Default)]
pub(super) struct Ustar<'a> {
    pub(super) flag: u8,
    pub(super) path: Cow<'a, [u8]>,
    pub(super) link: &'a [u8],
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) size: u64,
    pub(super) rdev: (u32, u32),
}

impl<'a> Ustar<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
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
        put_octal(&mut block[100..108], u64::from(self.mode));
        put_octal(&mut block[108..116], owner(self.uid));
        put_octal(&mut block[116..124], owner(self.gid));
        put_size(&mut block[124..136], self.size);
        put_octal(&mut block[136..148], u64::try_from(self.mtime).unwrap_or(0));
        block[156] = self.flag;
        let link = &self.link[..self.link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        put_octal(&mut block[329..337], u64::from(self.rdev.0));
        put_octal(&mut block[337..345], u64::from(self.rdev.1));
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        put_octal(&mut block[148..155], sum);
    }

    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, String> {
        if &block[257..265] != b"ustar\x0000" {
            return Err("it is not a POSIX header; expected \"ustar\" and version 00".to_owned());
        }
        let sum =
            block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) });
        let (sum, expected) = (sum.sum::<u64>(), octal(&block[148..156])?);
        if sum != expected {
            return Err(format!("its checksum is {sum}; expected {expected}"));
        }
        let small =
            |field: &[u8]| octal(field).and_then(|value| u32::try_from(value).map_err(|error| error.to_string()));
        let (name, prefix) = (string(&block[..100]), string(&block[345..500]));
        let path = if prefix.is_empty() { name.into() } else { [prefix, b"/", name].concat().into() };
        Ok(Self {
            flag: block[156],
            path,
            link: string(&block[157..257]),
            mode: small(&block[100..108])? & 0o7777,
            uid: small(&block[108..116])?,
            gid: small(&block[116..124])?,
            size: size(&block[124..136])?,
            mtime: i64::try_from(octal(&block[136..148])?).map_err(|error| error.to_string())?,
            rdev: (small(&block[329..337])?, small(&block[337..345])?),
        })
    }
}

pub(super) const fn fits(value: u64, octal_digits: usize) -> bool {
    value < 1 << (3 * octal_digits)
}

/// Whether a device number fits its fields; all of Linux's do today.
#[must_use]
pub const fn device_fits(rdev: (u32, u32)) -> bool {
    fits(rdev.0 as u64, 7) && fits(rdev.1 as u64, 7)
}

/// Fills a field with octal digits and a NUL; with 0 if the value is too large.
fn put_octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let mut left = if fits(value, digits) { value } else { 0 };
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + left.to_le_bytes()[0] % 8;
        left /= 8;
    }
    field[digits] = 0;
}

/// Fills the field of a size: eleven octal digits and a NUL; twelve digits from 8 GiB on; from 64 GiB on base 256, marked by the
/// first bit. A reader that ignores PAX records finds the next member only by this field.
fn put_size(field: &mut [u8], value: u64) {
    if fits(value, 11) {
        put_octal(field, value);
    } else if fits(value, 12) {
        field.copy_from_slice(format!("{value:012o}").as_bytes());
    } else {
        field[0] = BASE_256;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
}

/// The first byte of a field that has a binary number from 0 on.
const BASE_256: u8 = 0x80;

/// The reverse of [`put_size`].
fn size(field: &[u8]) -> Result<u64, String> {
    match field {
        [BASE_256, 0, 0, 0, binary @ ..] => Ok(binary.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))),
        _ => octal(field),
    }
}

/// A field up to its first NUL.
fn string(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits, ended by NUL or space, or no digits for 0. No sign, and no base 256, which only a size needs.
fn octal(field: &[u8]) -> Result<u64, String> {
    let end = field.iter().rposition(|byte| !matches!(byte, 0 | b' ')).map_or(0, |last| last + 1);
    field[..end].iter().try_fold(0_u64, |value, byte| match byte {
        // Twelve digits at most: 36 bits.
        b'0'..=b'7' => Ok(value * 8 + u64::from(byte - b'0')),
        _ => Err(format!("a number in it is {:?}; expected octal digits", shown(field))),
    })
}
