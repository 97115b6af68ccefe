//! Creates further names of a file, or copies it if the file system refuses more names.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FileType, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::attributes::{Place, apply};
use super::data::{Output, is_zero};
use super::target::{checked, verdict};
use super::{BUFFER, Extractor, Failure, failed, refused};
use crate::format::index::FileKind;
use crate::restore::refusal::Refusal;
use crate::tar::{self, Member, shown, xattr};

/// The most copies of one file that further names are tried on.
const MAX_COPIES: usize = 8;

impl Extractor<'_> {
    pub(super) fn hard_link(&mut self, member: &Member) -> Result<(), Failure> {
        let first = checked(&member.link).map_err(|_| {
            refused(&member.path, format!("it links to {:?}; expected a path below the target", shown(&member.link)))
        })?;
        let first = match self.options.link_sources.get(&first) {
            Some(instead) => checked(instead)?,
            None => first,
        };
        self.wait_for(&first)?;
        if let Some(class) = self.target.known.left_out(&first) {
            let message = "left out: it is a hard link to a file that was left out".to_owned();
            return Err(Failure::LeftOut(Refusal { class, message }));
        }
        // The last copy first: the earlier ones have as many names as the file system allows.
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
        self.ledger.altered(&member.path, &format!("restored as a copy instead of a hard link: {why}"));
        let copies = self.copies.entry(first).or_default();
        if copies.len() == MAX_COPIES {
            copies.remove(0);
        }
        copies.push(member.path.clone());
        Ok(())
    }

    /// Owner, mode and time are in the link's own header; the rest is read from the first name. The ledger has the
    /// first name's differences already.
    pub(super) fn copy(&mut self, first: &[u8], member: &Member) -> Result<(), Failure> {
        let stat = self.target.stat_first(first, &member.path)?;
        let (parent, name) = self.target.locate(first)?;
        let mut copy = Member {
            kind: tar::kind_of(FileType::from_raw_mode(stat.st_mode)).unwrap_or_default(),
            path: member.path.clone(),
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            mtime: member.mtime,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            rdev: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            ..Member::default()
        };
        if copy.kind != FileKind::Regular {
            if copy.kind == FileKind::Symlink {
                let link = readlinkat(&parent, &name, Vec::new());
                copy.link = link.map_err(verdict("read the first name of", &member.path))?.into_bytes();
            }
            copy.attributes = xattr::Reader::default().read(xattr::Target::Name(parent.as_fd(), &name)).0;
            return self.special(&copy);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened =
            openat(&parent, &name, flags, Mode::empty()).map_err(verdict("read the first name of", &member.path))?;
        let from = File::from(opened);
        copy.attributes = xattr::Reader::default().read(xattr::Target::Open(from.as_fd())).0;
        let mut to = Output::new(File::from(self.target.create_file(&copy)?), copy);
        let done = self.copy_data(&from, &mut to);
        let done = done.and_then(|()| Ok(apply(&Place::Open(&to.file), &to.member, &mut self.ledger)?));
        self.removed_unless(done, &to.member.path)
    }

    fn copy_data(&mut self, from: &File, to: &mut Output) -> Result<(), Failure> {
        to.set_length()?;
        let mut buffer = vec![0; BUFFER];
        let mut offset = 0;
        loop {
            let length = match from.read_at(&mut buffer, offset) {
                Ok(0) => return to.finish(),
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed("read the first name of", &to.member.path)(error).into()),
            };
            let bytes = &buffer[..length];
            if !is_zero(bytes) {
                to.write(bytes, offset)?;
                self.summary.bytes += length as u64;
            }
            offset += length as u64;
        }
    }
}
