//! Opens files without blocking, and waits for files that another process has a lease on.
//!
//! If a file has a lease (Samba, nfsd, `fcntl(F_SETLEASE)`), the kernel refuses an open that must not block, and asks the holder to release
//! the file. The holder has the kernel's lease-break time for that; then the kernel takes the lease away. So a refused open is repeated for
//! that time, with pauses, before it fails. All files of one source together are waited for at most [`PATIENCE`] times that long; after
//! that, each has one [`MOMENT`]. An interrupted open is repeated at once, and so is, once, an open that found a stale handle.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

/// Flags for a file that may be of any type: a fifo does not block the reader, and a terminal does not become its own.
pub(super) const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The kernel's default, used if the kernel's setting cannot be read.
const LEASE_BREAK_TIME: Duration = Duration::from_secs(45);

/// Time added to the kernel's, which counts in ticks and checks the lease only on the next open.
const MOMENT: Duration = Duration::from_secs(1);

/// How many files of a source have a moment: ten minutes in all, if no holder releases anything.
const MOMENTS: u32 = 600;

/// How many files may each use the whole time.
const PATIENCE: u32 = 10;

/// The pauses grow from the first to the longest: most holders answer within milliseconds. The longest also bounds how late a cancellation
/// is noticed.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Opens without changing the access time, if the file's owner and the file system allow that.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    match openat(directory, name, flags.union(OFlags::NOATIME), Mode::empty()) {
        Err(Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP) => openat(directory, name, flags, Mode::empty()),
        other => other,
    }
}

/// Why a file could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: Errno,
    /// How long the open was repeated.
    waited: Duration,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if self.error == Errno::AGAIN {
            let seconds = self.waited.as_secs_f64();
            write!(f, "; another process or client holds a lease on it and did not release it within {seconds:.1} s")?;
        }
        Ok(())
    }
}

/// How long one source waits for files with leases.
#[derive(Debug)]
pub(super) struct Patience {
    /// The time for one file; read from the kernel at the first use.
    limit: Option<Duration>,
    /// The time left for all files.
    left: Duration,
    /// How many more files have a [`MOMENT`] after that.
    moments: u32,
    stop: CancellationToken,
    sleep: fn(Duration),
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            limit: None,
            left: Duration::ZERO,
            moments: MOMENTS,
            stop: CancellationToken::new(),
            sleep: std::thread::sleep,
        }
    }
}

impl Patience {
    pub(super) fn stopped_by(&mut self, stop: CancellationToken) {
        self.stop = stop;
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Calls `open` until it succeeds, fails for another reason than a lease, or the time is over.
    pub(super) fn open<T>(&mut self, mut open: impl FnMut() -> Result<T, Errno>) -> Result<T, Refusal> {
        let (mut stale, mut waited, mut pause) = (false, Duration::ZERO, FIRST_PAUSE);
        let mut limit = None;
        loop {
            match open() {
                Ok(opened) => return Ok(opened),
                Err(Errno::INTR) if !self.is_cancelled() => {}
                Err(Errno::STALE) if !stale => stale = true,
                Err(Errno::AGAIN) if !self.is_cancelled() && waited < *limit.get_or_insert_with(|| self.limit()) => {
                    (self.sleep)(pause);
                    waited += pause;
                    self.left = self.left.saturating_sub(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(Refusal { error, waited }),
            }
        }
    }

    fn limit(&mut self) -> Duration {
        let limit = *self.limit.get_or_insert_with(|| {
            let limit = lease_break_time(std::fs::read_to_string("/proc/sys/fs/lease-break-time").ok().as_deref());
            self.left = limit * PATIENCE;
            limit
        });
        let moment = if self.moments > 0 { MOMENT } else { Duration::ZERO };
        self.moments = self.moments.saturating_sub(1);
        limit.min(self.left) + moment
    }
}

/// The kernel's setting, in seconds; 0 means no limit, which is too long.
fn lease_break_time(text: Option<&str>) -> Duration {
    let seconds = text.and_then(|text| text.trim().parse().ok()).filter(|seconds| (1..=3600).contains(seconds));
    seconds.map_or(LEASE_BREAK_TIME, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience() -> Patience {
        Patience {
            limit: Some(LEASE_BREAK_TIME),
            left: LEASE_BREAK_TIME * PATIENCE,
            moments: MOMENTS,
            stop: CancellationToken::new(),
            sleep: |_| (),
        }
    }

    #[test]
    fn a_lease_is_waited_for_and_other_errors_are_not() {
        let cases: [(&[Errno], Option<Errno>); 7] = [
            (&[], None),
            (&[Errno::AGAIN; 150], None),
            (&[Errno::AGAIN, Errno::NOENT], Some(Errno::NOENT)),
            (&[Errno::INTR; 1000], None),
            (&[Errno::STALE], None),
            (&[Errno::STALE, Errno::STALE], Some(Errno::STALE)),
            (&[Errno::ACCESS], Some(Errno::ACCESS)),
        ];
        for (answers, expected) in cases {
            let mut rest = answers.iter();
            let result = patience().open(|| rest.next().map_or(Ok(()), |error| Err(*error)));
            assert_eq!(result.err().map(|refusal| refusal.error), expected, "{answers:?}");
        }
    }

    #[test]
    fn the_time_for_one_file_and_for_all_of_them_is_bounded() {
        let mut patience = patience();
        let waited = |patience: &mut Patience| patience.open(|| Err::<(), _>(Errno::AGAIN)).unwrap_err();
        let first = waited(&mut patience);
        assert!((45.0..46.5).contains(&first.waited.as_secs_f64()), "{first:?}");
        assert!(first.to_string().ends_with("did not release it within 46.1 s"), "{first}");
        let all: Duration = (0..100).map(|_| waited(&mut patience).waited).sum();
        assert!(all < LEASE_BREAK_TIME * PATIENCE + MOMENT * 2 * 100, "{all:?}");
        assert!(waited(&mut patience).waited >= MOMENT);
    }

    #[test]
    fn nothing_is_waited_for_once_the_source_is_cancelled() {
        let mut patience = patience();
        let (stop, mut asked) = (patience.stop.clone(), 0);
        let refusal = patience.open(|| {
            asked += 1;
            if asked == 3 {
                stop.cancel();
            }
            Err::<(), _>(Errno::AGAIN)
        });
        assert_eq!((refusal.unwrap_err().error, asked), (Errno::AGAIN, 3));
    }

    #[test]
    fn the_kernels_time_is_believed_within_reason() {
        for (said, seconds) in [(None, 45), (Some("45\n"), 45), (Some("10\n"), 10), (Some("0\n"), 45), (Some("x"), 45)]
        {
            assert_eq!(lease_break_time(said), Duration::from_secs(seconds), "{said:?}");
        }
        assert_eq!(lease_break_time(Some("99999999999")), LEASE_BREAK_TIME);
    }
}
