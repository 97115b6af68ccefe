//! The index and manifest readers against the fuzzers' corpus, and against mutations of valid input.
//!
//! `make fuzz` looks for new inputs; what it finds is minimised and put into `fuzz/corpus/`, and stays fixed by this test.
//! `UPDATE_CORPUS=1 cargo test --test suite corpus` writes the seeds anew after a change of the format.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use penstock::format;
use penstock::format::codec::Encoding;
use penstock::format::index::{Chunk, ChunkId, FileEntry, FileKind, FileTime, Writer};
use penstock::format::manifest::Stream;
use proptest::prelude::*;

#[expect(unreachable_pub, reason = "the fuzz targets name them from another crate")]
#[path = "../../fuzz/src/harness.rs"]
mod harness;

use harness::{COMPRESSED, PLAIN, Verdict};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// A stream of `files` files and as many chunks as they take, and its index.
fn valid(files: u32, encoding: Encoding) -> (Stream, Vec<u8>) {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let content: u64 = 700;
    let mut member = 0;
    for number in 0..files {
        let time = FileTime { seconds: i64::from(number) - 1, nanoseconds: 999_999_999 };
        let kind = if number % 3 == 2 { FileKind::Symlink } else { FileKind::Regular };
        let entry = FileEntry {
            path: format!("some/folder/file \u{1f4a7} {number}").into_bytes(),
            kind,
            size: content,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            mtime: time,
            ctime: time,
            inode: u64::from(number) << 33,
            device: 1,
            link: if kind == FileKind::Symlink { b"../target \xff".to_vec() } else { Vec::new() },
            member_start: member,
            content_start: member + 512,
            content_len: content,
        };
        member = entry.member().end;
        writer.file(entry).unwrap();
    }
    let plain_bytes = member + 1024;
    let mut left = plain_bytes;
    let mut offset = 0;
    while left > 0 {
        let plain_len = u32::try_from(left.min(5000)).unwrap();
        let stored_len = if encoding == Encoding::Raw { plain_len } else { plain_len / 3 + 1 };
        let id = ChunkId([u8::try_from(left % 251).unwrap(); 32]);
        let object = u32::from(offset > 20_000);
        writer.chunk(&Chunk { id, plain_len, encoding, object, offset, stored_len }).unwrap();
        offset += u64::from(stored_len);
        left -= u64::from(plain_len);
    }
    let (index, totals) = writer.finish().unwrap();
    (harness::stream(totals.chunks, totals.files, totals.plain_bytes, totals.digest), index)
}

fn records(index: &[u8]) -> Vec<u8> {
    let mut records = Vec::new();
    zstd::stream::read::Decoder::new(index).unwrap().read_to_end(&mut records).unwrap();
    records
}

fn valid_manifest() -> serde_json::Value {
    let (mut stream, _) = valid(3, Encoding::Zstd);
    stream.objects[0].live_bytes = 100;
    stream.stored_bytes = 100;
    stream.new_bytes = 60;
    serde_json::json!({
        "version": 1, "id": harness::ID, "job": "etcd", "cluster": "prod", "node": "n1", "agent": "0.1.0",
        "started": "2026-11-23T22:13:00Z", "finished": "2026-11-23T22:14:00.5Z", "parent": "20261122T221300Z-000000",
        "labels": {"team": "platform"}, "outcome": "partial",
        "items": [
            {"name": "tree", "source": {"type": "tree", "path": "/srv"}, "outcome": "success", "kind": "stream", "stream": stream},
            {"name": "snapshot", "source": {"type": "command", "argv": ["etcdctl"]}, "outcome": "failure",
             "error": {"class": "source", "message": "exit status 1"}, "kind": "stream", "stream": null},
        ],
        "warnings": {"count": 1, "list": [{"item": "tree", "path": "a", "message": "changed while it was read"}]},
    })
}

