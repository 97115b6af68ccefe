use super::*;
use crate::error::Class;
use crate::format::index::Totals;
use crate::format::key::{BackupPrefix, ObjectKey};
use crate::format::manifest::{IndexObject, NotEntered, Outcome};
use crate::format::testing::{self, item, name, stream};

fn encryption(recipients: &[Recipient]) -> Encryption {
    Encryption::new(recipients, recipients.iter().map(Recipient::fingerprint).collect(), None)
}

fn sample() -> Manifest {
    let tree = SourceDescription::Tree { path: "/canary/tree".to_owned() };
    let key = ObjectKey::new("c/j/n/20261123T221300Z-4f9a2c/data.index.zst.age");
    let totals = Totals { chunks: 0, files: 0, plain_bytes: 0, digest: [0xca; 32] };
    let mut content = stream(totals, IndexObject { key, size: 9, sha256: [0; 32], version: None }, Vec::new());
    content.not_entered = NotEntered { count: 2, list: vec!["canary/proc".to_owned()] };
    let command = SourceDescription::Command { argv: vec!["canary-dump".to_owned(), "--all".to_owned()] };
    let failed = Report::new(Class::Source, "canary: no such table").remedy("create the canary");
    let cluster =
        SourceDescription::Kubernetes { address: "https://canary".to_owned(), selection: "canary".to_owned() };
    let record = cluster::Record { server_version: "canary".to_owned(), ..cluster::Record::default() };
    let mut manifest = testing::manifest(vec![
        item("data", tree, Some(content)),
        Item { outcome: Outcome::Failure, error: Some(failed), ..item("dump", command, None) },
        Item { kubernetes: Some(Box::new(record)), ..item("objects", cluster, None) },
        item("file", SourceDescription::File { path: "/canary".to_owned() }, None),
    ]);
    let warning = |path: &str| Warning { item: name("data"), path: path.to_owned(), message: "canary".to_owned() };
    manifest.warnings.push(warning("canary/a"));
    manifest.warnings.push(warning("canary/b"));
    manifest
}

#[test]
fn what_is_sealed_is_read_by_recipients_only_and_comes_back_whole() {
    let ours = [Identity::generate().unwrap()];
    let recipients = [ours[0].recipient()];
    let mut manifest = sample();
    manifest.seal(encryption(&recipients), &recipients).unwrap();
    let json = manifest.to_json();
    let text = String::from_utf8(json.clone()).unwrap();
    assert!(!text.contains("canary") && text.contains("\"features\""), "{text}");
    assert!(!text.contains("cacaca"), "a digest of the content confirms a guess: {text}");
    let mut read = Manifest::parse(&json, &manifest.chain(), &manifest.id, "c/").unwrap();
    assert_eq!(read, manifest.redacted());
    assert_eq!(read.to_json(), json, "written again by one that cannot read it");
    assert_eq!((read.warnings.count, read.items[1].error.as_ref().unwrap().class), (2, Class::Source));
    for (read, written) in read.items.iter().zip(&manifest.items) {
        assert_eq!(read.source.is_tree(), written.source.is_tree());
        assert_eq!(std::mem::discriminant(&read.source), std::mem::discriminant(&written.source));
    }
    let other = [Identity::generate().unwrap()];
    assert!(matches!(read.unseal(&other), Err(UnsealError::Open(OpenError::Header(_)))));
    read.unseal(&ours).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(read.to_json(), json, "also by one that can");
}

#[test]
fn a_sealed_part_that_was_changed_is_refused() {
    let ours = [Identity::generate().unwrap()];
    let mut manifest = sample();
    manifest.seal(encryption(&[ours[0].recipient()]), &[ours[0].recipient()]).unwrap();
    let mut changed = manifest.redacted();
    changed.encryption.as_mut().unwrap().sealed.pop();
    assert_eq!(changed.unseal(&ours), Err(UnsealError::Base64));
    let other = age::seal(b"[]".as_slice().into(), &[ours[0].recipient()]).unwrap();
    changed.encryption.as_mut().unwrap().sealed = BASE64.encode(other);
    assert!(matches!(changed.unseal(&ours), Err(UnsealError::Syntax(_))));
}

#[test]
fn an_encrypted_backup_has_encrypted_objects_only_and_a_plain_one_none() {
    let ours = [Identity::generate().unwrap()];
    let mut manifest = sample();
    let parse = |manifest: &Manifest| {
        Manifest::parse(&manifest.to_json(), &manifest.chain(), &manifest.id, "c/")
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let refused = parse(&manifest).unwrap_err();
    assert!(refused.contains("expected keys of objects that are not encrypted"), "{refused}");
    manifest.seal(encryption(&[ours[0].recipient()]), &[ours[0].recipient()]).unwrap();
    assert_eq!(parse(&manifest), Ok(()));
    let Content::Stream { stream: Some(stream) } = &mut manifest.items[0].content else { panic!("a stream") };
    let home = BackupPrefix::new("", &testing::chain("n"), &"20261123T221300Z-4f9a2c".parse().unwrap());
    stream.index.key = home.index(&name("data"), crate::format::codec::Suffix::Index);
    let refused = parse(&manifest).unwrap_err();
    assert!(refused.contains("expected keys of encrypted objects"), "{refused}");
}
