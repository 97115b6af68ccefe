//! Replaces `${NAME}` and `${NAME:-default}` in strings.
//!
//! - `${NAME}` is the variable's value; a variable that is not set is a fault, one that is set but empty is empty.
//! - `${NAME:-default}` is `default` when the variable is not set or empty, as in a shell. The default is plain text up
//!   to the next `}`, and may be empty.
//! - `$$` is one `$`, so `$${HOME}` reaches a command as `${HOME}`. Any other `$` stays as it is.
//!
//! Variables in a variable's value are not replaced.

use super::environment::Environment;

/// A fault of a `${…}`; its text follows the key. Shows only a well-formed variable name: an ill-formed one may be part of a
/// secret that contains `${`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InterpolateError {
    #[error("has a `${{` with no `}}`; close it, or write `$$` for a plain `$`")]
    Open,
    #[error(
        "has a `${{…}}` that holds no variable name; expected `${{NAME}}` or `${{NAME:-default}}`, `$$` for a plain `$`"
    )]
    Name,
    #[error("names the environment variable {0}, which is not set; set it, or write ${{{0}:-default}}")]
    Unset(String),
}

/// `text` with its variables replaced.
pub(super) fn interpolate(text: &str, environment: &dyn Environment) -> Result<String, InterpolateError> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        result.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or(InterpolateError::Open)?;
            result.push_str(&value(inside, environment)?);
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// The value of `${inside}`.
fn value(inside: &str, environment: &dyn Environment) -> Result<String, InterpolateError> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(allowed) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(InterpolateError::Name);
    }
    match (environment.variable(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(InterpolateError::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn environment() -> BTreeMap<String, String> {
        [("A", "one"), ("EMPTY", ""), ("AGAIN", "${A}")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn values() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "one"),
            ("x-${A}-${A}y", "x-one-oney"),
            ("${EMPTY}", ""),
            ("${EMPTY:-d}", "d"),
            ("${NOT:-}", ""),
            ("${NOT:-host}", "host"),
            ("${NOT:-a:-b $ ü}", "a:-b $ ü"),
            ("${A:-d}", "one"),
            ("$${A}", "${A}"),
            ("$$$${A}$$", "$${A}$"),
            ("$A costs 5$", "$A costs 5$"),
            ("${AGAIN}", "${A}"),
        ] {
            assert_eq!(interpolate(text, &environment()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faults() {
        for (text, expected) in [
            ("${NOT}", InterpolateError::Unset("NOT".into())),
            ("${A", InterpolateError::Open),
            ("${}", InterpolateError::Name),
            ("${:-x}", InterpolateError::Name),
            ("${1A}", InterpolateError::Name),
            ("${A B}", InterpolateError::Name),
            ("${A-x}", InterpolateError::Name),
        ] {
            assert_eq!(interpolate(text, &environment()), Err(expected), "{text}");
        }
        assert_eq!(
            interpolate("${NOT}", &environment()).unwrap_err().to_string(),
            "names the environment variable NOT, which is not set; set it, or write ${NOT:-default}"
        );
    }
}
