use super::super::kinds;
use super::*;
use crate::format::manifest::SourceDescription;
use crate::format::testing::{self, manifest, name};

fn item(item: &str, source: SourceDescription) -> Item {
    testing::item(item, source, None)
}

fn tree(name: &str, path: &str) -> Item {
    item(name, SourceDescription::Tree { path: path.to_owned() })
}

#[test]
fn items_below_what_cannot_be_listed_fail_by_their_own_names() {
    let volume = |name: &str| item(name, SourceDescription::Ebs { selected_by: "tags".to_owned() });
    let before = manifest(vec![
        tree("t-a_1", "/pods/a/v/1"),
        tree("t-a_2", "/pods/a/v/2"),
        tree("t-ab_1", "/pods/ab/v/1"),
        tree("t-gone", "/pods/b/v/1"),
        tree("u-a_1", "/pods/a/v/1"),
        item("t-dump", SourceDescription::Command { argv: vec!["true".to_owned()] }),
        volume("d-vol-00000001"),
        volume("d-vol-00000002"),
        volume("dd-vol-00000003"),
    ]);
    let unlisted =
        [kinds::tree::unlisted(name("t"), "/pods/a".into(), "no".to_owned()), kinds::ebs::unlisted(name("d"))];
    let found = [tree("t-a_2", "/pods/a/v/2")];
    let lost = lost(&unlisted, &before, &found);
    let names: Vec<_> = lost.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["t-a_1", "d-vol-00000001", "d-vol-00000002"]);
    assert!(lost.iter().all(|item| item.outcome == Outcome::Failure && item.error.is_some()));
    // And again from there, as long as it cannot be listed.
    let again = super::lost(&unlisted, &Manifest { items: lost, ..before }, &[]);
    assert_eq!(again.len(), 3);
}
