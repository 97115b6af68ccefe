//! `claims`: a round over the volumes of this node's pods. Each volume has backups of its own, in a chain that is called after its claim;
//! the run's own backup has the round's record.
//!
//! - **Order**: what an earlier run owes to pods is paid; pods, claims and volumes are read, and it is decided what is saved; then the
//!   volumes are saved one after the other, those of pods with commands between these; last, claims that were saved before and are not
//!   now are looked for.
//! - **A volume that cannot be saved** (no mount, a dead one, a failed command, its time limit) fails by itself. Its chain keeps its last
//!   good backup, and the run's backup names it as a failed item, so that the run is partial. What should have been saved and is not is a
//!   warning of the record's item, with the same effect.
//! - **A store that does not answer** fails the run, since the other volumes would fail too. Backups of volumes that are committed stay.
//! - **Threads**: a mount that does not answer keeps the thread that looks at it, or reads it, for as long as it likes, and nobody waits
//!   for that thread. Until it is back, later rounds fail the volume at once ([`Process::reading`](crate::process::Process::reading)).

mod commands;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use self::commands::Commands;
pub use self::commands::thaw_left;
use super::failure::Failed;
use super::parent::Tables;
use super::plan::Open;
use super::{Error, Policy as Reusing, Reuse, Run};
use crate::checksum::fingerprint;
use crate::claims::api::Server;
use crate::claims::decide::{Decision, PodRef, Policy, Target, decide};
use crate::claims::group::{Group, groups};
use crate::claims::hooks::{self, PodHooks};
use crate::claims::objects::Pod;
use crate::claims::read::{Known, look_for, read};
use crate::claims::record::to_look_for;
use crate::claims::thaw::{Action, Outcome as Went, Thaw};
use crate::config::Claims;
use crate::error::{Class, Classify as _, Report};
use crate::format::claim::{Chained, ClaimName};
use crate::format::key::{BackupId, Name};
use crate::format::manifest::{Content, Item, Manifest, Outcome, SourceDescription};
use crate::format::round::{MOST, Record, Saved};
use crate::resources::patience::Patience;
use crate::source;

/// The name under which the record is restored.
const RECORD: &str = "claims.json";

/// How far a round is.
#[derive(Debug, Default)]
pub struct Progress {
    /// Volumes that this node saves; 0 while unknown.
    pub total: AtomicU64,
    /// Those that were tried.
    pub done: AtomicU64,
    pub failed: AtomicU64,
    current: Mutex<Option<String>>,
    /// The chains that have a new backup, also if the run fails later.
    saved: Mutex<Vec<Name>>,
}

impl Progress {
    /// The volume that is being saved, `NAMESPACE/CLAIM`.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The chains of the volumes that have a new backup.
    #[must_use]
    pub fn saved(&self) -> Vec<Name> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, current: Option<String>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = current;
    }
}

/// A volume's backup that a round committed.
#[derive(Debug, Clone)]
pub struct Volume {
    /// In the place of the node's name.
    pub chain: Name,
    pub backup: BackupId,
    pub outcome: Outcome,
    pub plain_bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
}

/// A volume that could not be saved.
struct Lost {
    chain: Name,
    labels: BTreeMap<String, String>,
    path: String,
    report: Report,
}

/// What a round works with.
struct Round<'r> {
    claims: &'r Claims,
    server: &'r Server,
    targets: &'r [Target],
    hooks: BTreeMap<PodRef, PodHooks>,
}

/// What a round has done so far.
#[derive(Default)]
struct Done {
    saved: BTreeMap<Name, Saved>,
    lost: Vec<Lost>,
    /// Volumes whose pods went away meanwhile, each with what failed by it.
    gone: BTreeMap<Name, String>,
    /// About commands that failed.
    troubles: Vec<String>,
}

