//! The daemon, `penstock run`: runs jobs on their schedules.
//!
//! - **One loop** ([`scheduler`]) acts; [`board`] decides, without I/O. Runs, checks of locations and callers are
//!   tasks of their own and never wait for each other: they share state behind one lock, and do no I/O under it.
//! - **Start**: reads and checks everything before it binds a socket. A refusal by the network does not stop the start: the
//!   daemon is up, not ready, and reports why.
//! - **Reload**: on SIGHUP, a changed file, or a request at the control socket. Takes the new configuration whole or not at all; runs
//!   keep the configuration that they started with. Logs a warning for each changed setting that needs a restart.
//! - **Stop**: SIGTERM starts no more runs and cancels those in progress, which abort their uploads. After [`GRACE`] the daemon leaves
//!   the rest to the sweep of the next start.
//! - **Idle**, it wakes up every [`HEARTBEAT`] and has no threads but the runtime's.

mod admin;
mod board;
mod callers;
mod chores;
mod control;
mod files;
mod history;
mod locations;
mod reload;
mod runner;
mod schedule;
mod scheduler;
mod state;
mod status;
mod systemd;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster;
use crate::config::{Config, LogLevel};
use crate::error::{Class, Classify, Report};
use crate::location::Connect;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::state::{Holder, StateDir};
use board::Board;
pub use control::{Answer, Client, Request};
use history::History;
use locations::Locations;
use runner::Runner;
use scheduler::Scheduler;
use state::State;
pub use status::{LastRun, RunningStatus, Status, when};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The longest sleep of the scheduler. It notices a changed file or clock no later than this.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A scheduler whose last round began longer ago than this hangs.
const STALLED: Duration = Duration::from_secs(60);

/// Time to abort uploads after SIGTERM. Kubernetes kills after 30 s by default.
const GRACE: Duration = Duration::from_secs(25);

/// Orders that wait for the scheduler.
const ORDERS: usize = 16;

