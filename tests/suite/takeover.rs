//! A node is taken over: its disk, its memory after runs, its credentials. What was written before stays shut.
//!
//! Needs Debian's `gdb` for `gcore`, and the right to trace a process (`make test-tools`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bech32::primitives::decode::CheckedHrpstring;

use crate::daemon_site::wait_for;
use crate::encryption::{Vault, all_files};
use crate::model::noise;

const SOON: Duration = Duration::from_secs(60);

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; 32] {
    let (mut key, info) = ([0; 32], [info]);
    let prk = Salt::new(HKDF_SHA256, salt).extract(secret);
    prk.expand(&info, HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    key
}

/// An identity, as text and as bytes.
fn secret(identity: &Path) -> (String, Vec<u8>) {
    let text = fs::read_to_string(identity).unwrap();
    let line = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    (line.to_owned(), CheckedHrpstring::new::<bech32::Bech32>(line).unwrap().byte_iter().collect())
}

/// The keys of an object: what an attacker would have to find. Written from the specification, with nothing of src/age.
fn keys_of(object: &[u8], identity: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    let (_, secret) = secret(identity);
    let private = PrivateKey::from_private_key(&X25519, &secret).unwrap();
    let public = private.compute_public_key().unwrap().as_ref().to_vec();
    let end = object.windows(5).position(|window| window == b"\n--- ").unwrap() + 1 + 48;
    let header = std::str::from_utf8(&object[..end]).unwrap();
    let lines: Vec<&str> = header.lines().collect();
    for pair in lines.windows(2) {
        let Some(share) = pair[0].strip_prefix("-> X25519 ") else { continue };
        let share = STANDARD_NO_PAD.decode(share).unwrap();
        let salt = [share.as_slice(), &public].concat();
        let wrap = agreement::agree(&private, UnparsedPublicKey::new(&X25519, &share), (), |shared| {
            Ok(derive(shared, &salt, b"age-encryption.org/v1/X25519"))
        });
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &wrap.unwrap()).unwrap());
        let mut body = STANDARD_NO_PAD.decode(pair[1]).unwrap();
        if let Ok(file_key) = key.open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut body) {
            let payload = derive(file_key, &object[end..end + 16], b"payload");
            // It is the right one: it opens the first chunk.
            let chunk = &object[end + 16..object.len().min(end + 16 + 65_552)];
            let chacha = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &payload).unwrap());
            let mut nonce = [0; 12];
            nonce[11] = u8::from(chunk.len() < 65_552 || object.len() == end + 16 + 65_552);
            let opens =
                chacha.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut chunk.to_vec()).is_ok();
            assert!(opens, "the test unwraps keys as the specification says");
            return BTreeMap::from([
                ("the file key", file_key.to_vec()),
                ("the file key in base64", STANDARD.encode(&file_key[..15]).into_bytes()),
                ("the payload's key", payload.to_vec()),
                ("the header's key", derive(file_key, b"", b"header").to_vec()),
            ]);
        }
    }
    panic!("no stanza of {} opens the object", identity.display());
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

