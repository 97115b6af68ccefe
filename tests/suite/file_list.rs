//! `show --files` of a backup with very many files: what it prints, and what it takes of memory.

use std::io::{BufReader, Read};
use std::process::{Command, Stdio};

use penstock::aws::AwsLocation;
use penstock::checksum::Algorithm;
use penstock::format::codec::Encoding;
use penstock::format::index::{Chunk, ChunkId, FileEntry, FileKind, FileTime, Writer};
use penstock::format::key::ObjectKey;
use penstock::metrics::Metrics;
use penstock::store::{Overwrite, Payload};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use crate::binary::Penstock;
use crate::servers::{ACCESS_KEY, SECRET_KEY, Scheme, Servers};

const ID: &str = "20261123T221300Z-4f9a2c";
const HOME: &str = "test/j/n";
const CHUNK: u32 = 4 << 20;

/// An index of empty files that each differ, and the chunks that their headers would fill.
fn index(count: u64) -> (Vec<u8>, penstock::format::index::Totals) {
    let mut index = Writer::new(Vec::new()).unwrap();
    let time = FileTime { seconds: 1_700_000_000, nanoseconds: 5 };
    for number in 0..count {
        let file = FileEntry {
            path: format!("srv/data/{:016x}/{number}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes(),
            kind: FileKind::Regular,
            size: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: time,
            ctime: time,
            inode: number,
            device: 1,
            link: Vec::new(),
            member_start: number * 512,
            content_start: (number + 1) * 512,
            content_len: 0,
        };
        index.file(file).unwrap();
    }
    let chunk = |number: u64| Chunk {
        id: ChunkId(Sha256::digest(number.to_le_bytes()).into()),
        plain_len: CHUNK,
        encoding: Encoding::Raw,
        object: 0,
        offset: 0,
        stored_len: CHUNK,
    };
    (0..(count * 512).div_ceil(u64::from(CHUNK))).for_each(|number| index.chunk(&chunk(number)).unwrap());
    index.finish().unwrap()
}

/// The most that a command took of memory.
pub(crate) fn peak(mut command: Command) -> u64 {
    let output = command.stdout(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap() * 1024
}

pub(crate) fn measured(penstock: &Penstock, arguments: &[&str]) -> Command {
    let script = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); \
                  print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)";
    let command = penstock.command(arguments);
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    python.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    python
}

#[derive(Deserialize)]
struct Shown {
    id: String,
    files: Vec<IgnoredAny>,
}

async fn files_in_bounded_memory(count: u64, limit: u64) {
    let servers = Servers::start();
    let s3 = servers.s3(Scheme::Http);
    let metrics = Metrics::new();
    let store = AwsLocation::connect(&s3.location(), metrics.location("test")).unwrap().store();
    let put = async |name: &str, bytes: Vec<u8>| {
        let key = ObjectKey::new(format!("{HOME}/{ID}/{name}"));
        store.put(&key, Payload::new(bytes, Algorithm::default()), Overwrite::Refuse).await.unwrap();
    };
    let (bytes, totals) = index(count);
    let manifest = serde_json::json!({
        "version": 1, "id": ID, "job": "j", "cluster": "test", "node": "n", "agent": "0",
        "started": "2026-11-23T22:13:00Z", "finished": "2026-11-23T22:14:00Z", "parent": null, "outcome": "success",
        "warnings": {"count": 0, "list": []},
        "items": [{
            "name": "files", "source": {"type": "tree", "path": "/"}, "outcome": "success", "kind": "stream",
            "stream": {
                "plain_bytes": totals.plain_bytes, "stored_bytes": CHUNK, "new_bytes": CHUNK, "chunks": totals.chunks,
                "files": count, "digest": hex::encode(totals.digest),
                "index": {"key": format!("{HOME}/{ID}/files.index.zst"), "size": bytes.len(),
                    "sha256": hex::encode(Sha256::digest(&bytes))},
                "objects": [{"key": format!("{HOME}/{ID}/files.0001.tar.zst"), "size": CHUNK, "live_bytes": CHUNK,
                    "crc64nvme": "0000000000000000"}],
            },
        }],
    });
    put("files.index.zst", bytes).await;
    put("manifest.json", manifest.to_string().into_bytes()).await;

    let config = s3.toml("n", &servers.folder().join("state"), &s3.url);
    let penstock = Penstock::new(servers.folder(), &config)
        .with("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .with("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let without = peak(measured(&penstock, &["show", "j@latest"]));
    for output in ["human", "json"] {
        let with = peak(measured(&penstock, &["--output", output, "show", "j@latest", "--files"]));
        println!("{count} files, {output}: {} KiB more than {} KiB", with.saturating_sub(without) >> 10, without >> 10);
        assert!(with <= without + limit, "{output}: {with} bytes, {without} without the files");
    }

    let more: [&[&str]; 3] = [
        &["ls", "j@latest", "srv/data", "--recursive"],
        &["find", "no-such-file"],
        &["--output", "json", "find", "**", "--limit", "1000"],
    ];
    for arguments in more {
        let with = peak(measured(&penstock, arguments));
        assert!(with <= without + limit, "{arguments:?}: {with} bytes, {without} without the files");
    }
    // Every file is a version: within limits.memory, or not at all.
    if count <= 100_000 {
        let with = peak(measured(&penstock, &["find", "**"]));
        assert!(with <= without + limit + (64 << 20), "{with} bytes, {without} without the files");
    } else {
        assert_eq!(penstock.run(&["find", "**"]).status.code(), Some(74));
    }

    let mut child = penstock.command(&["--output", "json", "show", "j@latest", "--files"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let shown: Shown = serde_json::from_reader(BufReader::new(child.stdout.take().unwrap())).unwrap();
    assert_eq!((shown.id.as_str(), shown.files.len() as u64), (ID, count));
    assert!(child.wait().unwrap().success());
    // Who has seen enough, as `head`, is no failure.
    let mut child = penstock.command(&["show", "j@latest", "--files"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    assert_eq!((line, child.wait().unwrap().code()), (*b"file", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_shown_in_bounded_memory() {
    files_in_bounded_memory(100_000, 32 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a million files"]
async fn soak_a_million_files_are_shown_in_64_mib() {
    files_in_bounded_memory(1_000_000, 64 << 20).await;
}
