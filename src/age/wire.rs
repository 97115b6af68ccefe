//! The text of a header: version, stanzas, MAC. Knows no cryptography, so that a fuzzer need not build any.
//!
//! ```text
//! age-encryption.org/v1
//! -> X25519 XEl0dJ6y3C7KZkgmgWUicg63EyXJiwBJW8PdYJ/cYBE
//! qRS0AMjdjPvZ/WT08U2KL4G+PIooA3hy38SvLpvaC1E
//! --- HK2NmOBN9Dpq0Gw6xMCuhFcQlQLvZ/wQUi/2scLG75s
//! ```
//!
//! A header has one spelling: what [`parse`] accepts, [`Header::encode`] writes as it was. Memory is bounded by [`MAX_HEADER`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

/// The longest header that is read. One recipient takes 99 bytes.
pub const MAX_HEADER: usize = 64 << 10;

/// The most stanzas that are read: an identity tries each.
pub const MAX_STANZAS: usize = 256;

const VERSION: &[u8] = b"age-encryption.org/";
const V1: &[u8] = b"v1";
const ARMOR: &[u8] = b"-----BEGIN AGE";
const MAC: &[u8] = b"---";

/// Characters of a body's line that is not its last.
const COLUMNS: usize = 64;

/// The file key, wrapped for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    /// Never empty, nor is one of them; without blanks.
    pub args: Vec<String>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// At least one.
    pub stanzas: Vec<Stanza>,
    pub mac: [u8; 32],
    /// Bytes that the MAC covers.
    pub signed: usize,
    /// Bytes of the whole.
    pub len: usize,
}

/// Why bytes are not the beginning of an age file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// More bytes may complete it.
    #[error("the age header is cut: it does not end within the {0} bytes that are there")]
    Incomplete(usize),
    #[error("is not an age file: it does not begin with `age-encryption.org/`")]
    NotAge,
    #[error("is an armored age file (text); expected a binary one")]
    Armored,
    #[error("is an age file of another version; expected v1")]
    Version,
    #[error("line {line} of the age header {fault}")]
    Line { line: usize, fault: LineFault },
    #[error("the age header has more than {MAX_HEADER} bytes")]
    TooLong,
    #[error("the age header has more than {MAX_STANZAS} stanzas")]
    TooManyStanzas,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    #[error("begins neither a stanza (`-> `) nor the end (`--- `)")]
    Start,
    #[error("ends the header before its first stanza")]
    NoStanza,
    #[error("has an argument that is empty or has a character other than visible ASCII")]
    Argument,
    #[error("is not canonical base64 of at most 64 characters")]
    Body,
    #[error("has no MAC of 32 bytes in canonical base64")]
    Mac,
}

/// Reads a header from the beginning of `bytes`, which may go on behind it.
///
/// # Errors
/// When `bytes` do not begin with a header of v1.
pub fn parse(bytes: &[u8]) -> Result<Header, WireError> {
    let mut lines = Lines { bytes, at: 0, line: 0 };
    version(&mut lines)?;
    let mut stanzas = Vec::new();
    loop {
        let start = lines.at;
        let line = lines.next()?;
        if let Some(args) = line.strip_prefix(b"-> ") {
            if stanzas.len() == MAX_STANZAS {
                return Err(WireError::TooManyStanzas);
            }
            let args = arguments(args).ok_or(lines.fault(LineFault::Argument))?;
            stanzas.push(Stanza { args, body: body(&mut lines)? });
            continue;
        }
        let Some(mac) = line.strip_prefix(MAC) else { return Err(lines.fault(LineFault::Start)) };
        let mac = mac.strip_prefix(b" ").and_then(key).ok_or(lines.fault(LineFault::Mac))?;
        if stanzas.is_empty() {
            return Err(lines.fault(LineFault::NoStanza));
        }
        return Ok(Header { stanzas, mac, signed: start + MAC.len(), len: lines.at });
    }
}

fn version(lines: &mut Lines<'_>) -> Result<(), WireError> {
    let begins = |with: &[u8]| {
        let common = lines.bytes.len().min(with.len());
        lines.bytes[..common] == with[..common]
    };
    if begins(ARMOR) && lines.bytes.len() >= ARMOR.len() {
        return Err(WireError::Armored);
    }
    if !begins(VERSION) && !begins(ARMOR) {
        return Err(WireError::NotAge);
    }
    let line = lines.next()?;
    match line.strip_prefix(VERSION) {
        Some(V1) => Ok(()),
        Some(_) => Err(WireError::Version),
        None => Err(WireError::NotAge),
    }
}

fn arguments(line: &[u8]) -> Option<Vec<String>> {
    let argument = |bytes: &[u8]| {
        let visible = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
        if visible { String::from_utf8(bytes.to_vec()).ok() } else { None }
    };
    line.split(|byte| *byte == b' ').map(argument).collect()
}

/// Lines up to and with the first that is shorter than [`COLUMNS`].
fn body(lines: &mut Lines<'_>) -> Result<Vec<u8>, WireError> {
    let mut body = Vec::new();
    loop {
        let line = lines.next()?;
        if line.len() > COLUMNS || BASE64.decode_vec(line, &mut body).is_err() {
            return Err(lines.fault(LineFault::Body));
        }
        if line.len() < COLUMNS {
            return Ok(body);
        }
    }
}

/// 32 bytes in base64.
#[must_use]
pub fn key(text: &[u8]) -> Option<[u8; 32]> {
    // Before decoding it, for a text may be long.
    if text.len() == 43 { BASE64.decode(text).ok()?.try_into().ok() } else { None }
}

/// See [`key`].
#[must_use]
pub fn key_text(key: &[u8; 32]) -> String {
    BASE64.encode(key)
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The number of the line that was read last, from 1.
    line: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a [u8], WireError> {
        let bound = self.bytes.len().min(MAX_HEADER);
        let rest = &self.bytes[self.at..bound];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            let long = self.bytes.len() >= MAX_HEADER;
            return Err(if long { WireError::TooLong } else { WireError::Incomplete(self.bytes.len()) });
        };
        self.at += length + 1;
        self.line += 1;
        Ok(&rest[..length])
    }

    fn fault(&self, fault: LineFault) -> WireError {
        WireError::Line { line: self.line, fault }
    }
}

/// The bytes that a MAC covers: the header up to and with `---`.
#[must_use]
pub fn signed(stanzas: &[Stanza]) -> Vec<u8> {
    let mut out = [VERSION, V1, b"\n"].concat();
    for Stanza { args, body } in stanzas {
        out.extend(b"->");
        for arg in args {
            out.push(b' ');
            out.extend(arg.as_bytes());
        }
        out.push(b'\n');
        let text = BASE64.encode(body);
        let mut columns = text.as_bytes().chunks_exact(COLUMNS);
        for line in &mut columns {
            out.extend(line);
            out.push(b'\n');
        }
        out.extend(columns.remainder());
        out.push(b'\n');
    }
    out.extend(MAC);
    out
}

/// Completes what [`signed`] returned.
#[must_use]
pub fn with_mac(mut signed: Vec<u8>, mac: &[u8; 32]) -> Vec<u8> {
    signed.push(b' ');
    signed.extend(key_text(mac).as_bytes());
    signed.push(b'\n');
    signed
}

impl Header {
    /// The header as it was read.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        with_mac(signed(&self.stanzas), &self.mac)
    }
}

#[cfg(test)]
mod tests;
