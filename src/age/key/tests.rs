use proptest::prelude::*;

use super::*;

/// The examples of the specification.
const SECRET: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
const PUBLIC: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

fn recipient(text: &str) -> Result<Recipient, KeyError> {
    text.parse()
}

fn identity(text: &str) -> Result<Identity, KeyError> {
    text.parse()
}

#[test]
fn the_examples_of_the_specification() {
    let found = identity(SECRET).unwrap();
    assert_eq!(found.recipient().to_string(), PUBLIC);
    assert_eq!(*found.to_text(), SECRET);
    assert_eq!(recipient(PUBLIC), Ok(found.recipient()));
    assert_eq!(recipient(&PUBLIC.to_uppercase()), Ok(found.recipient()));
    assert_eq!(identity(&SECRET.to_lowercase()).unwrap().recipient(), found.recipient());
    // printf %s age1zvk… | sha256sum | cut -c1-16
    assert_eq!(found.recipient().fingerprint().to_string(), "6a804773982840fa");
}

#[test]
fn a_generated_identity_survives_its_text() {
    let made = Identity::generate().unwrap();
    let read = identity(&made.to_text()).unwrap();
    assert_eq!((read.recipient(), *read.to_text() == *made.to_text()), (made.recipient(), true));
    assert_eq!(recipient(&made.recipient().to_string()), Ok(made.recipient()));
    let file = made.to_file("2026-11-29T20:00:00Z");
    let lines: Vec<&str> = file.lines().collect();
    assert_eq!(lines[0], "# created: 2026-11-29T20:00:00Z");
    assert_eq!(lines[1], format!("# public key: {}", made.recipient()));
    assert_eq!((lines[2], lines.len()), (made.to_text().as_str(), 3));
}

#[test]
fn one_key_in_the_place_of_the_other_has_its_own_error() {
    assert_eq!(recipient(SECRET), Err(KeyError::IdentityForRecipient));
    assert_eq!(recipient(&SECRET.to_lowercase()), Err(KeyError::IdentityForRecipient));
    assert_eq!(recipient("AGE-SECRET-KEY-1GFPYY"), Err(KeyError::IdentityForRecipient), "also a damaged one");
    assert_eq!(recipient("AGE-SECRET-KEY-PQ-1XX76"), Err(KeyError::IdentityForRecipient));
    assert_eq!(recipient("AGE-PLUGIN-YUBIKEY-1XX76"), Err(KeyError::IdentityForRecipient));
    assert_eq!(identity(PUBLIC).unwrap_err(), KeyError::RecipientForIdentity);
}

#[test]
fn what_came_is_named_by_its_kind() {
    for (text, kind) in [
        ("age1pq1x34nzsvr0rx", Kind::PostQuantumRecipient),
        ("age1tag1qt8lw0ual6", Kind::PluginRecipient),
        ("age1yubikey1qwt50d05", Kind::PluginRecipient),
        ("ssh-ed25519 AAAA", Kind::Ssh),
        ("age-encryption.org/v1", Kind::AgeFile),
        ("-----BEGIN AGE ENCRYPTED FILE-----", Kind::AgeFile),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", Kind::Pem),
        ("", Kind::Empty),
        ("hunter2", Kind::Other(7)),
    ] {
        assert_eq!(recipient(text), Err(KeyError::Kind { expected: Kind::Recipient, found: kind }), "{text}");
        assert_eq!(identity(text).unwrap_err(), KeyError::Kind { expected: Kind::Identity, found: kind }, "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_key_is_named() {
    let damaged = |fault| Err(KeyError::Damaged { of: Kind::Recipient, fault });
    assert_eq!(recipient(&PUBLIC[..61]), damaged(Fault::Length { expected: 62, found: 61 }));
    assert_eq!(recipient(&PUBLIC.replace("zvk", "zvq")), damaged(Fault::Checksum));
    assert_eq!(recipient(&PUBLIC.replace("zvk", "zVk")), damaged(Fault::MixedCase));
    assert_eq!(recipient(&PUBLIC.replace("zvk", "zvb")), damaged(Fault::Character));
    assert_eq!(recipient(&PUBLIC.replace("zvk", "zvé")), damaged(Fault::Character));
    let weak = Recipient([0; 32]).to_string();
    assert_eq!(recipient(&weak), Err(KeyError::Weak));
}

#[test]
fn nothing_that_can_be_printed_shows_a_secret() {
    let made = identity(SECRET).unwrap();
    let shown = format!("{made:?} {:?} {:?}", made.recipient(), identity(&SECRET.replace("GFP", "GFQ")));
    assert_eq!(shown.matches("6a804773982840fa").count(), 2, "{shown}");
    for part in ["GFPYY", "gfpyy", "GFQYY", "66, 66"] {
        assert!(!shown.contains(part), "{shown}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_no_error_repeats_it(text in "(age1|AGE-SECRET-KEY-1|)[a-zA-Z0-9é \\-]{0,80}") {
        let (public, private) = (recipient(&text), identity(&text));
        if let (Err(public), Err(private)) = (public, private) {
            let shown = format!("{public} {public:?} {private} {private:?}");
            let secret = text.get(16..).unwrap_or_default();
            prop_assert!(secret.len() < 12 || !shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn one_changed_character_is_found(at in 4_usize..62, to in "[qpzry9x8gf2tvdw0s3jn54khce6mua7l]") {
        let mut text = PUBLIC.to_owned();
        text.replace_range(at..=at, &to);
        prop_assert!(text == PUBLIC || recipient(&text).is_err());
    }
}
