//! Backups as Penstock writes them, and forged ones.

use tokio_util::sync::CancellationToken;

use super::archive::{Archive, Listed, Wanted, find, open};
use super::{Error, Filter};
use crate::download::testing::{House, MIB, SMALL, house};
use crate::error::{Class, Classify as _};
use crate::format::index::FileEntry;
use crate::format::manifest::{Item, Manifest, SourceDescription};
use crate::format::testing::{item, manifest};
use crate::tar::{END, Member};

/// Path and content of each member, and the path in the index if it differs.
pub(crate) type Row<'a> = (&'a str, &'a str, Option<&'a str>);

async fn backup(house: &House, rows: &[Row<'_>]) -> Manifest {
    let (mut plain, mut files) = (Vec::new(), Vec::new());
    for (path, content, indexed) in rows {
        let member =
            Member { path: path.as_bytes().to_vec(), size: content.len() as u64, mode: 0o600, ..Member::default() };
        let member_start = plain.len() as u64;
        let layout = member.encode(&mut plain);
        plain.extend_from_slice(content.as_bytes());
        plain.resize(plain.len().next_multiple_of(512), 0);
        files.push(FileEntry {
            path: indexed.unwrap_or(path).as_bytes().to_vec(),
            kind: member.kind,
            size: member.size,
            mode: member.mode,
            uid: 0,
            gid: 0,
            mtime: member.mtime,
            ctime: member.mtime,
            inode: 0,
            device: 0,
            link: Vec::new(),
            member_start,
            content_start: member_start + layout.headers,
            content_len: member.size,
        });
    }
    plain.extend_from_slice(&END);
    let source = SourceDescription::Kubernetes { address: "https://c".into(), selection: "everything".into() };
    let stream = house.stream("objects", &plain, &files, SMALL).await;
    manifest(vec![Item { kubernetes: Some(Box::default()), ..item("objects", source, Some(stream)) }])
}

pub(crate) const VERSION: Row<'static> = ("metadata/version", "1.1.0\n", None);

pub(crate) async fn archives(house: &House, rows: &[Row<'_>]) -> Vec<Archive> {
    open(&house.location, &backup(house, rows).await).await.unwrap()
}

fn names(archives: &[Archive], filter: &Filter) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for archive in archives {
        archive.list(|Listed { place, .. }| {
            if filter.fits(&place) {
                names.push(format!("{} {}", place.filed, place.key()));
            }
            Ok(())
        })?;
    }
    Ok(names)
}

async fn found(archives: Vec<Archive>, wanted: &str) -> Result<String, Error> {
    let wanted: Wanted = wanted.parse().unwrap();
    let find = move || find(&archives, &wanted, &CancellationToken::new());
    let (object, _) = tokio::task::spawn_blocking(find).await.unwrap()?;
    Ok(String::from_utf8(object.bytes).unwrap())
}

const WEB: &str =
    r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop"},"spec":{"n":1.0}}"#;
const MAP: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"web","namespace":"shop"}}"#;
const SHOP: &str = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}"#;
const OLD: &str = r#"{"apiVersion":"x.test/v1beta1","kind":"Widget","metadata":{"name":"web","namespace":"old"}}"#;

