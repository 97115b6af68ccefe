use super::*;
use crate::error::Class;

#[test]
fn warnings_of_two_items_are_counted_in_full_and_listed_up_to_the_limit() {
    let warning = |_| Warning { item: crate::format::testing::name("a"), path: String::new(), message: String::new() };
    let warnings = |count: usize| Warnings { count: count as u64, list: (0..count).map(warning).collect() };
    let mut all = warnings(MAX_WARNINGS - 1);
    all.append(warnings(3));
    assert_eq!((all.count, all.list.len()), (MAX_WARNINGS as u64 + 2, MAX_WARNINGS));
}

#[test]
fn an_items_error_is_its_report_and_an_older_one_is_read() {
    let report = Report::new(Class::Source, "no").remedy("say yes");
    let read = |json: &str| serde_json::from_str::<Report>(json).unwrap();
    assert_eq!(read(&serde_json::to_string(&report).unwrap()), report);
    assert_eq!(read(r#"{"class": "local", "message": "full"}"#), Report::new(Class::Local, "full"));
    assert_eq!(read(r#"{"class": "of-the-future", "message": ""}"#), Report::new(Class::Internal, ""));
}

#[test]
fn an_item_of_a_cluster_keeps_its_record_and_an_older_reader_learns_what_it_lacks() {
    use crate::format::testing::{item, manifest};
    assert!(!String::from_utf8(manifest(Vec::new()).to_json()).unwrap().contains("features"));
    let source = SourceDescription::Kubernetes { address: "https://api".to_owned(), selection: "all".to_owned() };
    assert_eq!(source.target(), Target::Folder);
    let record = cluster::Record { server_version: "v1.36.4".to_owned(), ..cluster::Record::default() };
    let manifest = manifest(vec![Item { kubernetes: Some(Box::new(record)), ..item("objects", source, None) }]);
    let json = manifest.to_json();
    let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(value["features"], serde_json::json!(["kubernetes"]));
    assert_eq!(value["items"][0]["kubernetes"]["server_version"], "v1.36.4");
    assert_eq!(Manifest::parse(&json, &manifest.chain(), &manifest.id, "c/").unwrap(), manifest);
}
