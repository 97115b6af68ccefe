//! Extended attributes and ACLs of one inode.
//!
//! Two calls for an inode without any; one more for each attribute. The buffers are as long as Linux lets a list and a
//! value be, so nothing is asked twice and nothing can be too long for them.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

use super::acl;

pub const ACCESS_ACL: &CStr = c"system.posix_acl_access";
pub const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of `linux/limits.h`.
const LONGEST: usize = 64 << 10;

/// Attributes of one member, together; more would not fit the PAX header that an extractor is willing to hold.
const MOST: usize = 768 << 10;

/// Where the attributes are.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    Open(BorrowedFd<'a>),
    /// What cannot be opened without side effects, by its directory and name; not followed.
    Name(BorrowedFd<'a>, &'a CStr),
}

/// A path to `name`, for calls that take no directory, short however deep that lies: its last component is the name's.
#[must_use]
pub fn path_below(directory: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name.to_bytes()].concat()
}

/// Extended attributes and ACLs of one member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Sorted by name, so that the stream of an unchanged file is unchanged.
    pub xattrs: Vec<(CString, Vec<u8>)>,
    /// The text that a PAX record holds ([`acl`]).
    pub access_acl: Option<Vec<u8>>,
    pub default_acl: Option<Vec<u8>>,
}

/// Reads attributes, into buffers that it keeps.
#[derive(Debug)]
pub struct Reader {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { names: vec![0; LONGEST], value: vec![0; LONGEST] }
    }
}

impl Reader {
    /// All attributes that can be read, and what could not.
    pub fn read(&mut self, target: Target<'_>) -> (Attributes, Option<String>) {
        let path = match target {
            Target::Open(_) => Vec::new(),
            Target::Name(directory, name) => path_below(directory, name),
        };
        let listed = match target {
            Target::Open(fd) => flistxattr(fd, &mut self.names[..]),
            Target::Name(..) => llistxattr(&path, &mut self.names[..]),
        };
        let mut attributes = Attributes::default();
        let length = match listed {
            Ok(0) | Err(Errno::NOTSUP | Errno::NOSYS) => return (attributes, None),
            Ok(length) => length,
            Err(error) => return (attributes, Some(format!("its extended attributes cannot be listed: {error}"))),
        };
        let mut names: Vec<&CStr> = self.names[..length]
            .split_inclusive(|byte| *byte == 0)
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
            .collect();
        names.sort_unstable();
        let mut complaint = None;
        let mut total = 0;
        for name in names {
            let value = match target {
                Target::Open(fd) => fgetxattr(fd, name, &mut self.value[..]),
                Target::Name(..) => lgetxattr(&path, name, &mut self.value[..]),
            };
            let value = match value {
                Ok(length) => &self.value[..length],
                // It was removed after it was listed.
                Err(Errno::NODATA) => continue,
                Err(error) => {
                    complaint =
                        Some(format!("its extended attribute {} cannot be read: {error}", name.to_string_lossy()));
                    continue;
                }
            };
            total += name.count_bytes() + value.len();
            if total > MOST {
                complaint = Some(format!("it has more than {MOST} bytes of extended attributes; the rest is left out"));
                break;
            }
            if let Err(reason) = attributes.add(name, value) {
                complaint = Some(reason);
            }
        }
        (attributes, complaint)
    }
}

impl Attributes {
    fn add(&mut self, name: &CStr, value: &[u8]) -> Result<(), String> {
        let slot = if name == ACCESS_ACL {
            &mut self.access_acl
        } else if name == DEFAULT_ACL {
            &mut self.default_acl
        } else {
            self.xattrs.push((name.to_owned(), value.to_vec()));
            return Ok(());
        };
        let text = acl::to_text(value).ok_or_else(|| format!("its {} is not understood", name.to_string_lossy()))?;
        *slot = Some(text.into_bytes());
        Ok(())
    }
}
