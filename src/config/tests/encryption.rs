//! `client_encryption`: to whom, and what is refused.

use super::super::{ClientEncryption, Recipients};
use super::{BASE, bad, good};

#[test]
fn client_encryption_is_off_without_recipients() {
    let location = |lines: &str| {
        let text = format!("{BASE}[locations.primary.client_encryption]\n{lines}\n");
        good(&text).locations["primary"].client_encryption.clone()
    };
    assert_eq!(location(""), None);
    assert_eq!(location("recipients_file = \"\"\nindex_identity_file = \"\""), None);
    let text = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let recipients = Recipients::Inline(vec![text.parse().unwrap()]);
    let inline = location(&format!("recipients = [\"{text}\"]")).unwrap();
    assert_eq!(inline, ClientEncryption { recipients, index_identity_file: None });
    let file = location("recipients_file = \"/r\"\nindex_identity_file = \"/i\"").unwrap();
    let (recipients, index_identity_file) = (Recipients::File("/r".into()), Some("/i".into()));
    assert_eq!(file, ClientEncryption { recipients, index_identity_file });
}

#[test]
fn what_would_be_unsafe_or_encrypt_to_nobody_is_refused() {
    let identity = crate::age::Identity::generate().unwrap();
    let (secret, public) = (identity.to_text().to_string(), identity.recipient().to_string());
    let many: Vec<String> =
        (0..64).map(|_| crate::age::Identity::generate().unwrap().recipient().to_string()).collect();
    for (lines, expected) in [
        (
            format!("recipients = [{secret:?}]"),
            "13:15 locations.primary.client_encryption.recipients[0]: is an identity",
        ),
        (
            format!("recipients = [{public:?}, \"ssh-rsa A\"]"),
            "13:81 locations.primary.client_encryption.recipients[1]: is an SSH",
        ),
        (
            format!("recipients = [{public:?}, {public:?}]"),
            "13:14 locations.primary.client_encryption.recipients: has age1",
        ),
        (
            format!("recipients = {many:?}"),
            "13:14 locations.primary.client_encryption.recipients: has 64 recipients; expected 1 to 63",
        ),
        ("recipients = []".to_owned(), "13:14 locations.primary.client_encryption.recipients: names nobody"),
        (
            "index_identity_file = \"/i\"".to_owned(),
            "12:1 locations.primary.client_encryption.recipients: names nobody",
        ),
        (
            format!("recipients = [{public:?}]\nrecipients_file = \"/r\""),
            "14:19 locations.primary.client_encryption.recipients_file: stands beside recipients",
        ),
    ] {
        let faults = bad(&format!("{BASE}[locations.primary.client_encryption]\n{lines}\n"));
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{lines}: {faults:#?}");
        assert!(!faults[0].contains(&secret));
    }
}