fn cluster() -> [Row<'static>; 5] {
    [
        VERSION,
        ("resources/configmaps/namespaces/shop/web.json", MAP, None),
        ("resources/deployments.apps/namespaces/shop/web.json", WEB, None),
        ("resources/widgets.x.test/v1beta1/namespaces/old/web.json", OLD, None),
        ("resources/namespaces/cluster/shop.json", SHOP, None),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_listed_and_found_by_kind_namespace_and_name() {
    let house = house(64 * MIB);
    let archives = archives(&house, &cluster()).await;
    let filter = |namespaces: &[&str], resources: &[&str]| {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
        Filter::new(&owned(namespaces), &owned(resources)).unwrap()
    };
    let all = ["configmaps shop/web", "deployments.apps shop/web", "widgets.x.test/v1beta1 old/web", "namespaces shop"];
    assert_eq!(names(&archives, &filter(&[], &[])).unwrap(), all);
    assert_eq!(names(&archives, &filter(&["sh*"], &[])).unwrap(), [all[0], all[1], all[3]]);
    assert_eq!(names(&archives, &filter(&[], &["deployments", "*.test"])).unwrap(), [all[1], all[2]]);
    assert_eq!(names(&archives, &filter(&["old"], &["configmaps"])).unwrap(), Vec::<String>::new());
    assert!(matches!(Filter::new(&["a[".into()], &[]), Err(Error::Usage(_))));
    for kind in ["deployments.apps", "deployments", "Deployment", "deployment"] {
        assert_eq!(found(archives.clone(), &format!("{kind}/shop/web")).await.unwrap(), WEB, "{kind}");
    }
    assert_eq!(found(archives.clone(), "namespace/shop").await.unwrap(), SHOP);
    for missing in ["secret/shop/web", "deployment/shop/api", "deployment/web", "namespace/shop/shop"] {
        assert_eq!(found(archives.clone(), missing).await.unwrap_err().class(), Class::NotFound, "{missing}");
    }
    for bad in ["deployment", "a/b/c/d", "a//b", ""] {
        bad.parse::<Wanted>().unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_what_its_path_says_is_named_and_refused() {
    let secret = "canary-of-the-content";
    let object = |namespace: &str, name: &str, version: &str| {
        format!(
            r#"{{"apiVersion":"{version}","kind":"Deployment","metadata":{{"name":"{name}","namespace":"{namespace}"}},"x":"{secret}"}}"#
        )
    };
    let path = "resources/deployments.apps/namespaces/shop/web.json";
    let garbage = format!("{{{secret}");
    for (content, expected) in [
        (object("other", "web", "apps/v1"), "namespace"),
        (object("shop", "other", "apps/v1"), "name"),
        (object("shop", "web", "evil/v1"), "group"),
        (garbage, "not JSON"),
    ] {
        let house = house(64 * MIB);
        let archives = archives(&house, &[VERSION, (path, &content, None)]).await;
        let error = found(archives, "deployments/shop/web").await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.class(), Class::Integrity, "{text}");
        assert!(text.contains(path) && text.contains(expected) && !text.contains(secret), "{text}");
    }
    // The path in the index differs from the archive's.
    let evil = object("evil", "web", "apps/v1");
    for real in ["namespaces/evil/../web.json", "namespaces/evil/web.json"] {
        let house = house(64 * MIB);
        let real = format!("resources/deployments.apps/{real}");
        let moved = archives(&house, &[(&real, &evil, Some(path))]).await;
        assert_eq!(found(moved, "deployments/shop/web").await.unwrap_err().class(), Class::Integrity, "{real}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_backup_has_is_refused() {
    for path in ["resources/pods/namespaces/../etc/passwd.json", "etc/passwd", "resources/pods/namespaces/a/b/c/d.json"]
    {
        let house = house(64 * MIB);
        let archives = archives(&house, &[VERSION, (path, WEB, None)]).await;
        let error = names(&archives, &Filter::default()).unwrap_err();
        assert_eq!(error.class(), Class::Integrity);
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[tokio::test]
async fn a_backup_without_objects_says_so() {
    let house = house(64 * MIB);
    let error = open(&house.location, &manifest(Vec::new())).await.unwrap_err();
    assert!(error.class() == Class::NotFound && error.to_string().contains("type \"kubernetes\""), "{error}");
}

#[test]
fn globs_that_fit_nothing_are_named_with_what_was_meant() {
    let filter = Filter::new(&["shopp".into(), "kube-*".into()], &["deployment".into(), "pods".into()]).unwrap();
    let notes =
        filter.fits_nothing(&["shop".into(), "kube-system".into()], &["deployments.apps".into(), "pods".into()]);
    assert_eq!(
        notes,
        [
            "nothing in the backup matches --namespace \"shopp\"; did you mean \"shop\"?",
            "nothing in the backup matches --resource \"deployment\"; did you mean \"deployments\"?"
        ]
    );
}
