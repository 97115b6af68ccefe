use std::collections::BTreeMap;

use tokio::sync::oneshot::error::TryRecvError;

use super::*;
use crate::error::{Class, Report};

/// A configuration with these lines for each job, by its name.
fn config(concurrent: usize, jobs: &[(&str, &str)]) -> Config {
    let mut text = format!(
        "cluster = \"c\"\nnode = \"n\"\nlimits = {{ concurrent_jobs = {concurrent} }}\n\
         [locations.a]\nprovider = \"aws\"\nbucket = \"acme-backups\"\nregion = \"eu-west-1\"\n"
    );
    for (name, lines) in jobs {
        let source = "sources = [{ type = \"file\", name = \"n\", path = \"/n\" }]";
        text.extend(["[jobs.", name, "]\nlocation = \"a\"\n", lines, "\n", source, "\n"]);
    }
    Config::parse(&text, &BTreeMap::new()).unwrap_or_else(|faults| panic!("{faults}"))
}

const HOURLY: &str = "schedule = \"0 * * * *\"";

/// Minutes after midnight.
fn at(minute: i64) -> Timestamp {
    "2026-06-01T00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minute)
}

fn board(config: &Config, minute: i64) -> Board {
    Board::new(config, Metrics::new(), at(minute), |_| Record::default())
}

/// Ticks, and returns the jobs that start.
fn tick(board: &mut Board, minute: i64) -> Vec<(String, Cause)> {
    board.tick(at(minute)).into_iter().map(|start| (start.job.name.to_string(), start.running.cause)).collect()
}

fn starts(names: &[&str], cause: Cause) -> Vec<(String, Cause)> {
    names.iter().map(|name| ((*name).to_owned(), cause)).collect()
}

fn end(board: &mut Board, name: &str, class: Option<Class>, minute: i64) {
    let error = class.map(|class| Report::new(class, "refused"));
    let (outcome, good) = match class {
        None => (Outcome::Success, Some(at(minute))),
        Some(_) => (Outcome::Failure, None),
    };
    board.finish(
        &Name::new(name).unwrap(),
        Verdict { outcome, backup: None, error, good, encrypts: false },
        at(minute),
    );
}

fn entry<'a>(board: &'a Board, name: &str) -> &'a Entry {
    board.jobs().find(|entry| entry.job.name.as_str() == name).unwrap()
}

/// The value of the one series of a family that has all these labels.
fn metric(board: &Board, name: &str, labels: &[&str]) -> Option<f64> {
    let family = board.metrics.gather().into_iter().find(|family| family.name() == name)?;
    let fits = |metric: &&prometheus::proto::Metric| {
        labels.iter().all(|label| metric.get_label().iter().any(|pair| pair.value() == *label))
    };
    let metric = family.get_metric().iter().find(fits)?;
    Some(metric.get_counter().get_value() + metric.get_gauge().get_value())
}

#[test]
fn a_job_runs_when_it_is_due_and_again_an_hour_later() {
    let config = config(2, &[("etcd", HOURLY), ("by-hand", "")]);
    let mut board = board(&config, 30);
    assert_eq!(board.next_wake(), Some(at(60)));
    assert_eq!(tick(&mut board, 59), []);
    assert_eq!(tick(&mut board, 60), starts(&["etcd"], Cause::Schedule));
    end(&mut board, "etcd", None, 70);
    assert_eq!(tick(&mut board, 71), []);
    assert_eq!(board.next_wake(), Some(at(120)));
    assert_eq!(entry(&board, "etcd").record.last_success, Some(at(70)));
    assert_eq!(tick(&mut board, 120), starts(&["etcd"], Cause::Schedule));
}

#[test]
fn runs_do_not_overlap_and_what_is_skipped_is_counted() {
    let mut board = board(&config(2, &[("etcd", HOURLY)]), 30);
    assert_eq!(tick(&mut board, 60).len(), 1);
    assert_eq!(tick(&mut board, 120), []);
    assert_eq!(tick(&mut board, 121), []);
    assert_eq!(metric(&board, "penstock_job_runs_skipped_total", &["etcd", "overlap"]), Some(1.0));
    end(&mut board, "etcd", None, 130);
    assert_eq!(tick(&mut board, 131), [], "a skipped run is not made up for");
    assert_eq!(tick(&mut board, 180).len(), 1);
}

