use proptest::prelude::*;

use super::super::testing::{Object, noise};
use super::*;

const BORDERS: [usize; 8] = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK - 1, 3 * CHUNK + 100];

fn decrypt(opened: Opened, payload: &[u8], piece: usize) -> Result<Vec<u8>, PayloadError> {
    let (mut decryptor, mut plain) = (Decryptor::new(opened), Vec::new());
    for piece in payload.chunks(piece) {
        decryptor.write(piece, &mut plain)?;
    }
    decryptor.finish(&mut plain)?;
    Ok(plain)
}

fn refused(object: &Object, payload: &[u8]) -> PayloadError {
    let pushed = decrypt(object.opened(), payload, payload.len().max(1)).unwrap_err();
    let mut reader = Reader::new(object.opened(), payload);
    let pulled = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    assert_eq!(pulled.kind(), io::ErrorKind::InvalidData);
    assert!(reader.read(&mut [0; 10]).is_err(), "an error is not followed by an end");
    // The reader has less at hand: it may take a damaged first chunk for another object's.
    let pulled = *pulled.into_inner().unwrap().downcast::<PayloadError>().unwrap();
    assert!(pulled == pushed || matches!(pulled, PayloadError::Foreign { chunk: 0 }), "{pulled:?} {pushed:?}");
    pushed
}

#[test]
fn every_border_goes_there_and_back() {
    for len in BORDERS {
        let plain = noise(len);
        let object = Object::of(&plain);
        let expected = object.opened().layout().encrypted_len(len as u64);
        assert_eq!(Some(object.bytes.len() as u64), expected);
        for piece in [1000, CHUNK, SEALED_CHUNK, SEALED_CHUNK + 1, 1 << 20] {
            assert!(decrypt(object.opened(), object.payload(), piece) == Ok(plain.clone()), "{len} {piece}");
        }
        let mut pulled = Vec::new();
        Reader::new(object.opened(), object.payload()).read_to_end(&mut pulled).unwrap();
        assert!(pulled == plain, "{len}");
    }
}

#[test]
fn a_payload_that_is_cut_is_refused_wherever_it_is_cut() {
    let object = Object::of(&noise(2 * CHUNK + 9));
    let payload = object.payload();
    for length in [SEALED_CHUNK, 2 * SEALED_CHUNK] {
        let chunk = (length / SEALED_CHUNK - 1) as u64;
        assert_eq!(refused(&object, &payload[..length]), PayloadError::Truncated { chunk });
    }
    for length in [SEALED_CHUNK + 1, SEALED_CHUNK + 100, 2 * SEALED_CHUNK - 1] {
        assert_eq!(refused(&object, &payload[..length]), PayloadError::TornEnd { chunk: 1 }, "{length}");
    }
    assert_eq!(refused(&object, &payload[..payload.len() - 1]), PayloadError::TornEnd { chunk: 2 });
    assert_eq!(refused(&object, &[]), PayloadError::TornEnd { chunk: 0 });
    assert_eq!(refused(&object, &payload[..100]), PayloadError::Foreign { chunk: 0 }, "nothing proves the key");
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let full = Object::of(&noise(2 * CHUNK));
    let again = [full.payload(), &full.payload()[..SEALED_CHUNK]].concat();
    assert_eq!(refused(&full, &again), PayloadError::Trailing { chunk: 1 });
    assert_eq!(refused(&full, &[full.payload(), b"x"].concat()), PayloadError::Trailing { chunk: 1 });
    let short = Object::of(&noise(CHUNK + 10));
    assert_eq!(refused(&short, &[short.payload(), b"a few"].concat()), PayloadError::Trailing { chunk: 1 });
    let one = Object::of(b"one");
    assert_eq!(refused(&one, &[one.payload(), b"\n"].concat()), PayloadError::Trailing { chunk: 0 });
}

#[test]
fn chunks_in_each_others_place_are_refused() {
    let object = Object::of(&noise(4 * CHUNK + 10));
    let chunk = |number: usize| &object.payload()[number * SEALED_CHUNK..(number + 1) * SEALED_CHUNK];
    let last = &object.payload()[4 * SEALED_CHUNK..];
    let payload = |chunks: &[&[u8]]| chunks.concat();
    let swapped = payload(&[chunk(0), chunk(2), chunk(1), chunk(3), last]);
    assert_eq!(refused(&object, &swapped), PayloadError::Swapped { chunk: 1, found: 2 });
    let first = payload(&[chunk(1), chunk(0), chunk(2), chunk(3), last]);
    assert_eq!(refused(&object, &first), PayloadError::Swapped { chunk: 0, found: 1 });
    let repeated = payload(&[chunk(0), chunk(0)]);
    assert_eq!(refused(&object, &repeated), PayloadError::Swapped { chunk: 1, found: 0 });
    let dropped = payload(&[chunk(0), chunk(1), last]);
    assert_eq!(refused(&object, &dropped), PayloadError::Swapped { chunk: 2, found: 4 });
}

#[test]
fn another_key_and_damage_are_told_apart() {
    let (object, other) = (Object::of(&noise(3 * CHUNK)), Object::of(&noise(3 * CHUNK)));
    assert_eq!(refused(&object, other.payload()), PayloadError::Foreign { chunk: 0 });
    for (chunk, at) in [(0, 5), (0, SEALED_CHUNK - 1), (1, SEALED_CHUNK), (2, 2 * SEALED_CHUNK)] {
        let mut damaged = object.payload().to_vec();
        damaged[at] ^= 0x80;
        let expected = if chunk == 2 { PayloadError::TornEnd { chunk } } else { PayloadError::Damaged { chunk } };
        assert_eq!(refused(&object, &damaged), expected, "{at}");
    }
}

#[test]
fn an_empty_chunk_at_the_end_is_refused() {
    use super::super::cipher::FileKey;
    let (file_key, plain) = (FileKey::random().unwrap(), noise(CHUNK));
    let (mut payload, key) = (vec![0; SEALED_CHUNK + TAG], file_key.payload(&[7; 16]));
    let (first, last) = payload.split_at_mut(SEALED_CHUNK);
    key.seal(0, Place::Inner, &plain, first);
    key.seal(1, Place::Last, &[], last);
    let opened = Opened { key, layout: super::super::Layout::new(0) };
    assert_eq!(decrypt(opened, &payload, 1 << 20), Err(PayloadError::EmptyEnd { chunk: 1 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_change_is_refused_and_nothing_wrong_is_returned(
        len in 0..3 * CHUNK + 5, at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in prop::option::of(any::<prop::sample::Index>()),
        piece in 1000_usize..100_000,
    ) {
        let plain = noise(len);
        let object = Object::of(&plain);
        let mut payload = object.payload().to_vec();
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        } else {
            let at = at.index(payload.len());
            payload[at] ^= 1 << bit;
        }
        let (mut decryptor, mut out) = (Decryptor::new(object.opened()), Vec::new());
        let written = payload.chunks(piece).try_for_each(|piece| decryptor.write(piece, &mut out));
        prop_assert!(written.and_then(|()| decryptor.finish(&mut out)).is_err());
        prop_assert!(plain.starts_with(&out));
    }
}
