use tokio_util::sync::CancellationToken;

use super::*;
use crate::budget::Budget;
use crate::config::{Source, SourceKind};
use crate::download::testing::noise;
use crate::format::key::ObjectKey;
use crate::format::testing::{item, manifest, name};
use crate::job::{Progress, Spec, run};
use crate::location::memory;
use crate::store::memory::MemoryStore;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn object(size: u64, live_bytes: u64) -> DataObject {
    DataObject { key: ObjectKey::new("o"), size, crc64nvme: [0; 8], payload: None, live_bytes, version: None }
}

#[test]
fn an_object_is_wasted_below_the_share() {
    for (size, live, min_live, expected) in [
        (1000, 299, 300, true),
        (1000, 300, 300, false),
        (1000, 0, 0, false),
        (1000, 999, 1000, true),
        (1000, 1000, 1000, false),
        (0, 0, 300, false),
        (u64::MAX, u64::MAX, 1000, false),
    ] {
        assert_eq!(wasted(&object(size, live), min_live), expected, "{live} of {size}, {min_live}");
    }
}

#[test]
fn a_settled_file_changed_before_the_parent_began() {
    let at = |seconds, nanoseconds| FileTime { seconds, nanoseconds };
    assert_eq!(settled(time("1970-01-01T00:01:40.5Z"), Duration::from_secs(3)), at(97, 500_000_000));
    assert_eq!(settled(time("1970-01-01T00:00:00.5Z"), Duration::from_secs(3)), at(-3, 500_000_000));
    assert!(settled(Timestamp::MIN, Duration::MAX) < at(0, 0));
}

#[test]
fn a_path_with_a_warning_is_doubtful() {
    let tree = item("a", SourceDescription::Tree { path: "/data/x".to_owned() }, None);
    let doubt = |paths: &[(&str, &str)], count| {
        let warning = |(item, path): &(&str, &str)| Warning {
            item: name(item),
            path: (*path).to_owned(),
            message: String::new(),
        };
        let warnings = Warnings { count, list: paths.iter().map(warning).collect() };
        let mut found: Vec<String> =
            doubtful(&Manifest { warnings, ..manifest(Vec::new()) }, &tree)?.into_iter().collect();
        found.sort();
        Some(found)
    };
    let some = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
    assert_eq!(doubt(&[], 0), some(&[]));
    let paths = [("a", "/data/x/y/z"), ("b", "/data/x/other"), ("a", "/data/x"), ("a", "fleet/c/j/n/id/a.index.zst")];
    assert_eq!(doubt(&paths, 4), some(&[".", "y/z"]));
    assert_eq!(doubt(&[("a", "/data/x/y")], 2), None, "more than are listed");
    assert_eq!(doubt(&[("a", "")], 1), None, "somewhere");
    assert_eq!(doubt(&[("b", "")], 1), some(&[]), "in another item");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_fit_makes_a_full_backup() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, noise(60 << 20, 1)).unwrap();
    // Enough for a stream, not for the table of the sixty chunks or so.
    let least = crate::budget::stream::least(5 << 20);
    let mut location = memory::open(Arc::new(MemoryStore::new()), "", least.next_multiple_of(1024));
    let plan = crate::budget::stream::plan(location.process.budget.total(), 5 << 20, 2);
    assert_eq!(plan.bytes, least, "the window is the smallest one");
    let sources = vec![Source { name: name("file"), kind: SourceKind::File { path } }];
    let spec = Spec::new(name("j"), sources);
    let progress = Arc::new(Progress::default());
    let first = run(&location, &spec, &progress, &CancellationToken::new()).await.unwrap().manifest;
    let second = run(&location, &spec, &progress, &CancellationToken::new()).await.unwrap().manifest;
    assert_eq!((second.parent, second.warnings.count), (None, 1));
    assert!(second.warnings.list[0].message.contains("raise limits.memory to"), "{:?}", second.warnings);
    location.process.budget = Budget::new(least + (64 << 10));
    let third = run(&location, &spec, &progress, &CancellationToken::new()).await.unwrap().manifest;
    assert_eq!((third.parent.as_ref(), third.warnings.count), (Some(&second.id), 0));
    let (_, stream) = third.streams().next().unwrap();
    assert_eq!((stream.new_bytes, stream.objects.len()), (0, 1));
    assert!(first.id < second.id);
}

#[test]
fn only_what_is_the_parents_own_fault_is_excused() {
    let excused: Vec<Class> = Class::ALL.into_iter().filter(|class| excusable(*class)).collect();
    assert!(excused.contains(&Class::Integrity) && excused.contains(&Class::NotFound));
    for class in
        [Class::Transient, Class::Throttled, Class::CredentialsExpired, Class::Tls, Class::Local, Class::Cancelled]
    {
        assert!(!excused.contains(&class), "{class}");
    }
}
