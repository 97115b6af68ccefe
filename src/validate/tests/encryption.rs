//! The probe of client-side encryption.

use super::*;
use crate::age::Identity as Key;
use crate::config::{ClientEncryption, Recipients};
use crate::location;

async fn prove_with(site: &Arc<Refusing>, recipients: Recipients, held: Vec<Key>) -> Proof {
    let mut config = location();
    config.client_encryption = Some(ClientEncryption { recipients, index_identity_file: None });
    let opened = location::memory::Memory::new(site.store.clone()).open(&config, 1 << 20);
    let opened = opened.with_identities(held.into());
    prove(&opened, site.as_ref(), Skip::Ec2, &CancellationToken::new()).await
}

fn found(proof: &Proof) -> (State, String) {
    let check = proof.checks.iter().find(|check| check.name == "client encryption").unwrap();
    (check.state, check.message.clone())
}

#[tokio::test]
async fn a_probe_is_encrypted_stored_read_back_and_opened_if_a_key_is_at_hand() {
    let (ours, other) = (Key::generate().unwrap(), Key::generate().unwrap());
    let (recipients, stranger) = (vec![ours.recipient(), other.recipient()], Key::generate().unwrap());
    let inline = || Recipients::Inline(recipients.clone());
    let site = Refusing::new(&[]);
    let (state, message) = found(&prove_with(&site, inline(), vec![]).await);
    assert_eq!(state, State::Passed, "{message}");
    assert!(message.contains("stored and read back; not decrypted") && message.contains("nor should one be on a node"));
    let name = ours.recipient().fingerprint().to_string();
    assert!(message.contains(&name));
    let (state, message) = found(&prove_with(&site, inline(), vec![ours]).await);
    assert_eq!((state, message.ends_with(&format!("and decrypted with {name}"))), (State::Passed, true), "{message}");
    let (state, message) = found(&prove_with(&site, inline(), vec![stranger]).await);
    assert_eq!((state, message.contains("are none of these")), (State::Warning, true), "{message}");
    nothing_is_left(&site);

    site.store.script(|operation, key, _| {
        (operation == "GetObject" && key.ends_with("/encrypted.age")).then_some(Fault::Spoil)
    });
    let proof = prove_with(&site, inline(), vec![]).await;
    assert_eq!((found(&proof).0, proof.first_failure().unwrap().class), (State::Failed, Class::Integrity));

    let refused = Refusing::new(&["PutObject"]);
    assert_eq!(found(&prove_with(&refused, inline(), vec![]).await).0, State::NotTried);
    let missing = Recipients::File("/nonexistent/recipients".into());
    let proof = prove_with(&site, missing, vec![]).await;
    assert_eq!((found(&proof).0, proof.first_failure().unwrap().class), (State::Failed, Class::Config));
}

#[tokio::test]
async fn a_location_without_recipients_has_no_such_line() {
    let proof = proof_of(&Refusing::new(&[])).await;
    assert!(!proof.checks.iter().any(|check| check.name == "client encryption"));
}
