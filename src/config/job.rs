//! `[jobs.NAME]`: what a job saves, where to, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cron::Cron;
use super::forms;
use super::model::{CatchUp, Job, MIN_LIVE, Retention};
use super::reader::Section;
use super::source::{self, Source, SourceKind};
use super::values::shown;
use crate::format::claim::Chained;
use crate::format::codec::{Compression, DEFAULT_LEVEL, LEVELS};
use crate::format::key::Name;

/// The default for each command: a freeze takes seconds, a dump of a database minutes.
const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// The job name of backups from the command line.
pub const AD_HOC: &str = "adhoc";

/// `locations` are the names of all locations in the file, also of those with faults. `None` if a fault leaves no job to build.
pub(super) fn read(name: &str, section: &Section, locations: &BTreeSet<String>) -> Option<Job> {
    let name = match forms::name(name) {
        Ok(name) if name.as_str() == AD_HOC => {
            section.fault_here("the name adhoc is reserved for backups from the command line; choose another");
            None
        }
        Ok(name) => Some(name),
        Err(fault) => {
            section.fault_here(format!("the job's name {fault}"));
            None
        }
    };
    let location = section.parsed("location", |location| known_location(location, locations));
    let location = section.required("location", location, "name one of [locations]");
    let catch_up = section.choice("catch_up", &[("once", CatchUp::Once), ("never", CatchUp::Never)]);
    let incremental = section.boolean("incremental").unwrap_or(true);
    for key in ["full_every", "min_live"] {
        section.only_with(key, incremental, "incremental = true");
    }
    let job = Job {
        schedule: section.parsed("schedule", Cron::parse),
        jitter: section.duration("jitter").unwrap_or_default(),
        catch_up: catch_up.unwrap_or_default(),
        time_zone: section.parsed("time_zone", forms::time_zone).unwrap_or_else(|| "UTC".into()),
        timeout: time_limit(section, "timeout"),
        incremental,
        full_every: time_limit(section, "full_every"),
        min_live: section.share("min_live").unwrap_or(MIN_LIVE),
        compression: compression(section),
        retention: section.has("retention").then(|| section.table("retention", retention)),
        before: section.commands("before"),
        after: section.commands("after"),
        hook_timeout: time_limit(section, "hook_timeout").unwrap_or(HOOK_TIMEOUT),
        sources: sources(section),
        // Last, when every key has been asked for.
        location: location?,
        name: name?,
    };
    of_claims(&job, section);
    Some(job)
}

/// What a job that saves claims cannot have besides.
fn of_claims(job: &Job, section: &Section) {
    if !job.sources.iter().any(|source| matches!(source.kind, SourceKind::Claims(_))) {
        return;
    }
    if let Some(volume) = job.sources.iter().find_map(|source| Chained::of(&source.name)) {
        let why = format!(
            "has the name {}, the name under which the backups of the volume {volume} are",
            job.sources[0].name
        );
        section.fault("sources", why);
    }
    if job.sources.len() > 1 {
        let why = "has a source of type \"claims\", which stands beside others; expected it alone, since each claim has backups of its \
                   own: give it a job of its own";
        section.fault("sources", why);
    }
    if job.retention.and_then(|retention| retention.grace).is_some_and(|grace| grace.is_zero()) {
        let why = "has a grace of 0; expected a time, since two nodes may save one claim at the same moment, and each would take the \
                   other's objects for garbage";
        section.fault("retention", why);
    }
}

fn known_location(location: &str, locations: &BTreeSet<String>) -> Result<String, String> {
    if locations.contains(location) {
        return Ok(location.to_owned());
    }
    let known = locations.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ");
    let expected = if known.is_empty() { "add [locations.NAME]".to_owned() } else { format!("expected {known}") };
    Err(format!("is {}, which is not under [locations]; {expected}", shown(location)))
}

fn time_limit(section: &Section, key: &'static str) -> Option<Duration> {
    let limit = section.duration(key);
    if limit.is_some_and(|limit| limit.is_zero()) {
        section.fault(key, format!("is 0; expected a time such as \"1h\", or no {key} at all"));
    }
    limit
}

fn compression(section: &Section) -> Compression {
    let level = section.integer("compression_level", LEVELS);
    let none = section.choice("compression", &[("zstd", false), ("none", true)]).unwrap_or(false);
    section.only_with("compression_level", !none, "compression = \"zstd\"");
    if none { Compression::None } else { Compression::Zstd { level: level.unwrap_or(DEFAULT_LEVEL) } }
}

fn retention(section: &Section) -> Retention {
    let retention = Retention {
        keep_last: section.integer("keep_last", 0..=u32::MAX),
        keep_daily: section.integer("keep_daily", 0..=u32::MAX),
        keep_weekly: section.integer("keep_weekly", 0..=u32::MAX),
        keep_monthly: section.integer("keep_monthly", 0..=u32::MAX),
        keep_yearly: section.integer("keep_yearly", 0..=u32::MAX),
        keep_within: section.duration("keep_within"),
        grace: section.duration("grace"),
    };
    let Retention { keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly, .. } = retention;
    let counts = [keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly];
    let keeps = counts.iter().flatten().any(|count| *count > 0) || retention.keep_within.is_some_and(|d| !d.is_zero());
    let faulty = ["keep_last", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within"];
    if !keeps && !faulty.iter().any(|key| section.is_faulty(key)) {
        section.fault_here("keeps no backup, so every backup would be deleted; set at least one keep_… above 0");
    }
    retention
}

fn sources(section: &Section) -> Vec<Source> {
    let mut names = BTreeSet::<Name>::new();
    let mut count = 0_usize;
    let sources = section.tables("sources", |section| {
        count += 1;
        let (name, kind) = source::read(section)?;
        if !names.insert(name.clone()) {
            section.fault("name", format!("is {name}, the name of another source of this job; choose another"));
        }
        // A source with a refused kind still takes part in the check of names.
        kind.map(|kind| Source { name, kind })
    });
    if count == 0 && !section.is_faulty("sources") {
        section.fault("sources", "is empty; a job saves at least one source: add [[jobs.NAME.sources]]");
    }
    sources.into_iter().flatten().collect()
}
