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
        ("50-59/5 4 * * *", ["01-31 04:50", "01-31 04:55", "02-01 04:50", "02-01 04:55"]),
        // A step longer than the range leaves its first number.
        ("*/90 3 * * *", ["01-31 03:00", "02-01 03:00", "02-02 03:00", "02-03 03:00"]),
        (" 08\t09  * * * ", ["01-31 09:08", "02-01 09:08", "02-02 09:08", "02-03 09:08"]),
        ("@midnight", ["01-31 00:00", "02-01 00:00", "02-02 00:00", "02-03 00:00"]),
        ("@Monthly", ["02-01 00:00", "03-01 00:00", "04-01 00:00", "05-01 00:00"]),
        ("@annually", ["01-01 00:00", "01-01 00:00", "01-01 00:00", "01-01 00:00"]),
        ("0 22-23,1 * * *", ["01-31 01:00", "01-31 22:00", "01-31 23:00", "02-01 01:00"]),
        ("15 6 * * mon-WED", ["02-02 06:15", "02-03 06:15", "02-04 06:15", "02-09 06:15"]),
        ("0 0 * * 7", ["02-01 00:00", "02-08 00:00", "02-15 00:00", "02-22 00:00"]),
        ("0 0 * * 5-7", ["01-31 00:00", "02-01 00:00", "02-06 00:00", "02-07 00:00"]),
        ("0 0 * * fri-sun", ["01-31 00:00", "02-01 00:00", "02-06 00:00", "02-07 00:00"]),
        ("0 0 * * sun-mon", ["02-01 00:00", "02-02 00:00", "02-08 00:00", "02-09 00:00"]),
        ("0 0 1 JAN,mar-apr *", ["03-01 00:00", "04-01 00:00", "01-01 00:00", "03-01 00:00"]),
        ("0 0 31 * *", ["01-31 00:00", "03-31 00:00", "05-31 00:00", "07-31 00:00"]),
        // One of the two is enough,
        ("0 0 3 * sat", ["01-31 00:00", "02-03 00:00", "02-07 00:00", "02-14 00:00"]),
        ("0 0 1-31 * sat", ["01-31 00:00", "02-01 00:00", "02-02 00:00", "02-03 00:00"]),
        // or both must be, where one begins with a star.
        ("0 3 */2 * mon", ["02-09 03:00", "02-23 03:00", "03-09 03:00", "03-23 03:00"]),
        ("0 3 1 * */2", ["02-01 03:00", "03-01 03:00", "08-01 03:00", "09-01 03:00"]),
        ("0 3 *,5 * mon", ["02-02 03:00", "02-09 03:00", "02-16 03:00", "02-23 03:00"]),
        ("0 3 5,* * mon", ["01-31 03:00", "02-01 03:00", "02-02 03:00", "02-03 03:00"]),
        ("0 0 29 feb *", ["02-29 00:00", "02-29 00:00", "02-29 00:00", "02-29 00:00"]),
    ] {
        assert_eq!(minutes(text), expected, "{text}");
    }
}

/// Debian's `crontab -n` (3.0pl1-162) refuses these too, apart from those it takes and ignores the end of.
const REFUSED: &[&str] = &[
    "",
    "0 * * *",
    "0 0 * * * *",
    "0 0 0 * * * *",
    "@reboot",
    "@every 5m",
    "@",
    "daily",
    "60 * * * *",
    "0 24 * * *",
    "0 0 0 * *",
    "0 0 32 * *",
    "0 0 * 0 *",
    "0 0 * 13 *",
    "0 0 * * 8",
    "4294967296 * * * *",
    // Lists with nothing in them, and ranges without an end.
    "0 0 ,1 * *",
    "0 0 1, * *",
    "0 0 1,,2 * *",
    ", * * * *",
    "1- * * * *",
    "-1 * * * *",
    "1--2 * * * *",
    "- * * * *",
    "22-2 * * * *",
    "0 0 * * sat-mon",
    "0 0 * * 7-1",
    "0 0 * dec-jan *",
    // Steps.
    "*/0 * * * *",
    "*/ * * * *",
    "/5 * * * *",
    "5/10 * * * *",
    "*/-5 * * * *",
    "1/2/3 * * * *",
    "*/mon * * * *",
    "0 0 * jan/2 *",
    // Names are three letters, in their own fields.
    "0 0 * january *",
    "0 0 * * monday",
    "0 0 mon * *",
    "0 0 * mon *",
    "0 0 * * jan",
    // Other programs' extensions.
    "0 0 L * *",
    "0 0 L-3 * *",
    "0 0 15W * *",
    "0 0 LW * *",
    "0 0 * * 5L",
    "0 0 * * 5#2",
    "0 0 ? * *",
    "0 0 * * ?",
    "0 0 1 * +1",
    "0 0 +1 * *",
    "H * * * *",
    "0~5 * * * *",
    "~ * * * *",
    "0x5 * * * *",
    // Debian's cron ignores what follows the number.
    "5* * * * *",
    "** * * * *",
    "*-5 * * * *",
    "1-2-3 * * * *",
    "*/5/2 * * * *",
    "1.5 * * * *",
    "0 0\n* * *",
    "0 0 \u{a0}* * *",
    "\u{663} * * * *",
];

