use super::*;

#[test]
fn names() {
    assert!(Name::new("etcd").is_ok());
    assert!(Name::new("ip-10-0-0-1.eu-west-1.compute.internal").is_ok());
    assert_eq!(Name::new(""), Err(NameError::Empty));
    assert_eq!(Name::new("A"), Err(NameError::Character('A')));
    assert_eq!(Name::new("a/b"), Err(NameError::Character('/')));
    assert_eq!(Name::new("..").unwrap_err(), NameError::Start('.'));
    assert_eq!(Name::new("x".repeat(129)), Err(NameError::TooLong(129)));
}

#[test]
fn backup_ids() {
    let started: jiff::Timestamp = "2026-11-23T22:13:00.75Z".parse().unwrap();
    let id = BackupId::new(started, 0xff4f_9a2c);
    assert_eq!(id.as_str(), "20261123T221300Z-c09a2c");
    let later: jiff::Timestamp = "2026-11-23T22:13:00.999999999Z".parse().unwrap();
    assert_eq!(BackupId::new(later, 0).as_str(), "20261123T221300Z-ff0000");
    assert_eq!(id.as_str().parse(), Ok(id.clone()));
    assert_eq!(id.started(), Some("2026-11-23T22:13:00.75Z".parse().unwrap()));
    assert_eq!("20269923T221300Z-4f9a2c".parse::<BackupId>().unwrap().started(), None);
    for bad in ["", "latest", "20261123T221300Z-4F9A2C", "20261123T221300Z-4f9a2c/", "20261123T221300Z_4f9a2c"] {
        assert!(bad.parse::<BackupId>().is_err(), "{bad}");
    }
}

#[test]
fn names_keep_to_the_width_of_their_column() {
    let id: BackupId = "20261123T221300Z-4f9a2c".parse().unwrap();
    assert_eq!(format!("{:<6}|{id:>25}|", Name::new("etcd").unwrap()), "etcd  |  20261123T221300Z-4f9a2c|");
    assert_eq!(format!("{:<8}|{:.3}", ObjectKey::new("a/b"), ObjectKey::new("long")), "a/b     |lon");
}

#[test]
fn siblings_differ_in_the_backup_only() {
    let sibling = |a: &str, b: &str| ObjectKey::new(a).is_sibling_of(&ObjectKey::new(b));
    let key = "fleet/c/j/n/20261123T221300Z-4f9a2c/pods.0001.tar.zst";
    assert!(sibling(key, key));
    assert!(sibling(key, "fleet/c/j/n/20261124T221300Z-000000/pods.0001.tar.zst"));
    for other in [
        "fleet/c/j/m/20261124T221300Z-000000/pods.0001.tar.zst",
        "fleet/c/j/n/20261124T221300Z-000000/pods.0002.tar.zst",
        "fleet/c/j/n/20261124T221300Z-000000/pods.0001.tar",
        "fleet/c/j/n/elsewhere/pods.0001.tar.zst",
        "pods.0001.tar.zst",
        "",
    ] {
        assert!(!sibling(key, other) && !sibling(other, key), "{other}");
    }
}

#[test]
fn keys_round_trip_and_strangers_are_ignored() {
    let name = |s: &str| Name::new(s).unwrap();
    let chain = Chain { cluster: name("prod"), job: name("etcd"), node: name("n1") };
    let id: BackupId = "20261123T221300Z-4f9a2c".parse().unwrap();
    for prefix in ["", "fleet", "/fleet/eu/"] {
        let backup = BackupPrefix::new(prefix, &chain, &id);
        let parsed = BackupPrefix::parse_manifest(prefix, &chain.cluster, &backup.manifest());
        assert_eq!(parsed, Some((backup.clone(), chain.clone(), id.clone())));
        assert_eq!(
            BackupPrefix::parse_manifest(prefix, &chain.cluster, &backup.index(&name("a"), Suffix::IndexAge)),
            None
        );
    }
    let backup = BackupPrefix::new("fleet", &chain, &id);
    assert_eq!(
        backup.data(&name("pods"), 1, Suffix::TarZst).as_str(),
        "fleet/prod/etcd/n1/20261123T221300Z-4f9a2c/pods.0001.tar.zst"
    );
    let kind = |file: &str| {
        let key = ObjectKey::new(format!("{}{file}", backup.as_str()));
        let (parsed, at, kind) = BackupPrefix::parse_object("fleet", &chain.cluster, &key)?;
        assert_eq!((parsed, at), (chain.clone(), id.clone()));
        Some(kind)
    };
    for (file, expected) in [
        ("manifest.json", Some(Kind::Manifest)),
        ("deleted.json", Some(Kind::Deleted)),
        ("damaged.json", Some(Kind::Damaged)),
        ("pods.index.zst", Some(Kind::Index)),
        ("pods.0001.tar.zst", Some(Kind::Data)),
        ("a.b.10000.bin", Some(Kind::Data)),
        ("notes.txt", None),
        ("pods.1.tar.zst", None),
        ("pods.0001.tar.gz", None),
        (".index.zst", None),
        ("x/manifest.json", None),
        ("", None),
    ] {
        assert_eq!(kind(file), expected, "{file}");
    }
    for item in ["pods", "a.b", "x.index.zst"] {
        assert_eq!(
            kind(backup.index(&name(item), Suffix::Index).as_str().rsplit('/').next().unwrap()),
            Some(Kind::Index)
        );
        for suffix in Suffix::ALL.iter().filter(|suffix| !suffix.is_index()) {
            let data = backup.data(&name(item), 7, *suffix);
            assert_eq!(kind(data.as_str().rsplit('/').next().unwrap()), Some(Kind::Data), "{suffix:?}");
        }
    }
    let nested = ObjectKey::new("fleet/prod/etcd/n1/20261123T221300Z-4f9a2c/x/manifest.json");
    assert_eq!(BackupPrefix::parse_manifest("fleet", &chain.cluster, &nested), None);
}
