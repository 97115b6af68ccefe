//! Archives as an attacker, or another program, writes them.

use super::BLOCK;

/// Types of members.
pub(crate) mod flags {
    pub(crate) const REGULAR: u8 = b'0';
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const PAX: u8 = b'x';
}

/// One member, as an attacker writes it.
#[derive(Clone, Default)]
pub(crate) struct Raw {
    pub(crate) kind: u8,
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    /// As it stands in the field.
    pub(crate) size: Option<Vec<u8>>,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn raw(kind: u8, path: &str, link: &str, data: &[u8]) -> Vec<u8> {
    Raw { kind, path: path.into(), link: link.into(), size: None, data: data.to_vec() }.bytes()
}

impl Raw {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..self.path.len()].copy_from_slice(&self.path);
        block[100..108].copy_from_slice(b"0000755\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        let size = self.size.clone().unwrap_or_else(|| format!("{:011o}\0", self.data.len()).into_bytes());
        block[124..136].copy_from_slice(&size);
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = self.kind;
        block[157..157 + self.link.len()].copy_from_slice(&self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        block.extend_from_slice(&self.data);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }
}

pub(crate) fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u64 = block[..BLOCK].iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..rest + 10).find(|length| *length == rest + length.to_string().len()).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

pub(crate) fn pax(records: &[(&str, &[u8])], member: Vec<u8>) -> Vec<u8> {
    let records: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    [raw(flags::PAX, "PaxHeaders/x", "", &records), member].concat()
}

pub(crate) fn sparse(size: &[u8], data: &[u8]) -> Vec<u8> {
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.realsize", size),
    ];
    pax(&records, raw(flags::REGULAR, "GNUSparseFile.0/f", "", data))
}

pub(crate) fn map(text: &str, data: usize) -> Vec<u8> {
    let mut map = text.as_bytes().to_vec();
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map.resize(map.len() + data, b'd');
    map
}

pub(crate) fn sized(size: &[u8; 12]) -> Vec<u8> {
    Raw { kind: flags::REGULAR, path: b"f".to_vec(), size: Some(size.to_vec()), ..Raw::default() }.bytes()
}
