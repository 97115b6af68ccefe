//! The age format against others: C2SP's test vectors, Debian's `age` and PyPI's `pyrage`, in both directions.
//!
//! `tests/fixtures/age` has the vectors of C2SP/CCTV (CC0), without those of armor and of passphrases, which Penstock does not read.
//! Needs `age` and `age-keygen` (`make test-tools`); installs pyrage into `.tools`.

use std::borrow::Cow;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use bytes::Bytes;
use penstock::age;
use penstock::age::{
    CHUNK, Decryptor, Encryptor, Envelope, HeaderError, Identity, Layout, Opened, PayloadError, Ranged, Recipient,
    Tags, identities, recipients,
};
use sha2::{Digest as _, Sha256};

use crate::model::noise;

#[expect(unreachable_pub, reason = "the fuzz target names it from another crate")]
#[path = "../../fuzz/src/age_header.rs"]
mod harness;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The lengths at which the format changes.
const BORDERS: [usize; 8] = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 5 * CHUNK + 77];

/// A Python that has pyrage.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let installed = Command::new(format!("{ROOT}/tests/tools/pyrage.sh")).stderr(Stdio::inherit()).output().unwrap();
    assert!(installed.status.success(), "pyrage cannot be installed");
    String::from_utf8(installed.stdout).unwrap().trim().to_owned()
});

/// The other implementations.
#[derive(Debug, Clone, Copy)]
enum Peer {
    Age,
    Pyrage,
}

const PEERS: [Peer; 2] = [Peer::Age, Peer::Pyrage];

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().expect("the other implementation is installed: make test-tools");
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

impl Peer {
    fn encrypt(self, plain: &Path, sealed: &Path, to: &[Recipient]) {
        let to: Vec<String> = to.iter().map(Recipient::to_string).collect();
        let mut command = self.command("encrypt");
        match self {
            Self::Age => command.args(to.iter().flat_map(|to| ["-r", to])).arg("-o").args([sealed, plain]),
            Self::Pyrage => command.args([plain, sealed]).args(to),
        };
        run(&mut command).unwrap();
    }

    fn decrypt(self, sealed: &Path, plain: &Path, identity: &Path) -> Result<(), String> {
        let mut command = self.command("decrypt");
        run(match self {
            Self::Age => command.arg("-d").arg("-i").arg(identity).arg("-o").args([plain, sealed]),
            Self::Pyrage => command.args([sealed, plain]).arg(identity),
        })
    }

    fn command(self, verb: &str) -> Command {
        match self {
            Self::Age => Command::new("age"),
            Self::Pyrage => {
                let mut command = Command::new(&*PYTHON);
                command.arg(format!("{ROOT}/tests/tools/age_peer.py")).arg(verb);
                command
            }
        }
    }
}

fn encrypt(plain: &[u8], to: &[Recipient]) -> Vec<u8> {
    let envelope = Envelope::new(to).unwrap();
    let (mut sealed, layout) = (envelope.prefix().to_vec(), envelope.layout());
    let mut encryptor = Encryptor::new(envelope);
    for frame in plain.chunks(700_001) {
        let runs = encryptor.write(Bytes::copy_from_slice(frame));
        sealed.extend(runs.into_iter().flat_map(|run| run.seal().unwrap().0));
    }
    sealed.extend(encryptor.finish().seal().unwrap().0);
    assert_eq!(layout.encrypted_len(plain.len() as u64), Some(sealed.len() as u64));
    sealed
}

fn decrypt(sealed: &[u8], with: &[Identity]) -> Vec<u8> {
    let opened = Opened::read(sealed, with).unwrap();
    let payload = &sealed[usize::try_from(opened.layout().prefix()).unwrap()..];
    assert!(opened.layout().plain_len(sealed.len() as u64).is_ok());
    let (mut decryptor, mut plain) = (Decryptor::new(opened), Vec::new());
    for piece in payload.chunks(100_003) {
        decryptor.write(piece, &mut plain).unwrap();
    }
    decryptor.finish(&mut plain).unwrap();
    plain
}

