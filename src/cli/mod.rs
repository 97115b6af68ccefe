//! Arguments in, exit code out.
//!
//! This is the one room that plugs the AWS adapter into the store port. Commands return what they have to say as a [`Done`]; only
//! [`output`] prints.

mod args;
mod backup;
mod help;
mod output;
mod pages;
mod progress;
mod prune;
mod read;
mod session;
mod snapshot;
mod stats;

use std::process::ExitCode;

use clap::Parser as _;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config;
use crate::error::{Class, Classify, Report};
use args::{Cli, Command, ConfigCommand, LogFormat, SnapshotCommand};
use output::Done;

/// EX_USAGE of clap and of every shell tool.
const USAGE: u8 = 2;

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

impl Failure {
    fn local(action: &str, error: &std::io::Error) -> Self {
        Self::Report(Report::new(Class::Local, format!("{action}: {error}")))
    }
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(&cli);
    let format = cli.output;
    let result = match cli.command {
        Command::Config(ConfigCommand::Example) => Ok(Done::text(config::example())),
        Command::Config(ConfigCommand::Schema) => Ok(Done::json(config::schema())),
        Command::Config(ConfigCommand::Check) => session::check(&cli.config),
        Command::Completions { shell } => Ok(pages::completions(shell)),
        Command::Man { folder } => pages::man(&folder),
        _ => run(cli),
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

fn run(cli: Cli) -> Result<Done, Failure> {
    let config = session::load(&cli.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::local("starting the runtime", &error))?;
    let cancel = CancellationToken::new();
    let result = runtime.block_on(async {
        cancel_on_signals(&cancel)?;
        match cli.command {
            Command::Backup(args) => backup::run(&config, &args, cli.output, &cancel).await,
            Command::List(args) => read::list(&config, &args).await,
            Command::Show(args) => read::show(&config, &args).await,
            Command::Restore(args) => read::restore(&config, &args, cli.output, &cancel).await,
            Command::Cat(args) => read::cat(&config, &args, &cancel).await,
            Command::Snapshot(SnapshotCommand::Restore(args)) => snapshot::restore(&config, &args, &cancel).await,
            Command::Verify(args) => read::verify(&config, &args, cli.output, &cancel).await,
            Command::Prune(args) => prune::prune(&config, &args, &cancel).await,
            Command::Delete(args) => prune::delete(&config, &args, &cancel).await,
            Command::Stats(args) => stats::run(&config, &args).await,
            Command::Config(_) | Command::Completions { .. } | Command::Man { .. } => {
                unreachable!("needs no session, and is handled before")
            }
        }
    });
    // A read of standard input cannot be interrupted: whoever is still in one is left behind.
    runtime.shutdown_background();
    result
}

/// The first Ctrl-C or SIGTERM cancels, so that uploads are aborted; the second one ends the process at once.
fn cancel_on_signals(cancel: &CancellationToken) -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| Failure::local("listening for signals", &error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let cancel = cancel.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if cancel.is_cancelled() {
                std::process::exit(Class::Cancelled.exit_code().into());
            }
            tracing::warn!("stopping: aborting what is in flight; once more to stop at once");
            cancel.cancel();
        }
    });
    Ok(())
}

fn log_to_stderr(cli: &Cli) {
    let level = match cli.verbose {
        0 => "warn,penstock=info",
        1 => "info,penstock=debug",
        2 => "debug",
        _ => "trace",
    };
    // The SDK logs whole requests, signatures included, at trace: those targets stay at debug whatever is asked.
    let filter =
        EnvFilter::new(format!("{level},aws_sigv4=info,aws_smithy_runtime=info,aws_runtime=info,hyper_util=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(progress::LogWriter::default);
    match cli.log_format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}