#[test]
fn whoever_takes_over_a_node_reads_nothing_that_it_wrote_before() {
    let vault = Vault::new();
    // What neither compresses nor repeats, so that it would be stored as it is.
    let content = noise(3_000_000, 4711);
    fs::write(vault.tree.join("another-name-canary.bin"), &content).unwrap();
    let node = vault.node();
    let log = fs::File::create(vault.folder().join("daemon.log")).unwrap();
    let mut command = node.command(&["run"]);
    let daemon = Daemon(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    wait_for("the daemon", SOON, || (node.json(&["status"]).0 == 0).then_some(()));
    for number in 0..2 {
        fs::write(vault.tree.join("changes"), noise(400_000, number)).unwrap();
        assert_eq!(
            node.json(&["trigger", "site", "--wait"]).0,
            0,
            "{}",
            fs::read_to_string(vault.folder().join("daemon.log")).unwrap()
        );
    }
    let image = vault.folder().join("image");
    let dumped = Command::new("gcore").arg("-o").arg(&image).arg(daemon.0.id().to_string()).output().unwrap();
    assert!(dumped.status.success(), "{dumped:?}");
    let memory = fs::read(vault.folder().join(format!("image.{}", daemon.0.id()))).unwrap();
    // What a running daemon must know, its configuration, is in it.
    assert!(contains(&memory, vault.tree.to_str().unwrap().as_bytes()), "an image");

    finds_no_key(&vault, &memory);
    // With the node's own program, configuration and credentials.
    let target = vault.folder().join("stolen").to_str().unwrap().to_owned();
    for command in [
        &["restore", "site@latest", "--to", &target][..],
        &["show", "site@latest", "--files"],
        &["cat", "site@latest", "--item", "dump"],
    ] {
        assert_eq!(node.json(command).0, 77, "{command:?}");
    }
    finds_no_canary(&vault, &memory, &content);
}

/// Neither a private key, nor any of an object's, is on the node's disk or in its memory; nor does anything there open an object.
fn finds_no_key(vault: &Vault, memory: &[u8]) {
    let disk: Vec<(PathBuf, Vec<u8>)> = all_files(&vault.folder().join("node"))
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    assert!(disk.iter().any(|(path, _)| path.ends_with("penstock.toml")));
    let held: Vec<(&Path, &[u8])> = disk
        .iter()
        .map(|(path, bytes)| (path.as_path(), bytes.as_slice()))
        .chain([(Path::new("its memory"), memory)])
        .collect();
    let mut found = Vec::new();
    let objects = vault.objects(".age");
    assert!(objects.len() >= 6, "{objects:?}");
    for object in &objects {
        let bytes = fs::read(object).unwrap();
        for identity in &vault.keys {
            for (what, key) in keys_of(&bytes, identity) {
                for (place, have) in &held {
                    if contains(have, &key) {
                        found.push(format!("{what} of {} is in {}", object.display(), place.display()));
                    }
                }
            }
        }
        // And by hand: whatever is on the disk, as an identity.
        for (path, _) in &disk {
            let tried =
                Command::new("age").args(["-d", "-i"]).args([path, object]).stdin(Stdio::null()).output().unwrap();
            assert!(
                !tried.status.success() && tried.stdout.is_empty(),
                "{} opens {}",
                path.display(),
                object.display()
            );
        }
    }
    assert_eq!(found, Vec::<String>::new());
    for (place, have) in &held {
        for identity in &vault.keys {
            let (text, secret) = secret(identity);
            assert!(!contains(have, text.as_bytes()) && !contains(have, &secret), "{}", place.display());
        }
    }
}

/// Names and contents are nowhere in the bucket, nor in the state directory, nor in memory.
fn finds_no_canary(vault: &Vault, memory: &[u8], content: &[u8]) {
    let canaries: [&[u8]; 6] = [
        b"small-name-canary",
        b"another-name-canary",
        b"content-canary-of-the-tree",
        b"command-canary",
        &content[1_000_000..1_000_032],
        &content[2_999_900..2_999_932],
    ];
    for canary in canaries {
        let shown = String::from_utf8_lossy(canary);
        for path in all_files(&vault.s3.folder()).into_iter().chain(all_files(&vault.folder().join("node/state"))) {
            assert!(!contains(&fs::read(&path).unwrap(), canary), "{shown:?} is in {}", path.display());
            assert!(!path.to_string_lossy().contains(&*shown), "{}", path.display());
        }
    }
    // Nor in memory, but for the command, which is the configuration's.
    let samples =
        content.chunks(32 << 10).map(|chunk| &chunk[100..132]).chain(canaries).filter(|canary| *canary != canaries[3]);
    let left: Vec<_> = samples.filter(|sample| contains(memory, sample)).map(String::from_utf8_lossy).collect();
    assert!(left.is_empty(), "left in memory after the run: {left:?}");
}
