//! Writes log lines to standard error: text or JSON, with span fields, at a level that the daemon may change.
//!
//! If standard error goes to the journal (`JOURNAL_STREAM`), each line begins with its priority, as in sd-daemon(3), and has
//! no time: the journal adds it.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt as log, reload};

use super::args::{Cli, LogFormat};
use super::progress::LogWriter;
use crate::config::LogLevel;

/// The SDK logs whole requests, signatures included, at trace: those targets stay at info at every level. kube logs each failed
/// request as an error; the caller decides whether it is one.
const ALWAYS_INFO: &str =
    "aws_sigv4=info,aws_smithy_runtime=info,aws_runtime=info,h2=info,hyper_util=info,kube_client=off";

/// Changes what is logged from now on.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    filter: reload::Handle<EnvFilter, Registry>,
    /// The level of `-v`; a configured level that logs less does not apply.
    asked: LogLevel,
}

impl Levels {
    pub(super) fn set(&self, level: LogLevel) {
        // Fails only if the subscriber is gone, and then there is no log.
        let _ = self.filter.reload(filter(level.max(self.asked)));
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,penstock=info",
        LogLevel::Debug => "info,penstock=debug",
        LogLevel::Trace => "debug,penstock=trace",
    };
    EnvFilter::new(format!("{level},{ALWAYS_INFO}"))
}

pub(super) fn start(cli: &Cli) -> Levels {
    let (asked, first) = match cli.verbose {
        0 => (LogLevel::Error, LogLevel::Info),
        1 => (LogLevel::Debug, LogLevel::Debug),
        _ => (LogLevel::Trace, LogLevel::Trace),
    };
    let (filter, handle) = reload::Layer::new(filter(first));
    let lines = log::layer().with_writer(LogWriter::default).with_ansi(false);
    let registry = tracing_subscriber::registry().with(filter);
    match (cli.log_format, is_journal()) {
        (LogFormat::Text, Ok(())) => {
            registry.with(lines.event_format(Prioritised(Format::default().with_target(false).without_time()))).init();
        }
        (LogFormat::Text, Err(())) => registry.with(lines.with_target(false)).init(),
        (LogFormat::Json, journal) => {
            let json = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            match journal {
                Ok(()) => registry.with(json.map_event_format(Prioritised)).init(),
                Err(()) => registry.with(json).init(),
            }
        }
    }
    Levels { filter: handle, asked }
}

/// Whether `JOURNAL_STREAM` names the present standard error, and not the one before a redirection.
fn is_journal() -> Result<(), ()> {
    let named = std::env::var("JOURNAL_STREAM").map_err(drop)?;
    let (device, inode) = named.split_once(':').ok_or(())?;
    let stderr = std::fs::metadata("/proc/self/fd/2").map_err(drop)?;
    let same = device.parse() == Ok(stderr.dev()) && inode.parse() == Ok(stderr.ino());
    if same { Ok(()) } else { Err(()) }
}

/// Puts the priority in front of each line: `<6>`.
struct Prioritised<F>(F);

/// The number of syslog(3).
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}
