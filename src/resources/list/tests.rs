use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn kind() -> Kind {
    Kind { api_version: "v1".into(), kind: "ConfigMap".into() }
}

/// All entries of `text` when it arrives in pieces that end at `cuts`.
fn read_with(mut reader: ListReader, text: &[u8], cuts: &[usize]) -> Result<(Vec<Entry>, ListMetadata), Fault> {
    let mut entries = Vec::new();
    let mut start = 0;
    for end in cuts.iter().copied().chain([text.len()]) {
        reader.feed(Bytes::copy_from_slice(&text[start..end]));
        while let Some(entry) = reader.next()? {
            entries.push(entry);
        }
        start = end;
    }
    Ok((entries, reader.finish()?))
}

fn read(text: &[u8], cuts: &[usize]) -> Result<(Vec<Entry>, ListMetadata), Fault> {
    read_with(ListReader::new(kind()), text, cuts)
}

fn objects(entries: &[Entry]) -> Vec<&Item> {
    entries
        .iter()
        .map(|entry| match entry {
            Entry::Object(item) => item,
            Entry::TooLarge { .. } => panic!("{entry:?}"),
        })
        .collect()
}

/// As a server of 1.20 writes a list of a built-in kind, with numbers and spaces that a re-encoding would change.
const BUILT_IN: &str = r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"41","continue":"eyJ2","remainingItemCount":7},"items":[
 {"metadata":{"name":"a","namespace":"shop","uid":"u1","resourceVersion":"1","labels":{"x":"y"}},"data":{"k":"\"}]\\"}},
 {"data":null,"n":1.0,"big":12345678901234567890123, "metadata":{"name":"b","namespace":"shop","uid":"u2","ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u3","controller":true}],"annotations":null}}
]}
"#;

/// A list of custom resources: keys sorted, the list's metadata last, kinds in every object.
const CUSTOM: &str = r#"{"apiVersion":"example.com/v1","items":[{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"type":["x"]},"type":{"deep":[1]}}],"kind":"WidgetList","metadata":{"continue":"","resourceVersion":"9"}}"#;

#[test]
fn objects_are_given_byte_for_byte_with_their_kind_put_in() {
    let (entries, metadata) = read(BUILT_IN.as_bytes(), &[]).unwrap();
    let items = objects(&entries);
    assert_eq!(
        items[0].bytes,
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"shop","uid":"u1","resourceVersion":"1","labels":{"x":"y"}},"data":{"k":"\"}]\\"}}"#
    );
    assert!(items[1].bytes.starts_with(
        br#"{"apiVersion":"v1","kind":"ConfigMap","data":null,"n":1.0,"big":12345678901234567890123, "met"#
    ));
    assert_eq!(items[0].metadata.labels["x"], "y");
    assert_eq!(items[1].metadata.owner_references[0].controller, Some(true));
    assert_eq!(
        metadata,
        ListMetadata { resource_version: "41".into(), next: "eyJ2".into(), remaining_item_count: Some(7) }
    );
    let (entries, metadata) = read(CUSTOM.as_bytes(), &[]).unwrap();
    let start = CUSTOM.find("[{").unwrap() + 1;
    let end = CUSTOM.find("],\"kind\"").unwrap();
    assert_eq!(objects(&entries)[0].bytes, &CUSTOM.as_bytes()[start..end]);
    assert_eq!(metadata.resource_version, "9");
}

#[test]
fn where_the_stream_is_cut_into_pieces_changes_nothing() {
    for text in [BUILT_IN, CUSTOM] {
        let whole = read(text.as_bytes(), &[]).unwrap();
        for cut in 0..=text.len() {
            assert_eq!(read(text.as_bytes(), &[cut]).unwrap(), whole, "cut at {cut}");
        }
        let every: Vec<usize> = (1..text.len()).collect();
        assert_eq!(read(text.as_bytes(), &every).unwrap(), whole);
    }
}

#[test]
fn a_stream_that_ends_early_is_never_a_short_list() {
    for text in [BUILT_IN.trim_end(), CUSTOM] {
        for end in 0..text.len() {
            assert_eq!(read(&text.as_bytes()[..end], &[]), Err(Fault::Cut), "cut off at {end}");
        }
    }
}

