use super::*;
use crate::format::manifest::Warnings;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn item(item: &str, source: SourceDescription) -> Item {
    let content = match source {
        SourceDescription::Ebs { .. } => Content::EbsSnapshot { snapshot: None },
        _ => Content::Stream { stream: None },
    };
    let (labels, outcome) = (std::collections::BTreeMap::new(), Outcome::Success);
    Item { name: name(item), source, outcome, error: None, labels, content }
}

fn tree(name: &str, path: &str) -> Item {
    item(name, SourceDescription::Tree { path: path.to_owned() })
}

fn before(items: Vec<Item>) -> Manifest {
    let now = jiff::Timestamp::UNIX_EPOCH;
    Manifest {
        version: 1,
        id: crate::format::key::BackupId::new(now, 7),
        job: name("j"),
        cluster: name("c"),
        node: name("n"),
        agent: String::new(),
        started: now,
        finished: now,
        parent: None,
        base: None,
        labels: std::collections::BTreeMap::new(),
        outcome: Outcome::Success,
        items,
        warnings: Warnings::default(),
    }
}

#[test]
fn items_below_what_cannot_be_listed_fail_by_their_own_names() {
    let volume = |name: &str| item(name, SourceDescription::Ebs { selected_by: "tags".to_owned() });
    let before = before(vec![
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
    let unlisted = [
        Unlisted { source: name("t"), place: Place::Below("/pods/a".into()), why: "no".to_owned() },
        Unlisted { source: name("d"), place: Place::Volumes, why: "no".to_owned() },
    ];
    let found = [tree("t-a_2", "/pods/a/v/2")];
    let lost = lost(&unlisted, &before, &found);
    let names: Vec<_> = lost.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["t-a_1", "d-vol-00000001", "d-vol-00000002"]);
    assert!(lost.iter().all(|item| item.outcome == Outcome::Failure && item.error.is_some()));
    // And again from there, as long as it cannot be listed.
    let again = super::lost(&unlisted, &Manifest { items: lost, ..before }, &[]);
    assert_eq!(again.len(), 3);
}
