//! What a restore would write: `--dry-run`.

use std::io;

use tokio::runtime::Handle;

use super::select::{self, Choice};
use super::{Error, Options, choose, failure, fetch_index};
use crate::format::index::FileEntry;
use crate::format::manifest::{Item, Manifest};
use crate::location::Location;
use crate::restore::Summary;
use tokio_util::sync::CancellationToken;

/// How much a restore would write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preview {
    pub files: u64,
    pub bytes: u64,
}

/// Calls `each` with what a restore with these options would write: each member of a tree, each other item. Blocks.
///
/// # Errors
/// When an item's index cannot be read, or `each` fails.
pub fn preview(
    location: &Location,
    manifest: &Manifest,
    options: &Options,
    (runtime, cancel): (&Handle, &CancellationToken),
    mut each: impl FnMut(&Item, Option<&FileEntry>) -> io::Result<()>,
) -> Result<Preview, Error> {
    let mut preview = Preview::default();
    for (item, stream) in choose(manifest, &options.items, &mut Summary::default())? {
        let choice = Choice::new(&options.include, &options.exclude, &item.name);
        let wants = |path: &[u8]| choice.as_ref().is_none_or(|choice| choice.wants(path));
        let (mut told, mut tell) = (Ok(()), |entry: Option<&FileEntry>, bytes| {
            preview.files += 1;
            preview.bytes += bytes;
            each(item, entry)
        });
        if item.source.is_tree() {
            let index = runtime.block_on(fetch_index(location, stream, cancel))?;
            select::each_file(&index, stream, |file| {
                if told.is_ok() && !cancel.is_cancelled() && wants(&file.path) {
                    told = tell(Some(&file), file.size);
                }
            })?;
        } else if wants(super::file::file_name(item).as_bytes()) {
            told = tell(None, stream.plain_bytes);
        }
        told.map_err(failure::written)?;
    }
    Ok(preview)
}
