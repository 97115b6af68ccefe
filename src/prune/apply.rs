//! Carries out a plan, in an order that is safe at any crash: see "Consistency" in [`super`].

use std::collections::HashSet;

use futures_util::stream::{self, StreamExt as _};

use super::locked::{Freed, Freeing};
use super::{Context, Garbage, PARALLEL, Plan, Planned, Pruned, read};
use crate::catalog::{Entry, Found};
use crate::error::{Class, Classify as _, Report};
use crate::format::key::{BackupId, BackupPrefix, ObjectKey, chain_prefix};
use crate::format::manifest::Outcome;
use crate::location::Location;
use crate::snapshot;
use crate::store::{self, Deleted, Overwrite, Payload};

/// Carries out the plan. [`Pruned::failures`] lists what could not be deleted.
pub async fn apply(ctx: &Context, plan: &Plan) -> Pruned {
    let (mut pruned, metrics) = (Pruned::default(), ctx.metrics(&plan.chain));
    // Here and below all futures are made before they are polled: a stream of a closure is not `Send` enough for the daemon's tasks
    // (rust-lang/rust#102211).
    let (to_delete, mut deleted) = (plan.to_delete().collect::<Vec<_>>(), HashSet::new());
    // In groups: the future of one deletion takes more memory than the plan's data on its backup.
    for some in to_delete.chunks(16 * PARALLEL) {
        let parallel = ctx.catalog.parallel(some.iter().map(|backup| &backup.entry));
        let deletions: Vec<_> = some.iter().map(|backup| delete_backup(ctx, backup)).collect();
        let mut deletions = stream::iter(deletions).buffer_unordered(parallel);
        while let Some((entry, result)) = deletions.next().await {
            metrics.backup_deleted(if result.is_ok() { Outcome::Success } else { Outcome::Failure });
            match result {
                Ok(gone) => {
                    if gone == Deleted::Hidden {
                        pruned.hidden.add_bytes(entry.size());
                    }
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
    remove_tombstones(ctx, plan, &live, &deleted, &mut pruned).await;
    pruned.deleted = deleted.into_iter().cloned().collect();
    pruned.deleted.sort();
    pruned
}

/// Deletes a backup: copies its manifest to the tombstone's key, then deletes the manifest.
async fn delete_backup<'a>(ctx: &Context, backup: &'a Planned) -> (&'a Entry, Result<Deleted, store::Error>) {
    let entry = &backup.entry;
    let Location { store, .. } = &ctx.catalog.location;
    let result = async {
        // A copy of an unreadable manifest would be of no use.
        if backup.summary.is_some() {
            let data = match ctx.catalog.bytes(entry).await {
                Ok(data) => data,
                // Another run has deleted it.
                Err(error) if error.class == Class::NotFound => return Ok(Deleted::Gone),
                Err(error) => return Err(error),
            };
            let payload = Payload::new(data, store.algorithm());
            let tombstone = BackupPrefix::new(ctx.catalog.location.prefix(), &entry.chain, &entry.id).deleted();
            let lock = ctx.catalog.location.new_lock().await?;
            store.put_locked(&tombstone, payload, Overwrite::Allow, lock).await?;
        }
        store.delete(&entry.key).await
    };
    (entry, result.await)
}

/// Deletes the due garbage, page by page of the listing.
async fn collect(ctx: &Context, plan: &Plan, deleted: &HashSet<&BackupId>, pruned: &mut Pruned) {
    let judge = plan.judge(deleted);
    let mut freeing = Freeing::new(ctx, plan);
    let unread = plan.to_delete().filter(|backup| backup.summary.is_none() && deleted.contains(&backup.entry.id));
    freeing.deleted(unread.map(|backup| &backup.entry.key));
    let mut garbage = Garbage::default();
    let mut pages = read::pages(ctx, &plan.chain);
    loop {
        match pages.next().await {
            Ok(Some(page)) => remove(&mut freeing, &judge.sort_out(page, &mut garbage), pruned).await,
            Ok(None) => break,
            // The next run deletes the rest.
            Err(error) => {
                let home = ObjectKey::new(chain_prefix(ctx.catalog.location.prefix(), &plan.chain));
                pruned.failures.push(&home, error.report());
                break;
            }
        }
    }
    pruned.waiting = garbage;
}

async fn gone<'a>(freeing: &Freeing<'_>, object: &'a Found) -> (&'a Found, Result<Freed, store::Error>) {
    let known = freeing.known(&object.key).map(|until| Ok(Freed::Locked(until)));
    match known {
        Some(known) => (object, known),
        None => (object, freeing.free(&object.key).await),
    }
}

/// Deletes objects, and counts them.
async fn remove(freeing: &mut Freeing<'_>, objects: &[Found], pruned: &mut Pruned) {
    let deletions: Vec<_> = objects.iter().map(|object| gone(freeing, object)).collect();
    let mut deletions = stream::iter(deletions).buffer_unordered(PARALLEL);
    let mut locked = Vec::new();
    while let Some((object, result)) = deletions.next().await {
        match result {
            Ok(Freed::Gone) => {
                pruned.objects += 1;
                pruned.bytes += object.size;
            }
            Ok(Freed::Hidden) => {
                pruned.hidden.add(object);
            }
            Ok(Freed::Locked(until)) => {
                pruned.locked.add(object, until);
                locked.push((&object.key, until));
            }
            Err(error) => pruned.failures.push(&object.key, error.report()),
        }
    }
    drop(deletions);
    for (key, until) in locked.into_iter().filter(|(key, _)| freeing.known(key).is_none()).collect::<Vec<_>>() {
        freeing.found(key, until);
    }
    freeing.save();
}

/// Deletes the snapshots of deleted backups whose grace period is over, then their tombstones.
async fn remove_tombstones(
    ctx: &Context,
    plan: &Plan,
    live: &HashSet<&BackupId>,
    deleted: &HashSet<&BackupId>,
    pruned: &mut Pruned,
) {
    let fresh = plan.backups.iter().filter(|backup| deleted.contains(&backup.entry.id));
    let fresh = fresh.filter_map(|backup| backup.tombstone(ctx.catalog.location.prefix(), plan.now, plan.release));
    let old = plan.tombstones.iter().filter(|tombstone| !deleted.contains(&tombstone.found.id)).cloned();
    let mut freeing = Freeing::new(ctx, plan);
    for tombstone in old.chain(fresh).filter(|tombstone| plan.now >= tombstone.release) {
        // Its snapshots are gone: it was deleted up to its lock before.
        if let Some(until) = freeing.known(&tombstone.found.key) {
            pruned.locked.add(&tombstone.found, until);
            continue;
        }
        // A deletion ended before it deleted the manifest, so the backup stays with its snapshots.
        if !live.contains(&tombstone.found.id) {
            match delete_snapshots(ctx, &tombstone.found.entry()).await {
                Ok(Snapshots::Gone) => {}
                Ok(Snapshots::Left) => continue,
                Err(report) => {
                    pruned.failures.push(&tombstone.found.key, report);
                    continue;
                }
            }
        }
        remove(&mut freeing, std::slice::from_ref(&tombstone.found), pruned).await;
    }
}

/// The state of a deleted backup's snapshots.
enum Snapshots {
    Gone,
    /// An AMI uses one, or one lost its tags. The log says so; the next run tries again.
    Left,
}

async fn delete_snapshots(ctx: &Context, entry: &Entry) -> Result<Snapshots, Report> {
    let manifest = match ctx.catalog.manifest(entry).await {
        Ok(manifest) => manifest,
        Err(error) if error.class() == Class::Integrity => {
            tracing::warn!(backup = %entry.id, %error, "could not read a deleted backup's manifest: if it has snapshots, they stay");
            return Ok(Snapshots::Gone);
        }
        // Another run has deleted it.
        Err(error) if error.class() == Class::NotFound => return Ok(Snapshots::Gone),
        Err(error) => return Err(error.report()),
    };
    let deletion =
        snapshot::delete::backup(&*ctx.catalog.location.disks, &manifest).await.map_err(|error| error.report())?;
    Ok(if deletion.kept.is_empty() { Snapshots::Gone } else { Snapshots::Left })
}
