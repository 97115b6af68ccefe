//! Finds where a JSON value ends, piece by piece: parses no value, and keeps none.
//!
//! Counts brackets and skips strings; whether a value is valid JSON is for its parser to check. Costs one pass over the bytes, most of it
//! in `memchr`.

use super::list::Fault;

/// The limit of encoding/json in the API server itself.
pub(super) const MAX_DEPTH: u32 = 10_000;

/// The state within one value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scan {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// A number or a literal, which ends at the first byte of something else.
    in_scalar: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// All of the piece belongs to the value, which continues in the next.
    More,
    /// The value ended before this offset of the piece.
    End(usize),
}

impl Scan {
    /// `piece` begins at the value's first byte, or where the previous piece ended.
    pub(super) fn step(&mut self, piece: &[u8]) -> Result<Step, Fault> {
        let mut at = 0;
        while at < piece.len() {
            if self.in_string {
                at = self.string(piece, at);
                if !self.in_string && self.depth == 0 {
                    return Ok(Step::End(at));
                }
                continue;
            }
            let byte = piece[at];
            if self.in_scalar {
                if matches!(byte, b',' | b']' | b'}' | b':' | b'"' | b'{' | b'[') || byte.is_ascii_whitespace() {
                    self.in_scalar = false;
                    return Ok(Step::End(at));
                }
                at += 1;
                continue;
            }
            at += 1;
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(Fault::Deep);
                    }
                }
                b'}' | b']' => match self.depth {
                    0 => return Err(Fault::NotJson("a closing bracket has no opening one")),
                    1 => {
                        self.depth = 0;
                        return Ok(Step::End(at));
                    }
                    _ => self.depth -= 1,
                },
                _ if self.depth == 0 => self.in_scalar = true,
                _ => {}
            }
        }
        Ok(Step::More)
    }

    /// Skips a string's bytes from `at`; returns the offset after its closing quote, or the piece's end.
    fn string(&mut self, piece: &[u8], mut at: usize) -> usize {
        if self.escaped {
            self.escaped = false;
            at += 1;
        }
        while let Some(found) = piece.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
            at += found;
            if piece[at] == b'"' {
                self.in_string = false;
                return at + 1;
            }
            at += 2;
            if at > piece.len() {
                self.escaped = true;
                return piece.len();
            }
        }
        piece.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str, cut: usize) -> Result<Option<usize>, Fault> {
        let mut scan = Scan::default();
        let bytes = text.as_bytes();
        let mut base = 0;
        for piece in [&bytes[..cut], &bytes[cut..]] {
            if let Step::End(at) = scan.step(piece)? {
                return Ok(Some(base + at));
            }
            base += piece.len();
        }
        Ok(None)
    }

    #[test]
    fn a_value_ends_where_it_ends_wherever_it_is_cut() {
        let rows = [
            (r#"{"a":"}\"\\"}"#, ",x"),
            (r#""\\\"]""#, ","),
            ("[[],[{}]]", "]"),
            ("-1.5e9", ","),
            ("null", "}"),
            ("true", " "),
            (r#"{"\\":"\u0022"}"#, ""),
        ];
        for (value, after) in rows {
            let text = format!("{value}{after}");
            for cut in 0..=text.len() {
                assert_eq!(end(&text, cut).unwrap(), Some(value.len()), "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_cut_off_has_no_end() {
        for text in ["{", "\"abc", "\"abc\\", "[1,", "12"] {
            assert_eq!(end(text, 0).unwrap(), None, "{text}");
        }
        assert!(end("]", 0).is_err());
        assert!(end(&"[".repeat(20_000), 7).is_err());
    }
}
