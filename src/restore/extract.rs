//! Unpacks a tar stream that is not trusted.
//!
//! # What it promises
//! Nothing outside the target is created, changed or opened, whatever the archive holds: a path is walked one component
//! at a time without following links, and a component that is not a directory is refused. What is created is created
//! new; with `overwrite`, what is not a directory is removed first. A member is restored with owner, mode, time, extended attributes
//! and ACLs; directories get theirs at the end, when nothing is written into them any more. Devices are restored, so a
//! target that others can enter should be mounted `nodev,nosuid`, as with any archive.
//!
//! # What it costs
//! One buffer of [`BUFFER`] bytes, one header, a sparse file's map, and a few hundred bytes for each directory.
//!
//! # What happens on failure
//! The first thing that does not add up is an error that names the member and what was expected; the member at hand is
//! removed again, what was restored before it stays. What this process may not do (owners without being root) and what
//! the file system does not know (ACLs) is a warning.

mod archive;
mod pax;
mod target;

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use self::archive::{Archive, Kind, Member};
use self::target::{Place, Target};
use crate::error::{Class, Classify, Report};
use crate::source::Warning;

/// What a stream ends with. A caller that feeds only some members of an archive adds it.
pub const END_OF_ARCHIVE: [u8; 1024] = [0; 1024];

/// Bytes on their way into a file.
const BUFFER: usize = 256 << 10;

/// Warnings a summary lists; above that only the count goes up.
const MAX_WARNINGS: usize = 1000;

/// How to unpack.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether what is in the way, and is not a directory, is replaced. Otherwise it is an error.
    pub overwrite: bool,
    /// Paths in the archive, and where they are written to instead. For a hard link whose first name is not wanted: that
    /// member's data becomes the first of the wanted names.
    pub link_sources: HashMap<Vec<u8>, Vec<u8>>,
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members, directories too.
    pub files: u64,
    /// Bytes of data written.
    pub bytes: u64,
    /// All of them; `warnings` holds at most 1000.
    pub warning_count: u64,
    pub warnings: Vec<Warning>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reader's own error, to be told apart by who made the reader.
    #[error("reading the archive at byte {offset}: {error}")]
    Read {
        offset: u64,
        #[source]
        error: io::Error,
    },
    #[error("the archive ends at byte {offset}, within {what}; expected {missing} more bytes")]
    Truncated { offset: u64, what: String, missing: u64 },
    #[error("the archive's header at byte {offset}: {reason}")]
    Header { offset: u64, reason: String },
    #[error("the archive's member {path:?} is refused: {reason}")]
    Refused { path: String, reason: String },
    #[error("{path:?} exists already; expected it not to, and there is one member of each name")]
    Exists { path: String },
    #[error("{action} {path:?}: {error}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        error: io::Error,
    },
}

impl Classify for Error {
    fn report(&self) -> Report {
        let class = match self {
            Self::Truncated { .. } | Self::Header { .. } | Self::Refused { .. } => Class::Integrity,
            Self::Exists { .. } => Class::Conflict,
            Self::Read { .. } | Self::Io { .. } => Class::Local,
        };
        Report::new(class, self.to_string())
    }
}

/// How a path is shown: escaped, so that it cannot play tricks on a terminal or in a log.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn refused(path: &[u8], reason: impl Into<String>) -> Error {
    Error::Refused { path: shown(path), reason: reason.into() }
}

fn failed<E: Into<io::Error>>(action: &'static str, path: &[u8]) -> impl FnOnce(E) -> Error {
    let path = shown(path);
    move |error| Error::Io { action, path, error: error.into() }
}

/// Unpacks all of `reader`, which is read to its end, below `target`, which is created if need be.
///
/// # Errors
/// At the first member that is malformed or would leave the target, when the archive ends early, or when the target
/// cannot be written.
pub fn extract(reader: impl Read, target: &Path, options: &Options) -> Result<Summary, Error> {
    let name = target.as_os_str().as_bytes();
    std::fs::create_dir_all(target).map_err(failed("creating the target", name))?;
    let mut extractor = Extractor {
        archive: Archive::new(reader),
        target: Target::open(target, options.overwrite).map_err(failed("opening the target", name))?,
        options,
        directories: Vec::new(),
        summary: Summary::default(),
        foreign: 0,
        buffer: vec![0; BUFFER],
    };
    while let Some(member) = extractor.archive.next_member()? {
        extractor.member(member)?;
        extractor.summary.files += 1;
    }
    extractor.finish()
}

struct Extractor<'a, R> {
    archive: Archive<R>,
    target: Target,
    options: &'a Options,
    directories: Vec<Directory>,
    summary: Summary,
    /// Members whose owner could not be restored.
    foreign: u64,
    buffer: Vec<u8>,
}

/// What a directory gets at the end.
struct Directory {
    path: Vec<u8>,
    attributes: Box<Member>,
}

