//! Files of recipients or identities: one a line, with empty lines and comments (`#`), as `age -R` and `age -i` read them.

use std::str::FromStr;

use super::key::{Identity, KeyError, Recipient};

/// The longest file that is read. A thousand keys are 75 KB.
const MAX_FILE: usize = 1 << 20;

/// Why a file of keys is refused, and in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} {reason}")]
pub struct ListError {
    /// From 1.
    pub line: usize,
    pub reason: Reason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("repeats the key of line {0}")]
    Repeated(usize),
    #[error("is not UTF-8")]
    NotText,
    #[error("is the last, and the file has no key")]
    NoKey,
    #[error("ends behind {MAX_FILE} bytes, which is the most that a file of keys may have")]
    TooLong,
}

/// The recipients of a file, in its order.
///
/// # Errors
/// At the first line that is no recipient or repeats one, and when there is none.
pub fn recipients(file: &[u8]) -> Result<Vec<Recipient>, ListError> {
    parse(file, |recipient| *recipient)
}

/// The identities of a file, in its order.
///
/// # Errors
/// At the first line that is no identity or repeats one, and when there is none.
pub fn identities(file: &[u8]) -> Result<Vec<Identity>, ListError> {
    parse(file, Identity::recipient)
}

fn parse<K: FromStr<Err = KeyError>>(file: &[u8], name: fn(&K) -> Recipient) -> Result<Vec<K>, ListError> {
    let (mut keys, mut lines) = (Vec::new(), Vec::<usize>::new());
    let (mut last, mut read) = (1, 0);
    for (line, text) in (1..).zip(file.split(|byte| *byte == b'\n')) {
        let refused = |reason| ListError { line, reason };
        read += text.len() + 1;
        if read > MAX_FILE + 1 {
            return Err(refused(Reason::TooLong));
        }
        let text = std::str::from_utf8(text).map_err(|_| refused(Reason::NotText))?.trim_ascii();
        last = line;
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let key: K = text.parse().map_err(|error| refused(Reason::Key(error)))?;
        if let Some(at) = keys.iter().position(|known| name(known) == name(&key)) {
            return Err(refused(Reason::Repeated(lines[at])));
        }
        keys.push(key);
        lines.push(line);
    }
    if keys.is_empty() { Err(ListError { line: last, reason: Reason::NoKey }) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_age_reads_it() {
        let made = [Identity::generate().unwrap(), Identity::generate().unwrap()];
        let file: String = made.iter().map(|identity| identity.to_file("now").to_string()).collect();
        let read = identities(format!("\r\n {file}").as_bytes()).unwrap();
        let names: Vec<Recipient> = read.iter().map(Identity::recipient).collect();
        assert_eq!(names, [made[0].recipient(), made[1].recipient()]);
        let file = format!("# operators\n{}\r\n\n  {}", names[0], names[1]);
        assert_eq!(recipients(file.as_bytes()), Ok(names));
    }

    #[test]
    fn a_fault_has_its_line() {
        let identity = Identity::generate().unwrap();
        let (public, secret) = (identity.recipient().to_string(), identity.to_text());
        for (file, line, reason) in [
            (String::new(), 1, Reason::NoKey),
            ("# none\n\n".to_owned(), 3, Reason::NoKey),
            (format!("{public}\n{}", *secret), 2, Reason::Key(KeyError::IdentityForRecipient)),
            (format!("\n{public}\n#\n{public}\n"), 4, Reason::Repeated(2)),
            (format!("{public}\n{}{public}", "\n".repeat(MAX_FILE)), MAX_FILE - 60, Reason::TooLong),
        ] {
            let error = recipients(file.as_bytes()).unwrap_err();
            assert_eq!(error, ListError { line, reason });
            assert!(!error.to_string().contains(secret.as_str()));
        }
        assert_eq!(recipients(b"\xff").unwrap_err().reason, Reason::NotText);
        let error = identities(public.as_bytes()).unwrap_err();
        assert_eq!(error.reason, Reason::Key(KeyError::RecipientForIdentity));
    }
}
