//! Parses cron expressions as Debian's cron does (crontab(5), 3.0pl1): five fields of lists, ranges, steps and names, or a nickname such
//! as `@daily`. Refuses the extensions of other programs (`L`, `W`, `#`, `?`, `+`, seconds, years, `@reboot`), and text that Debian's
//! cron accepts and ignores, such as the end of `5*`.
//!
//! - **Two day fields**: where one of them begins with `*`, a day must match both (`*/2` with `mon`: odd days that are Mondays);
//!   otherwise one of the two is enough.
//! - A [`Cron`] knows civil time only: minutes of days. `daemon::schedule`, which knows the clock, handles clock changes after
//!   Vixie cron's rule, which needs [`Cron::follows_clock`].
//! - **Cost**: five words of bits; the search for the next time takes steps of a month, a day or an hour.
//! - **Failure**: an error names the field, its text and what was expected. A schedule that is never due is refused.

use std::fmt;

use jiff::Span;
use jiff::civil::{Date, DateTime, Time};

/// One of the five fields.
struct Field {
    name: &'static str,
    low: u32,
    high: u32,
    /// Names of `low` and the numbers after it.
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field { name: "minute", low: 0, high: 59, names: &[] },
    Field { name: "hour", low: 0, high: 23, names: &[] },
    Field { name: "day of the month", low: 1, high: 31, names: &[] },
    Field {
        name: "month",
        low: 1,
        high: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    },
    Field { name: "day of the week", low: 0, high: 7, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] },
];

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

const EXPECTED: &str = "expected minute, hour, day of the month, month and day of the week, such as \"30 2 * * *\", or @hourly, @daily, \
                        @midnight, @weekly, @monthly, @yearly";

/// After this many years the dates fall on the same days of the week again.
const CYCLE_YEARS: i16 = 400;

/// How the two day fields decide together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Days {
    /// One of them begins with `*`.
    Both,
    Either,
}

/// A parsed cron expression.
#[derive(Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// A bit for each number that fits, in the order of [`FIELDS`].
    fits: [u64; 5],
    days: Days,
    follows_clock: bool,
}

impl fmt::Debug for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cron({:?})", self.text)
    }
}

impl Cron {
    /// # Errors
    /// A text that follows the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let written_out = written_out(text).map_err(|why| format!("is {text:?}: {why}; {EXPECTED}"))?;
        let fields: Vec<&str> = written_out.split([' ', '\t']).filter(|field| !field.is_empty()).collect();
        let fields: [&str; 5] = fields.try_into().map_err(|fields: Vec<_>| {
            let count = fields.len();
            format!(
                "is {text:?}: the number of fields is {count}, not 5 (there are none for seconds and years); {EXPECTED}"
            )
        })?;
        let mut fits = [0; 5];
        for ((fits, field), text_of) in fits.iter_mut().zip(&FIELDS).zip(fields) {
            let name = field.name;
            *fits =
                field.parse(text_of).map_err(|why| format!("is {text:?}: {name} {text_of:?}: {why}; {EXPECTED}"))?;
        }
        // 7 is Sunday too.
        fits[4] |= fits[4] >> 7 & 1;
        let [minute, hour, day, _, weekday] = fields.map(|field| field.starts_with('*'));
        let days = if day || weekday { Days::Both } else { Days::Either };
        let cron = Self { text: text.to_owned(), fits, days, follows_clock: minute || hour };
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
        self.follows_clock
    }

    /// The first minute at or after `from`; `None` only at the end of time.
    #[must_use]
    pub fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let begun = u32::from(from.second() > 0 || from.subsec_nanosecond() > 0);
        let mut earliest = number(from.hour()) * 60 + number(from.minute()) + begun;
        let mut date = from.date();
        let last = date.saturating_add(Span::new().years(CYCLE_YEARS));
        while date <= last {
            let other_day = if !self.has(3, number(date.month())) {
                date.first_of_month().checked_add(Span::new().months(1))
            } else if self.has_day(date)
                && let Some(time) = self.first_time(earliest)
            {
                return Some(date.to_datetime(time));
            } else {
                date.tomorrow()
            };
            (date, earliest) = (other_day.ok()?, 0);
        }
        None
    }

    fn has(&self, field: usize, number: u32) -> bool {
        self.fits[field] >> number & 1 == 1
    }

    fn has_day(&self, date: Date) -> bool {
        let day = self.has(2, number(date.day()));
        let weekday = self.has(4, number(date.weekday().to_sunday_zero_offset()));
        match self.days {
            Days::Both => day && weekday,
            Days::Either => day || weekday,
        }
    }

    /// The first time of a day that has some, `earliest` minutes after its midnight or later.
    fn first_time(&self, earliest: u32) -> Option<Time> {
        let (first, minute) = (earliest / 60, earliest % 60);
        let next = |hour: u32, from: u32| Some((hour, from + trailing_zeros(self.fits[0] >> from)?));
        let this_hour = if first < 24 && self.has(1, first) { next(first, minute) } else { None };
        let later = || next(first + 1 + trailing_zeros(self.fits[1] >> (first + 1).min(63))?, 0);
        let (hour, minute) = this_hour.or_else(later)?;
        Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0).ok()
    }
}

