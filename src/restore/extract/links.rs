//! Further names of one file, and copies of it where the file system has no more names for it.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FileType, Mode, OFlags, Stat, openat, readlinkat};
use rustix::io::Errno;

use super::archive::{Kind, Member};
use super::attributes::{Place, apply};
use super::data::{Sparse, is_zero};
use super::target::{checked, verdict};
use super::{Extractor, Failure, c_string, failed, refused, shown};
use crate::restore::refusal::Refusal;
use crate::source::tree::acl;
use crate::source::tree::xattr::{self, ACCESS_ACL, DEFAULT_ACL};

/// Copies of one file that further names are tried on.
const MAX_COPIES: usize = 8;

impl<R: Read> Extractor<'_, R> {
    pub(super) fn hard_link(&mut self, member: &Member) -> Result<(), Failure> {
        let first = checked(&member.link).map_err(|_| {
            refused(&member.path, format!("it links to {:?}; expected a path below the target", shown(&member.link)))
        })?;
        let first = match self.options.link_sources.get(&first) {
            Some(instead) => checked(instead)?,
            None => first,
        };
        if let Some(class) = self.target.known.left_out(&first) {
            let message = "left out: it is another name of a file that was left out".to_owned();
            return Err(Failure::LeftOut(Refusal { class, message }));
        }
        // The last copy first: where one name too many was refused once, it is again.
        let copies = self.copies.get(&first).cloned().unwrap_or_default();
        let mut why = Errno::MLINK;
        for there in copies.iter().rev().chain([&first]) {
            match self.target.link(there, &member.path)? {
                Ok(()) => return Ok(()),
                Err(errno) => why = errno,
            }
            if !matches!(why, Errno::MLINK | Errno::XDEV) {
                break;
            }
        }
        self.copy(&first, member)?;
        self.ledger.altered(&member.path, &format!("it is a copy and no hard link: {why}"));
        let copies = self.copies.entry(first).or_default();
        if copies.len() == MAX_COPIES {
            copies.remove(0);
        }
        copies.push(member.path.clone());
        Ok(())
    }

    /// Owner, mode and time are in the link's own header; the rest is read from the first name.
    pub(super) fn copy(&mut self, first: &[u8], member: &Member) -> Result<(), Failure> {
        let stat = self.target.stat_first(first, &member.path)?;
        let (parent, name) = self.target.locate(first)?;
        let mut copy = Member {
            kind: kind(&stat),
            path: member.path.clone(),
            link: Vec::new(),
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            sparse: None,
            rdev: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            xattrs: Vec::new(),
            acls: Vec::new(),
        };
        if copy.kind != Kind::Regular {
            if copy.kind == Kind::Symlink {
                let link = readlinkat(&parent, &name, Vec::new());
                copy.link = link.map_err(verdict("reading its first name", first))?.into_bytes();
            }
            let path = std::ffi::OsString::from_vec(Place::path(&parent, &name)).into_encoded_bytes();
            let path = c_string(first, &path)?;
            copy_attributes(xattr::Target::Path(&path), &mut copy);
            return self.special(&copy);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = openat(&parent, &name, flags, Mode::empty()).map_err(verdict("reading its first name", first))?;
        let from = File::from(opened);
        copy_attributes(xattr::Target::Open(std::os::fd::AsFd::as_fd(&from)), &mut copy);
        let to = File::from(self.target.create_file(&copy.path)?);
        let done = self.copy_data(&from, &to, &copy.path, u64::try_from(stat.st_size).unwrap_or(0));
        let done = done.and_then(|()| Ok(apply(&Place::Open(&to), &copy, &mut self.ledger)?));
        self.removed_unless(done, &copy.path)
    }

    fn copy_data(&mut self, from: &File, to: &File, path: &[u8], size: u64) -> Result<(), Failure> {
        let mut sparse = Sparse::new(to, path, size)?;
        let mut offset = 0;
        loop {
            let length = match from.read_at(&mut self.buffer, offset) {
                Ok(0) => return sparse.finish(),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Ends(failed("reading the first name of", path)(error))),
            };
            let bytes = &self.buffer[..length];
            if !is_zero(bytes) {
                sparse.write(bytes, offset)?;
                self.summary.bytes += length as u64;
            }
            offset += length as u64;
        }
    }
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Kind::Symlink,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Fifo => Kind::Fifo,
        FileType::RegularFile | FileType::Directory | FileType::Socket | FileType::Unknown => Kind::Regular,
    }
}

/// What the first name could not be given was said there.
fn copy_attributes(from: xattr::Target<'_>, copy: &mut Member) {
    let (attributes, _) = xattr::Reader::new().read(from);
    for (name, value) in attributes.xattrs {
        if let Ok(name) = std::ffi::CString::new(name) {
            copy.xattrs.push((name, value));
        }
    }
    for (name, text) in [(ACCESS_ACL, attributes.access_acl), (DEFAULT_ACL, attributes.default_acl)] {
        copy.acls.extend(text.map(|text| (name.to_owned(), acl::to_binary(&text))));
    }
}
