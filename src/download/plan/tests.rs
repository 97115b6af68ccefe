use proptest::prelude::*;

use super::*;
use crate::format::codec::{Encoding, max_stored};
use crate::format::index::ChunkId;

fn chunk(object: u32, offset: u64, stored_len: u32, plain_len: u32) -> Chunk {
    Chunk { id: ChunkId([0; 32]), plain_len, encoding: Encoding::Zstd, object, offset, stored_len }
}

fn one(span: Range<usize>) -> Vec<Range<usize>> {
    std::iter::once(span).collect()
}

fn groups(selection: Selection, chunks: &[Chunk]) -> Vec<Group> {
    groups_of(selection, &[], chunks)
}

fn groups_of(selection: Selection, forms: &[Form], chunks: &[Chunk]) -> Vec<Group> {
    let mut planner = Planner::new(selection, forms.to_vec());
    let mut groups: Vec<Group> = chunks.iter().filter_map(|chunk| planner.add(*chunk)).collect();
    groups.extend(planner.finish());
    groups
}

fn extents(group: &Group) -> Vec<(u32, u64, usize)> {
    group.extents.iter().map(|extent| (extent.object, extent.bytes.start, extent.room())).collect()
}

#[test]
fn neighbouring_chunks_are_fetched_in_one_request() {
    const FAR: u64 = 1 << 30;
    let chunks = [chunk(0, 0, 10, 100), chunk(1, FAR, 10, 100), chunk(0, 10, 10, 100), chunk(1, 5, 10, 100)];
    let found = groups(Selection::Whole, &chunks);
    assert_eq!(found.len(), 1);
    assert_eq!(extents(&found[0]), [(0, 0, 20), (1, 5, 10), (1, FAR, 10)]);
    assert_eq!(found[0].pieces.iter().map(|piece| piece.start).collect::<Vec<_>>(), [0, 30, 10, 20]);
    assert_eq!((found[0].plain, found[0].spans.clone(), found[0].positions.clone()), (400, one(0..400), 0..400));
}

#[test]
fn a_small_gap_saves_a_request() {
    let gap = GAP as u64;
    let found =
        groups(Selection::Whole, &[chunk(0, 0, 10, 1), chunk(0, 10 + gap, 10, 1), chunk(0, 21 + 2 * gap, 9, 1)]);
    assert_eq!(extents(&found[0]), [(0, 0, 20 + GAP), (0, 21 + 2 * gap, 9)]);
}

#[test]
fn a_repeated_chunk_is_fetched_once() {
    let same = chunk(0, 5, 10, 100);
    let found = groups(Selection::Whole, &[same, chunk(1, 0, 7, 1), same, same]);
    assert_eq!(found.len(), 1);
    assert_eq!((extents(&found[0]), found[0].plain), (vec![(0, 5, 10), (1, 0, 7)], 301));
}

#[test]
fn only_uncompressed_neighbours_in_their_order_are_in_place() {
    let raw = |object, offset| Chunk { encoding: Encoding::Raw, ..chunk(object, offset, 10, 10) };
    let in_place = |chunks: &[Chunk]| groups(Selection::Whole, chunks)[0].in_place();
    assert_eq!(in_place(&[raw(0, 5), raw(0, 15), raw(1, 0)]), Some(0..30));
    assert_eq!(in_place(&[raw(0, 15), raw(0, 5)]), None, "not in the stream's order");
    assert_eq!(in_place(&[raw(0, 0), raw(0, 11)]), None, "a gap");
    assert_eq!(in_place(&[raw(0, 0), raw(0, 0)]), None, "fetched once, needed twice");
    assert_eq!(in_place(&[raw(0, 0), chunk(0, 10, 10, 10)]), None, "compressed");
    let sealed =
        |offset| groups_of(Selection::Whole, &[Form::Sealed], &[raw(0, offset), raw(0, offset + 10)])[0].in_place();
    assert_eq!(sealed(CHUNK as u64 + 7), Some(7..27));
}

