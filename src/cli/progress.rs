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

/// The message comes last, cut at the terminal's edge: a line that wraps is drawn anew instead of over itself.
const BYTES: Style = Style {
    known: "{prefix} [{bar:10}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}",
    unknown: "{prefix} {spinner} {binary_bytes} {binary_bytes_per_sec} {elapsed} {wide_msg}",
};

const OBJECTS: Style = Style {
    known: "{prefix} [{bar:10}] {human_pos}/{human_len} objects {per_sec} ETA {eta} {wide_msg}",
    unknown: "{prefix} {spinner} {human_pos} objects {elapsed} {wide_msg}",
};

const BACKUPS: Style = Style {
    known: "{prefix} [{bar:10}] {human_pos}/{human_len} backups {per_sec} ETA {eta} {wide_msg}",
    unknown: "{prefix} {spinner} {human_pos} backups {elapsed} {wide_msg}",
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
                show(&bar, style, position, length, message.clone());
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

fn show(bar: &ProgressBar, style: &Style, position: u64, length: u64, message: String) {
    let template = if length > 0 { style.known } else { style.unknown };
    bar.set_style(ProgressStyle::with_template(template).expect("a constant template").progress_chars("=> "));
    if length > 0 {
        bar.set_length(length.max(position));
    }
    bar.set_position(position);
    bar.set_message(message);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::*;

    /// A terminal of 80 columns that keeps what is written.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)?;
            self.write_str("\n")
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write_str("\n")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_is_wide() {
        let message =
            "123.45 GiB sent, 12345678 entries, 3 of 12 volumes, 1 failed, saving shop/a-claim-with-a-long-name";
        for (style, most) in [(&BYTES, 1 << 46), (&OBJECTS, 1_000), (&BACKUPS, 1_000)] {
            for (position, length) in [(0, most), (most / 3, most), (most, most), (most, 0)] {
                let terminal = Terminal::default();
                let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
                let bar = ProgressBar::with_draw_target(None, target);
                bar.set_prefix("restore");
                show(&bar, style, position, length, message.to_owned());
                bar.force_draw();
                let drawn = terminal.0.lock().unwrap().clone();
                let longest = drawn.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0);
                assert!((20..=80).contains(&longest), "{longest}: {drawn:?}");
            }
        }
    }
}