/// The same with EBS snapshots beside the streams.
fn valid_with_snapshots() -> serde_json::Value {
    let mut manifest = valid_manifest();
    let item = |name: &str, snapshot: serde_json::Value| {
        serde_json::json!({
            "name": name, "source": {"type": "ebs", "selected_by": "tagged role=data"}, "outcome": "success",
            "labels": {"pvc_namespace": "shop", "pvc_name": "db"}, "kind": "ebs-snapshot", "snapshot": snapshot,
        })
    };
    let snapshot = serde_json::json!({
        "snapshot_id": "snap-0123456789abcdef0", "volume_id": "vol-0123456789abcdef0", "size_gib": 100,
        "availability_zone": "eu-west-1a", "volume_type": "gp3", "iops": 3000, "throughput": 125, "encrypted": true,
        "kms_key_id": "arn:aws:kms:eu-west-1:222222222222:key/1", "tags": {"Name": "db"}, "state": "completed",
        "started": "2026-11-23T22:13:01Z", "completed": "2026-11-23T22:40:00Z",
    });
    let mut pending = snapshot.clone();
    pending["state"] = "pending".into();
    pending["completed"] = serde_json::Value::Null;
    let mut failed = item("data-vol-2", serde_json::Value::Null);
    failed["outcome"] = "failure".into();
    failed["error"] = serde_json::json!({"class": "kms-denied", "message": "Given key ID is not accessible"});
    manifest["items"].as_array_mut().unwrap().extend([
        item("data-vol-0", snapshot),
        item("data-vol-1", pending),
        failed,
    ]);
    manifest
}

type Read = fn(&[u8]) -> Verdict;

/// Name, bytes, and what the reader must say to them.
type Seed = (&'static str, Vec<u8>, Verdict);

fn index_seeds() -> Vec<Seed> {
    let (stream, index) = valid(7, Encoding::Zstd);
    let plain = records(&index);
    let (raw_stream, raw) = valid(2, Encoding::Raw);
    let (none_stream, none) = valid(0, Encoding::Raw);
    let mut wrong = stream.clone();
    wrong.digest[0] ^= 1;
    let mut too_few = stream.clone();
    too_few.files -= 1;
    let mut huge_record = plain[..8].to_vec();
    huge_record.extend(u32::MAX.to_le_bytes());
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    bomb.write_all(b"PSTKIDX1").unwrap();
    std::io::copy(&mut std::io::repeat(0).take(64 << 20), &mut bomb).unwrap();
    let input = harness::index_input;
    vec![
        ("valid", input(COMPRESSED, &stream, &index), Verdict::Accepted),
        ("valid-records", input(PLAIN, &stream, &plain), Verdict::Accepted),
        ("valid-raw", input(PLAIN, &raw_stream, &records(&raw)), Verdict::Accepted),
        ("valid-no-files", input(PLAIN, &none_stream, &records(&none)), Verdict::Accepted),
        ("truncated", input(COMPRESSED, &stream, &index[..index.len() - 5]), Verdict::Refused),
        ("truncated-records", input(PLAIN, &stream, &plain[..plain.len() - 5]), Verdict::Refused),
        ("trailing", input(PLAIN, &stream, &[&plain[..], b"x"].concat()), Verdict::Refused),
        ("wrong-digest", input(PLAIN, &wrong, &plain), Verdict::Refused),
        ("too-many-files", input(PLAIN, &too_few, &plain), Verdict::Refused),
        ("record-of-4-gib", input(PLAIN, &stream, &huge_record), Verdict::Refused),
        ("magic-only", input(PLAIN, &stream, b"PSTKIDX1"), Verdict::Refused),
        ("other-version", input(PLAIN, &stream, b"PSTKIDX2"), Verdict::Refused),
        ("zeros-64-mib", input(COMPRESSED, &stream, &bomb.finish().unwrap()), Verdict::Refused),
        // A zstd header that asks for a window of 128 MiB (descriptor 0x88: exponent 17, 1 KiB << 17), then an empty last block.
        ("window-128-mib", input(COMPRESSED, &stream, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x88, 1, 0, 0]), Verdict::Refused),
        ("empty", Vec::new(), Verdict::NoInput),
    ]
}

