//! Encrypted streams.

use super::super::testing::Cut;
use super::*;
use crate::age::{self, CHUNK, Identity, SEALED_CHUNK};
use crate::format::manifest::IndexObject;

/// Bytes of header and nonce for one recipient.
const PREFIX: usize = 22 + 98 + 48 + 16;

/// Chunks that are no multiple of age's, several objects, of several of age's chunks each.
const CUT: Cut = Cut { chunk: 41_000, chunks_an_object: 7, codec: Codec { compression: Compression::None } };

async fn encrypted(plain: &[u8]) -> (House, Stream) {
    let house = house(40 * MIB);
    let key = Identity::generate().unwrap();
    let mut stream = house.stream("a", plain, &[], CUT).await;
    house.encrypt(&mut stream, &[key.recipient()]).await;
    (house.with(vec![key]), stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_stream_comes_back_with_one_more_request_an_object() {
    for length in [0, 1, 41_000, 1_000_000] {
        let plain = noise(length, 7);
        let (house, stream) = encrypted(&plain).await;
        let before = house.store.requests("GetObject");
        assert!(read(&house, &stream, Selection::Whole).await.unwrap() == plain);
        // The index, and for each object its header and its bytes.
        assert_eq!(house.store.requests("GetObject") - before, 1 + 2 * stream.objects.len(), "{length}");
        assert_eq!(house.location.process.budget.in_use(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_chunks_and_little_memory() {
    let house = house(40 * MIB);
    let key = Identity::generate().unwrap();
    let plain = [noise(20 << 20, 1), vec![0; 30 << 20]].concat();
    for compression in [Compression::None, Compression::default()] {
        let cut = Cut { chunk: (4 << 20) - 7, chunks_an_object: 6, codec: Codec { compression } };
        let mut stream = house.stream("a", &plain, &[], cut).await;
        house.encrypt(&mut stream, &[key.recipient()]).await;
        let house = house.with(vec![key.to_text().parse().unwrap()]);
        assert!(read(&house, &stream, Selection::Whole).await.unwrap() == plain);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_ranges_of_an_encrypted_stream_come_back(ranges in ranges(600_000), seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let plain = noise(600_000, seed);
            let (house, stream) = encrypted(&plain).await;
            let slice = |range: &Range<u64>| &plain[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            let expected: Vec<u8> = ranges.iter().flat_map(slice).copied().collect();
            assert!(read(&house, &stream, Selection::Ranges(ranges)).await.unwrap() == expected);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_encrypted_object_is_refused_by_its_key() {
    let (house, stream) = encrypted(&noise(600_000, 3)).await;
    let (first, second) = (&stream.objects[0].key, &stream.objects[1].key);
    let (good, other) = (house.object(second).await, house.object(first).await);
    let payload = PREFIX..;
    let swapped = {
        let mut data = good.clone();
        data[PREFIX..PREFIX + 2 * SEALED_CHUNK].rotate_left(SEALED_CHUNK);
        data
    };
    let flip = |at: usize| {
        let mut data = good.clone();
        data[at] ^= 1;
        data
    };
    for (what, data, expected) in [
        ("an object cut at a chunk", good[..PREFIX + SEALED_CHUNK].to_vec(), "range"),
        ("an object cut in its header", good[..40].to_vec(), "range"),
        ("swapped chunks", swapped, "has chunk 1 in the place of chunk 0"),
        ("a changed chunk", flip(PREFIX + CHUNK / 2), "has a damaged chunk, 0"),
        ("a changed later chunk", flip(PREFIX + SEALED_CHUNK + 9), "has a damaged chunk, 1"),
        ("a changed nonce", flip(PREFIX - 1), "has no chunk that its key opens"),
        ("a changed MAC", flip(PREFIX - 30), "MAC"),
        (
            "another object's payload",
            [&good[..PREFIX], &other[payload.clone()]].concat(),
            "has no chunk that its key opens",
        ),
        ("another object of the backup", other.clone(), "the chunk at byte 0 has the digest"),
        ("what is no age file", noise(good.len(), 5), "is not an age file"),
        (
            "a header that does not end",
            [b"age-encryption.org/v1\n-> X25519 ".to_vec(), vec![b'a'; good.len()]].concat(),
            "more than 65536 bytes",
        ),
        (
            "a header of many stanzas",
            [b"age-encryption.org/v1\n".to_vec(), b"-> a\n\n".repeat(50_000)].concat(),
            "more than 256 stanzas",
        ),
    ] {
        house.put(second, data).await;
        let error = refused(read(&house, &stream, Selection::Whole).await, second);
        assert!(error.to_string().contains(expected), "{what}: {error}");
        // Only what is selected is fetched, and the first object's key does not depend on the second's.
        read(&house, &stream, Selection::Ranges(std::iter::once(0..287_000).collect())).await.unwrap();
    }
    house.put(second, good).await;
    read(&house, &stream, Selection::Whole).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spoilt_on_the_way_is_fetched_once_more() {
    let plain = noise(300_000, 9);
    for (spoilt, expected) in [(1, None), (2, None), (4, Some(Class::Integrity))] {
        let (house, stream) = encrypted(&plain).await;
        let first = stream.objects[0].key.as_str().to_owned();
        let mut left = spoilt;
        // Of the first object: its header, then its bytes.
        house.store.script(move |operation, key, _| {
            let fails = operation == "GetObject" && key == first && left > 0;
            left -= u32::from(fails);
            (fails && (left > 0 || spoilt != 2)).then_some(Fault::Spoil)
        });
        let found = read(&house, &stream, Selection::Whole).await;
        assert_eq!(found.as_ref().err().map(Classify::class), expected, "{spoilt}");
        assert!(found.is_err() || found.unwrap() == plain);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_an_encrypted_stream_is_refused_in_its_own_class() {
    let plain = noise(100_000, 2);
    let (house, mut stream) = encrypted(&plain).await;
    let stranger = || Identity::generate().unwrap();
    for held in [vec![], vec![stranger()], vec![stranger(), stranger()]] {
        let error = read(&house.with(held), &stream, Selection::Whole).await.unwrap_err();
        assert_eq!((error.class(), error.key()), (Class::Identity, Some(&stream.index.key)), "{error}");
        assert!(error.report().remedy.unwrap().contains("--identity"));
    }
    // An older object of other recipients.
    let (old, key) = (stranger(), stream.objects[0].key.clone());
    let sealed = age::seal(noise(100_000, 2).into(), &[old.recipient()]).unwrap();
    stream.objects[0].size = sealed.len() as u64;
    house.put(&key, sealed).await;
    let error = read(&house, &stream, Selection::Whole).await.unwrap_err();
    assert_eq!((error.class(), error.key()), (Class::Identity, Some(&key)), "{error}");
    // One file of both identities reads it.
    let opens = house.location.identities[0].to_text().parse().unwrap();
    assert!(read(&house.with(vec![opens, old]), &stream, Selection::Whole).await.unwrap() == plain);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_index_is_checked_before_it_is_decrypted_and_behind_it() {
    let (house, mut stream) = encrypted(&noise(50_000, 2)).await;
    let key = stream.index.key.clone();
    let good = house.object(&key).await;
    house.change(&key, |data| data[PREFIX + 3] ^= 1).await;
    let error = refused(read(&house, &stream, Selection::Whole).await, &key);
    assert!(matches!(error, Error::Object { field: "the SHA-256", .. }), "{error}");
    // Somebody who can write a manifest can give the digest of anything.
    for (data, expected) in [
        (house.object(&key).await, "has no chunk that its key opens"),
        (good[..good.len() - 5].to_vec(), "has no chunk that its key opens"),
        (good[..100].to_vec(), "the age header is cut"),
        (noise(200, 1), "is not an age file"),
    ] {
        stream.index = IndexObject { key: key.clone(), ..house.index("b", data.clone()).await };
        house.put(&key, data).await;
        let error = refused(read(&house, &stream, Selection::Whole).await, &key);
        assert!(error.to_string().contains(expected), "{error}");
    }
}