#[test]
fn the_first_in_line_starts_first_and_no_more_than_may_run() {
    let mut board =
        board(&config(2, &[("c", HOURLY), ("a", HOURLY), ("b", "schedule = \"59 * * * *\""), ("d", "")]), 30);
    assert_eq!(tick(&mut board, 59), starts(&["b"], Cause::Schedule));
    assert_eq!(tick(&mut board, 60), starts(&["a"], Cause::Schedule));
    let mut awaited = board.trigger("d", at(61)).unwrap();
    assert_eq!(tick(&mut board, 62), []);
    assert_eq!(metric(&board, "penstock_jobs_running", &[]), Some(2.0));
    end(&mut board, "b", None, 63);
    assert_eq!(tick(&mut board, 63), starts(&["c"], Cause::Schedule));
    end(&mut board, "a", None, 64);
    assert_eq!(tick(&mut board, 64), starts(&["d"], Cause::Trigger));
    end(&mut board, "d", None, 65);
    let ended = awaited.try_recv().unwrap();
    assert_eq!((ended.outcome, ended.started, ended.finished), (Outcome::Success, at(64), at(65)));
}

#[test]
fn missed_runs_are_one_or_none_and_a_first_start_misses_nothing() {
    let config = config(9, &[("never", &format!("{HOURLY}\ncatch_up = \"never\"")), ("once", HOURLY), ("new", HOURLY)]);
    let recall = |name: &Name| {
        let planned = (name.as_str() != "new").then(|| at(-600));
        Record { schedule: planned.map(|_| "0 * * * * UTC".to_owned()), planned, ..Record::default() }
    };
    let mut board = Board::new(&config, Metrics::new(), at(30), recall);
    assert_eq!(tick(&mut board, 30), starts(&["once"], Cause::CatchUp));
    end(&mut board, "once", None, 31);
    assert_eq!(tick(&mut board, 32), []);
    assert_eq!(tick(&mut board, 60), starts(&["never", "new", "once"], Cause::Schedule));
    for job in ["never", "new", "once"] {
        end(&mut board, job, None, 61);
    }
    // The machine sleeps from 61 to 200.
    assert_eq!(tick(&mut board, 200), starts(&["new", "once"], Cause::CatchUp));
    assert_eq!(metric(&board, "penstock_job_runs_skipped_total", &["never", "missed"]), Some(1.0));
}

#[test]
fn a_run_that_the_processs_end_interrupted_is_made_again() {
    let config = config(9, &[("etcd", HOURLY), ("never", &format!("{HOURLY}\ncatch_up = \"never\"")), ("by-hand", "")]);
    let mut first = board(&config, 0);
    first.trigger("by-hand", at(59)).unwrap();
    assert_eq!(tick(&mut first, 60).len(), 3);
    let saved = first.take_unsaved();
    let recall = |wanted: &Name| saved.iter().find(|(name, _)| name == wanted).unwrap().1.clone();
    // Killed, as it stood; then stopped, with every run cancelled.
    let mut killed = Board::new(&config, Metrics::new(), at(65), recall);
    assert_eq!(tick(&mut killed, 65), starts(&["etcd"], Cause::CatchUp));
    killed.stop();
    let cancelled = Verdict { outcome: Outcome::Cancelled, backup: None, error: None, good: None, encrypts: false };
    killed.finish(&Name::new("etcd").unwrap(), cancelled, at(66));
    let saved = killed.take_unsaved();
    let recall = |wanted: &Name| {
        saved.iter().find(|(name, _)| name == wanted).map(|(_, record)| record.clone()).unwrap_or_default()
    };
    let mut stopped = Board::new(&config, Metrics::new(), at(67), recall);
    assert_eq!(tick(&mut stopped, 67), starts(&["etcd"], Cause::CatchUp));
    end(&mut stopped, "etcd", None, 68);
    assert!(!entry(&stopped, "etcd").record.interrupted);
}

