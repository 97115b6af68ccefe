//! The tar codec: what is written is read back equal, and written as it always was.

use std::ffi::CString;
use std::io::{BufReader, Read};
use std::sync::Arc;

use penstock::format::index::{FileKind, FileTime};
use penstock::tar::xattr::Attributes;
use penstock::tar::{BLOCK, END, Error, Member, Reader, Segment, acl};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Everything in an archive, with the pieces of each member's data and where they belong.
type Contents = Vec<(Member, Vec<(u64, Vec<u8>)>)>;

fn read_all(archive: impl Read, step: usize) -> Result<Contents, Error> {
    let mut reader = Reader::new(BufReader::with_capacity(step, archive));
    let mut contents = Vec::new();
    while let Some(member) = reader.next_member()? {
        let mut data: Vec<(u64, Vec<u8>)> = Vec::new();
        while let Some((offset, length)) = reader.data()? {
            reader.take(length, |piece| match data.last_mut() {
                Some((start, bytes)) if *start + bytes.len() as u64 == offset => bytes.extend(piece),
                _ => data.push((offset, piece.to_vec())),
            })?;
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
            let mut member = Member { kind, path, mode, uid, gid, mtime, attributes, ..Member::default() };
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
}

#[test]
fn only_what_does_not_fit_costs_a_pax_header() {
    let plain = || Member { mtime: FileTime { seconds: 1, nanoseconds: 0 }, path: b"a".to_vec(), ..Member::default() };
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
            kind,
            path: b"short \xff\n".to_vec(),
            ..Member::default()
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
            kind,
            path: [&b"directory/".repeat(30)[..], b"name"].concat(),
            ..Member::default()
        };
        put(&short, b"", &mut archive);
        put(&long, b"", &mut archive);
    }
    let map = [Segment { offset: 512, length: 1024 }, Segment { offset: 1 << 40, length: 0 }];
    let sparse = Member { size: 1 << 40, map: Some(map.into()), path: b"sparse".to_vec(), ..Member::default() };
    put(&sparse, &[b'd'; 1024], &mut archive);
    Member { size: 9 << 30, path: b"large".to_vec(), ..Member::default() }.encode(&mut archive);
    // A golden value: if this fails, every backup after the change stores all small files again once. Say so in the changelog.
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&archive));
    assert_eq!(digest, "7889e586b55c5e9d023de5d10a73357b4e32f99a4a3f723d9ccae7a4003fbc4a");
}

#[test]
fn a_record_counts_its_own_length() {
    for length in (0..1000).chain([9_950, 9_960, 9_970, 9_980]) {
        let xattrs = vec![(c"user.x".to_owned(), vec![b'v'; length])];
        let attributes = Attributes { xattrs, ..Attributes::default() };
        let member = Member { path: b"a".to_vec(), attributes, ..Member::default() };
        let mut archive = Vec::new();
        member.encode(&mut archive);
        assert_eq!(Reader::new(&archive[..]).next_member().unwrap(), Some(member), "{length}");
    }
}

#[test]
fn times_are_exact() {
    for (seconds, nanoseconds, text) in [
        (1, 500_000_000, "1.5"),
        (1, 1, "1.000000001"),
        (-1, 0, "-1"),
        (-1, 999_999_999, "-0.000000001"),
        (-2, 500_000_000, "-1.5"),
        (1 << 33, 0, "8589934592"),
        (i64::MIN, 0, "-9223372036854775808"),
        (i64::MIN, 1, "-9223372036854775807.999999999"),
    ] {
        let mtime = FileTime { seconds, nanoseconds };
        let member = Member { path: b"a".to_vec(), mtime, ..Member::default() };
        let mut archive = Vec::new();
        member.encode(&mut archive);
        let record = format!(" mtime={text}\n\0");
        assert!(archive.windows(record.len()).any(|bytes| bytes == record.as_bytes()), "{text}");
        assert_eq!(Reader::new(&archive[..]).next_member().unwrap(), Some(member), "{text}");
    }
}

#[test]
fn text_and_binary_are_the_same_acl() {
    let text = "user::rwx,user:1000:r--,user:3000000000:r-x,group::r-x,group:7:-w-,mask::rwx,other::---";
    let binary = acl::to_binary(text.as_bytes()).unwrap();
    assert_eq!(binary.len(), 4 + 7 * 8);
    assert_eq!(acl::to_text(&binary).unwrap(), text);
}

#[test]
fn acls_that_other_tars_write_are_read() {
    let ours = acl::to_binary(b"user::rw-,user:5:r--,group::r--,mask::r--,other::r--").unwrap();
    for theirs in [
        "user::rw-\nuser:5:r--\ngroup::r--\nmask::r--\nother::r--\n",
        "u::rw-,u:5:r--,m::r--,g::r--,o::r--",
        "user::rw-,user:name:r--:5,group::r--,mask::r--,other::r--",
        "user::rw-\nuser:5:rwx\t#effective:r--\ngroup::r--\nmask::r--\nother::r--".replace("rwx", "r--").as_str(),
    ] {
        assert_eq!(acl::to_binary(theirs.as_bytes()).unwrap(), ours, "{theirs}");
    }
}

#[test]
fn a_mode_is_an_acl() {
    assert_eq!(acl::of_mode(0o4751), "user::rwx,group::r-x,other::--x");
}

#[test]
fn an_acl_of_nonsense_is_refused() {
    for text in ["user", "user:x:rwx", "mask:1:rwx", "other::rws", "user::rwx:1:2:3", "user:4294967296:r--"] {
        assert!(acl::to_binary(text.as_bytes()).is_err(), "{text}");
    }
    assert!(acl::to_binary(b"user::\xff").is_err());
    assert_eq!(acl::to_text(b""), None);
    assert_eq!(acl::to_text(&[3, 0, 0, 0]), None);
    assert_eq!(acl::to_text(&[2, 0, 0, 0, 1]), None);
    assert_eq!(acl::to_text(&[2, 0, 0, 0, 3, 0, 7, 0, 0, 0, 0, 0]), None);
    assert_eq!(acl::to_text(&[2, 0, 0, 0]).unwrap(), "");
}