impl Run<'_> {
    /// Saves the volumes, and adds the record to `manifest`.
    pub(super) async fn round(&mut self, source: &Name, claims: &Claims, manifest: &mut Manifest) -> Result<(), Error> {
        let (process, stop) = (self.location.process.clone(), self.stop.clone());
        let cluster = process.cluster.get().await.map_err(|report| unread(source, report))?;
        let server = Server::new(Arc::clone(&cluster), Patience::default());
        let policy = Policy::of(claims).map_err(|fault| invalid(source, fault))?;
        let begun = Commands::begin(&process, &self.spec.job, &cluster, claims.hooks, commands::PATIENCE);
        let mut commands = stop.run_until_cancelled(begun).await.ok_or(Error::Cancelled)?;
        let known = stop.run_until_cancelled(read(&server, &policy, self.location.node.as_str())).await;
        let known = known.ok_or(Error::Cancelled)?.map_err(|failure| unread(source, failure.report()))?;
        let Known { pods, facts, notes } = known;
        let mut decision = decide(&policy, self.location.node.as_str(), &pods, &facts);
        drop(facts);
        decision.notes.extend(notes);
        tracing::info!(volumes = decision.targets.len(), pods = pods.len(), "volumes of this node's pods found");
        let is_elsewhere = pods.is_empty();
        let mut done = Done::default();
        done.troubles.extend(commands.as_ref().and_then(Commands::fault));
        self.volumes_of(&decision, claims, &server, &pods, commands.as_mut(), &mut done).await?;
        drop(pods);
        decision.went_away(&done.gone);
        let mut record = self.record(source, &server, &policy, &decision, &mut done).await?;
        if is_elsewhere {
            record.losses += 1;
            done.troubles.push(format!(
                "no pod is on the node {}: nothing is saved if `node` is not the name that Kubernetes has for it",
                self.location.node
            ));
        }
        record.commands = commands.map(Commands::end).unwrap_or_default();
        self.forget_tables(&record);
        self.metrics.claims(&record, done.lost.len());
        let (saved, failed) = (record.saved.len() - done.lost.len(), done.lost.len());
        tracing::info!(
            saved,
            failed,
            missing = record.missing.len(),
            losses = record.losses,
            "round over the volumes ended"
        );
        self.add(source, record, done, manifest).await
    }

    /// Saves the volumes, group by group.
    async fn volumes_of(
        &mut self,
        decision: &Decision,
        claims: &Claims,
        server: &Server,
        pods: &[Pod],
        mut commands: Option<&mut Commands>,
        done: &mut Done,
    ) -> Result<(), Error> {
        let targets = &decision.targets;
        let progress = Arc::clone(&self.progress.claims);
        progress.total.store(targets.len() as u64, Ordering::Relaxed);
        let (hooks, faults) = if claims.hooks { hooks_of(pods, targets) } else { Default::default() };
        let round = Round { claims, server, targets, hooks };
        let mut groups = groups(targets, |pod| round.hooks.contains_key(pod));
        turn(&mut groups, self.owner.id.as_str());
        for mut group in groups {
            // What was to be frozen and cannot be is not read.
            group.targets.retain(|at| {
                let fault = targets[*at].pods.iter().find_map(|pod| Some((pod, faults.get(pod)?)));
                if let Some((pod, fault)) = fault {
                    let message = format!("could not read the commands of {}/{}: {fault}", pod.namespace, pod.name);
                    done.lose(&targets[*at], self.location.node.as_str(), Report::new(Class::Source, message));
                }
                fault.is_none()
            });
            self.group(&group, &round, commands.as_deref_mut(), done).await?;
            progress.done.store((done.saved.len() + done.gone.len()) as u64, Ordering::Relaxed);
            progress.failed.store(done.lost.len() as u64, Ordering::Relaxed);
        }
        self.volumes.sort_by(|a, b| a.chain.cmp(&b.chain));
        progress.show(None);
        Ok(())
    }

    /// Saves the volumes of one group between its pods' commands.
    async fn group(
        &mut self,
        group: &Group,
        round: &Round<'_>,
        mut commands: Option<&mut Commands>,
        done: &mut Done,
    ) -> Result<(), Error> {
        let Round { targets, hooks, .. } = round;
        let pods = group.pods.iter().filter_map(|pod| Some((pod.clone(), hooks.get(pod)?.clone())));
        let pods: Vec<(PodRef, PodHooks)> = if group.targets.is_empty() { Vec::new() } else { pods.collect() };
        let mut thaw = Thaw::around(&pods, Timestamp::now(), self.owner.id.as_str());
        let (mut was_read, mut fatal) = (false, None);
        loop {
            if self.stop.is_cancelled() {
                thaw.stop();
            }
            let went = match (thaw.action(), commands.as_deref_mut()) {
                (Action::End, _) => break,
                (Action::Read, _) => {
                    was_read = true;
                    fatal = self.read_all(group, round, done).await.err();
                    Went::Done
                }
                (action, Some(commands)) => commands.act(&action, &self.stop).await,
                (_, None) => Went::Failed("commands are switched off".to_owned()),
            };
            thaw.done(went);
        }
        let failure = thaw.troubles().iter().find(|trouble| trouble.is_failure).map(|trouble| trouble.message.clone());
        let warnings = thaw.troubles().iter().filter(|trouble| !trouble.is_failure);
        done.troubles.extend(warnings.map(|trouble| trouble.message.clone()));
        if let Some(error) = fatal {
            return Err(error);
        }
        if self.stop.is_cancelled() {
            return Err(Error::Cancelled);
        }
        for at in group.targets.iter().filter(|_| !was_read) {
            let message = failure.clone().unwrap_or_else(|| "its pod's commands were not run".to_owned());
            done.lose(&targets[*at], self.location.node.as_str(), Report::new(Class::Source, message));
        }
        Ok(())
    }

    /// # Errors
    /// One that would fail the other volumes too.
    async fn read_all(&mut self, group: &Group, round: &Round<'_>, done: &mut Done) -> Result<(), Error> {
        let progress = Arc::clone(&self.progress.claims);
        for target in group.targets.iter().map(|at| &round.targets[*at]) {
            progress.show(Some(target.to_string()));
            match self.save(target, round.claims).await {
                Ok(volume) => {
                    done.saved.insert(target.chain.clone(), saved(target, Some(volume.backup.clone())));
                    progress.saved.lock().unwrap_or_else(PoisonError::into_inner).push(target.chain.clone());
                    self.volumes.push(volume);
                }
                Err(error) if volume::is_fatal(&error) => return Err(error),
                Err(error) if volume::has_gone(target, round.server).await => {
                    let why = volume::reported(target, &error).message;
                    tracing::info!(volume = %target, why, "volume not saved: its pod went away meanwhile");
                    done.gone.insert(target.chain.clone(), why);
                }
                Err(error) => done.lose(target, self.location.node.as_str(), volume::reported(target, &error)),
            }
            progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// What the round leaves behind, with the claims that are missing.
    async fn record(
        &self,
        source: &Name,
        server: &Server,
        policy: &Policy,
        decision: &Decision,
        done: &mut Done,
    ) -> Result<Record, Error> {
        // Also if the next backups are full ones.
        let reusing = Reusing { reuse: Reuse::Chunks, full_every: None, ..self.spec.parent };
        let mut ancestors = self.ancestors_of(&self.owner.chain, reusing, &self.stop, self.started);
        let before = match ancestors.newest().await {
            Ok(before) => before,
            Err(error) if super::parent::excusable(error.class()) => {
                done.troubles.push(format!(
                    "could not read the record of the last round, so that claims that are missing are not known: {error}"
                ));
                None
            }
            Err(error) => return Err(error.into()),
        };
        let of = |item: &Item| item.claims.clone().filter(|_| item.name == *source);
        let before = before.and_then(|before| before.manifest.items.iter().find_map(of));
        let wanted = before.as_ref().map(|before| to_look_for(before, decision)).unwrap_or_default();
        let found = self.stop.run_until_cancelled(look_for(server, policy, &wanted)).await.ok_or(Error::Cancelled)?;
        let saved = std::mem::take(&mut done.saved);
        Ok(Record::new(decision, saved, before.as_deref(), &found, Timestamp::now()))
    }

    /// Removes what this node keeps of volumes that it saves no more.
    fn forget_tables(&self, record: &Record) {
        let missing = record.missing.iter().filter_map(|missing| missing.claim.parse::<ClaimName>().ok());
        let kept: BTreeSet<Name> = record.saved.keys().cloned().chain(missing.map(|claim| claim.chain())).collect();
        let is_left = |chain: &Name| Chained::of(chain).is_some() && !kept.contains(chain);
        let (state_dir, job) = (&self.location.process.state_dir, &self.spec.job);
        Tables::forget_chains(state_dir, self.location.name(), job, is_left);
    }

    /// Adds the record's item and the volumes that were lost.
    async fn add(&mut self, source: &Name, record: Record, done: Done, manifest: &mut Manifest) -> Result<(), Error> {
        let description = SourceDescription::File { path: RECORD.to_owned() };
        let json = serde_json::to_vec_pretty(&record).expect("strings, numbers and times");
        let (stream, mut tally) = {
            let open: Open = Box::new(move |_, _| Ok(Box::new(volume::Text::new(json.clone()))));
            self.streamed(source, &description, &open).await
        };
        let losses = record.unsaved.iter().filter(|unsaved| unsaved.is_loss()).map(ToString::to_string);
        let missing = record.missing.iter().map(ToString::to_string);
        for loss in losses.chain(missing).chain(done.troubles) {
            tally.warn("", loss);
        }
        for note in record.notes.iter().take(MOST) {
            tracing::warn!(item = %source, "{note}");
        }
        let content = Content::Stream { stream: Some(stream?) };
        let (outcome, claims) = (tally.warnings.outcome(), Some(Box::new(record)));
        manifest.items.push(Item { outcome, claims, ..Item::new(source.clone(), description, content) });
        manifest.warnings.append(tally.warnings);
        for Lost { chain, labels, path, report } in done.lost {
            let item = self.failed(chain, SourceDescription::Tree { path }, Failed::Volume(Box::new(report)));
            manifest.items.push(Item { labels, ..item });
        }
        Ok(())
    }
}

impl Done {
    fn lose(&mut self, target: &Target, node: &str, report: Report) {
        self.saved.insert(target.chain.clone(), saved(target, None));
        let (chain, labels, path) = (target.chain.clone(), volume::labels(target, node), target.to_string());
        self.lost.push(Lost { chain, labels, path, report });
    }
}

fn saved(target: &Target, backup: Option<BackupId>) -> Saved {
    Saved { claim: target.claim.as_ref().map(ToString::to_string), backup }
}

fn unread(source: &Name, report: Report) -> Error {
    Error::Item { item: source.clone(), error: source::Error::Cluster(report).into() }
}

fn invalid(source: &Name, fault: String) -> Error {
    Error::Item { item: source.clone(), error: source::Error::Invalid(fault).into() }
}

/// Begins with another group in each run: under a time limit, no volume is the last one every day.
fn turn(groups: &mut [Group], run: &str) {
    let of_run = u128::from_be_bytes(fingerprint(run.as_bytes()));
    if let Some(first) = of_run.checked_rem(groups.len() as u128) {
        groups.rotate_left(usize::try_from(first).unwrap_or_default());
    }
}

type Hooks = (BTreeMap<PodRef, PodHooks>, BTreeMap<PodRef, String>);

/// The commands of the pods whose volumes are saved, and the annotations that are none.
fn hooks_of(pods: &[Pod], targets: &[Target]) -> Hooks {
    let (mut all, mut faults) = Hooks::default();
    for pod in pods {
        let name = PodRef::of(pod);
        if !targets.iter().any(|target| target.pods.contains(&name)) {
            continue;
        }
        match hooks::of(pod) {
            Ok(hooks) if hooks.is_empty() => {}
            Ok(hooks) => drop(all.insert(name, hooks)),
            Err(fault) => drop(faults.insert(name, fault.to_string())),
        }
    }
    (all, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_is_the_first_of_some_run() {
        let of = |count: usize| (0..count).map(|at| Group { targets: vec![at], ..Group::default() });
        let mut first = BTreeSet::new();
        for run in 0..200 {
            let mut groups: Vec<Group> = of(5).collect();
            turn(&mut groups, &format!("20261129T020000Z-{run:06x}"));
            first.insert(groups[0].targets.clone());
            groups.sort_by(|a, b| a.targets.cmp(&b.targets));
            assert!(groups.into_iter().eq(of(5)), "none is lost");
        }
        assert_eq!(first.len(), 5);
        turn(&mut [], "r");
    }
}
