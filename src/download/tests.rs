mod sealed;

use std::ops::Range;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::testing::{Cut, House, MIB, RAW, SMALL, house, noise};
use super::*;
use crate::format::codec::{self, Codec, Compression, Encoding};
use crate::format::index::{Chunk, Writer};
use crate::format::manifest::Stream;
use crate::store::memory::Fault;

async fn read(house: &House, stream: &Stream, selection: Selection) -> Result<Vec<u8>, Error> {
    let index = index::fetch(&house.location, stream).await?;
    let mut reader = plain::read(&house.location, stream, index, selection, CancellationToken::new());
    let mut out = Vec::new();
    // Keeps one slice while asking for the next, as a consumer may.
    let mut held;
    while let Some(bytes) = reader.next().await? {
        out.extend_from_slice(&bytes);
        held = bytes;
        assert!(!held.is_empty());
    }
    Ok(out)
}

/// The failure, which must concern that object; for a chunk, the error inside.
fn refused(result: Result<Vec<u8>, Error>, object: &ObjectKey) -> Error {
    let error = result.map(|bytes| bytes.len()).unwrap_err();
    assert_eq!((error.class(), error.key()), (Class::Integrity, Some(object)), "{error}");
    if let Error::Fetch { error, .. } = error { *error } else { error }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_comes_back_whole_on_little_memory() {
    let house = house(40 * MIB);
    let plain = [noise(30 << 20, 1), vec![0; 40 << 20]].concat();
    for compression in [Compression::None, Compression::default()] {
        let cut = Cut { chunk: (4 << 20) - 7, chunks_an_object: 6, codec: Codec { compression } };
        let stream = house.stream("a", &plain, &[], cut).await;
        assert!(read(&house, &stream, Selection::Whole).await.unwrap() == plain);
        assert_eq!(house.location.process.budget.in_use(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_no_byte_of_one_and_of_many() {
    let house = house(40 * MIB);
    for length in [0, 1, 50_000] {
        let plain = noise(length, 3);
        let stream = house.stream("a", &plain, &[], SMALL).await;
        assert!(read(&house, &stream, Selection::Whole).await.unwrap() == plain);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_can_never_do_is_refused_by_name() {
    let house = house(16 * MIB);
    let stream = house.stream("a", b"abc", &[], SMALL).await;
    let error = read(&house, &stream, Selection::Whole).await.unwrap_err();
    assert!(matches!(error, Error::Memory(_)) && error.class() == Class::Config, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_the_reader() {
    let house = house(40 * MIB);
    let stream = house.stream("a", &noise(50_000, 1), &[], SMALL).await;
    let index = index::fetch(&house.location, &stream).await.unwrap();
    let cancel = CancellationToken::new();
    let mut reader = plain::read(&house.location, &stream, index, Selection::Whole, cancel.clone());
    cancel.cancel();
    assert_eq!(reader.next().await.unwrap_err().class(), Class::Cancelled);
    assert!(reader.next().await.unwrap().is_none());
}

fn ranges(length: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
    proptest::collection::vec(0..=length, 0..12).prop_map(|mut points| {
        points.sort_unstable();
        points.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_ranges_come_back(ranges in ranges(60_000), seed in any::<u64>(), cut in prop_oneof![Just(SMALL), Just(RAW)]) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let house = house(40 * MIB);
            let plain = noise(60_000, seed);
            let stream = house.stream("a", &plain, &[], cut).await;
            let slice = |range: &Range<u64>| &plain[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            let expected: Vec<u8> = ranges.iter().flat_map(slice).copied().collect();
            assert!(read(&house, &stream, Selection::Ranges(ranges)).await.unwrap() == expected);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_refused_before_it_is_decoded() {
    let house = house(40 * MIB);
    let stream = house.stream("a", &noise(50_000, 1), &[], SMALL).await;
    let other = house.stream("b", &noise(50_000, 2), &[], SMALL).await;
    let key = &stream.index.key;
    let good = house.object(key).await;
    house.change(key, |data| data.truncate(data.len() - 1)).await;
    let error = refused(read(&house, &stream, Selection::Whole).await, key);
    assert!(matches!(error, Error::Object { field: "the size", .. }), "{error}");
    house.put(key, good.clone()).await;
    house.change(key, |data| data[30] ^= 1).await;
    let error = refused(read(&house, &stream, Selection::Whole).await, key);
    assert!(matches!(error, Error::Object { field: "the SHA-256", .. }), "{error}");
    house.put(key, house.object(&other.index.key).await).await;
    let error = refused(read(&house, &stream, Selection::Whole).await, key);
    assert!(matches!(error, Error::Object { .. }), "{error}");
    // A manifest with another stream's index fails because of its totals.
    let swapped = Stream { index: other.index.clone(), ..stream.clone() };
    let error = refused(read(&house, &swapped, Selection::Whole).await, &other.index.key);
    assert!(matches!(error, Error::Index { error: IndexError::Mismatch { .. }, .. }), "{error}");
    house.put(key, good).await;
    read(&house, &stream, Selection::Whole).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_data_object_is_refused() {
    let house = house(40 * MIB);
    let stream = house.stream("a", &noise(50_000, 1), &[], SMALL).await;
    let (first, second) = (&stream.objects[0], &stream.objects[1]);
    let good = house.object(&second.key).await;
    house.change(&second.key, |data| data.truncate(data.len() / 2)).await;
    refused(read(&house, &stream, Selection::Whole).await, &second.key);
    house.put(&second.key, good.clone()).await;
    house.change(&second.key, |data| data[5000] ^= 4).await;
    let error = refused(read(&house, &stream, Selection::Whole).await, &second.key);
    assert!(matches!(error, Error::Chunk { .. }), "{error}");
    house.put(&second.key, house.object(&first.key).await).await;
    let error = refused(read(&house, &stream, Selection::Whole).await, &second.key);
    assert!(matches!(error, Error::Chunk { offset: 0, .. }), "{error}");
    house.store.delete(&second.key).await.unwrap();
    let error = read(&house, &stream, Selection::Whole).await.unwrap_err();
    assert_eq!((error.class(), error.positions()), (Class::NotFound, Some(16_000..32_000)));
    assert_eq!(error.key(), Some(&second.key));
    // Ranges that are not selected are not fetched.
    read(&house, &stream, Selection::Ranges(std::iter::once(0..16_000).collect())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_stays_within_its_chunk() {
    let house = house(40 * MIB);
    let mut stream = house.stream("a", &vec![0; 4 << 20], &[], Cut { chunk: 4 << 20, ..SMALL }).await;
    // The index states 1000 bytes for a frame of 4 MiB.
    let mut index = Writer::new(Vec::new()).unwrap();
    let stored_len = u32::try_from(stream.objects[0].size).unwrap();
    let id = codec::digest(&[0; 1000]);
    index.chunk(&Chunk { id, plain_len: 1000, encoding: Encoding::Zstd, object: 0, offset: 0, stored_len }).unwrap();
    let (bytes, totals) = index.finish().unwrap();
    stream.index = house.index("a", bytes).await;
    (stream.plain_bytes, stream.digest) = (totals.plain_bytes, totals.digest);
    let error = refused(read(&house, &stream, Selection::Whole).await, &stream.objects[0].key);
    assert!(matches!(error, Error::Chunk { offset: 0, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_fetched_again_as_its_failure_allows() {
    let plain = noise(10_000, 1);
    let fail = |class| Fault::Refuse(crate::store::Error::local("GetObject", "k", class, "refused"));
    for (fault, failures, expected) in [
        (Fault::Spoil, 1, None),
        (Fault::Spoil, 2, Some(Class::Integrity)),
        (fail(Class::CredentialsExpired), 1, None),
        (fail(Class::CredentialsExpired), 2, Some(Class::CredentialsExpired)),
        (fail(Class::Transient), 1, None),
        (fail(Class::AccessDenied), 1, Some(Class::AccessDenied)),
    ] {
        let house = house(40 * MIB);
        let stream = house.stream("a", &plain, &[], SMALL).await;
        let (mut left, of_data) = (failures, fault.clone());
        house.store.script(move |operation, key, _| {
            let fails = operation == "GetObject" && !key.ends_with("index.zst") && left > 0;
            left -= u32::from(fails);
            fails.then(|| of_data.clone())
        });
        let found = read(&house, &stream, Selection::Whole).await;
        assert_eq!(found.as_ref().err().map(Classify::class), expected, "{fault:?}");
        assert!(found.is_err() || found.unwrap() == plain);
    }
}
