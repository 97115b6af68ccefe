use proptest::prelude::*;

use super::*;
use crate::checksum::{Algorithm, Checksum};
use crate::error::Class;
use crate::format::codec::Encoding;
use crate::format::index::{Chunk, ChunkId};
use crate::store::{PartNumber, UploadedPart};

fn part(number: u16) -> Part {
    let checksum = Algorithm::Crc32c.compute(&number.to_le_bytes());
    let chunk = |n: u32| Chunk {
        id: ChunkId([7; 32]),
        plain_len: n,
        encoding: Encoding::Zstd,
        object: 0,
        offset: u64::from(number) << 24,
        stored_len: n / 2,
    };
    Part {
        uploaded: UploadedPart {
            number: PartNumber::new(number).unwrap(),
            size: 5,
            etag: "\"e\"".to_owned(),
            checksum,
        },
        crc64nvme: 0x0123_4567_89ab_cdef,
        chunks: (1..4).map(chunk).collect(),
    }
}

fn files(state: &Path) -> Vec<PathBuf> {
    let mut files = paths(&state.join(FOLDER)).unwrap();
    files.sort();
    files
}

fn journal(state: &Path) -> Journal {
    Journal::open(state, "primary", "bucket").unwrap()
}

#[tokio::test]
async fn only_entries_of_dead_processes_are_interrupted() {
    let state = tempfile::tempdir().unwrap();
    let key = ObjectKey::new("p/c/j/n/20261123T221300Z-4f9a2c/item.0001.tar.zst");
    let entry = journal(state.path()).begin(&key, 16, None).await.unwrap();
    entry.created(&UploadId("the-id".to_owned())).await.unwrap();
    for number in [2, 1, 3] {
        entry.finished(part(number));
    }
    assert!(interrupted(state.path()).unwrap().is_empty(), "it is locked");
    assert_eq!(keys(state.path()).unwrap(), HashSet::from([key.clone()]));
    let queue = Arc::clone(&entry.inner);
    while queue.queue().writing {
        tokio::task::yield_now().await;
    }
    drop((entry, queue));
    let mut found = interrupted(state.path()).unwrap();
    assert!(interrupted(state.path()).unwrap().is_empty(), "it is claimed");
    let one = found.pop().unwrap();
    assert!(found.is_empty());
    let Intent { version, location, bucket, key: found, part_size, begun: _, sealed: None } = &one.intent else {
        panic!("a plain object has no key")
    };
    assert_eq!((*version, location.as_str(), bucket.as_str(), found, *part_size), (1, "primary", "bucket", &key, 16));
    assert_eq!((one.id.as_ref().unwrap().0.as_str(), one.in_doubt), ("the-id", false));
    assert_eq!(one.parts().unwrap(), [part(2), part(1), part(3)]);
    one.into_entry().close().await;
    assert_eq!(files(state.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn doubt_outlives_the_upload_that_is_known() {
    let state = tempfile::tempdir().unwrap();
    let entry = journal(state.path()).begin(&ObjectKey::new("k"), 16, None).await.unwrap();
    entry.created(&UploadId("known".to_owned())).await.unwrap();
    entry.in_doubt().await.unwrap();
    drop(entry);
    let one = interrupted(state.path()).unwrap().pop().unwrap();
    assert_eq!((one.id, one.in_doubt), (None, true));
}

#[tokio::test]
async fn an_unreadable_entry_is_renamed_and_a_newer_one_is_left() {
    let state = tempfile::tempdir().unwrap();
    drop(journal(state.path()).begin(&ObjectKey::new("k"), 16, None).await.unwrap());
    let folder = state.path().join(FOLDER);
    std::fs::write(folder.join("0123456789abcdef.upload.tmp"), "half").unwrap();
    std::fs::write(folder.join("1.upload"), "not a record\n").unwrap();
    let newer =
        Intent { version: record::VERSION + 1, ..interrupted(state.path()).unwrap().pop().unwrap().intent.clone() };
    std::fs::write(folder.join("2.upload"), record::encode(&Line::Intent(newer))).unwrap();
    assert_eq!(interrupted(state.path()).unwrap().len(), 1);
    let names: Vec<_> =
        files(state.path()).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert!(names.contains(&"1.upload.damaged".to_owned()) && names.contains(&"2.upload".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("tmp")), "{names:?}");
    assert_eq!(interrupted(&state.path().join("nowhere")).unwrap().len(), 0);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_fails_the_upload_before_it_exists() {
    let state = tempfile::tempdir().unwrap();
    let journal = journal(state.path());
    std::fs::remove_dir(state.path().join(FOLDER)).unwrap();
    let failed = journal.begin(&ObjectKey::new("k"), 16, None).await.unwrap_err().report();
    assert_eq!(failed.class, Class::Local);
    assert!(failed.message.contains("journal") && failed.remedy.unwrap().contains("state_dir"), "{}", failed.message);
}

fn lines() -> Vec<Line> {
    let intent = Intent {
        version: 1,
        location: "primary".to_owned(),
        bucket: "b".to_owned(),
        key: ObjectKey::new("k é \"quoted\"\n"),
        part_size: 5 << 20,
        begun: "2026-11-23T22:13:00.5Z".parse().unwrap(),
        sealed: None,
    };
    vec![
        Line::Intent(intent),
        Line::Created { id: "x".to_owned() },
        Line::Part(part(1)),
        Line::Part(part(2)),
        Line::InDoubt,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is cut off or changed, what comes before it is read and nothing else.
    #[test]
    fn a_torn_tail_loses_itself_only(at in any::<prop::sample::Index>(), flip in 1_u8..) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.upload");
        let encoded: Vec<Vec<u8>> = lines().iter().map(|line| record::encode(line).to_vec()).collect();
        let whole = encoded.concat();
        let at = at.index(whole.len());
        let before = encoded.iter().scan(0, |end, line| { *end += line.len(); Some(*end) }).filter(|end| *end <= at).count();
        for damaged in [whole[..at].to_vec(), {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            changed
        }] {
            std::fs::write(&path, damaged).unwrap();
            let read: Vec<Line> = record::read(&path).unwrap().collect();
            prop_assert_eq!(&read[..], &lines()[..before]);
        }
    }
}

#[test]
fn damage_before_the_end_is_told_from_a_torn_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.upload");
    let encoded: Vec<Vec<u8>> = lines().iter().map(|line| record::encode(line).to_vec()).collect();
    let whole = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        record::is_whole_but_for_its_end(&path).unwrap()
    };
    let all = encoded.concat();
    assert!(whole(&all));
    assert!(whole(&all[..all.len() - 4]), "a torn end");
    let mut damaged = all.clone();
    damaged[encoded[0].len() + 12] ^= 1;
    assert!(!whole(&damaged), "the second line");
}

#[test]
fn a_checksum_in_other_letters_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("1.upload");
    let with_letter = |line: &Line| {
        let mut encoded = record::encode(line);
        let at = encoded[..8].iter().position(u8::is_ascii_alphabetic)?;
        encoded[at] = encoded[at].to_ascii_uppercase();
        Some(encoded)
    };
    let changed = lines().iter().find_map(with_letter).expect("one of the checksums has a letter");
    std::fs::write(&path, changed).unwrap();
    assert_eq!(record::read(&path).unwrap().count(), 0);
}

#[test]
fn the_format_of_an_encrypted_object_does_not_move_and_shows_no_key() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal/2.upload")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("2.upload");
    std::fs::write(&path, &text).unwrap();
    let lines: Vec<Line> = record::read(&path).unwrap().collect();
    let encoded = lines.iter().map(|line| record::encode(line).to_vec()).collect::<Vec<_>>().concat();
    assert_eq!((String::from_utf8(encoded).unwrap(), record::valid(&path).unwrap()), (text.clone(), text.len() as u64));
    let [Line::Intent(intent), _, first, second, Line::Part(_)] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(!format!("{intent:?}").contains("c2VjcmV0") && text.contains("c2VjcmV0"), "{intent:?}");
    let tags = record::tags([first, second].map(Clone::clone).into_iter()).unwrap();
    assert_eq!(tags.as_bytes(), [[1; 16], [2; 16], [3; 16]].concat());
    assert!(record::tags([second.clone()].into_iter()).is_none(), "the first is missing");
}

#[test]
fn the_format_does_not_move() {
    // A golden value: entries of this version must stay readable.
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal/1.upload")).unwrap();
    let encoded = lines().iter().map(|line| record::encode(line).to_vec()).collect::<Vec<_>>().concat();
    assert_eq!(text, String::from_utf8(encoded).unwrap());
    let Line::Part(part) = &lines()[2] else { panic!() };
    assert_eq!(part.uploaded.checksum.map(Checksum::algorithm), Some(Algorithm::Crc32c));
}
