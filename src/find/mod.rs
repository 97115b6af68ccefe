//! Looks for files in what backups list: which backups have a file, and in what two backups differ.
//!
//! Reads indexes only, never content, one record at a time.

pub mod changes;
pub mod folder;
pub mod versions;

use crate::download::index::IndexFile;
use crate::download::{self};
use crate::format::index::{FileEntry, Record};
use crate::format::manifest::Stream;

/// Calls `each` with the files of an index, in its order. Blocks.
///
/// # Errors
/// When the index is damaged or cannot be opened, and the errors of `each`.
pub fn files<E: From<download::Error>>(
    index: &IndexFile,
    stream: &Stream,
    mut each: impl FnMut(FileEntry) -> Result<(), E>,
) -> Result<(), E> {
    let mut records = index.open(stream)?;
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        if let Record::File(file) = record {
            each(file)?;
        }
    }
    Ok(())
}
