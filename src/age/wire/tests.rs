use proptest::prelude::*;

use super::*;

const VALID: &str = "age-encryption.org/v1
-> X25519 XEl0dJ6y3C7KZkgmgWUicg63EyXJiwBJW8PdYJ/cYBE
qRS0AMjdjPvZ/WT08U2KL4G+PIooA3hy38SvLpvaC1E
--- HK2NmOBN9Dpq0Gw6xMCuhFcQlQLvZ/wQUi/2scLG75s
";

fn changed(from: &str, to: &str) -> Result<Header, WireError> {
    assert!(VALID.contains(from));
    parse(VALID.replacen(from, to, 1).as_bytes())
}

fn fault<T>(line: usize, fault: LineFault) -> Result<T, WireError> {
    Err(WireError::Line { line, fault })
}

#[test]
fn the_example_of_the_specification() {
    let bytes = [VALID.as_bytes(), b"\x00\xffpayload"].concat();
    let header = parse(&bytes).unwrap();
    assert_eq!((header.len, header.signed), (VALID.len(), VALID.len() - 45));
    assert_eq!((header.stanzas.len(), header.stanzas[0].args.len(), header.stanzas[0].body.len()), (1, 2, 32));
    assert_eq!(header.encode(), VALID.as_bytes());
}

#[test]
fn a_cut_header_is_incomplete_wherever_it_is_cut() {
    for length in 0..VALID.len() {
        assert_eq!(parse(&VALID.as_bytes()[..length]), Err(WireError::Incomplete(length)));
    }
}

#[test]
fn what_is_not_a_header_is_named() {
    assert_eq!(parse(b"\x28\xb5\x2f\xfd"), Err(WireError::NotAge));
    assert_eq!(parse(b"age-encryption.org!"), Err(WireError::NotAge));
    assert_eq!(parse(b"-----BEGIN AGE ENCRYPTED FILE-----\n"), Err(WireError::Armored));
    assert_eq!(changed("/v1", "/v2"), Err(WireError::Version));
    assert_eq!(changed("/v1\n", "/v1\r\n"), Err(WireError::Version));
    assert_eq!(changed("-> X", "->X"), fault(2, LineFault::Start));
    assert_eq!(changed("-> X", "->  X"), fault(2, LineFault::Argument));
    assert_eq!(changed("cYBE\n", "cYBE \n"), fault(2, LineFault::Argument));
    assert_eq!(changed("cYBE\n", "cYBE\r\n"), fault(2, LineFault::Argument));
    assert_eq!(changed("C1E\n", "C1F\n"), fault(3, LineFault::Body));
    assert_eq!(changed("C1E\n", "C1E=\n"), fault(3, LineFault::Body));
    assert_eq!(changed("qRS0", &"A".repeat(32)), fault(3, LineFault::Body));
    assert_eq!(changed("75s", "75t"), fault(4, LineFault::Mac));
    assert_eq!(changed("75s", "75"), fault(4, LineFault::Mac));
    assert_eq!(changed("--- ", "---"), fault(4, LineFault::Mac));
    assert_eq!(changed("--- ", "\n--- "), fault(4, LineFault::Start));
    let none = format!("age-encryption.org/v1\n{}", VALID.lines().last().unwrap()) + "\n";
    assert_eq!(parse(none.as_bytes()), fault(2, LineFault::NoStanza));
}

#[test]
fn a_body_of_full_lines_ends_with_an_empty_one() {
    let stanza = Stanza { args: vec!["a".to_owned()], body: vec![7; 96] };
    let bytes = with_mac(signed(std::slice::from_ref(&stanza)), &[0; 32]);
    assert!(bytes.windows(6).any(|window| window == b"\n\n--- "));
    assert_eq!(parse(&bytes).unwrap().stanzas, [stanza]);
    let cut = String::from_utf8(bytes).unwrap().replace("\n\n---", "\n---");
    assert_eq!(parse(cut.as_bytes()), fault(5, LineFault::Body));
}

#[test]
fn a_header_is_bounded() {
    let many = |count| {
        let stanza = Stanza { args: vec!["a".to_owned()], body: Vec::new() };
        parse(&with_mac(signed(&vec![stanza; count]), &[0; 32]))
    };
    assert_eq!(many(MAX_STANZAS).unwrap().stanzas.len(), MAX_STANZAS);
    assert_eq!(many(MAX_STANZAS + 1), Err(WireError::TooManyStanzas));
    let long = [b"age-encryption.org/v1\n-> ".as_slice(), &vec![b'a'; MAX_HEADER * 2]].concat();
    assert_eq!(parse(&long), Err(WireError::TooLong));
    assert_eq!(parse(&long[..MAX_HEADER - 1]), Err(WireError::Incomplete(MAX_HEADER - 1)));
}

proptest! {
    #[test]
    fn a_header_has_one_spelling(
        stanzas in prop::collection::vec(
            (prop::collection::vec("[!-~]{1,40}", 1..4), prop::collection::vec(any::<u8>(), 0..200)), 1..6),
        mac: [u8; 32],
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let stanzas: Vec<Stanza> = stanzas.into_iter().map(|(args, body)| Stanza { args, body }).collect();
        let bytes = with_mac(signed(&stanzas), &mac);
        let len = bytes.len();
        let header = parse(&[bytes.clone(), tail].concat()).unwrap();
        prop_assert_eq!((&header.stanzas, header.mac, header.len), (&stanzas, mac, len));
        prop_assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn no_change_panics_and_what_is_accepted_is_written_as_it_was(at in 0..VALID.len(), to: u8, cut in 0..20_usize) {
        let mut bytes = VALID.as_bytes().to_vec();
        bytes[at] = to;
        bytes.truncate(VALID.len() - cut);
        if let Ok(header) = parse(&bytes) {
            prop_assert_eq!(header.encode(), &bytes[..header.len]);
            prop_assert_eq!(&bytes[header.signed - 3..header.signed], b"---");
        }
    }
}
