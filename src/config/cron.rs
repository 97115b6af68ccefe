//! Cron expressions, as crontab(5) has them: five fields, lists, ranges, steps, names, and `@daily` and its like.
//!
//! The expression is croner's, which reckons in chrono; here it is asked for civil times only, in jiff's. What a clock change
//! does to them is decided where the clock is known (`daemon::schedule`), after Vixie cron's rule, which needs
//! [`Cron::follows_clock`].

use std::fmt;

use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// A schedule that comes again and again.
#[derive(Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
}

impl Cron {
    /// # Errors
    /// The end of a sentence that begins with the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        // `5/15` goes on to the end, as every cron takes it.
        let parser =
            CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).sloppy_ranges(true).build();
        let expected =
            "expected minute, hour, day of the month, month and day of the week, such as \"30 2 * * *\", or @daily";
        let pattern = parser.parse(text).map_err(|error| format!("is {text:?}; {error}; {expected}"))?;
        let cron = Self { text: text.trim().to_owned(), pattern };
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
        // With the nicknames written out.
        self.pattern.as_str().split_whitespace().take(2).any(|field| field.starts_with('*'))
    }

    /// The first minute at or after `from`; `None` where there is none any more.
    #[must_use]
    pub fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let whole = from.second() == 0 && from.subsec_nanosecond() == 0;
        let next = jiff::Span::new().minutes(1);
        let minute = from.with().second(0).subsec_nanosecond(0).build().ok()?;
        let minute = if whole { minute } else { minute.checked_add(next).ok()? };
        // As if it were UTC, where no clock changes.
        let seconds = Offset::UTC.to_timestamp(minute).ok()?.as_second();
        let start = chrono::DateTime::from_timestamp(seconds, 0)?;
        let found = self.pattern.find_next_occurrence(&start, true).ok()?;
        Some(Offset::UTC.to_datetime(Timestamp::from_second(found.timestamp()).ok()?))
    }
}

/// The pattern's own has a field for each of 5,000 years.
impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?})", self.text)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first minutes of a schedule after 2026-01-30 23:58, a Friday.
    fn minutes(text: &str) -> Vec<String> {
        let cron = Cron::parse(text).unwrap_or_else(|why| panic!("{text} {why}"));
        let mut from: DateTime = "2026-01-30T23:57:30".parse().unwrap();
        let mut found = Vec::new();
        while found.len() < 4 {
            let next = cron.first_from(from).unwrap();
            found.push(next.strftime("%m-%d %H:%M").to_string());
            from = next.checked_add(jiff::Span::new().nanoseconds(1)).unwrap();
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
            ("0 0 L * *", ["01-31 00:00", "02-28 00:00", "03-31 00:00", "04-30 00:00"]),
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
            "0 0 * * 5-1",
            "*/0 * * * *",
            "1- * * * *",
            "H * * * *",
            "daily",
            "0 0 30 2 *",
        ] {
            let why = Cron::parse(text).expect_err(text);
            assert!(why.contains("expected minute, hour") || why.ends_with("a day that never comes"), "{why}");
        }
    }

    #[test]
    fn stars_in_minute_or_hour_follow_the_clock() {
        for (text, follows) in
            [("* 2 * * *", true), ("0 */2 * * *", true), ("@hourly", true), ("@daily", false), ("0 2,3 * * *", false)]
        {
            assert_eq!(Cron::parse(text).unwrap().follows_clock(), follows, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[-*/,#?+LW0-9a-z@ ]{0,24}") {
            let _ = Cron::parse(&text);
        }
    }
}