#[test]
fn a_run_that_was_missed_under_another_schedule_is_not_made_up_for() {
    let recall =
        |_: &Name| Record { schedule: Some("5 * * * * UTC".into()), planned: Some(at(-600)), ..Record::default() };
    let mut board = Board::new(&config(9, &[("etcd", HOURLY)]), Metrics::new(), at(30), recall);
    assert_eq!(tick(&mut board, 30), []);
}

#[test]
fn a_transient_failure_comes_back_and_a_denial_waits_for_the_schedule() {
    let mut board =
        board(&config(2, &[("denied", HOURLY), ("transient", HOURLY), ("often", "schedule = \"* * * * *\"")]), 59);
    assert_eq!(tick(&mut board, 60).len(), 2);
    end(&mut board, "denied", Some(Class::KmsDenied), 61);
    end(&mut board, "often", Some(Class::Transient), 61);
    assert!(entry(&board, "denied").retry.is_none());
    assert!(entry(&board, "often").retry.is_none(), "the schedule comes first");
    assert_eq!(tick(&mut board, 61), starts(&["transient", "often"], Cause::Schedule));
    end(&mut board, "transient", Some(Class::Transient), 62);
    let mut retries = 0;
    for minute in 62..119 {
        for (name, cause) in tick(&mut board, minute) {
            if name == "transient" {
                assert_eq!(cause, Cause::Retry);
                retries += 1;
                end(&mut board, "transient", Some(Class::Transient), minute);
            } else {
                end(&mut board, "often", None, minute);
            }
        }
    }
    assert!((4..=6).contains(&retries), "{retries} retries of a minute, two, four …");
    let failed = entry(&board, "transient").record.last.clone().unwrap();
    assert_eq!((failed.outcome, failed.error.unwrap().class), (Outcome::Failure, Class::Transient));
}

#[test]
fn a_run_by_hand_and_a_cancelled_one_are_not_made_again() {
    let mut board = board(&config(2, &[("etcd", HOURLY)]), 0);
    board.trigger("etcd", at(1)).unwrap();
    assert_eq!(tick(&mut board, 1), starts(&["etcd"], Cause::Trigger));
    end(&mut board, "etcd", Some(Class::Transient), 2);
    assert!(entry(&board, "etcd").retry.is_none());
    // A triggered run replaces a retry: no retry is due while it runs.
    assert_eq!(tick(&mut board, 60).len(), 1);
    end(&mut board, "etcd", Some(Class::Transient), 61);
    assert!(entry(&board, "etcd").retry.is_some());
    board.trigger("etcd", at(62)).unwrap();
    assert_eq!(tick(&mut board, 70), starts(&["etcd"], Cause::Trigger));
    assert_eq!(board.next_wake(), Some(at(120)));
}

#[test]
fn triggers_that_make_no_sense_are_refused() {
    let mut board = board(&config(1, &[("etcd", HOURLY)]), 0);
    let unknown = board.trigger("etc", at(0)).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no job etc; the configuration has etcd");
    let mut awaited = [board.trigger("etcd", at(0)).unwrap(), board.trigger("etcd", at(0)).unwrap()];
    assert_eq!(tick(&mut board, 0).len(), 1, "it waited already");
    assert!(matches!(board.trigger("etcd", at(1)), Err(Refusal::Runs(..))));
    assert_eq!(
        awaited.each_mut().map(oneshot::Receiver::try_recv),
        [Err(TryRecvError::Empty), Err(TryRecvError::Empty)]
    );
    board.stop();
    assert!(entry(&board, "etcd").running.as_ref().unwrap().cancel.is_cancelled());
    assert_eq!(board.trigger("etcd", at(1)).unwrap_err(), Refusal::Stopping);
    assert_eq!(tick(&mut board, 60), []);
    end(&mut board, "etcd", Some(Class::Cancelled), 61);
    assert!(awaited.iter_mut().all(|awaited| awaited.try_recv().is_ok()));
}

