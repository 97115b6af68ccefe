//! The loop that starts runs, records their ends, and carries out orders from the control socket.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::Instant;

use super::board::{Start, Verdict};
use super::control::Order;
use super::files::Watched;
use super::history::About;
use super::state::{Record, State};
use super::systemd::Systemd;
use super::{Daemon, GRACE, HEARTBEAT};
use crate::error::{Class, Report};
use crate::format::key::Name;
use crate::metrics::Outcome;

/// The longest sleep during the start, so that systemd learns of its end soon.
const STARTING: Duration = Duration::from_millis(500);

pub(super) struct Scheduler {
    daemon: Arc<Daemon>,
    state: State,
    orders: mpsc::Receiver<Order>,
    hangup: Signal,
    watched: Watched,
    runs: JoinSet<Verdict>,
    jobs: HashMap<Id, Name>,
    /// Saves the jobs' records: one save at a time, and never on this loop's thread.
    saving: Option<JoinHandle<()>>,
    systemd: Systemd,
    heartbeat: Duration,
}

impl Scheduler {
    pub(super) fn new(daemon: Arc<Daemon>, state: State, orders: mpsc::Receiver<Order>) -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            watched: Watched::new(daemon.files()),
            heartbeat: Systemd::watchdog().map_or(HEARTBEAT, |watchdog| watchdog.min(HEARTBEAT)),
            systemd: Systemd::new(),
            runs: JoinSet::new(),
            jobs: HashMap::new(),
            saving: None,
            daemon,
            state,
            orders,
        })
    }

    pub(super) async fn run(mut self) {
        let stop = self.daemon.stop.clone();
        loop {
            self.come_round();
            let pause = self.pause();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => self.look_at_files(),
                Some(ended) = self.runs.join_next_with_id() => self.ended(ended),
                Some(order) = self.orders.recv() => self.obey(order),
                _ = self.hangup.recv() => {
                    tracing::info!("reloading: SIGHUP");
                    // `reload` has logged a fault.
                    let _ = self.reload();
                }
            }
        }
        self.drain().await;
    }

    fn come_round(&mut self) {
        let now = Timestamp::now();
        let starts = {
            let mut inside = self.daemon.lock();
            inside.beat = Instant::now();
            inside.board.tick(now)
        };
        for start in starts {
            self.start(start);
        }
        self.save();
        let daemon = &self.daemon;
        self.systemd.progress(daemon.credentials_tried(), daemon.readiness(now), || {
            let running: Vec<_> = daemon.lock().board.running().map(|(job, _)| job.to_string()).collect();
            if running.is_empty() { "idle".to_owned() } else { format!("running {}", running.join(", ")) }
        });
    }

    fn pause(&self) -> Duration {
        let longest = if self.systemd.is_starting() { STARTING } else { self.heartbeat };
        let next = self.daemon.lock().board.next_wake();
        let wait = next.map(|next| next.duration_since(Timestamp::now()));
        wait.map_or(longest, |wait| longest.min(Duration::try_from(wait).unwrap_or_default()))
    }

    fn start(&mut self, start: Start) {
        let location = self.daemon.lock().locations.get(&start.job.location).cloned();
        let Some(location) = location else {
            // The configuration refuses a job without its location, and both are replaced together.
            return self.finish(&start.job.name, internal("the job's location is not open"));
        };
        let (runner, name) = (self.daemon.runner.clone(), start.job.name.clone());
        let task = self.runs.spawn(async move { Box::pin(runner.run(&location.open, &start)).await });
        self.jobs.insert(task.id(), name);
    }

    fn ended(&mut self, ended: Result<(Id, Verdict), JoinError>) {
        let (id, verdict) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), internal(&format!("the run's task failed: {error}"))),
        };
        if let Some(name) = self.jobs.remove(&id) {
            self.finish(&name, verdict);
        }
    }

    fn finish(&self, job: &Name, verdict: Verdict) {
        self.daemon.lock().board.finish(job, verdict, Timestamp::now());
        self.daemon.forget_left();
    }

    fn look_at_files(&mut self) {
        if let Some(file) = self.watched.changed() {
            tracing::info!(file = %file.display(), "reloading: the file changed");
            let _ = self.reload();
        }
    }

    fn reload(&mut self) -> Result<(), Report> {
        Systemd::reloading();
        // Before the files are read, so that the next look sees a change made during the read.
        let _: Option<PathBuf> = self.watched.changed();
        let result = self.daemon.reload(&self.state);
        if result.is_ok() {
            self.watched.follow(self.daemon.files());
        }
        self.systemd.reloaded();
        result
    }

    fn obey(&mut self, order: Order) {
        // A closed channel: the caller reached its time limit and reported that the order is dropped.
        match order {
            Order::Reload(answer) if answer.is_closed() => {
                tracing::warn!("reload skipped: its caller has stopped waiting");
            }
            Order::Trigger(job, answer) if answer.is_closed() => {
                tracing::warn!(job, "trigger skipped: its caller has stopped waiting");
            }
            Order::Reload(answer) => {
                tracing::info!("reloading: asked through the control socket");
                drop(answer.send(self.reload()));
            }
            Order::Trigger(job, answer) => {
                let ticket = self.daemon.lock().board.trigger(&job, Timestamp::now());
                drop(answer.send(ticket));
            }
        }
    }

    fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            return;
        }
        let unsaved = self.daemon.lock().board.take_unsaved();
        if !unsaved.is_empty() {
            let (daemon, state) = (Arc::clone(&self.daemon), self.state.clone());
            self.saving = Some(tokio::task::spawn_blocking(move || save(&daemon, &state, &unsaved)));
        }
    }

    /// Cancels the runs and waits for them, for [`GRACE`] at most.
    async fn drain(&mut self) {
        tracing::info!(running = self.runs.len(), "the daemon is stopping: cancelling its runs");
        self.systemd.stopping();
        self.daemon.lock().board.stop();
        let deadline = tokio::time::sleep(GRACE);
        tokio::pin!(deadline);
        while !self.runs.is_empty() {
            tokio::select! {
                Some(ended) = self.runs.join_next_with_id() => self.ended(ended),
                () = &mut deadline => {
                    let left: Vec<_> = self.jobs.values().map(ToString::to_string).collect();
                    let jobs = left.join(", ");
                    tracing::error!(class = %Class::Timeout, jobs, "shutdown deadline reached: jobs were still running; the next start aborts their uploads");
                    break;
                }
            }
        }
        if let Some(saving) = self.saving.take() {
            // The hook has logged a panic in it.
            let _ = saving.await;
        }
        let unsaved = self.daemon.lock().board.take_unsaved();
        save(&self.daemon, &self.state, &unsaved);
    }
}

