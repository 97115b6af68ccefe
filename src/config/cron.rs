//! Cron expressions, as crontab(5) has them: five fields, lists, ranges, steps, names, and `@daily` and its like.
//!
//! A [`Cron`] knows civil time only: which minutes of which days. What a clock change does to them is decided where
//! the clock is known (`daemon::schedule`), after Vixie cron's rule, which needs [`Cron::follows_clock`].

use std::fmt;

use jiff::civil::{Date, DateTime};

/// The longest wait between two days that a schedule can ask for: the 29th of February on one weekday, over a century
/// that is no leap year.
const MAX_DAYS: u32 = 366 * 41;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const EXPECTED: &str = "expected five fields: minute, hour, day of the month, month, day of the week";

/// A schedule that comes again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// Which values of a field fit: bit `n` for the value `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// Whether it begins with `*`.
    star: bool,
}

/// A field's name, its range, and the words that stand for its values.
struct Kind {
    name: &'static str,
    least: u8,
    most: u8,
    words: &'static [&'static str],
}

const KINDS: [Kind; 5] = [
    Kind { name: "minute", least: 0, most: 59, words: &[] },
    Kind { name: "hour", least: 0, most: 23, words: &[] },
    Kind { name: "day of the month", least: 1, most: 31, words: &[] },
    Kind { name: "month", least: 1, most: 12, words: &MONTHS },
    // 0 and 7 are both Sunday.
    Kind { name: "day of the week", least: 0, most: 7, words: &WEEKDAYS },
];

impl Cron {
    /// # Errors
    /// The end of a sentence that begins with the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let long = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other => other,
        };
        let words: Vec<&str> = long.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = words[..] else {
            return Err(format!("is {text:?}; {EXPECTED}, such as \"30 2 * * *\", or @hourly, @daily, @weekly"));
        };
        let field = |index: usize, word: &str| KINDS[index].parse(word).map_err(|why| format!("is {text:?}; {why}"));
        let mut weekdays = field(4, weekday)?;
        weekdays.bits |= weekdays.bits >> 7 & 1;
        let cron = Self {
            text: text.trim().to_owned(),
            minutes: field(0, minute)?,
            hours: field(1, hour)?,
            days: field(2, day)?,
            months: field(3, month)?,
            weekdays,
        };
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
    pub const fn follows_clock(&self) -> bool {
        self.minutes.star || self.hours.star
    }

    /// The first minute at or after `from`; `None` only at the end of time.
    #[must_use]
    pub fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let whole = from.second() == 0 && from.subsec_nanosecond() == 0;
        let from = if whole { from } else { from.checked_add(jiff::Span::new().minutes(1)).ok()? };
        let (mut date, mut hour, mut minute) = (from.date(), from.hour(), from.minute());
        for _ in 0..MAX_DAYS {
            if self.has_day(date)
                && let Some((hour, minute)) = self.time_from(hour, minute)
            {
                return Some(date.at(hour, minute, 0, 0));
            }
            (date, hour, minute) = (date.tomorrow().ok()?, 0, 0);
        }
        None
    }

    /// Both fields for days must fit where one of them begins with `*`, else one is enough: Vixie cron's rule.
    fn has_day(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let either = if self.days.star || self.weekdays.star { day && weekday } else { day || weekday };
        self.months.has(date.month()) && either
    }

    fn time_from(&self, hour: i8, minute: i8) -> Option<(i8, i8)> {
        (hour..24).filter(|h| self.hours.has(*h)).find_map(|h| {
            let from = if h == hour { minute } else { 0 };
            (from..60).find(|m| self.minutes.has(*m)).map(|m| (h, m))
        })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| self.bits >> value & 1 == 1)
    }
}

impl Kind {
    fn parse(&self, text: &str) -> Result<Field, String> {
        let mut bits = 0;
        for item in text.split(',') {
            bits |= self.item(item)?;
        }
        Ok(Field { bits, star: text.starts_with('*') })
    }