/// Files of a test, and two key pairs.
struct Desk {
    folder: tempfile::TempDir,
    keys: [Identity; 2],
}

impl Desk {
    fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), keys: [(); 2].map(|()| Identity::generate().unwrap()) };
        for (number, key) in desk.keys.iter().enumerate() {
            fs::write(desk.path(&format!("key{number}")), &*key.to_file("2026-11-29T20:00:00Z")).unwrap();
        }
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn to(&self) -> [Recipient; 2] {
        [self.keys[0].recipient(), self.keys[1].recipient()]
    }

    /// What we encrypt they read, with either key; what they encrypt we read.
    fn there_and_back(&self, plain: &[u8], peer: Peer) {
        let (ours, theirs, out) = (self.path("ours"), self.path("theirs"), self.path("out"));
        fs::write(&ours, encrypt(plain, &self.to())).unwrap();
        for key in ["key0", "key1"] {
            let _ = fs::remove_file(&out);
            peer.decrypt(&ours, &out, &self.path(key)).unwrap();
            // Debian's age writes no file for an empty payload.
            assert!(fs::read(&out).unwrap_or_default() == plain, "{peer:?}, {} bytes, {key}", plain.len());
        }
        fs::write(&out, plain).unwrap();
        peer.encrypt(&out, &theirs, &self.to());
        let sealed = fs::read(&theirs).unwrap();
        for key in &self.keys {
            assert!(decrypt(&sealed, std::slice::from_ref(key)) == plain, "{peer:?}, {} bytes", plain.len());
        }
        fs::remove_file(theirs).unwrap();
    }
}

#[test]
fn every_border_and_several_recipients_there_and_back() {
    let desk = Desk::new();
    for peer in PEERS {
        for len in BORDERS {
            desk.there_and_back(&noise(len, 1), peer);
        }
    }
}

#[test]
fn many_chunks_there_and_back_and_in_ranges() {
    let (desk, plain) = (Desk::new(), noise(300 << 20, 1));
    for peer in PEERS {
        desk.there_and_back(&plain, peer);
        let (file, sealed) = (desk.path("plain"), desk.path("sealed"));
        fs::write(&file, &plain).unwrap();
        peer.encrypt(&file, &sealed, &desk.to());
        read_in_ranges(&fs::read(&sealed).unwrap(), &plain, &desk.keys);
        fs::remove_file(sealed).unwrap();
    }
}

/// Two bytes around each border of a chunk, and a megabyte from each hundredth on.
fn read_in_ranges(sealed: &[u8], plain: &[u8], keys: &[Identity]) {
    let ranged = Ranged::new(Opened::read(sealed, keys).unwrap(), sealed.len() as u64).unwrap();
    assert_eq!(ranged.plain_len(), plain.len() as u64);
    let mut out = Vec::new();
    for border in (0..=plain.len()).step_by(CHUNK) {
        let length = if border / CHUNK % 100 == 50 { 1 << 20 } else { 1 };
        let range = border.saturating_sub(1)..(border + length).min(plain.len());
        let (start, end) = (range.start as u64, range.end as u64);
        let fetch = ranged.fetch(&(start..end)).unwrap();
        let fetched = &sealed[usize::try_from(fetch.start).unwrap()..usize::try_from(fetch.end).unwrap()];
        out.resize(range.len(), 0);
        ranged.open(&(start..end), fetched, &mut out).unwrap();
        assert!(out == plain[range], "around {border}");
    }
    let end = ranged.end();
    ranged.prove_end(&sealed[usize::try_from(end.start).unwrap()..]).unwrap();
}

