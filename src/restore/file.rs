//! Restores items that are one file, and creates the folders of several items.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::Path;

use rustix::fs::{CWD, FileType, statat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tempfile::{NamedTempFile, PersistError};

use super::extract::{self, Root};
use super::failure::{Error, local};
use super::near;
use super::refusal::{self, Failure, Refusal};
use super::writeback::{Writeback, unsupported};
use crate::format::manifest::{Item, Target};

/// Size of the buffer for reading back.
const BUFFER: usize = 256 << 10;

/// The file name under which a file, command or stdin item is restored.
pub(super) fn file_name(item: &Item) -> String {
    let base = match item.source.target() {
        Target::File(Some(path)) => path.rsplit('/').next().unwrap_or_default(),
        Target::File(None) | Target::Folder | Target::Volume => "",
    };
    let safe = !matches!(base, "" | "." | "..") && base.len() <= 255 && !base.contains(char::is_control);
    if safe { base.to_owned() } else { item.name.to_string() }
}

fn step(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure<Error> {
    move |error| match Errno::from_io_error(&error) {
        Some(errno) if !refusal::ends(errno) => Failure::LeftOut(Refusal::system(action, errno)),
        Some(_) | None => Failure::Ends(local(action, path)(error)),
    }
}

/// The type of an existing file, not following links.
fn found(path: &Path) -> Result<Option<FileType>, Failure<Error>> {
    match statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(step("inspect", path)(errno.into())),
    }
}

/// Creates an item's folder in the target, for its owner alone; keeps an existing one.
pub(super) fn make_folder(folder: &Path) -> Result<Root, Failure<Error>> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            let made = std::fs::File::open(folder).map_err(step("open", folder))?;
            extract::remove_acls(&made, FileType::Directory);
            Ok(Root::Made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = found(folder)?.unwrap_or(FileType::Unknown);
            refusal::in_the_way(found, FileType::Directory).map_err(Failure::LeftOut)?;
            Ok(Root::There)
        }
        Err(error) => Err(step("create", folder)(error)),
    }
}

/// Writes one file, which appears under its name when it is complete. It has no saved owner and mode, so it is this
/// user's alone.
pub(super) fn write(
    mut reader: impl BufRead,
    dir: &Path,
    name: &str,
    (overwrite, read_back): (bool, bool),
) -> Result<u64, Failure<Error>> {
    let path = dir.join(name);
    if let Some(found) = found(&path)? {
        refusal::in_the_way(found, FileType::RegularFile).map_err(Failure::LeftOut)?;
        if !overwrite {
            return Err(Failure::LeftOut(refusal::there_already()));
        }
    }
    // Removed when dropped.
    let temporary = tempfile::Builder::new().prefix(".penstock-").tempfile_in(dir);
    let temporary = temporary.map_err(step("create", &path))?;
    extract::remove_acls(temporary.as_file(), FileType::RegularFile);
    let (mut total, mut digest, mut writeback) = (0, Sha256::new(), Writeback::default());
    loop {
        let bytes = match reader.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(local("read", "the stream")(error).into()),
        };
        near::write_all_at(temporary.as_file(), bytes, total).map_err(step("write", &path))?;
        if read_back {
            digest.update(bytes);
        }
        let count = bytes.len();
        writeback.wrote(temporary.as_file(), count).map_err(step("write", &path))?;
        reader.consume(count);
        total += count as u64;
    }
    writeback.end(temporary.as_file()).map_err(step("write", &path))?;
    if read_back {
        check(temporary.as_file(), digest).map_err(step("read back", &path))?;
    }
    persist(temporary, &path, overwrite).map_err(step("rename the temporary file to", &path))?;
    Ok(total)
}

/// Reads a file back from the disk, which must give what it took.
fn check(file: &File, expected: Sha256) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    let (mut offset, mut found) = (0, Sha256::new());
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => break,
            count => {
                found.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    let same = found.finalize() == expected.finalize();
    if same { Ok(()) } else { Err(io::Error::other("its content is not what was written")) }
}

fn persist(temporary: NamedTempFile, path: &Path, overwrite: bool) -> io::Result<()> {
    let renamed = if overwrite { temporary.persist(path) } else { temporary.persist_noclobber(path) };
    let Err(PersistError { error, file }) = renamed else { return Ok(()) };
    // For file systems that can neither rename without replacing nor link; `path` did not exist a moment ago.
    let plain = unsupported(&error) || Errno::from_io_error(&error) == Some(Errno::PERM);
    if overwrite || !plain || path.symlink_metadata().is_ok() {
        return Err(error);
    }
    file.persist(path).map(drop).map_err(|failed| failed.error)
}