impl<R: Read> Extractor<'_, R> {
    fn member(&mut self, mut member: Member) -> Result<(), Error> {
        if let Some(instead) = self.options.link_sources.get(&member.path) {
            member.path = target::checked(instead)?;
        }
        if member.path.is_empty() && member.kind != Kind::Directory {
            return Err(refused(b".", "it is the target itself; expected a directory"));
        }
        match member.kind {
            Kind::Directory => self.directory(member),
            Kind::Regular => self.file(&member),
            Kind::HardLink => self.hard_link(&member),
            Kind::Symlink | Kind::Fifo | Kind::CharDevice | Kind::BlockDevice => self.special(&member),
        }
    }

    fn directory(&mut self, member: Member) -> Result<(), Error> {
        if !member.path.is_empty() {
            self.target.create_directory(&member.path)?;
        }
        self.directories.push(Directory { path: member.path.clone(), attributes: Box::new(member) });
        Ok(())
    }

    fn file(&mut self, member: &Member) -> Result<(), Error> {
        let file = File::from(self.target.create_file(&member.path)?);
        let written = match member.sparse {
            Some(size) => self.sparse_data(&file, member, size),
            None => self.data(&file, member),
        };
        let done = written.and_then(|()| self.attributes(&Place::Open(&file), member));
        if done.is_err() {
            // The first error is the one to report.
            let _ = self.target.remove(&member.path);
        }
        done
    }

    fn data(&mut self, mut file: &File, member: &Member) -> Result<(), Error> {
        loop {
            let length = self.archive.data(&mut self.buffer)?;
            if length == 0 {
                return Ok(());
            }
            file.write_all(&self.buffer[..length]).map_err(failed("writing", &member.path))?;
            self.summary.bytes += length as u64;
        }
    }

    fn sparse_data(&mut self, file: &File, member: &Member, size: u64) -> Result<(), Error> {
        let segments = self.archive.sparse_map(member, size)?;
        file.set_len(size).map_err(failed("setting the length of", &member.path))?;
        for segment in segments {
            let mut offset = segment.offset;
            let end = segment.offset + segment.length;
            while offset < end {
                let wanted = usize::try_from(end - offset).map_or(BUFFER, |left| left.min(BUFFER));
                let length = self.archive.data(&mut self.buffer[..wanted])?;
                if length == 0 {
                    return Err(refused(&member.path, "its data ends before its map; expected the map's sum"));
                }
                file.write_all_at(&self.buffer[..length], offset).map_err(failed("writing", &member.path))?;
                offset += length as u64;
                self.summary.bytes += length as u64;
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, member: &Member) -> Result<(), Error> {
        let first = target::checked(&member.link).map_err(|_| {
            refused(&member.path, format!("it links to {:?}; expected a path below the target", shown(&member.link)))
        })?;
        let first = match self.options.link_sources.get(&first) {
            Some(instead) => target::checked(instead)?,
            None => first,
        };
        // The first of the wanted names is the file already.
        if first == member.path { Ok(()) } else { self.target.link(&first, &member.path) }
    }

    fn special(&mut self, member: &Member) -> Result<(), Error> {
        match self.target.create_special(member) {
            Ok(()) => {}
            Err(Error::Io { error, .. }) if is_device(member.kind) && errno(&error) == Some(Errno::PERM) => {
                self.warn(&member.path, "it is a device, which this user may not create; it is left out");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        let (parent, name) = self.target.locate(&member.path)?;
        let done = self.attributes(&Place::Name(&parent, &name), member);
        if done.is_err() {
            let _ = self.target.remove(&member.path);
        }
        done
    }

    /// Everything but the data. The mode comes after the owner, which would take setuid away; the ACL after the mode, which
    /// would change its mask; the time after everything.
    fn attributes(&mut self, place: &Place<'_>, member: &Member) -> Result<(), Error> {
        let mut mode = member.mode;
        match place.set_owner(member.uid, member.gid) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                self.foreign += 1;
                // Not for the owner it is not meant for.
                mode &= 0o1777;
            }
            Err(error) => return Err(failed("setting the owner of", &member.path)(error)),
        }
        for (name, value) in &member.xattrs {
            self.xattr(place, &member.path, name, value)?;
        }
        place.set_mode(mode, member.kind).map_err(failed("setting the mode of", &member.path))?;
        for (name, acl) in &member.acls {
            match acl {
                Ok(acl) => self.xattr(place, &member.path, name, acl)?,
                Err(reason) => self.warn(&member.path, format!("its ACL is not restored: {reason}")),
            }
        }
        place.set_mtime(member.mtime).map_err(failed("setting the time of", &member.path))
    }

    fn xattr(&mut self, place: &Place<'_>, path: &[u8], name: &CStr, value: &[u8]) -> Result<(), Error> {
        match place.set_xattr(name, value) {
            Ok(()) => Ok(()),
            // Not known to the file system, not allowed to this user or on this type of file, no room for it in the inode.
            Err(
                error @ (Errno::NOTSUP | Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::INVAL | Errno::TOOBIG),
            ) => {
                self.warn(path, format!("its attribute {} is not restored: {error}", name.to_string_lossy()));
                Ok(())
            }
            Err(error) => Err(failed("setting an extended attribute of", path)(error)),
        }
    }

    fn finish(mut self) -> Result<Summary, Error> {
        let mut directories = std::mem::take(&mut self.directories);
        // What is below a directory comes before it, so that its mode cannot be in the way. (The sort is stable: of two
        // members for one directory, the later one wins.)
        directories.sort_by(|a, b| b.path.cmp(&a.path));
        for Directory { path, attributes } in directories {
            let directory = File::from(self.target.open_directory(&path)?);
            self.attributes(&Place::Open(&directory), &attributes)?;
        }
        if self.foreign > 0 {
            let message = format!("the owners of {} members are not restored: this user may not", self.foreign);
            self.warn(b"", message);
        }
        Ok(self.summary)
    }

    fn warn(&mut self, path: &[u8], message: impl Into<String>) {
        self.summary.warning_count += 1;
        if self.summary.warnings.len() < MAX_WARNINGS {
            let path = PathBuf::from(OsStr::from_bytes(path));
            self.summary.warnings.push(Warning { path, message: message.into() });
        }
    }
}

const fn is_device(kind: Kind) -> bool {
    matches!(kind, Kind::CharDevice | Kind::BlockDevice)
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// A name or target for a system call.
fn c_string(member: &[u8], bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| refused(member, "a name in it holds a NUL; expected none"))
}

#[cfg(test)]
mod tests;