#[test]
fn a_wrong_key_is_refused_on_both_sides() {
    let (desk, stranger) = (Desk::new(), Identity::generate().unwrap());
    let (sealed, out) = (desk.path("sealed"), desk.path("out"));
    fs::write(&sealed, encrypt(b"plain", &[stranger.recipient()])).unwrap();
    for peer in PEERS {
        let refused = peer.decrypt(&sealed, &out, &desk.path("key0")).unwrap_err();
        assert!(refused.contains("no identity matched") || refused.contains("No matching keys found"), "{refused}");
    }
    let refused = Opened::read(&fs::read(&sealed).unwrap(), &desk.keys).unwrap_err();
    assert_eq!(refused, HeaderError::NoIdentity { stanzas: 1, identities: 2 });
}

#[test]
fn what_we_refuse_they_refuse() {
    let (desk, sealed) = (Desk::new(), encrypt(&noise(3 * CHUNK + 5, 1), &Desk::new().to()));
    let (path, out) = (desk.path("sealed"), desk.path("out"));
    let ours = encrypt(&noise(3 * CHUNK + 5, 1), &desk.to());
    let prefix = usize::try_from(Opened::read(&ours, &desk.keys).unwrap().layout().prefix()).unwrap();
    let chunk = CHUNK + 16;
    let mut swapped = ours.clone();
    swapped[prefix..prefix + 2 * chunk].rotate_left(chunk);
    for (what, bytes) in [
        ("cut at a border", ours[..prefix + chunk].to_vec()),
        ("cut within a chunk", ours[..ours.len() - 1].to_vec()),
        ("swapped chunks", swapped),
        ("trailing data", [ours.as_slice(), b"x"].concat()),
        ("another object's payload", [&ours[..prefix], &sealed[prefix..]].concat()),
        ("a changed header", [&ours[..30], b"a", &ours[31..]].concat()),
    ] {
        fs::write(&path, bytes).unwrap();
        for peer in PEERS {
            assert!(peer.decrypt(&path, &out, &desk.path("key1")).is_err(), "{what}: {peer:?}");
            let _ = fs::remove_file(&out);
        }
    }
}

#[test]
fn keys_of_age_keygen_are_read_and_ours_are_read_by_it() {
    let desk = Desk::new();
    let (made, ours) = (desk.path("made"), desk.path("key0"));
    run(Command::new("age-keygen").arg("-o").arg(&made)).unwrap();
    let public = |file: &Path| {
        let output = Command::new("age-keygen").arg("-y").arg(file).output().unwrap();
        recipients(&output.stdout).unwrap()
    };
    assert_eq!(public(&ours), [desk.keys[0].recipient()]);
    let read = identities(&fs::read(&made).unwrap()).unwrap();
    assert_eq!(public(&made), [read[0].recipient()]);
    // Line for line the same but for time and keys.
    let shape = |file: &Path| {
        let words = |line: &str| line.split(": ").next().unwrap().split('1').next().unwrap().to_owned();
        fs::read_to_string(file).unwrap().lines().map(words).collect::<Vec<String>>()
    };
    assert_eq!(shape(&made), shape(&ours));
}

#[test]
fn an_object_that_was_resumed_is_read_by_others() {
    let (desk, plain) = (Desk::new(), noise(5 * CHUNK + 9, 1));
    let envelope = Envelope::new(&desk.to()).unwrap();
    let record = envelope.record();
    let mut object = envelope.prefix().to_vec();
    let (mut first, mut tags) = (Encryptor::new(envelope), Tags::default());
    for run in first.write(Bytes::copy_from_slice(&plain[..3 * CHUNK + 1000])) {
        let (sealed, new) = run.seal().unwrap();
        object.extend(sealed);
        tags.append(&new);
    }
    drop(first);
    // The store has a part that ends within a chunk.
    object.truncate(object.len() - 30_000);
    let interrupted = penstock::age::Interrupted::read(&record, tags).unwrap();
    let restart = Layout::new(interrupted.prefix().len() as u64).restart(object.len() as u64).unwrap();
    let mut second = Encryptor::continued(interrupted, restart.chunk).unwrap();
    let mut rest = Vec::new();
    let mut runs = second.write(Bytes::copy_from_slice(&plain[usize::try_from(restart.plain).unwrap()..]));
    runs.push(second.finish());
    rest.extend(runs.into_iter().flat_map(|run| run.seal().unwrap().0));
    object.extend(&rest[usize::try_from(restart.skip).unwrap()..]);
    let (path, out) = (desk.path("sealed"), desk.path("out"));
    fs::write(&path, object).unwrap();
    for peer in PEERS {
        peer.decrypt(&path, &out, &desk.path("key0")).unwrap();
        assert!(fs::read(&out).unwrap() == plain, "{peer:?}");
    }
}

