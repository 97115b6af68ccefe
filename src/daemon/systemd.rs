//! Notifies systemd of the daemon's state. Does nothing without `NOTIFY_SOCKET`.
//!
//! Sends `READY=1` when the daemon has tried every location's credentials, valid or not (docs/decisions/0027), and extends the
//! start-up's time limit until then. After that `STATUS=` gives the objections of `/readyz`. The scheduler's loop sends `WATCHDOG=1`: a loop that hangs sends none.

use std::time::Duration;

use sd_notify::NotifyState;

/// Each [`Systemd::progress`] extends the start-up's time limit by this: several heartbeats.
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

    /// The longest time between two calls of [`Systemd::progress`].
    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|limit| limit / 3)
    }

    pub(super) fn is_starting(&self) -> bool {
        self.phase == Phase::Starting
    }

    /// Reports one round of the scheduler. `tried`: every location's credentials have been tried. `Err` in `ready` is the answer of `/readyz`.
    pub(super) fn progress(&mut self, tried: bool, ready: Result<(), String>, runs: impl FnOnce() -> String) {
        let mut news = vec![NotifyState::Watchdog];
        if self.phase == Phase::Starting && tried {
            self.phase = Phase::Up;
            match &ready {
                Ok(()) => tracing::info!("the daemon is ready"),
                Err(why) => tracing::warn!("the daemon is up, but not ready: {why}"),
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
        // systemd accepts `RELOADING=1` only with the time of the monotonic clock.
        notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0))]);
    }

    /// Reports the end of a reload, whether the file was valid or not.
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
        tracing::debug!(%error, "could not notify systemd");
    }
}