fn internal(why: &str) -> Verdict {
    let report = Report::new(Class::Internal, why).remedy("this is a bug in Penstock: please report it");
    Verdict { outcome: Outcome::Failure, backup: None, error: Some(report), good: None, encrypts: false }
}

/// Saves the records, a failed one again at the next heartbeat. Logs only the first failure until a save succeeds: all jobs share one disk.
fn save(daemon: &Daemon, state: &State, records: &[(Name, Record)]) {
    let mut first = None;
    for (job, record) in records {
        if let Err(error) = state.save(job, record) {
            daemon.runner.process.metrics.state_not_written();
            daemon.lock().board.keep_unsaved(job, record);
            first.get_or_insert((job, error));
        }
    }
    if records.is_empty() {
        return;
    }
    let failed_before = daemon.unsaved.swap(first.is_some(), Ordering::Relaxed);
    match (first, failed_before) {
        (Some((job, error)), false) => {
            let message = format!("could not save how the job last ended in state_dir: {error}");
            let report = Report::new(Class::Local, message);
            let report = report
                .remedy("make room there: the daemon tries again, but a restart before that loses how jobs last ended");
            daemon.runner.history.failed(About::Job, job.as_str(), &report);
        }
        (None, true) => tracing::info!("the jobs' records are saved in state_dir again"),
        (Some(_), true) | (None, false) => {}
    }
}