/// One vector: how it must end, the SHA-256 of all that may be released, the identities.
struct Vector<'a> {
    expect: &'a str,
    payload: Option<&'a str>,
    keys: Vec<Identity>,
    file: Cow<'a, [u8]>,
}

fn vector(bytes: &[u8]) -> Vector<'_> {
    let split = bytes.windows(2).position(|window| window == b"\n\n").unwrap();
    let text = std::str::from_utf8(&bytes[..split]).unwrap();
    let fields: Vec<(&str, &str)> = text.lines().map(|line| line.split_once(": ").unwrap()).collect();
    let field = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let keys = fields.iter().filter(|(key, _)| *key == "identity").map(|(_, value)| value.parse().unwrap());
    let mut file = Cow::Borrowed(&bytes[split + 2..]);
    if field("compressed") == Some("zlib") {
        let mut plain = Vec::new();
        flate2::read::ZlibDecoder::new(&*file).read_to_end(&mut plain).unwrap();
        file = plain.into();
    }
    Vector { expect: field("expect").unwrap(), payload: field("payload"), keys: keys.collect(), file }
}

#[test]
fn the_test_vectors_of_the_specification() {
    let (mut count, folder) = (0, Path::new(ROOT).join("tests/fixtures/age"));
    for entry in fs::read_dir(&folder).expect("the vectors are part of the source") {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let Vector { expect, payload, keys, file } = vector(&bytes);
        let mut plain = Vec::new();
        let ended = match Opened::read(&file, &keys) {
            Ok(opened) => Ok(body(opened, &file, &mut plain)),
            Err(error) => Err(error),
        };
        let found = match &ended {
            Ok(Ok(())) => "success",
            Ok(Err(_)) => "payload failure",
            Err(HeaderError::NoIdentity { .. }) => "no match",
            Err(HeaderError::Mac) => "HMAC failure",
            Err(_) => "header failure",
        };
        assert_eq!(found, expect, "{}: {ended:?}", path.display());
        if let Some(payload) = payload {
            assert_eq!(hex::encode(Sha256::digest(&plain)), payload, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 60, "{count}");
}

fn body(opened: Opened, file: &[u8], plain: &mut Vec<u8>) -> Result<(), PayloadError> {
    let payload = &file[usize::try_from(opened.layout().prefix()).unwrap()..];
    let mut decryptor = Decryptor::new(opened);
    decryptor.write(payload, plain)?;
    decryptor.finish(plain)
}

/// `make fuzz` looks for new inputs; what it finds is minimised and put into `fuzz/corpus/age_header`.
#[test]
fn the_fuzzers_corpus_holds() {
    let mut accepted = 0;
    for entry in fs::read_dir(Path::new(ROOT).join("fuzz/corpus/age_header")).unwrap() {
        let path = entry.unwrap().path();
        let valid = path.file_name().unwrap().to_string_lossy().starts_with("valid");
        let found = harness::age_header(&fs::read(&path).unwrap());
        assert_eq!(found.is_ok(), valid, "{}: {found:?}", path.display());
        accepted += usize::from(valid);
    }
    assert!(accepted >= 5);
}
