//! The command line: from arguments to an exit code.
//!
//! Only this module connects the adapters to the ports ([`session`]). Commands return their result as a [`Done`], which
//! [`output`] prints; [`file_list`], [`rows`] and [`kubernetes`] print while they read, because their results may not fit in memory.

mod args;
mod backup;
mod daemon;
mod delete;
mod diff;
mod file_list;
mod find;
mod help;
mod key;
mod kubernetes;
mod list;
mod logging;
mod ls;
mod output;
mod pages;
mod progress;
mod prune;
mod read;
mod restore;
mod roles;
mod rows;
mod session;
mod snapshot;
mod stats;
mod sweep;
mod validate;
mod verify;
mod versions;

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::config;
use crate::error::{Class, Classify, Report};
use args::{Cli, Command, ConfigCommand, KubernetesCommand, SnapshotCommand};
use logging::Levels;
use output::Done;

/// EX_USAGE of clap and of every shell tool.
const USAGE: u8 = 2;

/// Threads of the runtime: they wait for the network, and encrypt. Compression and blocking sources have threads of their own.
const WORKERS: usize = 2;

/// A failure on its way to the user.
#[derive(Debug)]
enum Failure {
    Report(Report),
    /// The arguments make no sense together.
    Usage(String),
}

impl<E: Classify> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Report(error.report())
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::Report(report)
    }
}

impl Failure {
    fn local(action: &str, error: &std::io::Error) -> Self {
        Self::Report(Report::new(Class::Local, format!("could not {action}: {error}")))
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = args::parse();
    let levels = logging::start(&cli);
    let format = cli.output;
    let result = match cli.command {
        Command::Config(ConfigCommand::Example) => Ok(Done::text(config::example())),
        Command::Config(ConfigCommand::Schema) => Ok(Done::json(config::schema())),
        Command::Config(ConfigCommand::Check) => session::check(&cli.config),
        Command::Completions { shell } => Ok(pages::completions(shell)),
        Command::Man { folder } => pages::man(&folder),
        Command::Key(command) => key::run(&command, format),
        _ => run(&cli, &levels),
    };
    match result {
        Ok(done) => done.print(format),
        Err(Failure::Report(report)) => {
            output::print_failure(format, &report);
            ExitCode::from(report.class.exit_code())
        }
        Err(Failure::Usage(message)) => {
            output::print_failure(format, &Report::new(Class::Config, message));
            ExitCode::from(USAGE)
        }
    }
}

fn run(cli: &Cli, levels: &Levels) -> Result<Done, Failure> {
    let config = match session::load(&cli.config) {
        Ok(config) => config,
        Err(faults) => return without_config(cli, faults),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::local("start the runtime", &error))?;
    let cancel = CancellationToken::new();
    let result = runtime.block_on(async {
        cancel_on_signals(&cancel)?;
        match &cli.command {
            Command::Run => daemon::run(cli, &config, levels, &cancel).await,
            Command::Backup(args) => backup::run(&config, args, cli.output, &cancel).await,
            Command::List(args) => list::run(&config, args, cli.output, &cancel).await,
            Command::Ls(args) => ls::run(&config, args, cli.output, &cancel).await,
            Command::Find(args) => find::run(&config, args, cli.output, &cancel).await,
            Command::Diff(args) => diff::run(&config, args, cli.output, &cancel).await,
            Command::Show(args) => read::show(&config, args, cli.output, &cancel).await,
            Command::Restore(args) => restore::run(&config, args, cli.output, &cancel).await,
            Command::Cat(args) => read::cat(&config, args, &cancel).await,
            Command::Snapshot(SnapshotCommand::Restore(args)) => snapshot::restore(&config, args, &cancel).await,
            Command::Kubernetes(KubernetesCommand::Objects(args)) => {
                kubernetes::objects(&config, args, cli.output, &cancel).await
            }
            Command::Kubernetes(KubernetesCommand::Diff(args)) => {
                kubernetes::diff(&config, args, cli.output, &cancel).await
            }
            Command::Kubernetes(KubernetesCommand::Plan(args)) => {
                kubernetes::plan(&config, args, cli.output, &cancel).await
            }
            Command::Kubernetes(KubernetesCommand::Restore(args)) => {
                kubernetes::restore(&config, args, cli.output, &cancel).await
            }
            Command::Verify(args) => verify::run(&config, args, cli.output, &cancel).await,
            Command::Status => {
                let status = daemon::status(&config.admin.socket);
                cancel.run_until_cancelled(status).await.unwrap_or_else(cancelled)
            }
            Command::Trigger(args) => {
                let trigger = daemon::trigger(&config.admin.socket, args, cli.output);
                cancel.run_until_cancelled(trigger).await.unwrap_or_else(cancelled)
            }
            Command::Reload => cancel.run_until_cancelled(daemon::reload(&config)).await.unwrap_or_else(cancelled),
            Command::Prune(args) => prune::prune(&config, args, cli.output, &cancel).await,
            Command::Delete(args) => delete::run(&config, args, cli.output, &cancel).await,
            Command::Undelete(args) => versions::undelete(&config, args, &cancel).await,
            Command::Hold(args) => versions::hold(&config, args, &cancel).await,
            Command::Stats(args) => stats::run(&config, args, &cancel).await,
            Command::Sweep(args) => sweep::run(&config, *args).await,
            Command::Validate(args) => validate::validate(&config, args, &cancel).await,
            Command::Policy(args) if args.kubernetes => roles::print(&config, args.service_account.as_ref()),
            Command::Policy(args) => validate::policy(&config, args),
            Command::Config(_) | Command::Completions { .. } | Command::Man { .. } | Command::Key(_) => {
                unreachable!("needs no session, and is handled before")
            }
        }
    });
    // A read of standard input cannot be interrupted: do not wait for a thread that is in one.
    runtime.shutdown_background();
    result
}

/// `status` shows the daemon, which goes on with its old configuration, also where the file has faults now.
fn without_config(cli: &Cli, faults: Failure) -> Result<Done, Failure> {
    let (Command::Status, Failure::Report(report)) = (&cli.command, &faults) else { return Err(faults) };
    let socket = config::Config::socket(&cli.config, &config::System);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::local("start the runtime", &error))?;
    // Where no daemon answers, the file is the trouble.
    let Ok(done) = runtime.block_on(daemon::status(&socket)) else { return Err(faults) };
    tracing::warn!(socket = %socket.display(), "the configuration file has faults; this is the daemon's status all the same: {}", report.message);
    Ok(done)
}

fn cancelled() -> Result<Done, Failure> {
    Err(Failure::Report(Report::new(Class::Cancelled, "stopped waiting for the daemon, which goes on")))
}

/// The first Ctrl-C or SIGTERM cancels, so that uploads are aborted; the second one ends the process at once.
fn cancel_on_signals(cancel: &CancellationToken) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::local("listen for signals", &error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let cancel = cancel.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if cancel.is_cancelled() {
                std::process::exit(Class::Cancelled.exit_code().into());
            }
            tracing::info!("stopping: aborting uploads in flight; a second signal ends the process at once");
            cancel.cancel();
        }
    });
    Ok(())
}
