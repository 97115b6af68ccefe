use std::ffi::CString;
use std::io::Read;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::testing::{Raw, flags, map, pax, raw, seal, sized, sparse};
use super::*;

/// Everything in an archive, with the pieces of each member's data and where they belong.
type Contents = Vec<(Member, Vec<(u64, Vec<u8>)>)>;

fn read_all(archive: impl Read, step: usize) -> Result<Contents, Error> {
    let mut reader = Reader::new(archive);
    let mut contents = Vec::new();
    let mut buffer = vec![0; step];
    while let Some(member) = reader.next_member()? {
        let mut data: Vec<(u64, Vec<u8>)> = Vec::new();
        while let Some((offset, length)) = reader.data(&mut buffer)? {
            match data.last_mut() {
                Some((start, bytes)) if *start + bytes.len() as u64 == offset => bytes.extend(&buffer[..length]),
                _ => data.push((offset, buffer[..length].to_vec())),
            }
        }
        contents.push((member, data));
    }
    Ok(contents)
}

fn put(member: &Member, data: &[u8], archive: &mut Vec<u8>) {
    let start = archive.len();
    let layout = member.encode(archive);
    archive.extend_from_slice(data);
    assert_eq!((archive.len() - start) as u64, layout.headers + layout.content);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

/// Short and long names of odd bytes, in directories too.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => b'a'..=b'c', 1 => 1..b'/', 1 => b'0'..=255];
    let name = (vec(byte, 1..12), select(vec![1_usize, 1, 1, 9, 3000])).prop_map(|(name, times)| name.repeat(times));
    vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

/// Around what octal fields of 7 and 11 digits hold, and anything else.
fn number(most: u64) -> impl Strategy<Value = u64> {
    let edges = [0, 1, (1 << 21) - 1, 1 << 21, (1 << 33) - 1, 1 << 33, most];
    prop_oneof![select(edges.to_vec()), any::<u64>()].prop_map(move |value| value.min(most))
}

fn id() -> impl Strategy<Value = u32> {
    number(u64::from(u32::MAX - 1)).prop_map(|id| u32::try_from(id).unwrap())
}

fn time() -> impl Strategy<Value = FileTime> {
    let seconds = prop_oneof![select(vec![0, -1, 1, i64::MIN, i64::MAX, 1 << 33, 1_700_000_000]), any::<i64>()];
    let nanoseconds = prop_oneof![Just(0), Just(1), Just(999_999_999), 0..1_000_000_000_u32];
    (seconds, nanoseconds).prop_map(|(seconds, nanoseconds)| FileTime { seconds, nanoseconds })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let name = vec(prop_oneof![Just(b'%'), Just(b'='), b'0'..=b'9', 1..=255_u8], 1..20);
    let xattr = (name.prop_map(|name| CString::new(name).unwrap()), vec(any::<u8>(), 0..40));
    let acl = || prop::option::weighted(0.2, vec(any::<u8>(), 0..40));
    (vec(xattr, 0..3), acl(), acl()).prop_map(|(xattrs, access_acl, default_acl)| Attributes {
        xattrs,
        access_acl,
        default_acl,
    })
}

/// Pairs of hole and data, in blocks; the last data may end within one, or there is a hole behind it.
fn segments() -> impl Strategy<Value = (u64, Arc<[Segment]>)> {
    (vec((0..1_u64 << 40, 1..5_u64), 0..4), 0..BLOCK as u64, 0..3_u64).prop_map(|(pieces, cut, hole)| {
        let mut end = 0;
        let mut map = Vec::new();
        for (gap, blocks) in pieces {
            let segment = Segment { offset: end + gap * BLOCK as u64, length: blocks * BLOCK as u64 };
            end = segment.offset + segment.length;
            map.push(segment);
        }
        match map.last_mut() {
            Some(last) if hole == 0 => {
                last.length -= cut;
                end -= cut;
            }
            _ => {
                end += hole * BLOCK as u64;
                map.push(Segment { offset: end, length: 0 });
            }
        }
        (end, map.into())
    })
}

fn member() -> impl Strategy<Value = Member> {
    let kind = select(vec![
        FileKind::Regular,
        FileKind::Regular,
        FileKind::Regular,
        FileKind::HardLink,
        FileKind::Symlink,
        FileKind::CharDevice,
        FileKind::BlockDevice,
        FileKind::Directory,
        FileKind::Fifo,
    ]);
    let device = (0..1_u32 << 21, 0..1_u32 << 21);
    let data = (0..3000_u64, prop::option::weighted(0.4, segments()));
    (kind, (path(), path()), 0..0o10000_u32, (id(), id()), time(), (data, device), attributes()).prop_map(
        |(kind, (path, link), mode, (uid, gid), mtime, ((length, sparse), device), attributes)| {
            let mut member = Member { mode, uid, gid, mtime, attributes, ..Member::new(kind, path) };
            match (kind, sparse) {
                (FileKind::Regular, Some((size, map))) => (member.size, member.map) = (size, Some(map)),
                (FileKind::Regular, None) => member.size = length,
                (FileKind::HardLink | FileKind::Symlink, _) => member.link = link,
                (FileKind::CharDevice | FileKind::BlockDevice, _) => member.rdev = device,
                (FileKind::Directory | FileKind::Fifo, _) => {}
            }
            member
        },
    )
}

/// Where the member's data belongs, in pieces that do not touch, filled with its position in the archive.
fn data_of(member: &Member, fill: u8) -> Vec<(u64, Vec<u8>)> {
    let whole = [Segment { offset: 0, length: member.size }];
    let mut data: Vec<(u64, Vec<u8>)> = Vec::new();
    for Segment { offset, length } in member.map.as_deref().unwrap_or(&whole) {
        let length = usize::try_from(*length).unwrap();
        match data.last_mut() {
            _ if length == 0 => {}
            Some((start, bytes)) if *start + bytes.len() as u64 == *offset => bytes.resize(bytes.len() + length, fill),
            _ => data.push((*offset, vec![fill; length])),
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read_back_equal(members in vec(member(), 0..6), step in 1..5000_usize) {
        let mut archive = Vec::new();
        let mut expected = Vec::new();
        for (member, fill) in members.into_iter().zip(1..) {
            let data = data_of(&member, fill);
            let bytes: Vec<u8> = data.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
            put(&member, &bytes, &mut archive);
            expected.push((member, data));
        }
        archive.extend_from_slice(&END);
        prop_assert_eq!(read_all(&archive[..], step).unwrap(), expected);
    }

    /// The data is too large to be there.
    #[test]
    fn a_header_of_any_size_is_read_back_equal(member in member(), size in number(i64::MAX as u64)) {
        let member = if member.kind == FileKind::Regular { Member { size, map: None, ..member } } else { member };
        let mut archive = Vec::new();
        member.encode(&mut archive);
        prop_assert_eq!(Reader::new(&archive[..]).next_member().unwrap(), Some(member));
    }

    #[test]
    fn an_acl_in_the_kernels_order_comes_back_as_it_was(
        entries in prop::collection::btree_set((select(vec![1_u16, 2, 4, 8, 16, 32]), 0..u32::MAX, 0..8_u16), 0..9),
    ) {
        let mut binary = 2_u32.to_le_bytes().to_vec();
        for (tag, id, permissions) in entries {
            let id = if matches!(tag, 2 | 8) { id } else { u32::MAX };
            binary.extend(tag.to_le_bytes());
            binary.extend(permissions.to_le_bytes());
            binary.extend(id.to_le_bytes());
        }
        let text = acl::to_text(&binary).unwrap();
        let mut again = acl::to_binary(text.as_bytes()).unwrap();
        // Entries of one tag without an id differ in permissions only, which the kernel does not order.
        let sort = |binary: &mut Vec<u8>| {
            let mut entries: Vec<_> = binary[4..].chunks_exact(8).map(<[u8]>::to_vec).collect();
            entries.sort_unstable();
            *binary = entries.concat();
        };
        sort(&mut binary);
        sort(&mut again);
        prop_assert_eq!(again, binary);
    }

    #[test]
    fn any_bytes_are_an_error_and_never_a_panic(mut blocks in vec(any::<u8>(), 512..2048), ustar: bool) {
        if ustar {
            blocks[257..265].copy_from_slice(b"ustar\x0000");
            seal(&mut blocks);
        }
        prop_assert!(read_all(&blocks[..], 700).is_err());
    }
}

#[test]
fn every_member_that_makes_no_sense_is_refused() {
    let file = |path: &str| raw(flags::REGULAR, path, "", b"evil");
    let x = |key: &str, value: &[u8]| pax(&[(key, value)], file("f"));
    let huge = vec![b'a'; MAX_PAX + 1];
    // Name, archive without its end, and what the error says.
    let attacks = [
        ("empty in pax", x("path", b""), "empty"),
        ("size below zero", x("size", b"-1"), "2^63"),
        ("size too large", x("size", b"18446744073709551616"), "2^63"),
        ("size that overflows with its padding", x("size", b"9223372036854775807"), "ends at byte"),
        ("size below zero in ustar", sized(b"-0000000001\0"), "octal"),
        ("size in base 256", sized(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "octal"),
        ("uid of all ones", x("uid", b"4294967295"), "2^32"),
        ("time that is none", x("mtime", b"1.2.3"), "decimal"),
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
        ("two PAX headers", [raw(flags::PAX, "x", "", b""), raw(flags::PAX, "x", "", b""), file("f")].concat(), "two"),
        ("a PAX header for nothing", raw(flags::PAX, "x", "", b""), "for no member"),
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
        ("an old sparse format", x("GNU.sparse.map", b"0,1"), "older"),
        ("half a sparse file", x("GNU.sparse.major", b"1"), "incompletely"),
    ];
    for (name, archive, expected) in attacks {
        let error = read_all(&[&archive[..], &END].concat()[..], 700).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn a_flipped_bit_in_a_header_is_found() {
    let whole = [raw(flags::REGULAR, "name", "", b"evil"), END.to_vec()].concat();
    for position in 0..BLOCK {
        let mut archive = whole.clone();
        archive[position] ^= 4;
        // The checksum's own last two bytes hold no digits.
        assert!(read_all(&archive[..], 700).is_err() || (154..156).contains(&position), "{position}");
    }
}

#[test]
fn only_what_does_not_fit_costs_a_pax_header() {
    let plain =
        || Member { mtime: FileTime { seconds: 1, nanoseconds: 0 }, ..Member::new(FileKind::Regular, b"a".to_vec()) };
    let headers = |member: Member| member.encode(&mut Vec::new()).headers / BLOCK as u64;
    assert_eq!(headers(plain()), 1);
    assert_eq!(headers(Member { path: vec![b'a'; 100], ..plain() }), 1);
    assert_eq!(headers(Member { path: vec![b'a'; 101], ..plain() }), 3);
    assert_eq!(headers(Member { path: vec![b'a'; 100], kind: FileKind::Directory, ..plain() }), 3);
    assert_eq!(headers(Member { uid: 3_000_000_000, ..plain() }), 3);
    assert_eq!(headers(Member { size: 8 << 30, ..plain() }), 3);
    assert_eq!(headers(Member { size: (8 << 30) - 1, ..plain() }), 1);
}

#[test]
fn the_bytes_of_a_member_are_the_same_in_every_release() {
    let mut archive = Vec::new();
    for (kind, number) in [
        FileKind::Regular,
        FileKind::HardLink,
        FileKind::Symlink,
        FileKind::CharDevice,
        FileKind::BlockDevice,
        FileKind::Directory,
        FileKind::Fifo,
    ]
    .into_iter()
    .zip(1_u32..)
    {
        let link = if matches!(kind, FileKind::HardLink | FileKind::Symlink) { vec![b'l'; 300] } else { Vec::new() };
        let short = Member {
            link: link.iter().take(20).copied().collect(),
            mode: 0o6700 + number,
            uid: 1000 + number,
            mtime: FileTime { seconds: 1_700_000_000, nanoseconds: 0 },
            rdev: (number, 70_000),
            ..Member::new(kind, b"short \xff\n".to_vec())
        };
        let attributes = Attributes {
            xattrs: vec![(c"user.a=b%c".to_owned(), b"\0\n=".to_vec()), (c"user.empty".to_owned(), Vec::new())],
            access_acl: Some(b"user::rwx,user:7:r--,group::r--,mask::r--,other::---".to_vec()),
            default_acl: Some(b"user::rwx,group::r-x,other::---".to_vec()),
        };
        let long = Member {
            link,
            gid: 3_000_000_000,
            mtime: FileTime { seconds: -2, nanoseconds: 500_000_000 },
            attributes,
            ..Member::new(kind, b"directory/".repeat(30))
        };
        let long = Member { path: [&long.path[..], b"name"].concat(), ..long };
        put(&short, b"", &mut archive);
        put(&long, b"", &mut archive);
    }
    let map = [Segment { offset: 512, length: 1024 }, Segment { offset: 1 << 40, length: 0 }];
    let sparse = Member { size: 1 << 40, map: Some(map.into()), ..Member::new(FileKind::Regular, b"sparse".to_vec()) };
    put(&sparse, &[b'd'; 1024], &mut archive);
    Member { size: 9 << 30, ..Member::new(FileKind::Regular, b"large".to_vec()) }.encode(&mut archive);
    // A golden value: if this fails, every backup after the change stores all small files again once. Say so in the changelog.
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&archive));
    assert_eq!(digest, "ced1a5467cfea9d8ca57e1242f8be5411ee699c979b6cf90dd8f7eb9de64a97c");
}
