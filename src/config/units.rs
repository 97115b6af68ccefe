//! Parses and formats sizes and durations.

use std::time::Duration;

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;

/// Powers of 1024 first: [`show_size`] uses the largest that divides a size.
const UNITS: [(&str, u64); 9] = [
    ("TiB", TIB),
    ("GiB", GIB),
    ("MiB", MIB),
    ("KiB", KIB),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// `16MiB`, `1 GB`, `0`: a whole number and a unit, bytes without one. The case of units does not matter. Refuses a
/// bare `M`, because it may mean 1000 or 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let expected = || format!("is {text:?}; expected a whole number of bytes or one with a unit, such as \"16MiB\"");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let unit = unit.trim_start();
    if number.is_empty() {
        return Err(expected());
    }
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(expected)?.1,
    };
    let number: Option<u64> = number.parse().ok();
    number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| format!("is {text:?}; expected less than 16EiB"))
}

/// The size as the file would have it, in the largest power of 1024 that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match UNITS[..4].iter().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// `30s`, `4h`, `1h30m`, `7d`, and a bare `0`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("is {text:?}; expected a number with a unit, such as \"30s\", \"4h\" or \"7d\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", 0),
            ("123", 123),
            ("1B", 1),
            ("16MiB", 16 * MIB),
            ("16 mib", 16 * MIB),
            (" 5GiB ", 5 * GIB),
            ("5TiB", 5 * TIB),
            ("3KiB", 3 * KIB),
            ("1KB", 1_000),
            ("2MB", 2_000_000),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "16M", "16 M B", "1e3", "١MiB", "20000000TiB", "99999999999999999999"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_as_they_are_written() {
        for (bytes, expected) in [
            (0, "0"),
            (1023, "1023"),
            (KIB, "1KiB"),
            (16 * MIB, "16MiB"),
            (GIB + 1, "1073741825"),
            (1024 * GIB, "1TiB"),
        ] {
            assert_eq!(show_size(bytes), expected);
            assert_eq!(size(expected), Ok(bytes));
        }
    }

    #[test]
    fn durations() {
        for (text, seconds) in [("0", 0), ("0s", 0), ("30s", 30), ("4h", 14_400), ("1h30m", 5_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "5",
            "h",
            "-1s",
            "1 fortnight",
            "99999999999999999999s",
            "18446744073709551615s 18446744073709551615s",
            "500000000000y 500000000000y",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