#[test]
fn a_caller_that_waits_for_a_run_gets_its_end_whatever_a_reload_does() {
    let (both, none) = (config(1, &[("a", ""), ("b", "")]), config(1, &[]));
    let mut board = board(&both, 0);
    let mut runs = board.trigger("a", at(0)).unwrap();
    assert_eq!(tick(&mut board, 0), starts(&["a"], Cause::Trigger));
    let mut waits = board.trigger("b", at(1)).unwrap();
    board.reconfigure(&none, at(2), |_| Record::default());
    assert_eq!(waits.try_recv().unwrap_err(), TryRecvError::Closed, "its run will never begin");
    assert_eq!(runs.try_recv().unwrap_err(), TryRecvError::Empty);
    end(&mut board, "a", None, 3);
    assert_eq!(runs.try_recv().unwrap().outcome, Outcome::Success);
    assert_eq!(board.jobs().count(), 0);
    // The end of the run is saved although the job is gone; or is there when the job comes back before the save.
    let unsaved = board.take_unsaved();
    let of = |job: &str| unsaved.iter().find(|(name, _)| name.as_str() == job).map(|(_, record)| record).unwrap();
    assert_eq!((of("a").last_success, of("a").interrupted), (Some(at(3)), false));
    assert!(board.take_unsaved().is_empty());
    board.keep_unsaved(&Name::new("a").unwrap(), of("a"));
    board.reconfigure(&both, at(4), |_| Record::default());
    assert_eq!(entry(&board, "a").record.last_success, Some(at(3)));
    assert!(board.take_unsaved().iter().any(|(name, record)| name.as_str() == "a" && record == of("a")));

    let mut stopped = board.trigger("b", at(5)).unwrap();
    board.stop();
    assert_eq!(stopped.try_recv().unwrap_err(), TryRecvError::Closed);
}

#[test]
fn a_reload_adds_changes_and_removes_and_leaves_what_runs_alone() {
    let mut board = board(&config(9, &[("a", HOURLY), ("b", HOURLY), ("c", HOURLY)]), 0);
    assert_eq!(tick(&mut board, 60).len(), 3);
    end(&mut board, "c", None, 61);
    let changed = config(9, &[("b", "schedule = \"30 * * * *\""), ("d", HOURLY)]);
    board.reconfigure(&changed, at(62), |_| Record::default());
    let names: Vec<_> = board.jobs().map(|entry| entry.job.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "d"], "a still runs, c does not");
    assert!(board.running().all(|(_, running)| !running.cancel.is_cancelled()));
    assert_eq!(entry(&board, "b").next, Some(at(90)));
    assert!(matches!(board.trigger("a", at(62)), Err(Refusal::Unknown(..))));
    assert!(metric(&board, "penstock_job_next_run_timestamp_seconds", &["c"]).is_none());
    end(&mut board, "a", None, 63);
    assert!(board.jobs().all(|entry| entry.job.name.as_str() != "a"));
    assert_eq!(tick(&mut board, 90), [], "b still runs");
    // What comes back while it runs is the same job.
    board.reconfigure(&config(9, &[]), at(91), |_| Record::default());
    board.reconfigure(&changed, at(92), |_| Record::default());
    assert!(entry(&board, "b").running.is_some());
    assert_eq!(entry(&board, "b").next, Some(at(150)));
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_schedule() {
    let mut board = board(&config(9, &[("etcd", HOURLY)]), 60 * 24 * 365);
    tick(&mut board, 60 * 24 * 365);
    assert_eq!(tick(&mut board, 10), []);
    assert_eq!(board.next_wake(), Some(at(60)));
    assert_eq!(tick(&mut board, 60), starts(&["etcd"], Cause::Schedule));
}

/// Ticks each minute of these, ending every run at once, and says when something started.
fn starts_during(board: &mut Board, minutes: impl Iterator<Item = i64>) -> Vec<(i64, Cause)> {
    let mut started = Vec::new();
    for minute in minutes {
        for (name, cause) in tick(board, minute) {
            started.push((minute, cause));
            end(board, &name, None, minute);
        }
    }
    started
}