#[test]
fn what_is_no_schedule_is_refused() {
    for text in REFUSED {
        let why = Cron::parse(text).unwrap_err();
        assert!(why.contains(&format!("{text:?}")) && why.contains("expected minute"), "{text}: {why}");
    }
    for never in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30 feb */2"] {
        assert!(Cron::parse(never).unwrap_err().contains("a day that never comes"), "{never}");
    }
}

#[test]
fn a_refusal_names_the_field_and_what_would_be_right() {
    for (text, expected) in [
        ("0 0 ,1 * *", "day of the month \",1\": a list has an element on both sides of each comma; expected minute"),
        ("60 * * * *", "minute \"60\": \"60\" is no number of 0 to 59; "),
        ("0 0 * * 5#2", "day of the week \"5#2\": \"5#2\" is no number of 0 to 7, or a name of sun to sat; "),
        ("5/10 * * * *", "minute \"5/10\": a step follows * or a range: write 5-59/10 for 5/10; "),
        ("0 22-2 * * *", "hour \"22-2\": 22-2 goes backwards: write two ranges with a comma between them; "),
        ("*/0 * * * *", "\"0\" is no step: a whole number above 0 stands after /; "),
        ("0 0 0 1 1 *", "the number of fields is 6, not 5 (there are none for seconds and years); "),
        ("@reboot", "no job runs at the start of the system; "),
    ] {
        let why = Cron::parse(text).unwrap_err();
        assert!(why.contains(expected), "{text}: {why}");
    }
}

#[test]
fn schedules_of_intervals_follow_the_clock() {
    for (text, expected) in
        [("*/5 * * * *", true), ("30 * * * *", true), ("@hourly", true), ("0 2,14 * * *", false), ("@daily", false)]
    {
        assert_eq!(Cron::parse(text).unwrap().follows_clock(), expected, "{text}");
    }
}

/// Whether a cron is due that reads the text anew in every minute, as crontab(5) words it.
fn due(text: &str, at: DateTime) -> bool {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let weekday = i64::from(at.weekday().to_sunday_zero_offset());
    let matches = |field: usize, value: i64, start: i64| {
        fields[field].split(',').any(|element| {
            let (range, step) = element.split_once('/').unwrap_or((element, "1"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) =
                if range == "*" { (start, 99) } else { (first.parse().unwrap(), last.parse().unwrap()) };
            (first..=last).contains(&value) && (value - first) % step.parse::<i64>().unwrap() == 0
        })
    };
    if !(matches(0, at.minute().into(), 0) && matches(1, at.hour().into(), 0) && matches(3, at.month().into(), 1)) {
        return false;
    }
    let day = matches(2, at.day().into(), 1);
    let weekday = matches(4, weekday, 0) || (weekday == 0 && matches(4, 7, 0));
    let star = fields[2].starts_with('*') || fields[4].starts_with('*');
    if star { day && weekday } else { day || weekday }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn it_is_what_a_cron_finds_that_looks_every_minute(
        start in 0_i64..6_000_000,
        text in "(\\*|\\*/7|5|10-40/9|0,59) (\\*|2|1,13|20-23|\\*/5) (\\*|\\*/2|13|31|\\*,5|5,\\*|10-20/3) (\\*|2|\\*/5|6-8) (\\*|1|5-7|\\*/3|0|7|2,4)",
    ) {
        let cron = Cron::parse(&text);
        // 31 February.
        prop_assume!(cron.is_ok());
        let from = DateTime::constant(2020, 1, 1, 0, 0, 0, 0).checked_add(Span::new().minutes(start)).unwrap();
        let found = cron.unwrap().first_from(from).unwrap();
        let mut at = from;
        for _ in 0..60 * 24 * 30 {
            if at >= found || due(&text, at) {
                break;
            }
            at = at.checked_add(Span::new().minutes(1)).unwrap();
        }
        prop_assert!(at <= found && due(&text, found), "{text} from {from}: {found}, not {at}");
        prop_assert!(at == found || !due(&text, at), "{text} from {from}: {found}, not {at}");
    }

    #[test]
    fn no_text_panics(text in "[-*/,0-9a-zA-Z@#L ]{0,24}") {
        let _ = Cron::parse(&text);
    }
}
