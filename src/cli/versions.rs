//! `penstock undelete` and `penstock hold`.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::args::{self, Place};
use super::output::{self, Done};
use super::session::Session;
use super::{Failure, read};
use crate::config::Config;
use crate::error::{Class, Classify as _, Report};
use crate::hold;
use crate::store::Hold;
use crate::store::as_of::Moment;
use crate::undelete::{self, Undeleted};

pub(super) async fn undelete(
    config: &Config,
    args: &args::Undelete,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let place = Place { location: args.location.clone(), cluster: args.cluster.clone(), as_of: args.as_of };
    let moment = args.as_of.map_or(Moment::BelowMarkers, Moment::At);
    let (location, job) = (args.location.as_deref(), args.backup.job());
    let past = Session::reading(config, &place, cancel).at(moment).catalog_of(location, job)?;
    let place = Place { as_of: None, ..place };
    let present = Session::reading(config, &place, cancel).catalog_of(location, job)?;
    let entry = past.resolve(&args.backup, &past.location.node).await?;
    let done = undelete::undelete(&past, &present.location, &entry).await;
    let done = done.map_err(|error| explained(error.report(), args))?;
    let Undeleted { objects, untouched, markers_removed, versions_removed, copied } = done;
    let text = format!(
        "{}@{}: {} brought back, {untouched} untouched: removed {}, {}; copied {copied}\n",
        entry.chain.job,
        entry.id,
        output::count(objects - untouched, "object"),
        output::count(markers_removed, "delete marker"),
        output::count(versions_removed, "newer version"),
    );
    let json = json!({
        "id": entry.id, "job": entry.chain.job, "node": entry.chain.node, "location": present.location.name(),
        "objects": objects, "untouched": untouched, "markers_removed": markers_removed,
        "versions_removed": versions_removed, "copied": copied,
    });
    Ok(Done::new(text, json))
}

/// A manifest that cannot be read may have been put over the right one.
fn explained(report: Report, args: &args::Undelete) -> Failure {
    Failure::Report(match (report.class, args.as_of) {
        (Class::Integrity, None) => {
            report.remedy("somebody may have overwritten it: name a time before that with --as-of")
        }
        _ => report,
    })
}

pub(super) async fn hold(
    config: &Config,
    args: &args::HoldBackup,
    cancel: &CancellationToken,
) -> Result<Done, Failure> {
    let place = Place { location: args.location.clone(), cluster: args.cluster.clone(), as_of: None };
    let catalog = read::open(config, (&place, &args::Key::default()), &args.backup, cancel)?;
    if catalog.location.config.object_lock.is_none() {
        let name = catalog.location.name();
        let message = format!("location {name} has no object_lock: retention would delete a backup that is held there");
        let remedy = format!("set [locations.{name}.object_lock] (docs/security.md), also for the agent that prunes");
        return Err(Failure::Report(Report::new(Class::Config, message).remedy(remedy)));
    }
    let entry = catalog.resolve(&args.backup, &catalog.location.node).await?;
    let wanted = if args.release { Hold::Off } else { Hold::On };
    let hold::Done { objects, shared } = hold::hold(&catalog, &entry, wanted).await?;
    let did = if args.release { "released" } else { "held" };
    let shared_text = match shared {
        0 => String::new(),
        _ => format!("; {} stay held, since another held backup needs them", output::count(shared, "object")),
    };
    let text = format!("{}@{}: {did}, {}{shared_text}\n", entry.chain.job, entry.id, output::count(objects, "object"));
    let json = json!({
        "id": entry.id, "job": entry.chain.job, "node": entry.chain.node, "location": catalog.location.name(),
        "held": !args.release, "objects": objects, "shared": shared,
    });
    Ok(Done::new(text, json))
}