/// The arguments of [`run`].
pub struct Setup {
    pub file: PathBuf,
    /// The content of `file`.
    pub config: Config,
    pub connect: Arc<dyn Connect>,
    pub cluster: cluster::Shared,
    pub set_log_level: Box<dyn Fn(LogLevel) + Send + Sync>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("file", &self.file).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {action} {object}: {error}")]
    Local {
        action: &'static str,
        object: String,
        #[source]
        error: std::io::Error,
    },
    /// The configuration, or a socket that it names, cannot be used.
    #[error("{}", .0.message)]
    Setup(Report),
    #[error(transparent)]
    State(#[from] crate::state::Error),
}

impl Classify for Error {
    fn report(&self) -> Report {
        match self {
            Self::Local { .. } => Report::new(Class::Local, self.to_string()),
            Self::Setup(report) => report.clone(),
            Self::State(error) => error.report(),
        }
    }
}

/// State that the scheduler, the servers and the runs share.
struct Daemon {
    file: PathBuf,
    started: Timestamp,
    connect: Arc<dyn Connect>,
    set_log_level: Box<dyn Fn(LogLevel) + Send + Sync>,
    runner: Runner,
    tls: admin::Tls,
    panicked: Arc<AtomicBool>,
    /// The last save of the records in the state directory failed.
    unsaved: AtomicBool,
    stop: CancellationToken,
    inside: Mutex<Inside>,
}

struct Inside {
    config: Arc<Config>,
    loaded: Timestamp,
    /// The fault of the file, if the last reload was refused.
    refused: Option<(Timestamp, Report)>,
    board: Board,
    locations: Locations,
    /// Locations that left the configuration and that a run may still use. Their metrics stay until then.
    left: Vec<String>,
    /// When the scheduler's last round began.
    beat: Instant,
}

/// Runs until `stop`, then until every run has ended or [`GRACE`] is over.
///
/// # Errors
/// When the daemon cannot start.
pub async fn run(setup: Setup, stop: CancellationToken) -> Result<(), Error> {
    let local = |action, object: String| move |error| Error::Local { action, object, error };
    let _lock = StateDir::lock(&setup.config.state_dir, Holder::Daemon)?;
    let state = State::open(&setup.config.state_dir)?;
    let daemon = Arc::new(Daemon::new(setup, &state, stop)?);
    let config = Arc::clone(&daemon.lock().config);
    let socket = control::Socket::bind(&config.admin.socket).await.map_err(Error::Setup)?;
    let listener = admin::listen(&config.admin).map_err(Error::Setup)?;
    let (orders, inbox) = mpsc::channel(ORDERS);
    let scheduler = Scheduler::new(Arc::clone(&daemon), state, inbox).map_err(local("listen for", "SIGHUP".into()))?;
    tracing::info!(
        version = VERSION,
        address = listener.local_addr().ok().map(tracing::field::display),
        jobs = config.jobs.len(),
        "the daemon started"
    );
    drop(config);
    let admin = tokio::spawn(admin::serve(listener, Arc::clone(&daemon)));
    let control = tokio::spawn(socket.serve(Arc::clone(&daemon), orders));
    let chores = tokio::spawn(chores::run(Arc::clone(&daemon)));
    daemon.watch_locations();
    scheduler.run().await;
    for server in [admin, control, chores] {
        server.abort();
        // Dropping the task removes the control socket. The error is only the abort.
        let _ = server.await;
    }
    tracing::info!("the daemon stopped");
    Ok(())
}

impl Daemon {
    fn new(setup: Setup, state: &State, stop: CancellationToken) -> Result<Self, Error> {
        let Setup { file, config, connect, cluster, set_log_level } = setup;
        let (now, metrics) = (Timestamp::now(), Metrics::new());
        let commit = option_env!("PENSTOCK_COMMIT").unwrap_or("unknown");
        metrics.started(VERSION, commit, now.as_duration().as_secs_f64());
        metrics.config_reloaded(Ok(()));
        set_log_level(config.log.level);
        let tls = admin::Tls::default();
        tls.replace(admin::Tls::load(&config.admin).map_err(Error::Setup)?);
        let process = Process::of(&config, metrics).with_cluster(cluster);
        let opened = locations::open(&config, &Locations::new(), connect.as_ref(), &process);
        let inside = Inside {
            loaded: now,
            refused: None,
            board: Board::new(&config, process.metrics.clone(), now, |job| state.load(job)),
            locations: opened.map_err(Error::Setup)?,
            left: Vec::new(),
            beat: Instant::now(),
            config: Arc::new(config),
        };
        let runner = Runner { process, history: History::default() };
        let panicked = notice_panics();
        let (unsaved, inside) = (AtomicBool::new(false), Mutex::new(inside));
        Ok(Self { file, started: now, connect, set_log_level, runner, tls, panicked, unsaved, stop, inside })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_locations(&self) {
        for location in self.lock().locations.values() {
            location.watch(&self.runner.history, &self.stop);
        }
    }

    /// The metrics, with the budget's current figures.
    fn observed_metrics(&self) -> &Metrics {
        let Process { budget, metrics, .. } = &self.runner.process;
        metrics.observe_budget(budget);
        metrics
    }

    /// Whether the process makes progress.
    fn health(&self) -> Result<(), String> {
        let still = self.lock().beat.elapsed();
        if self.panicked.load(Ordering::Relaxed) {
            return Err("a task has panicked: see the log; this is a bug in Penstock: please report it".to_owned());
        }
        if still > STALLED {
            return Err(format!("the scheduler has done nothing for {} s", still.as_secs()));
        }
        Ok(())
    }

    /// Whether each open location's credentials have been obtained or refused at least once.
    fn credentials_tried(&self) -> bool {
        self.lock().locations.values().all(|location| location.health().was_tried())
    }

    /// Whether every location's credentials are valid now.
    fn readiness(&self, now: Timestamp) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("stopping".to_owned());
        }
        let locations = self.lock().locations.clone();
        let objections = locations.values().filter_map(|location| {
            let why = location.health().objection(now)?;
            Some(format!("location {}: {why}", location.open.name()))
        });
        let objections: Vec<_> = objections.collect();
        if objections.is_empty() { Ok(()) } else { Err(objections.join("; ")) }
    }

    /// The progress of the job's run, if it has one.
    fn progress(&self, job: &str) -> Option<status::RunningStatus> {
        let inside = self.lock();
        let entry = inside.board.jobs().find(|entry| entry.job.name.as_str() == job)?;
        entry.running.as_ref().map(status::running_status)
    }

    /// Deletes the metrics of locations that left the configuration and that no run uses any more.
    fn forget_left(&self) {
        let mut inside = self.lock();
        let Inside { left, board, config, .. } = &mut *inside;
        let used: Vec<String> =
            board.jobs().filter(|job| job.running.is_some()).map(|job| job.job.location.clone()).collect();
        left.retain(|name| {
            if !used.contains(name) && !config.locations.contains_key(name) {
                self.runner.process.metrics.forget_location(name);
            }
            used.contains(name)
        });
    }
}

/// Sets a panic hook. The flag is true after any thread has panicked; the previous hook still prints the panic.
fn notice_panics() -> Arc<AtomicBool> {
    let panicked = Arc::new(AtomicBool::new(false));
    let (seen, print) = (Arc::clone(&panicked), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        seen.store(true, Ordering::Relaxed);
        tracing::error!(class = %Class::Internal, "a thread panicked, please report it: {info}");
        print(info);
    }));
    panicked
}