    /// `*`, `5`, `1-5`, each with or without `/2`.
    fn item(&self, item: &str) -> Result<u64, String> {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let step_by = match step.map(str::parse::<u8>) {
            None => 1,
            Some(Ok(step)) if (1..=self.most).contains(&step) => step,
            Some(_) => return Err(self.wrong(item)),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // `5/15` goes on to the end, as every cron takes it.
            None if step.is_some() => (self.value(range)?, self.most),
            None => (self.value(range)?, self.value(range)?),
        };
        if first > last {
            return Err(self.wrong(item));
        }
        Ok((first..=last).step_by(step_by.into()).fold(0, |bits, value| bits | 1 << value))
    }

    fn value(&self, text: &str) -> Result<u8, String> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text));
        let value = match word {
            // Months count from 1, weekdays from 0, as their ranges do.
            Some(index) => u8::try_from(index).ok().map(|index| index + self.least),
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            None => None,
        };
        value.filter(|value| (self.least..=self.most).contains(value)).ok_or_else(|| self.wrong(text))
    }

    fn wrong(&self, item: &str) -> String {
        let words = match (self.words.first(), self.words.last()) {
            (Some(first), Some(last)) => format!(", or {first} to {last}"),
            _ => String::new(),
        };
        format!("{item:?} does not fit as {}: expected {} to {}{words}", self.name, self.least, self.most)
            + ", with \",\", \"-\" and \"/\" between, or \"*\""
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
            // One of the two is enough …
            ("0 0 3 * sat", ["01-31 00:00", "02-03 00:00", "02-07 00:00", "02-14 00:00"]),
            // … unless one begins with a star.
            ("0 0 */2 * sat", ["01-31 00:00", "02-07 00:00", "02-21 00:00", "03-07 00:00"]),
            ("0 0 29 feb *", ["02-29 00:00", "02-29 00:00", "02-29 00:00", "02-29 00:00"]),
        ] {
            assert_eq!(minutes(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "expected five fields"),
            ("0 * * *", "expected five fields"),
            ("0 0 * * * *", "expected five fields"),
            ("@reboot", "expected five fields"),
            ("60 * * * *", "\"60\" does not fit as minute: expected 0 to 59"),
            ("0 24 * * *", "\"24\" does not fit as hour"),
            ("0 0 0 * *", "\"0\" does not fit as day of the month: expected 1 to 31"),
            ("0 0 * 13 *", "\"13\" does not fit as month: expected 1 to 12, or jan to dec"),
            ("0 0 * * 8", "\"8\" does not fit as day of the week"),
            ("0 0 * * 5-1", "\"5-1\" does not fit"),
            ("*/0 * * * *", "\"*/0\" does not fit"),
            ("*/60 * * * *", "\"*/60\" does not fit"),
            ("+5 * * * *", "\"+5\" does not fit"),
            ("1,,2 * * * *", "\"\" does not fit"),
            ("1- * * * *", "\"\" does not fit"),
            ("H * * * *", "\"H\" does not fit"),
            ("0 0 30 2 *", "a day that never comes"),
        ] {
            let found = Cron::parse(text).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }

    proptest! {
        #[test]
        fn the_first_minute_fits_and_none_before_it_does(
            fields in ("(\\*|\\*/7|5|10-40/9)", "(\\*|\\*/5|2|1,13)", "(\\*|13|\\*/2)", "(\\*|2|6-8)", "(\\*|1|fri)"),
            start in 0_i64..2_000_000,
        ) {
            let text = format!("{} {} {} {} {}", fields.0, fields.1, fields.2, fields.3, fields.4);
            let cron = Cron::parse(&text).unwrap();
            let minute = jiff::Span::new().minutes(1);
            let mut at = DateTime::constant(2024, 1, 1, 0, 0, 0, 0).checked_add(jiff::Span::new().minutes(start)).unwrap();
            let first = cron.first_from(at).unwrap();
            let fits = |at: DateTime| {
                cron.has_day(at.date()) && cron.hours.has(at.hour()) && cron.minutes.has(at.minute())
            };
            prop_assert!(fits(first) && first >= at);
            for _ in 0..2_000 {
                if at >= first { break }
                prop_assert!(!fits(at), "{text}: {at} fits, {first} was found");
                at = at.checked_add(minute).unwrap();
            }
        }

        #[test]
        fn no_text_panics(text in "[-*/,0-9a-z@ ]{0,24}") {
            let _ = Cron::parse(&text);
        }
    }
}
