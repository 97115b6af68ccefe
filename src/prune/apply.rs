//! Doing what a plan says, in the order that a crash cannot hurt: see "Consistency" in [`super`].

use std::collections::HashSet;

use futures_util::stream::{self, StreamExt as _};

use super::{Context, Garbage, PARALLEL, Plan, Planned, Pruned, read};
use crate::catalog::{Entry, Found};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::{BackupId, BackupPrefix, ObjectKey, chain_prefix};
use crate::format::manifest::Outcome;
use crate::location::Location;
use crate::snapshot;
use crate::store::{self, Deleted, Overwrite, Payload, Store};

/// Does what the plan says; what could not be deleted is in [`Pruned::failures`].
pub async fn apply(ctx: &Context, plan: &Plan) -> Pruned {
    let (mut pruned, metrics) = (Pruned::default(), ctx.metrics(&plan.chain));
    // Here and below futures are made first and driven then: a stream that makes them as it goes is not `Send` enough for the
    // daemon's tasks (rust-lang/rust#102211).
    let (doomed, mut deleted) = (plan.doomed().collect::<Vec<_>>(), HashSet::new());
    // Some at a time: one takes more memory than what is kept of a backup.
    for some in doomed.chunks(16 * PARALLEL) {
        let parallel = ctx.catalog.parallel(some.iter().map(|backup| &backup.entry));
        let burials: Vec<_> = some.iter().map(|backup| bury(ctx, backup)).collect();
        let mut burials = stream::iter(burials).buffer_unordered(parallel);
        while let Some((entry, result)) = burials.next().await {
            metrics.backup_deleted(if result.is_ok() { Outcome::Success } else { Outcome::Failure });
            match result {
                Ok(()) => {
                    tracing::info!(job = %entry.chain.job, node = %entry.chain.node, backup = %entry.id, "backup deleted");
                    deleted.insert(&entry.id);
                }
                Err(error) => pruned.failures.push(&entry.key, error.report()),
            }
        }
    }
    pruned.kept = plan.backups.len() - deleted.len();
    metrics.backups(pruned.kept);
    collect(ctx, plan, &deleted, &mut pruned).await;
    let live = plan.backups.iter().map(|backup| &backup.entry.id).filter(|id| !deleted.contains(id)).collect();
    close_graves(ctx, plan, &live, &deleted, &mut pruned).await;
    pruned.deleted = deleted.into_iter().cloned().collect();
    pruned.deleted.sort();
    pruned
}

/// Makes a backup a deleted one: its manifest under another name, then not under its own any more.
async fn bury<'a>(ctx: &Context, backup: &'a Planned) -> (&'a Entry, Result<(), store::Error>) {
    let entry = &backup.entry;
    let Location { store, .. } = &ctx.catalog.location;
    let result = async {
        // Nobody could learn anything from a copy of a manifest that cannot be read.
        if backup.summary.is_some() {
            let data = match ctx.catalog.bytes(entry).await {
                Ok(data) => data,
                // Another run was faster.
                Err(error) if error.class == Class::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            let payload = Payload::new(data, store.algorithm());
            let grave = BackupPrefix::new(ctx.catalog.location.prefix(), &entry.chain, &entry.id).deleted();
            store.put(&grave, payload, Overwrite::Allow).await?;
        }
        store.delete(&entry.key).await.map(drop)
    };
    (entry, result.await)
}

/// Removes the garbage there is, page by page of the listing.
async fn collect(ctx: &Context, plan: &Plan, deleted: &HashSet<&BackupId>, pruned: &mut Pruned) {
    let judge = plan.judge(deleted);
    let mut garbage = Garbage::default();
    let mut pages = read::pages(ctx, &plan.chain);
    loop {
        match pages.next().await {
            Ok(Some(page)) => remove(ctx, &judge.sort_out(page, &mut garbage), pruned).await,
            Ok(None) => break,
            // The rest is the next run's.
            Err(error) => {
                let home = ObjectKey::new(chain_prefix(ctx.catalog.location.prefix(), &plan.chain));
                pruned.failures.push(&home, error.report());
                break;
            }
        }
    }
    pruned.waiting = garbage;
}

async fn gone<'a>(store: &dyn Store, object: &'a Found) -> (&'a Found, Result<Deleted, store::Error>) {
    (object, store.delete(&object.key).await)
}

/// Deletes objects, and counts.
async fn remove(ctx: &Context, objects: &[Found], pruned: &mut Pruned) {
    let store = &ctx.catalog.location.store;
    let delete = |object| gone(&**store, object);
    let deletions: Vec<_> = objects.iter().map(delete).collect();
    let mut deletions = stream::iter(deletions).buffer_unordered(PARALLEL);
    while let Some((object, result)) = deletions.next().await {
        match result {
            Ok(Deleted::Gone) => {
                pruned.objects += 1;
                pruned.bytes += object.size;
            }
            Ok(Deleted::Hidden) => {
                pruned.hidden.add(object);
            }
            Err(error) => pruned.failures.push(&object.key, error.report()),
        }
    }
}

/// Ends deleted backups whose grace period is over: their snapshots, then the last of their manifest.
async fn close_graves(
    ctx: &Context,
    plan: &Plan,
    live: &HashSet<&BackupId>,
    deleted: &HashSet<&BackupId>,
    pruned: &mut Pruned,
) {
    let fresh = plan.backups.iter().filter(|backup| deleted.contains(&backup.entry.id));
    let fresh = fresh.filter_map(|backup| backup.grave(ctx.catalog.location.prefix(), plan.now, plan.release));
    let old = plan.graves.iter().filter(|grave| !deleted.contains(&grave.found.id)).cloned();
    for grave in old.chain(fresh).filter(|grave| plan.now >= grave.release) {
        // A deletion that did not get as far as the manifest, of a backup that stays: it keeps what it has.
        if !live.contains(&grave.found.id) {
            match delete_snapshots(ctx, &grave.found.entry()).await {
                Ok(Snapshots::Gone) => {}
                Ok(Snapshots::Left) => continue,
                Err(report) => {
                    pruned.failures.push(&grave.found.key, report);
                    continue;
                }
            }
        }
        remove(ctx, std::slice::from_ref(&grave.found), pruned).await;
    }
}

/// Of a deleted backup.
enum Snapshots {
    Gone,
    /// An AMI uses one, or it lost its tags: the log says so, and the next run asks again.
    Left,
}

async fn delete_snapshots(ctx: &Context, entry: &Entry) -> Result<Snapshots, Report> {
    let manifest = match ctx.catalog.manifest(entry).await {
        Ok(manifest) => manifest,
        Err(error) if error.class() == Class::Integrity => {
            tracing::warn!(backup = %entry.id, %error, "whether the deleted backup has snapshots cannot be known");
            return Ok(Snapshots::Gone);
        }
        // Another run was faster.
        Err(error) if error.class() == Class::NotFound => return Ok(Snapshots::Gone),
        Err(error) => return Err(error.report()),
    };
    let deletion =
        snapshot::delete::backup(&*ctx.catalog.location.disks, &manifest).await.map_err(|error| error.report())?;
    Ok(if deletion.kept.is_empty() { Snapshots::Gone } else { Snapshots::Left })
}