#[test]
fn an_encrypted_object_is_fetched_in_whole_chunks_of_age_and_none_twice() {
    const AGE: u64 = CHUNK as u64;
    let forms = [Form::Sealed, Form::Plain, Form::Sealed];
    // Two in one chunk of age, one in the next, one behind a small gap, one far away, one of a plain object.
    let chunks = [
        chunk(0, AGE + 10, 10, 100),
        chunk(1, 7, 10, 100),
        chunk(0, AGE + 20, 65_536, 100),
        chunk(0, 4 * AGE - 1, 2, 100),
        chunk(0, 90 * AGE, 5, 100),
        chunk(2, 3, 5, 100),
    ];
    let found = groups_of(Selection::Whole, &forms, &chunks);
    assert_eq!(found.len(), 1);
    let four = 4 * SEALED_CHUNK;
    let expected = [(0, AGE, four), (0, 90 * AGE, SEALED_CHUNK), (1, 7, 10), (2, 0, SEALED_CHUNK)];
    assert_eq!(extents(&found[0]), expected);
    let end = found[0].extents[0].bytes.end;
    assert_eq!(end, 4 * AGE + 1, "no byte behind the last chunk must exist");
    let starts: Vec<usize> = found[0].pieces.iter().map(|piece| piece.start).collect();
    let far = four + SEALED_CHUNK;
    assert_eq!(starts, [10, far, 20, 3 * CHUNK - 1, four, far + 10 + 3]);
}

#[test]
fn what_compresses_well_is_bounded_by_its_plain_size() {
    let many: Vec<Chunk> = (0..10).map(|n| chunk(0, n * 200, 200, 4 << 20)).collect();
    assert!(groups(Selection::Whole, &many).iter().all(|group| group.plain == PLAIN));
    let tiny: Vec<Chunk> = (0..5000).map(|n| chunk(0, n * 1025, 1025, 1)).collect();
    for group in groups(Selection::Whole, &tiny) {
        assert!(group.stored() <= STORED && group.pieces.len() <= MAX_PIECES);
    }
}

#[test]
fn only_what_is_selected_is_fetched() {
    let chunks: Vec<Chunk> = (0..10).map(|n| chunk(0, n << 20, 50, 100)).collect();
    let found = groups(Selection::Ranges(vec![10..20, 30..30, 40..120, 500..501]), &chunks);
    assert_eq!(found.len(), 1);
    assert_eq!(extents(&found[0]), [(0, 0, 50), (0, 1 << 20, 50), (0, 5 << 20, 50)]);
    assert_eq!(found[0].spans, [10..20, 40..120, 200..201]);
}

proptest! {
    #[test]
    fn a_group_fits_its_buffers_and_every_chunk_is_in_what_is_fetched(
        chunks in prop::collection::vec((0_u32..4, 0_u64..4000, 1_u32..5 << 20, 1_u32..=4 << 20), 1..60),
    ) {
        let forms = [Form::Plain, Form::Sealed, Form::Plain, Form::Sealed];
        let chunks: Vec<Chunk> = chunks
            .into_iter()
            .map(|(object, offset, stored, plain)| chunk(object, offset * 2621, stored.min(max_stored(plain)), plain))
            .collect();
        let mut next = chunks.iter();
        for group in groups_of(Selection::Whole, &forms, &chunks) {
            prop_assert!(group.stored() <= STORED && group.plain <= PLAIN);
            let mut starts = Vec::new();
            let mut before = 0;
            for extent in &group.extents {
                starts.push(before);
                before += extent.room();
            }
            for pair in group.extents.windows(2) {
                let apart = pair[0].object != pair[1].object || pair[0].form.cover(pair[0].bytes.clone()).end <= pair[1].bytes.start;
                prop_assert!(apart, "{:?}", pair);
            }
            for Piece { chunk, start, .. } in &group.pieces {
                prop_assert_eq!(next.next(), Some(chunk));
                let found = group.extents.iter().zip(&starts).any(|(extent, before)| {
                    let at = chunk.offset.checked_sub(extent.bytes.start).and_then(|at| usize::try_from(at).ok());
                    let end = chunk.offset + u64::from(chunk.stored_len);
                    extent.object == chunk.object
                        && at.is_some_and(|at| *start == before + at && end <= extent.bytes.end)
                });
                prop_assert!(found);
            }
        }
        prop_assert!(next.next().is_none());
    }
}