/// `None` where no bit is set.
const fn trailing_zeros(bits: u64) -> Option<u32> {
    if bits == 0 { None } else { Some(bits.trailing_zeros()) }
}

/// A number of jiff's, which here is never negative.
fn number(of: i8) -> u32 {
    u32::from(of.unsigned_abs())
}

/// The five fields of a nickname; any other text unchanged.
fn written_out(text: &str) -> Result<&str, &'static str> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    if text.eq_ignore_ascii_case("@reboot") {
        return Err("no job runs at the start of the system; catch_up = \"once\" makes up for a missed run");
    }
    let known = NICKNAMES.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
    known.map(|(_, fields)| *fields).ok_or("is not a known name")
}

impl Field {
    /// The numbers that fit, as bits.
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |fits, element| Ok(fits | self.element(element)?))
    }

    /// `*`, `3`, `1-5`, and with a step `*/2`, `1-5/2`.
    fn element(&self, text: &str) -> Result<u64, String> {
        if text.is_empty() {
            return Err("a list has an element on both sides of each comma".to_owned());
        }
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (
                range,
                Some(
                    digits(step)
                        .filter(|step| *step > 0)
                        .ok_or_else(|| format!("{step:?} is no step: a whole number above 0 stands after /"))?,
                ),
            ),
            None => (text, None),
        };
        let (first, last) = match (range, range.split_once('-')) {
            ("*", _) => (self.low, self.high),
            (_, Some((first, last))) => (self.number(first)?, self.end(first, last)?),
            (single, None) => {
                let number = self.number(single)?;
                if let Some(step) = step {
                    let high = self.high;
                    return Err(format!("a step follows * or a range: write {single}-{high}/{step} for {text}"));
                }
                (number, number)
            }
        };
        if first > last {
            return Err(format!("{range} goes backwards: write two ranges with a comma between them"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
        Ok((first..=last).step_by(step).fold(0, |fits, number| fits | 1 << number))
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let by_name = self.names.iter().zip(self.low..).find(|(name, _)| text.eq_ignore_ascii_case(name));
        let number = by_name.map(|(_, number)| number).or_else(|| digits(text));
        number.filter(|number| (self.low..=self.high).contains(number)).ok_or_else(|| {
            let Self { low, high, names, .. } = self;
            let names = match names {
                [first, .., last] => format!(", or a name of {first} to {last}"),
                _ => String::new(),
            };
            format!("{text:?} is no number of {low} to {high}{names}")
        })
    }

    /// The end of a range, in which `sun` is the end of the week.
    fn end(&self, first: &str, last: &str) -> Result<u32, String> {
        let (from, to) = (self.number(first)?, self.number(last)?);
        Ok(if last.eq_ignore_ascii_case("sun") && from > to { self.high } else { to })
    }
}

/// A number without a sign; zeros may lead.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
