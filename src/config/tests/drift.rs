//! The reader, the schema and the example know the same keys.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::super::{Config, config, example, reader, schema};
use super::{BASE, environment, parse};

/// The example with every setting that is commented out put in.
fn everything() -> String {
    let uncomment = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    example().lines().map(uncomment).collect::<Vec<_>>().join("\n")
}

/// The keys that the reader asks for, given a file with every section in it.
fn known() -> BTreeSet<String> {
    reader::read(&everything(), &environment(&[]), config).known
}

/// The keys in the schema, written as the reader writes its own.
fn in_schema(schema: &Value, path: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        in_schema(&value["items"], &format!("{path}[]"), keys);
        in_schema(&value["additionalProperties"], &format!("{path}.*"), keys);
        in_schema(value, &path, keys);
        keys.insert(path);
    }
}

/// The keys in a file; `known` tells a table of settings from a table of the operator's own names.
fn in_file(table: &DeTable, path: &str, known: &BTreeSet<String>, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let key = key.get_ref();
        let path = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        let named = known.iter().any(|known| known.starts_with(&format!("{path}.*.")));
        let settings = known.iter().any(|known| known.starts_with(&format!("{path}.")));
        match value.get_ref() {
            DeValue::Table(table) if named => {
                for table in table.values().filter_map(|value| value.get_ref().as_table()) {
                    in_file(table, &format!("{path}.*"), known, keys);
                }
            }
            DeValue::Table(table) if settings => in_file(table, &path, known, keys),
            DeValue::Array(array) => {
                for table in array.iter().filter_map(|value| value.get_ref().as_table()) {
                    in_file(table, &format!("{path}[]"), known, keys);
                }
            }
            _ => {}
        }
        keys.insert(path);
    }
}

fn describes(schema: &Value) -> bool {
    schema["description"].as_str().is_some_and(|text| text.len() > 5)
        && schema["properties"].as_object().is_none_or(|properties| properties.values().all(describes))
        && (!schema["items"].is_object() || describes(&schema["items"]))
}

#[test]
fn the_schema_has_exactly_the_readers_keys_and_describes_them() {
    let mut keys = BTreeSet::new();
    in_schema(&schema(), "", &mut keys);
    assert_eq!(keys, known());
    assert!(describes(&schema()));
    for object in
        [&schema(), &schema()["properties"]["limits"], &schema()["properties"]["jobs"]["additionalProperties"]]
    {
        assert_eq!(object["additionalProperties"], false, "{}", object["description"]);
    }
}

#[test]
fn the_example_is_valid_with_nothing_in_the_environment_but_a_host() {
    let config = parse(example()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.jobs.len(), 2);
}

#[test]
fn the_example_shows_exactly_the_readers_keys() {
    let everything = everything();
    let table = DeTable::parse(&everything).unwrap_or_else(|error| panic!("{error}"));
    let (known, mut keys) = (known(), BTreeSet::new());
    in_file(table.get_ref(), "", &known, &mut keys);
    assert_eq!(keys, known);
}

/// What is commented out is either usable or says that it is not supported, and never a wrong value.
#[test]
fn the_examples_commented_settings_have_no_fault_but_clashing_with_others() {
    for fault in parse(&everything()).expect_err("alternatives clash").faults {
        let clash = ["stands beside", "not yet supported", "has a meaning only with"];
        assert!(clash.iter().any(|clash| fault.message.contains(clash)), "{fault}");
    }
}

