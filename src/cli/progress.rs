//! Shows progress: a bar on a terminal, a log line every [`LOG_EVERY`] elsewhere. Writes log lines above the bar.

use std::io::{self, IsTerminal as _, Write};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::OutputFormat;

/// Between two log lines without a terminal.
const LOG_EVERY: Duration = Duration::from_secs(30);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// The bar on the terminal, if there is one.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Templates of a bar whose length is known, and of one whose length is not.
struct Style {
    known: &'static str,
    unknown: &'static str,
}

const BYTES: Style = Style {
    known: "{prefix} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {msg}",
    unknown: "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec} {elapsed} {msg}",
};

const OBJECTS: Style = Style {
    known: "{prefix} [{bar:30}] {human_pos}/{human_len} objects {per_sec} ETA {eta} {msg}",
    unknown: "{prefix} {spinner} {human_pos} objects {elapsed} {msg}",
};

const BACKUPS: Style = Style {
    known: "{prefix} [{bar:30}] {human_pos}/{human_len} backups {per_sec} ETA {eta} {msg}",
    unknown: "{prefix} {spinner} {human_pos} backups {elapsed} {msg}",
};

/// Runs `work` while showing `position` of `length` (0: unknown), both in bytes, and `message`.
pub(super) async fn shown<T>(
    format: OutputFormat,
    action: &'static str,
    state: impl Fn() -> (u64, u64, String),
    work: impl Future<Output = T>,
) -> T {
    run(format, action, &BYTES, state, work).await
}

/// The same, with position and length in objects.
pub(super) async fn objects<T>(
    format: OutputFormat,
    action: &'static str,
    state: impl Fn() -> (u64, u64, String),
    work: impl Future<Output = T>,
) -> T {
    run(format, action, &OBJECTS, state, work).await
}

/// The same, with position and length in backups.
pub(super) async fn backups<T>(
    format: OutputFormat,
    action: &'static str,
    state: impl Fn() -> (u64, u64, String),
    work: impl Future<Output = T>,
) -> T {
    run(format, action, &BACKUPS, state, work).await
}

async fn run<T>(
    format: OutputFormat,
    action: &'static str,
    style: &Style,
    state: impl Fn() -> (u64, u64, String),
    work: impl Future<Output = T>,
) -> T {
    let terminal = format == OutputFormat::Human && io::stderr().is_terminal();
    let bar = ProgressBar::with_draw_target(
        None,
        if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() },
    );
    let styled = |template| ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> ");
    bar.set_prefix(action);
    if terminal {
        *lock() = Some(bar.clone());
    }
    let mut ticks = tokio::time::interval(if terminal { DRAW_EVERY } else { LOG_EVERY });
    ticks.tick().await;
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ticks.tick() => {
                let (position, length, message) = state();
                bar.set_style(styled(if length > 0 { style.known } else { style.unknown }));
                if length > 0 {
                    bar.set_length(length.max(position));
                }
                bar.set_position(position);
                bar.set_message(message.clone());
                if !terminal {
                    tracing::info!(done = position, expected = length, "{action}: {message}");
                }
            }
        }
    };
    bar.finish_and_clear();
    *lock() = None;
    result
}

fn lock() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    BAR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Writes to standard error, and hides the bar meanwhile.
#[derive(Debug, Default)]
pub(super) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || io::stderr().write_all(bytes).map(|()| bytes.len());
        let bar = lock().clone();
        bar.map_or_else(write, |bar| bar.suspend(write))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
