//! `[locations.NAME.object_lock]`.

use std::time::Duration;

use super::super::{LockMode, ObjectLock};
use super::{BASE, bad, parse};

fn with(lines: &str) -> String {
    format!("{BASE}[locations.primary.object_lock]\n{lines}\n")
}

#[test]
fn it_is_off_unless_it_has_a_mode() {
    let lock = |text: &str| parse(text).unwrap().locations["primary"].object_lock;
    assert_eq!(lock(BASE), None);
    assert_eq!(lock(&with("")), None);
    assert_eq!(lock(&with("mode = \"\"")), None);
    let period = Duration::from_hours(14 * 24);
    let of = |mode| Some(ObjectLock { mode, period });
    assert_eq!(lock(&with("mode = \"governance\"\nperiod = \"14d\"")), of(LockMode::Governance));
    assert_eq!(lock(&with("mode = \"compliance\"\nperiod = \"14d\"")), of(LockMode::Compliance));
}

#[test]
fn faults_say_what_to_write() {
    let key = "locations.primary.object_lock";
    for (lines, expected) in [
        ("mode = \"governance\"", format!("12:1 {key}.period: is missing; say how long an object stays locked")),
        ("period = \"14d\"", format!("13:10 {key}.period: applies only with mode = \"governance\" or \"compliance\"")),
        ("mode = \"governance\"\nperiod = \"1h\"", format!("14:10 {key}.period: is 1h; expected 1day to ")),
        ("mode = \"compliance\"\nperiod = \"99999d\"", format!("14:10 {key}.period: is ")),
        ("mode = \"legal\"\nperiod = \"14d\"", format!("13:8 {key}.mode: is \"legal\"")),
    ] {
        let faults = bad(&with(lines));
        assert!(faults.len() == 1 && faults[0].starts_with(&expected), "{lines}: {faults:#?}");
    }
    let text = with("mode = \"governance\"\nperiod = \"14d\"");
    let text = text.replacen("[locations.primary]\n", "[locations.primary]\nchecksum = \"none\"\n", 1);
    let faults = bad(&text);
    assert!(faults.len() == 1 && faults[0].contains("checksum: is \"none\", and S3 locks no object"), "{faults:#?}");
}
