//! POSIX ACLs: the kernel's binary form, as in `system.posix_acl_*`, and the text form that a PAX record holds.
//!
//! Text is `user::rw-,user:1000:r--,group::r--,mask::r--,other::---` with numeric ids, which GNU tar, star and
//! libarchive read. The parser takes what those write (line feeds or commas, short tags, a comment, star's fourth
//! field) but no user or group names: ids are what a backup of a node means.

/// `POSIX_ACL_XATTR_VERSION` of `linux/posix_acl_xattr.h`.
const VERSION: u32 = 2;

/// An entry that has no id of its own, `ACL_UNDEFINED_ID`.
const NO_ID: u32 = u32::MAX;

/// A tag's number in the binary form, its name in text, whether an id goes with it.
const TAGS: [(u16, &str, bool); 6] = [
    (0x01, "user", false),
    (0x02, "user", true),
    (0x04, "group", false),
    (0x08, "group", true),
    (0x10, "mask", false),
    (0x20, "other", false),
];

/// The text of a binary ACL; `None` for one that is not of the version above, or malformed.
#[must_use]
pub fn to_text(binary: &[u8]) -> Option<String> {
    let (version, entries) = binary.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let permissions = u16::from_le_bytes([entry[2], entry[3]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let (_, name, has_id) = TAGS.iter().find(|(number, ..)| *number == tag)?;
        if permissions > 7 {
            return None;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push(':');
        if *has_id {
            text.push_str(&id.to_string());
        }
        text.push(':');
        text.push_str(&letters(permissions.into()));
    }
    Some(text)
}

/// The ACL that says no more than a mode's permission bits.
#[must_use]
pub fn of_mode(mode: u32) -> String {
    format!("user::{},group::{},other::{}", letters(mode >> 6), letters(mode >> 3), letters(mode))
}

/// The lowest three bits as `rwx`.
fn letters(bits: u32) -> String {
    [(4, 'r'), (2, 'w'), (1, 'x')].map(|(bit, letter)| if bits & bit == 0 { '-' } else { letter }).iter().collect()
}

/// The binary form of an ACL's text.
///
/// # Errors
/// What is wrong with the text.
pub fn to_binary(text: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let mut entries = Vec::new();
    for line in text.split([',', '\n']) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            entries.push(entry(line).ok_or_else(|| format!("its entry {line:?} is not understood"))?);
        }
    }
    // The kernel wants them in the order of their tags.
    entries.sort_unstable();
    let mut binary = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        binary.extend(tag.to_le_bytes());
        binary.extend(permissions.to_le_bytes());
        binary.extend(id.to_le_bytes());
    }
    Ok(binary)
}

fn entry(line: &str) -> Option<(u16, u32, u16)> {
    let mut fields = line.split(':');
    let (tag, id, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    // Where the second field is a name, star and libarchive add the number as a fourth.
    let id = fields.next().filter(|_| id.parse::<u32>().is_err()).unwrap_or(id);
    if fields.next().is_some() {
        return None;
    }
    let tag = match tag {
        "u" => "user",
        "g" => "group",
        "m" => "mask",
        "o" => "other",
        long => long,
    };
    let (number, ..) = TAGS.iter().find(|(_, name, has_id)| *name == tag && *has_id != id.is_empty())?;
    let id = if id.is_empty() { NO_ID } else { id.parse().ok()? };
    let mut bits = 0;
    for letter in permissions.chars() {
        bits |= match letter {
            'r' => 4,
            'w' => 2,
            'x' => 1,
            '-' => 0,
            _ => return None,
        };
    }
    Some((*number, id, bits))
}
