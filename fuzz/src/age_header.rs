//! What must hold for any bytes that are read as an age header. The fuzz target and `tests/suite/age.rs` share this file.

use super::age::wire::{self, MAX_HEADER, MAX_STANZAS, WireError};

/// Reads a header. What is accepted is bounded and is written as it was read; what is cut off it makes it incomplete.
///
/// # Panics
/// When that does not hold.
pub fn age_header(input: &[u8]) -> Result<(), WireError> {
    let header = wire::parse(input)?;
    assert!(header.len <= MAX_HEADER && header.signed < header.len && header.len <= input.len());
    assert!((1..=MAX_STANZAS).contains(&header.stanzas.len()));
    for stanza in &header.stanzas {
        assert!(!stanza.args.is_empty());
        assert!(stanza.args.iter().all(|arg| !arg.is_empty() && arg.bytes().all(|byte| byte.is_ascii_graphic())));
    }
    let (bytes, _) = input.split_at(header.len);
    assert_eq!(header.encode(), bytes, "a header has one spelling");
    assert_eq!(wire::signed(&header.stanzas), &bytes[..header.signed]);
    assert_eq!(wire::parse(bytes).as_ref(), Ok(&header), "what follows the header makes no difference");
    for cut in [1, 2, header.len / 2, header.len] {
        assert_eq!(wire::parse(&bytes[..header.len - cut]), Err(WireError::Incomplete(header.len - cut)));
    }
    Ok(())
}