/// The schema's own defaults and words are what the reader takes.
#[test]
fn the_readers_defaults_are_the_schemas() {
    let schema = schema();
    let location = &schema["properties"]["locations"]["additionalProperties"];
    let lines = |object: &Value| {
        let properties = object["properties"].as_object().cloned().unwrap_or_default();
        let line = |(key, value): (String, Value)| value.get("default").map(|default| format!("{key} = {default}\n"));
        properties.into_iter().filter_map(line).collect::<String>()
    };
    let section = |name: &str, object: &Value| format!("[{name}]\n{}", lines(object));
    let required = "provider = \"aws\"\nbucket = \"acme-backups\"\nregion = \"eu-west-1\"\n";
    let hop = "[[locations.a.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/x\"\n";
    let job = "[jobs.j]\nlocation = \"a\"\nsources = [{ type = \"file\", name = \"n\", path = \"/n\" }]\n";
    let bare = format!("cluster = \"c\"\n[locations.a]\n{required}{hop}{job}");
    let full = [
        format!("cluster = \"c\"\n{}", lines(&schema)),
        section("admin", &schema["properties"]["admin"]),
        section("limits", &schema["properties"]["limits"]),
        section("locations.a", location) + required,
        section("locations.a.credentials", &location["properties"]["credentials"]),
        section("locations.a.encryption", &location["properties"]["encryption"]),
        section("locations.a.upload", &location["properties"]["upload"]),
        format!("{hop}{}", lines(&location["properties"]["assume_role"]["items"])),
        format!("{job}{}", lines(&schema["properties"]["jobs"]["additionalProperties"])),
    ];
    let full = parse(&full.concat()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(format!("{full:?}"), format!("{:?}", parse(&bare).unwrap()));
}

/// What the schema's numbers allow is what the reader takes, and no more.
#[test]
fn the_readers_limits_are_the_schemas() {
    let schema = schema();
    let (location, job) = (
        &schema["properties"]["locations"]["additionalProperties"],
        &schema["properties"]["jobs"]["additionalProperties"],
    );
    let ebs = "[[jobs.etcd.sources]]\ntype = \"ebs\"\nname = \"e\"\nvolumes = [\"vol-0123456789abcdef0\"]\n";
    let mut checked = 0;
    for (object, before) in [
        (&schema["properties"]["limits"], "[limits]\n".to_owned()),
        (&location["properties"]["upload"], "[locations.primary.upload]\n".to_owned()),
        (
            job,
            "[jobs.other]\nlocation = \"primary\"\nsources = [{ type = \"file\", name = \"n\", path = \"/n\" }]\n"
                .to_owned(),
        ),
        (&job["properties"]["retention"], "[jobs.etcd.retention]\n".to_owned()),
        (&job["properties"]["sources"]["items"], ebs.to_owned()),
    ] {
        for (key, value) in object["properties"].as_object().unwrap() {
            if !matches!(value["type"].as_str(), Some("integer" | "number")) {
                continue;
            }
            let (least, most) = (value["minimum"].as_i64().unwrap(), value["maximum"].as_i64().unwrap());
            for (number, allowed) in [(least - 1, false), (least, true), (most, true), (most + 1, false)] {
                let parsed = parse(&format!("{BASE}{before}{key} = {number}\n"));
                let faults = parsed.err().map(|faults| faults.faults).unwrap_or_default();
                let refused = faults.iter().any(|fault| fault.key.ends_with(&format!(".{key}")));
                assert_eq!(refused, !allowed, "{key} = {number}: {faults:?}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 4 * 9, "only {checked}");
}

/// The limits that the schema has in words.
#[test]
fn the_limits_in_the_schemas_words_are_the_readers() {
    let text = schema().to_string();
    let hop = "[[locations.primary.assume_role]]\nrole_arn = \"arn:aws:iam::222222222222:role/x\"\n";
    for (words, before, key, good, bad) in [
        (
            "5MiB to 1GiB.",
            "[limits]\nmemory = \"2GiB\"\n[locations.primary.upload]\n",
            "part_size",
            &["5MiB", "1GiB"][..],
            &["5242879", "1073741825"][..],
        ),
        (
            "one part to 10000, at most 5TiB.",
            "[locations.primary.upload]\npart_size = \"5MiB\"\n",
            "object_size",
            &["5MiB", "50000MiB"],
            &["5242879", "50001MiB"],
        ),
        ("one part and 25MiB.", "[limits]\n", "memory", &["41MiB"], &["40MiB"]),
        ("at least 64KiB; 0 for no limit.", "[limits]\n", "bandwidth", &["0", "64KiB"], &["65535"]),
        ("15m to 12h, in a chain to 1h.", hop, "duration", &["15m", "12h"], &["14m", "12h1s"]),
    ] {
        assert!(text.contains(words), "{words}");
        for (value, allowed) in good.iter().map(|good| (good, true)).chain(bad.iter().map(|bad| (bad, false))) {
            let parsed = parse(&format!("{BASE}{before}{key} = \"{value}\"\n"));
            assert_eq!(parsed.is_ok(), allowed, "{key} = {value}: {parsed:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = Config::parse(&text, &environment(&[]));
    }

    #[test]
    fn no_change_of_the_example_panics(at in any::<prop::sample::Index>(), cut in 0_usize..40, put in "(\\PC|\n){0,12}") {
        let text: Vec<char> = everything().chars().collect();
        let at = at.index(text.len());
        let end = (at + cut).min(text.len());
        let changed: String = text[..at].iter().copied().chain(put.chars()).chain(text[end..].iter().copied()).collect();
        if let Err(faults) = Config::parse(&changed, &environment(&[])) {
            prop_assert!(!faults.faults.is_empty());
            prop_assert!(faults.faults.iter().all(|fault| fault.line > 0 && fault.column > 0));
        }
    }

    #[test]
    fn no_value_panics(value in "[\"'\\[\\]{}$:a-z0-9/.=, -]{0,24}") {
        for key in ["node", "state_dir", "admin", "limits", "locations", "jobs"] {
            let _ = Config::parse(&format!("{key} = {value}\n"), &environment(&[]));
            let _ = Config::parse(&format!("{key} = '''{value}'''\n"), &environment(&[]));
        }
    }
}