fn manifest_seeds() -> Vec<Seed> {
    let edited = |pointer: &str, value: serde_json::Value| {
        let mut manifest = valid_manifest();
        *manifest.pointer_mut(pointer).unwrap() = value;
        serde_json::to_vec_pretty(&manifest).unwrap()
    };
    let of_snapshot = |field: &str, value: serde_json::Value| {
        let mut manifest = valid_with_snapshots();
        manifest["items"][2]["snapshot"][field] = value;
        serde_json::to_vec_pretty(&manifest).unwrap()
    };
    let many_tags: serde_json::Map<_, _> = (0..51).map(|number| (format!("t{number}"), "".into())).collect();
    let valid = serde_json::to_vec_pretty(&valid_manifest()).unwrap();
    let key = "/items/0/stream/objects/0/key";
    vec![
        ("valid", valid.clone(), Verdict::Accepted),
        ("valid-snapshots", serde_json::to_vec_pretty(&valid_with_snapshots()).unwrap(), Verdict::Accepted),
        ("snapshot-other-id", of_snapshot("snapshot_id", "vol-0123456789abcdef0".into()), Verdict::Refused),
        ("snapshot-no-size", of_snapshot("size_gib", 0.into()), Verdict::Refused),
        ("snapshot-size-over", of_snapshot("size_gib", u64::MAX.into()), Verdict::Refused),
        ("snapshot-other-state", of_snapshot("state", "error".into()), Verdict::Refused),
        ("snapshot-51-tags", of_snapshot("tags", many_tags.into()), Verdict::Refused),
        ("no-items", edited("/items", serde_json::json!([])), Verdict::Accepted),
        ("truncated", valid[..valid.len() / 2].to_vec(), Verdict::Refused),
        ("newer-version", edited("/version", 2.into()), Verdict::Refused),
        ("huge-version", edited("/version", u64::MAX.into()), Verdict::Refused),
        ("other-node", edited("/node", "n2".into()), Verdict::Refused),
        ("climbing-key", edited(key, format!("fleet/prod/etcd/n1/{}/../../x", harness::ID).into()), Verdict::Refused),
        ("foreign-key", edited(key, "fleet/prod/etcd/n2/x".into()), Verdict::Refused),
        ("live-over-size", edited("/items/0/stream/objects/0/live_bytes", u64::MAX.into()), Verdict::Refused),
        ("short-digest", edited("/items/0/stream/digest", "00".into()), Verdict::Refused),
        ("same-name-twice", edited("/items/1/name", "tree".into()), Verdict::Refused),
        ("bad-time", edited("/started", "2026-13-40T99:00:00Z".into()), Verdict::Refused),
        ("deep", [b"[".repeat(10_000), b"]".repeat(10_000)].concat(), Verdict::Refused),
        ("empty", Vec::new(), Verdict::Refused),
    ]
}

#[test]
fn seeds_are_judged_as_they_should_be() {
    let targets: [(&str, Vec<Seed>, Read); 2] =
        [("index", index_seeds(), harness::index), ("manifest", manifest_seeds(), harness::manifest)];
    for (target, seeds, read) in targets {
        for (name, input, expected) in seeds {
            assert_eq!(read(&input), expected, "{target}/{name}");
            if std::env::var_os("UPDATE_CORPUS").is_some() {
                std::fs::write(corpus(target).join(name), input).unwrap();
            }
        }
    }
}

