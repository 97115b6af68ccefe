//! What systemd is told. Without `NOTIFY_SOCKET` nothing is.
//!
//! `READY=1` comes when every location's credentials have been tried, whatever came of it (docs/decisions/0027); until then the
//! start-up's time limit is put off. From then on `STATUS=` says what `/readyz` objects to. `WATCHDOG=1` is sent by the scheduler's own loop: one that hangs sends none.

use std::time::Duration;

use sd_notify::NotifyState;

/// By this much the time limit of the start-up is put off with each [`Systemd::progress`]: several heartbeats.
const EXTEND: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Up,
    Stopping,
}

#[derive(Debug)]
pub(super) struct Systemd {
    phase: Phase,
    status: String,
}

impl Systemd {
    pub(super) const fn new() -> Self {
        Self { phase: Phase::Starting, status: String::new() }
    }

    /// How often [`Systemd::progress`] must come, at least.
    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 3)
    }

    pub(super) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    /// The scheduler has come round. `tried`: every location's credentials have been. `Err` is what `/readyz` says.
    pub(super) fn progress(&mut self, tried: bool, ready: Result<(), String>, runs: impl FnOnce() -> String) {
        let mut news = vec![NotifyState::Watchdog];
        if self.phase == Phase::Starting && tried {
            self.phase = Phase::Up;
            match &ready {
                Ok(()) => tracing::info!("ready"),
                Err(why) => tracing::warn!("up, but not ready: {why}"),
            }
            news.push(NotifyState::Ready);
        }
        let status = match (self.phase, ready) {
            (Phase::Starting, ready) => {
                news.push(NotifyState::ExtendTimeoutUsec(u32::try_from(EXTEND.as_micros()).unwrap_or(u32::MAX)));
                format!("waiting: {}", ready.err().unwrap_or_default())
            }
            (Phase::Up | Phase::Stopping, Ok(())) => runs(),
            (Phase::Up | Phase::Stopping, Err(why)) => format!("{}; not ready: {why}", runs()),
        };
        let status = status.replace('\n', " ");
        if self.status != status {
            self.status = status;
            news.push(NotifyState::Status(&self.status));
        }
        notify(&news);
    }

    pub(super) fn reloading() {
        // systemd compares the time with that of its own clock, so the two belong together.
        notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0))]);
    }

    /// The reload is over, whether the file was good or not.
    pub(super) fn reloaded(&self) {
        if self.phase == Phase::Up {
            notify(&[NotifyState::Ready]);
        }
    }

    pub(super) fn stopping(&mut self) {
        self.phase = Phase::Stopping;
        notify(&[NotifyState::Stopping]);
    }
}

fn notify(news: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::debug!("systemd could not be told: {error}");
    }
}