#[test]
fn a_clock_that_jumps_makes_no_storm_and_loses_no_job() {
    const DAY: i64 = 24 * 60;
    let daily = "schedule = \"30 0 * * *\"";
    for (schedule, after_the_day, after_the_hour) in [
        // One run for all that the day skipped. The hour that comes again has its run again.
        (HOURLY, vec![(DAY + 90, Cause::CatchUp), (DAY + 120, Cause::Schedule)], vec![120, 180]),
        (daily, vec![(DAY + 90, Cause::CatchUp)], vec![]),
    ] {
        let mut board = board(&config(9, &[("etcd", schedule)]), 0);
        starts_during(&mut board, 0..91);
        assert_eq!(starts_during(&mut board, DAY + 90..DAY + 130), after_the_day, "{schedule}: a day forward");
        // Back to 1:10 of that day, up to 3:20.
        let again = starts_during(&mut board, DAY + 70..DAY + 200);
        let planned: Vec<_> = after_the_hour.iter().map(|minute| (DAY + minute, Cause::Schedule)).collect();
        assert_eq!(again, planned, "{schedule}: an hour back");
        assert!(board.next_wake().is_some_and(|next| next <= at(2 * DAY + 30)), "{schedule}: it goes on");
        // Back by the whole day: the runs that the wrong clock made too early are made again.
        let today = starts_during(&mut board, 100..DAY + 31);
        assert_eq!(today.last(), Some(&(DAY + 30 - i64::from(schedule == HOURLY) * 30, Cause::Schedule)), "{schedule}");
        assert!(today.len() <= 24, "{schedule}: {today:?}");
    }
}

#[test]
fn a_success_never_lies_in_the_future() {
    let mut board = board(&config(9, &[("etcd", HOURLY)]), 59);
    let shown = |board: &Board| metric(board, "penstock_job_last_success_timestamp_seconds", &["etcd"]);
    // The clock is a year ahead for one run.
    let year = 60 * 24 * 365;
    tick(&mut board, year);
    end(&mut board, "etcd", None, year);
    tick(&mut board, 30);
    assert_eq!(entry(&board, "etcd").record.last_success, Some(at(30)));
    assert_eq!(shown(&board), Some(seconds(at(30))));
    // The process ends before the clock is right again.
    let record = Record { last_success: Some(at(year)), ..Record::default() };
    let second = Board::new(&config(9, &[("etcd", HOURLY)]), Metrics::new(), at(40), |_| record.clone());
    assert_eq!(shown(&second), Some(seconds(at(40))));
}

#[test]
fn a_retry_does_not_wait_for_a_clock_that_was_set_back() {
    let mut board = board(&config(9, &[("etcd", "schedule = \"0 0 * * *\"")]), 0);
    assert_eq!(tick(&mut board, 1440).len(), 1);
    end(&mut board, "etcd", Some(Class::Transient), 1441);
    assert!(entry(&board, "etcd").retry.is_some());
    tick(&mut board, 1441);
    // By twelve hours.
    assert_eq!(tick(&mut board, 721), []);
    assert_eq!(tick(&mut board, 723), starts(&["etcd"], Cause::Retry));
}

#[test]
fn a_record_is_loaded_with_its_metrics_and_saved_when_it_changes() {
    let mut first = board(&config(9, &[("etcd", HOURLY)]), 0);
    assert_eq!(first.take_unsaved().len(), 1);
    assert!(first.take_unsaved().is_empty());
    tick(&mut first, 60);
    end(&mut first, "etcd", None, 61);
    let saved = first.take_unsaved();
    let recall = |_: &Name| saved[0].1.clone();
    let second = Board::new(&config(9, &[("etcd", HOURLY)]), Metrics::new(), at(65), recall);
    assert_eq!(metric(&second, "penstock_job_last_success_timestamp_seconds", &["etcd"]), Some(seconds(at(61))));
    assert_eq!(metric(&second, "penstock_job_last_outcome", &["etcd"]), Some(0.0));
    assert_eq!(second.next_wake(), Some(at(120)));
}