#[test]
fn the_corpus_is_read_without_a_panic() {
    let targets: [(&str, Read); 2] = [("index", harness::index), ("manifest", harness::manifest)];
    for (target, read) in targets {
        let (mut files, mut accepted) = (0, 0);
        for entry in std::fs::read_dir(corpus(target)).unwrap() {
            let path = entry.unwrap().path();
            let verdict = read(&std::fs::read(&path).unwrap());
            files += 1;
            // The seeds named so were written by this format: a reader that refuses them has lost old backups.
            let valid = path.file_name().unwrap().to_string_lossy().starts_with("valid");
            assert!(!valid || verdict == Verdict::Accepted, "{} is refused", path.display());
            accepted += u32::from(verdict == Verdict::Accepted);
        }
        assert!(files >= 10 && accepted >= 1, "{target}: {files} files, {accepted} accepted");
    }
}

/// The same in a process that may have 1 GiB of address space: an allocation that follows a hostile length ends it.
#[test]
fn the_corpus_is_read_in_bounded_memory() {
    let name = "corpus::the_corpus_is_read_without_a_panic";
    let output = Command::new("bash")
        .args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip { at: prop::sample::Index, bit: u8 },
    Truncate { at: prop::sample::Index },
    Splice { from: prop::sample::Index, to: prop::sample::Index, length: usize },
    Overwrite { at: prop::sample::Index, with: [u8; 4] },
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip { at, bit } => *at.get_mut(bytes) ^= 1 << bit,
            Self::Truncate { at } => bytes.truncate(at.index(bytes.len())),
            Self::Splice { from, to, length } => {
                let from = from.index(bytes.len());
                let piece: Vec<u8> = bytes[from..].iter().take(*length).copied().collect();
                let to = to.index(bytes.len());
                bytes.splice(to..to, piece);
            }
            Self::Overwrite { at, with } => {
                let at = at.index(bytes.len());
                bytes.iter_mut().skip(at).zip(with).for_each(|(byte, with)| *byte = *with);
            }
        }
    }
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let index = any::<prop::sample::Index>;
    let extremes = prop::sample::select(vec![[0; 4], [0xff; 4], [0x80, 0x80, 0x80, 0x80], [0xff, 0xff, 0xff, 0x7f]]);
    let one = prop_oneof![
        (index(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        index().prop_map(|at| Mutation::Truncate { at }),
        (index(), index(), 1..200_usize).prop_map(|(from, to, length)| Mutation::Splice { from, to, length }),
        (index(), prop_oneof![extremes, any::<[u8; 4]>()]).prop_map(|(at, with)| Mutation::Overwrite { at, with }),
    ];
    prop::collection::vec(one, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The harness asserts that what is yielded fits; the readers must not panic.
    #[test]
    fn a_mutated_index_is_refused_or_fits(files in 0..20_u32, raw: bool, compressed: bool, mutations in mutations()) {
        let (stream, index) = valid(files, if raw { Encoding::Raw } else { Encoding::Zstd });
        let (mode, mut body) = if compressed { (COMPRESSED, index) } else { (PLAIN, records(&index)) };
        prop_assert_eq!(harness::index(&harness::index_input(mode, &stream, &body)), Verdict::Accepted);
        for mutation in mutations {
            mutation.apply(&mut body);
        }
        harness::index(&harness::index_input(mode, &stream, &body));
    }

    #[test]
    fn a_mutated_manifest_is_refused_or_fits(mutations in mutations()) {
        let mut bytes = serde_json::to_vec(&valid_with_snapshots()).unwrap();
        for mutation in mutations {
            mutation.apply(&mut bytes);
        }
        harness::manifest(&bytes);
    }

    /// Changed values in a manifest that is still JSON get further than changed bytes.
    #[test]
    fn a_manifest_with_other_numbers_is_refused_or_adds_up(
        field in prop::sample::select(vec!["plain_bytes", "stored_bytes", "new_bytes", "chunks", "files"]),
        value: u64, live: u64, size: u64,
    ) {
        let mut manifest = valid_manifest();
        let stream = &mut manifest["items"][0]["stream"];
        stream[field] = value.into();
        stream["objects"][0]["live_bytes"] = live.into();
        stream["objects"][0]["size"] = size.into();
        harness::manifest(&serde_json::to_vec(&manifest).unwrap());
    }
}
