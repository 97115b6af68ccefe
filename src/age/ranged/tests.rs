use proptest::prelude::*;

use super::super::testing::{Object, noise};
use super::*;

fn ranged(object: &Object) -> Ranged {
    Ranged::new(object.opened(), object.bytes.len() as u64).unwrap()
}

fn read(ranged: &Ranged, object: &[u8], range: Range<u64>) -> Result<Vec<u8>, PayloadError> {
    let fetch = ranged.fetch(&range).unwrap_or(0..0);
    let mut plain = vec![0; usize::try_from(range.end - range.start).unwrap()];
    let (start, end) = (usize::try_from(fetch.start).unwrap(), usize::try_from(fetch.end).unwrap());
    let opened = ranged.open(&range, &object[start..end], &mut plain);
    // The same from the beginning of its first chunk on, in one buffer.
    let skip = usize::try_from(range.start).unwrap() % CHUNK;
    let mut buffer = object[start..end].to_vec();
    let in_place = if range.is_empty() {
        ranged.open_in_place(&(0..0), &mut buffer)
    } else {
        ranged.open_in_place(&(range.start - skip as u64..range.end), &mut buffer)
    };
    assert_eq!(in_place, opened);
    opened?;
    assert!(buffer.is_empty() || buffer[skip..skip + plain.len()] == plain);
    Ok(plain)
}

#[test]
fn ranges_at_every_border_of_a_chunk() {
    for len in [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
        let plain = noise(len);
        let object = Object::of(&plain);
        let ranged = ranged(&object);
        assert_eq!(ranged.plain_len(), len as u64);
        let near = |border: usize| [border.saturating_sub(1), border, border + 1];
        let borders: Vec<usize> = (0..=3).flat_map(|chunk| near(chunk * CHUNK)).chain(near(len)).collect();
        for (start, end) in borders.iter().flat_map(|start| borders.iter().map(move |end| (*start, *end))) {
            if start <= end && end <= len {
                let found = read(&ranged, &object.bytes, start as u64..end as u64);
                assert!(found.as_deref() == Ok(&plain[start..end]), "{start}..{end} of {len}");
            }
        }
        let end = ranged.end();
        let end = &object.bytes[usize::try_from(end.start).unwrap()..];
        assert_eq!(ranged.prove_end(end), Ok(()));
    }
}

#[test]
fn an_empty_payload_has_an_end() {
    let object = Object::of(&[]);
    let ranged = ranged(&object);
    assert_eq!((ranged.plain_len(), ranged.fetch(&(0..0)), ranged.fetch(&(0..1))), (0, None, None));
    assert_eq!(ranged.prove_end(object.payload()), Ok(()));
    assert_eq!(ranged.open(&(0..0), &[], &mut []), Ok(()));
}

#[test]
fn a_wrong_length_of_the_object_is_found_at_its_end() {
    let object = Object::of(&noise(3 * CHUNK));
    let short = Ranged::new(object.opened(), (object.prefix + 2 * SEALED_CHUNK) as u64).unwrap();
    let end = &object.payload()[SEALED_CHUNK..2 * SEALED_CHUNK];
    assert_eq!(short.prove_end(end), Err(PayloadError::Truncated { chunk: 1 }));
    assert_eq!(read(&short, &object.bytes, 0..10), Ok(noise(10)), "a chunk before the end is proven by itself");
    let long = [object.bytes.as_slice(), &[0; 100]].concat();
    let longer = Ranged::new(object.opened(), long.len() as u64).unwrap();
    let refused = read(&longer, &long, 2 * CHUNK as u64..2 * CHUNK as u64 + 5);
    assert_eq!(refused, Err(PayloadError::Trailing { chunk: 2 }));
    assert!(Ranged::new(object.opened(), object.bytes.len() as u64 + 5).is_err(), "no payload has that length");
}

#[test]
fn what_was_fetched_is_checked() {
    let (object, other) = (Object::of(&noise(4 * CHUNK)), Object::of(&noise(4 * CHUNK)));
    let ranged = ranged(&object);
    let (start, range) = (object.prefix, 5..2 * CHUNK as u64);
    let mut plain = vec![0; 2 * CHUNK - 5];
    let refused = ranged.open(&range, &object.bytes[start..], &mut plain);
    let expected = 2 * SEALED_CHUNK as u64;
    assert_eq!(refused, Err(PayloadError::Range { expected, found: 2 * expected }));
    assert_eq!(read(&ranged, &other.bytes, range), Err(PayloadError::Foreign { chunk: 0 }));
    let moved = [&object.bytes[..start], &object.payload()[SEALED_CHUNK..], &vec![0; SEALED_CHUNK]].concat();
    assert_eq!(read(&ranged, &moved, 0..5), Err(PayloadError::Swapped { chunk: 0, found: 1 }));
    let mut damaged = object.bytes.clone();
    damaged[start + 9] ^= 1;
    assert_eq!(read(&ranged, &damaged, 0..1 << 17), Err(PayloadError::Damaged { chunk: 0 }));
    assert_eq!(read(&ranged, &damaged, 1 << 16..1 << 17), Ok(noise(4 * CHUNK)[1 << 16..1 << 17].to_vec()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_range_is_what_it_was(len in 1..4 * CHUNK, a: prop::sample::Index, b: prop::sample::Index) {
        let plain = noise(len);
        let object = Object::of(&plain);
        let (a, b) = (a.index(len + 1), b.index(len + 1));
        let (start, end) = (a.min(b), a.max(b));
        prop_assert!(read(&ranged(&object), &object.bytes, start as u64..end as u64).as_deref() == Ok(&plain[start..end]));
    }
}