#[test]
fn empty_lists() {
    for items in ["[]", "null", "[ \n]"] {
        let text = format!(r#"{{"kind":"PodList","items":{items},"metadata":{{}}}}"#);
        assert_eq!(read(text.as_bytes(), &[]).unwrap(), (Vec::new(), ListMetadata::default()));
    }
}

#[test]
fn what_is_no_list_is_refused() {
    let object = |text: &str| format!(r#"{{"items":[{text}]}}"#);
    let rows = [
        ("[]".to_owned(), Fault::NotJson("it does not begin with {")),
        ("<html>".to_owned(), Fault::NotJson("it does not begin with {")),
        ("{}".to_owned(), Fault::NotAList("JSON object with no items".into())),
        (r#"{"kind":"Status","items":[]}"#.to_owned(), Fault::NotAList("Status".into())),
        (r#"{"kind":"Table","items":[]}"#.to_owned(), Fault::NotAList("Table".into())),
        (
            r#"{"kind":"PartialObjectMetadataList","items":[]}"#.to_owned(),
            Fault::NotAList("PartialObjectMetadataList".into()),
        ),
        (r#"{"kind":1,"items":[]}"#.to_owned(), Fault::Malformed("kind")),
        (r#"{"apiVersion":{},"items":[]}"#.to_owned(), Fault::Malformed("apiVersion")),
        (r#"{"metadata":[],"items":[]}"#.to_owned(), Fault::Malformed("metadata")),
        (r#"{"metadata":{"continue":5},"items":[]}"#.to_owned(), Fault::Malformed("metadata")),
        (r#"{"items":{}}"#.to_owned(), Fault::Malformed("items")),
        (r#"{"items":[null]}"#.to_owned(), Fault::Malformed("items")),
        (r#"{"items":[[]]}"#.to_owned(), Fault::Malformed("items")),
        (r#"{"items":[{},]}"#.to_owned(), Fault::Malformed("items")),
        (r#"{"items":[{} {}]}"#.to_owned(), Fault::NotJson("a character is in a place where none is allowed")),
        (r#"{"items":[],}"#.to_owned(), Fault::NotJson("a character is in a place where none is allowed")),
        (r#"{"items":[],"items":[]}"#.to_owned(), Fault::Twice("items")),
        (r#"{"items":[],"\u0069tems":[{}]}"#.to_owned(), Fault::Twice("items")),
        (r#"{"metadata":{},"metadata":{},"items":[]}"#.to_owned(), Fault::Twice("metadata")),
        (r#"{"items":[]} {}"#.to_owned(), Fault::Trailing),
        (r#"{"items":[]}x"#.to_owned(), Fault::Trailing),
        (object(&format!(r#"{{"a":{}"#, "[".repeat(10_001))), Fault::Deep),
        (format!(r#"{{"{}":1,"items":[]}}"#, "k".repeat(2000)), Fault::Large("key")),
        (format!(r#"{{"metadata":{{"continue":"{}"}},"items":[]}}"#, "k".repeat(2 << 20)), Fault::Large("metadata")),
    ];
    for (text, fault) in rows {
        let shown = &text[..text.len().min(80)];
        assert_eq!(read(text.as_bytes(), &[]), Err(fault.clone()), "{shown}");
        let middle = text.len() / 2;
        assert_eq!(read(text.as_bytes(), &[middle]), Err(fault), "{shown}");
    }
    for bad in [
        r#"{"a":}"#,
        r#"{"a" 1}"#,
        r"{]}",
        r#"{"metadata":{},"metadata":{}}"#,
        r#"{"metadata":{"name":1}}"#,
        "{\"a\":\"\n\"}",
    ] {
        assert!(matches!(read(object(bad).as_bytes(), &[]), Err(Fault::Object(_))), "{bad}");
    }
    assert_eq!(read(b"{\"items\":[{\"a\":\"\xff\"}]}", &[]), Err(Fault::NotUtf8));
    assert!(read(b"{\"\xff\":1,\"items\":[]}", &[]).is_err());
}

#[test]
fn a_fault_never_shows_an_object() {
    let text = r#"{"items":[{"metadata":{"name":7},"data":{"password":"hunter2"}}]}"#;
    let shown = format!("{:?} {}", read(text.as_bytes(), &[]), read(text.as_bytes(), &[]).unwrap_err());
    assert!(!shown.contains("hunter2") && !shown.contains('7'), "{shown}");
    let (entries, _) = read(r#"{"items":[{"data":"hunter2","metadata":{"name":"n"}}]}"#.as_bytes(), &[]).unwrap();
    assert!(!format!("{entries:?}").contains("hunter2"));
}

#[test]
fn an_object_that_is_too_large_is_passed_over_and_named() {
    let large = "x".repeat(100 << 10);
    let text = format!(
        r#"{{"items":[{{"metadata":{{"name":"big","namespace":"shop"}},"data":"{large}"}},{{"data":"{large}","metadata":{{"name":"late"}}}},{{"metadata":{{"name":"small"}}}}]}}"#
    );
    let mut reader = ListReader::with_limit(kind(), 4096);
    let mut entries = Vec::new();
    for piece in text.as_bytes().chunks(1000) {
        reader.feed(Bytes::copy_from_slice(piece));
        while let Some(entry) = reader.next().unwrap() {
            entries.push(entry);
        }
        assert!(reader.buffered() <= 8192, "{} bytes are kept", reader.buffered());
    }
    reader.finish().unwrap();
    assert!(
        matches!(&entries[0], Entry::TooLarge { size, namespace, name } if *size > 100 << 10 && namespace == "shop" && name == "big")
    );
    assert!(matches!(&entries[1], Entry::TooLarge { name, .. } if name.is_empty()));
    assert!(matches!(&entries[2], Entry::Object(item) if item.metadata.name == "small"));
}

#[test]
fn a_string_of_100_mib_costs_no_memory() {
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    for (before, after) in [("{\"other\":\"", "\",\"items\":[]}"), ("{\"items\":[{\"a\":\"", "\"}]}")] {
        let mut reader = ListReader::with_limit(kind(), 1 << 20);
        reader.feed(Bytes::from_static(before.as_bytes()));
        assert_eq!(reader.next().unwrap(), None);
        for _ in 0..100 {
            reader.feed(piece.clone());
            assert_eq!(reader.next().unwrap(), None);
        }
        reader.feed(Bytes::from_static(after.as_bytes()));
        while reader.next().unwrap().is_some() {}
        assert!(reader.buffered() <= 4 << 20, "{} bytes are kept", reader.buffered());
        reader.finish().unwrap();
    }
}

#[test]
fn names_are_given_as_they_are() {
    // The writer decides whether they can be paths.
    let (entries, _) =
        read(br#"{"items":[{"metadata":{"name":"../../etc/passwd","namespace":"a/b"}}, {"x":1},{}]}"#, &[]).unwrap();
    let items = objects(&entries);
    assert_eq!(items[0].metadata.name, "../../etc/passwd");
    assert_eq!(items[1].metadata.name, "");
    assert_eq!(items[2].bytes, r#"{"apiVersion":"v1","kind":"ConfigMap"}"#);
}

/// Every byte of a list in turn is replaced by each significant character, removed, and doubled.
#[test]
fn a_list_with_one_wrong_byte_is_a_fault_or_what_serde_json_sees() {
    const SIGNS: &[u8] = b"{}[]\",:\\0n \x00\xff";
    for text in [BUILT_IN, CUSTOM] {
        let text = text.as_bytes();
        for at in 0..text.len() {
            let replaced = SIGNS.iter().map(|sign| [&text[..at], &[*sign], &text[at + 1..]].concat());
            let others = [[&text[..at], &text[at + 1..]].concat(), [&text[..=at], &text[at..]].concat()];
            for damaged in replaced.chain(others) {
                let seen = serde_json::from_slice::<Value>(&damaged);
                let (Ok((entries, metadata)), Ok(value)) = (read(&damaged, &[at]), seen) else { continue };
                let items = value["items"].as_array().map_or(&[][..], Vec::as_slice);
                assert_eq!(entries.len(), items.len(), "{}", String::from_utf8_lossy(&damaged));
                for (item, expected) in objects(&entries).iter().zip(items) {
                    let got: Value = serde_json::from_slice(&item.bytes).unwrap();
                    assert_eq!(got["metadata"], expected["metadata"]);
                }
                assert_eq!(
                    metadata.resource_version,
                    value["metadata"]["resourceVersion"].as_str().unwrap_or_default()
                );
            }
        }
    }
}

/// Any JSON value, no deeper than a few levels.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(".*", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    (value(), "[a-z]{0,8}", "[a-z.:]{0,12}", any::<bool>()).prop_map(|(content, namespace, name, kinds)| {
        let mut object = json!({ "metadata": { "namespace": namespace, "name": name }, "content": content });
        if kinds {
            object["kind"] = json!("Thing");
            object["apiVersion"] = json!("a/v1");
        }
        object
    })
}

proptest! {
    /// Whatever a list contains and however it arrives: the objects are those that serde_json finds.
    #[test]
    fn the_reader_and_serde_json_see_the_same(
        list in proptest::collection::vec(object(), 0..8),
        other in value(),
        pretty in any::<bool>(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let whole = json!({ "kind": "ThingList", "items": list, "other": other, "metadata": { "resourceVersion": "5" } });
        let text = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) }.unwrap();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let (entries, metadata) = read(text.as_bytes(), &cuts).unwrap();
        prop_assert_eq!(metadata.resource_version, "5");
        let items = objects(&entries);
        prop_assert_eq!(items.len(), list.len());
        // Parsed again: serde_json's floats are not exact to the last bit.
        let whole: Value = serde_json::from_str(&text).unwrap();
        for (item, expected) in items.iter().zip(whole["items"].as_array().unwrap()) {
            let mut expected = expected.clone();
            if expected.get("kind").is_none() {
                expected["kind"] = json!("ConfigMap");
                expected["apiVersion"] = json!("v1");
            }
            let got: Value = serde_json::from_slice(&item.bytes).unwrap();
            prop_assert_eq!(&got, &expected);
            prop_assert_eq!(&item.metadata.name, expected["metadata"]["name"].as_str().unwrap());
        }
    }

    /// Bytes of any kind, and damaged lists: entries or a fault, never a panic, and never more memory than allowed.
    #[test]
    fn hostile_bytes_are_an_answer_or_a_fault(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        custom in any::<bool>(),
    ) {
        let _ = read(&bytes, &[bytes.len() / 2]);
        let mut text = if custom { CUSTOM } else { BUILT_IN }.as_bytes().to_vec();
        for (at, byte) in damage {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let whole = read(&text, &[]);
        // What both accept contains the same objects. Values that are not used are skipped unread.
        if let (Ok((entries, _)), Ok(value)) = (whole, serde_json::from_slice::<Value>(&text)) {
            prop_assert_eq!(entries.len(), value["items"].as_array().map_or(0, Vec::len));
        }
    }
}
