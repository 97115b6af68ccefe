use super::testing::{Raw, flags, map, pax, raw, seal, sized, sparse};
use super::*;

fn read_all(mut archive: &[u8]) -> Result<(), Error> {
    let mut reader = Reader::new(&mut archive);
    while reader.next_member()?.is_some() {
        while let Some((_, length)) = reader.data()? {
            reader.take(length.min(700), |_| ())?;
        }
    }
    Ok(())
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(mut blocks in proptest::collection::vec(0..=255_u8, 512..2048), ustar: bool) {
        if ustar {
            blocks[257..265].copy_from_slice(b"ustar\x0000");
            seal(&mut blocks);
        }
        proptest::prop_assert!(read_all(&blocks).is_err());
    }
}

#[test]
fn every_malformed_member_is_refused() {
    let file = |path: &str| raw(flags::REGULAR, path, "", b"evil");
    let x = |key: &str, value: &[u8]| pax(&[(key, value)], file("f"));
    let huge = vec![b'a'; MAX_PAX + 1];
    // Name, archive without its end, and part of the error.
    let attacks = [
        ("empty in pax", x("path", b""), "empty"),
        ("size below zero", x("size", b"-1"), "2^63"),
        ("size too large", x("size", b"18446744073709551616"), "2^63"),
        ("size that overflows with its padding", x("size", b"9223372036854775807"), "ends at byte"),
        ("size below zero in ustar", sized(b"-0000000001\0"), "octal"),
        ("size in base 256", sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "octal"),
        ("uid of all ones", x("uid", b"4294967295"), "2^32"),
        ("time that is none", x("mtime", b"1.2.3"), "decimal"),
        ("time that is too early", x("mtime", b"-9223372036854775808.5"), "decimal"),
        ("time with a sign", x("mtime", b"+1"), "decimal"),
        ("data in a directory", raw(flags::DIRECTORY, "d", "", b"data"), "only a regular file"),
        ("data in a link", raw(flags::SYMLINK, "l", "x", b"data"), "only a regular file"),
        ("an unknown type", raw(b'L', "l", "", b"data"), "its type"),
        ("a global header", raw(b'g', "l", "", b""), "its type"),
        ("a huge PAX header", raw(flags::PAX, "x", "", &huge), "at most 1048576"),
        (
            "a PAX header that says it is huge",
            Raw { kind: flags::PAX, size: Some(b"77777777777\0".to_vec()), ..Raw::default() }.bytes(),
            "at most 1048576",
        ),
        ("a record longer than its header", [raw(flags::PAX, "x", "", b"99 path=f\n"), file("f")].concat(), "at most"),
        ("a record of length 0", [raw(flags::PAX, "x", "", b"0 path=f\n"), file("f")].concat(), "at most"),
        ("a record without a line feed", [raw(flags::PAX, "x", "", b"9 path=ff"), file("f")].concat(), "malformed"),
        (
            "two PAX headers",
            [raw(flags::PAX, "x", "", b""), raw(flags::PAX, "x", "", b""), file("f")].concat(),
            "another",
        ),
        ("a PAX header for nothing", raw(flags::PAX, "x", "", b""), "no member follows"),
        ("a map out of order", sparse(b"9000", &map("2\n4096\n512\n0\n512\n", 1024)), "in order"),
        ("a map past the end", sparse(b"1000", &map("1\n512\n512\n", 512)), "0 to 1000"),
        ("a map that overflows", sparse(b"1000", &map("1\n9223372036854775807\n9223372036854775807\n", 0)), "in order"),
        ("a map of more than there is", sparse(b"9000", &map("1\n0\n1024\n", 512)), "expected the 512"),
        ("a map of less than there is", sparse(b"9000", &map("1\n0\n512\n", 1024)), "expected the 1024"),
        ("a map of too many segments", sparse(b"9000", &map("99999999\n", 0)), "at most"),
        ("a map that does not end", sparse(b"9000", &map("3\n0\n0\n", 0)), "over 20 digits"),
        ("a map of no numbers", sparse(b"9000", &map("x\n", 0)), "line that"),
        ("a map shorter than a block", sparse(b"9000", b"1\n0\n0\n"), "whole blocks"),
        ("broken blocks", sparse(b"9000", &map("2\n0\n100\n4096\n512\n", 612)), "broken blocks"),
        ("an old sparse format", x("GNU.sparse.map", b"0,1"), "another"),
        ("half a sparse file", x("GNU.sparse.major", b"1"), "incomplete"),
    ];
    for (name, archive, expected) in attacks {
        let error = read_all(&[&archive[..], &END].concat()).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_found() {
    let whole = [raw(flags::REGULAR, "name", "", b"evil"), END.to_vec()].concat();
    for position in 0..BLOCK {
        let mut archive = whole.clone();
        archive[position] ^= 4;
        // The checksum's own last two bytes are not digits.
        assert!(read_all(&archive).is_err() || (154..156).contains(&position), "{position}");
    }
}
