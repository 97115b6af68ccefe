//! Cron expressions, as crontab(5) has them: five fields, lists, ranges, steps, names, and `@daily` and its like. The
//! crate `croner` reads and reckons them.
//!
//! A [`Cron`] knows civil time only: which minutes of which days. What a clock change does to them is decided where
//! the clock is known (`daemon::schedule`), after Vixie cron's rule, which needs [`Cron::follows_clock`].

use std::fmt;
use std::sync::Arc;

use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A schedule that comes again and again.
#[derive(Clone)]
pub struct Cron {
    text: String,
    /// Shared: it has a field for each of 5,000 years.
    expression: Arc<croner::Cron>,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?})", self.text)
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cron {}

impl Cron {
    /// # Errors
    /// The end of a sentence that begins with the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).sloppy_ranges(true).build();
        let expression = parser.parse(text).map_err(|why| {
            format!(
                "is {text:?}: {why}; expected minute, hour, day of the month, month and day of the week, such as \
                 \"30 2 * * *\", or @hourly, @daily, @weekly"
            )
        })?;
        let cron = Self { text: text.to_owned(), expression: Arc::new(expression) };
        match cron.first_from(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)) {
            Some(_) => Ok(cron),
            None => Err(format!("is {text:?}, a day that never comes")),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the schedule is one of intervals rather than of fixed times: minute or hour begins with `*`.
    #[must_use]
    pub fn follows_clock(&self) -> bool {
        // croner has written the nicknames out.
        self.expression.as_str().split_whitespace().take(2).any(|field| field.starts_with('*'))
    }

    /// The first minute at or after `from`; `None` only at the end of time.
    #[must_use]
    pub fn first_from(&self, from: DateTime) -> Option<DateTime> {
        // UTC has no clock changes, so it carries civil time from one crate to the other.
        let seconds = TimeZone::UTC.to_timestamp(from).ok()?.as_second();
        let from = seconds + i64::from(from.subsec_nanosecond() > 0);
        let found = self.expression.find_next_occurrence(&chrono::DateTime::from_timestamp(from, 0)?, true).ok()?;
        let found = jiff::Timestamp::from_second(found.timestamp()).ok()?;
        Some(TimeZone::UTC.to_datetime(found))
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The first five minutes of a schedule after 2026-01-30 23:58, a Friday.
    fn minutes(text: &str) -> Vec<String> {
        let cron = Cron::parse(text).unwrap_or_else(|why| panic!("{text} {why}"));
        let mut from: DateTime = "2026-01-30T23:58".parse().unwrap();
        let mut found = Vec::new();
        while found.len() < 4 {
            let next = cron.first_from(from).unwrap();
            found.push(next.strftime("%m-%d %H:%M").to_string());
            from = next.checked_add(jiff::Span::new().minutes(1)).unwrap();
        }
        found
    }

    #[test]
    fn schedules_as_crontab_has_them() {
        for (text, expected) in [
            ("* * * * *", ["01-30 23:58", "01-30 23:59", "01-31 00:00", "01-31 00:01"]),
            ("@hourly", ["01-31 00:00", "01-31 01:00", "01-31 02:00", "01-31 03:00"]),
            ("@daily", ["01-31 00:00", "02-01 00:00", "02-02 00:00", "02-03 00:00"]),
            ("@weekly", ["02-01 00:00", "02-08 00:00", "02-15 00:00", "02-22 00:00"]),
            ("*/20 3 * * *", ["01-31 03:00", "01-31 03:20", "01-31 03:40", "02-01 03:00"]),
            ("50/5 4 * * *", ["01-31 04:50", "01-31 04:55", "02-01 04:50", "02-01 04:55"]),
            ("0 22-23,1 * * *", ["01-31 01:00", "01-31 22:00", "01-31 23:00", "02-01 01:00"]),
            ("15 6 * * mon-WED", ["02-02 06:15", "02-03 06:15", "02-04 06:15", "02-09 06:15"]),
            ("0 0 * * 7", ["02-01 00:00", "02-08 00:00", "02-15 00:00", "02-22 00:00"]),
            ("0 0 * * 5-7", ["01-31 00:00", "02-01 00:00", "02-06 00:00", "02-07 00:00"]),
            ("0 0 31 * *", ["01-31 00:00", "03-31 00:00", "05-31 00:00", "07-31 00:00"]),
            // One of the two is enough.
            ("0 0 3 * sat", ["01-31 00:00", "02-03 00:00", "02-07 00:00", "02-14 00:00"]),
            ("0 0 29 feb *", ["02-29 00:00", "02-29 00:00", "02-29 00:00", "02-29 00:00"]),
        ] {
            assert_eq!(minutes(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in [
            "",
            "0 * * *",
            "0 0 * * * *",
            "@reboot",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
        ] {
            let why = Cron::parse(text).unwrap_err();
            assert!(why.contains(&format!("{text:?}")) && why.contains("expected minute"), "{text}: {why}");
        }
        assert!(Cron::parse("0 0 30 2 *").unwrap_err().contains("a day that never comes"));
    }

    #[test]
    fn schedules_of_intervals_follow_the_clock() {
        for (text, expected) in
            [("*/5 * * * *", true), ("30 * * * *", true), ("@hourly", true), ("0 2,14 * * *", false), ("@daily", false)]
        {
            assert_eq!(Cron::parse(text).unwrap().follows_clock(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_found_again(start in 0_i64..2_000_000, text in "(\\*|\\*/7|5|10-40/9) (\\*|2|1,13) (\\*|13) (\\*|2) (\\*|1|fri)") {
            let cron = Cron::parse(&text).unwrap();
            let from = DateTime::constant(2024, 1, 1, 0, 0, 0, 0).checked_add(jiff::Span::new().minutes(start)).unwrap();
            let first = cron.first_from(from).unwrap();
            prop_assert!(first >= from && cron.first_from(first) == Some(first));
        }

        #[test]
        fn no_text_panics(text in "[-*/,0-9a-zA-Z@#L ]{0,24}") {
            let _ = Cron::parse(&text);
        }
    }
}
