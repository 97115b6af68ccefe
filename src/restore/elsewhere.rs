//! Finds damaged files in another backup, whose version of them has none of the damaged chunks.

use std::collections::HashSet;
use std::ops::Range;

use super::Error;
use crate::download::index::{self, IndexFile};
use crate::format::damage::Places;
use crate::format::index::Record;
use crate::format::key::Name;
use crate::format::manifest::{Manifest, Stream};
use crate::location::Location;

/// Paths in an item's tree.
pub type Paths = HashSet<Vec<u8>>;

/// Which of these files of an item the backup has whole, as far as `lost` tells; an empty path stands for all of an item that is no tree.
///
/// # Errors
/// When the item's index cannot be read.
pub async fn find(
    location: &Location,
    manifest: &Manifest,
    item: &Name,
    paths: &Paths,
    lost: &Places,
) -> Result<Vec<Vec<u8>>, Error> {
    let Some((item, stream)) = manifest.streams().find(|(found, _)| found.name == *item) else { return Ok(Vec::new()) };
    let index = index::fetch(location, stream).await?;
    let (stream, paths, lost, tree) = (stream.clone(), paths.clone(), lost.clone(), item.source.is_tree());
    super::blocking(move || whole(&index, &stream, tree, &paths, &lost)).await
}

/// A file that is being looked at, and whether no lost chunk was seen in it.
struct Candidate {
    path: Vec<u8>,
    bytes: Range<u64>,
    whole: bool,
}

fn whole(index: &IndexFile, stream: &Stream, tree: bool, paths: &Paths, lost: &Places) -> Result<Vec<Vec<u8>>, Error> {
    let lost: Vec<_> = stream.objects.iter().map(|object| lost.get(&object.key)).collect();
    let mut open: Vec<Candidate> = Vec::new();
    if !tree && paths.contains(&b""[..]) {
        open.push(Candidate { path: Vec::new(), bytes: 0..stream.plain_bytes, whole: true });
    }
    let (mut found, mut position) = (Vec::new(), 0);
    let mut records = index.open(stream)?;
    while let Some(record) = records.next_record().map_err(|error| index.refused(error))? {
        match record {
            Record::File(file) if tree && paths.contains(&file.path) => {
                let bytes = file.member_start..file.content_start + file.content_len;
                open.push(Candidate { path: file.path, bytes, whole: true });
            }
            Record::Chunk(chunk) => {
                let end = position + u64::from(chunk.plain_len);
                let of_object = lost.get(chunk.object as usize).copied().flatten();
                let lost = of_object.is_some_and(|places| places.contains(&chunk.offset));
                for candidate in open.iter_mut().filter(|candidate| candidate.bytes.start < end) {
                    candidate.whole &= !(lost && candidate.bytes.end > position);
                }
                position = end;
                let done = open.extract_if(.., |candidate| candidate.bytes.end <= end);
                found.extend(done.filter(|candidate| candidate.whole).map(|candidate| candidate.path));
            }
            Record::File(_) | Record::End { .. } => {}
        }
    }
    Ok(found)
}
