//! A command's standard output as a stream.
//!
//! # What it promises
//! The exit code decides: the stream ends without an error only if the command exited with 0 and all of its output was read. Otherwise
//! the error says how the command ended and quotes the end of its standard error, whose lines are also logged at debug. A command that
//! exited with 0 but wrote nothing fails too, unless that is allowed.
//!
//! # What the command leaves behind
//! A process that the command started may keep its standard output open after the command has exited. If the command failed, the stream
//! ends at once. If it exited with 0, the stream goes on for [`GRACE`], ends with the bytes that are in the pipe then, warns with the
//! name of that process, and ends the rest of the group as if it were cancelled. A process that keeps only standard error open is not
//! waited for.
//!
//! # What it costs
//! A pipe of 1 MiB in the kernel. No thread: one `poll` waits for output, standard error, the exit and the cancellation. Standard error
//! is drained only while the stream is read, so a command blocks if nobody reads.
//!
//! # Cancellation
//! The command leads a process group. Cancelling interrupts a blocked `read` and sends SIGTERM to the group, then SIGKILL when the
//! command has exited and nobody keeps its output open, at the latest after [`GRACE`]. Dropping the source before its end does the same.
//! A process that left the group is not ended.
//!
//! Needs Linux 5.3 (`pidfd_open`).

mod holders;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionread};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid};
use tokio_util::sync::CancellationToken;

use super::cancel::Cancel;
use super::{Empty, Error, Source, Warning};

/// How long a command may take to stop after SIGTERM, and how long other processes may keep its output open after it exited.
/// Kubernetes gives a pod 30 s for everything.
const GRACE: Duration = Duration::from_secs(5);

/// The largest pipe that an unprivileged process may ask for (`/proc/sys/fs/pipe-max-size`).
const PIPE_SIZE: usize = 1 << 20;

/// How many bytes of standard error an error quotes; also the longest line that is logged whole.
const TAIL: usize = 4 << 10;

/// A running command's stream.
#[derive(Debug)]
pub struct CommandSource {
    argv: Vec<String>,
    child: Child,
    group: Pid,
    /// Readable once the child has exited. The child is reaped only at the end, so that no other process gets the
    /// group's number.
    exit: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Stderr,
    cancel: Cancel,
    grace: Duration,
    state: State,
    /// `Allowed` after the first byte.
    empty: Empty,
    /// Bytes in the pipe that are read before the stream ends.
    owed: u64,
    /// Bytes that other processes wrote after the command exited.
    late: u64,
    warnings: Vec<Warning>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Exited with 0; other processes may write until this time.
    Exited(Instant),
    /// That time is over: only the bytes already in the pipe are read.
    Closing,
    Reaped,
}

/// The descriptors that `poll` reported.
#[derive(Debug, Clone, Copy)]
struct Ready {
    stdout: bool,
    exit: bool,
}

impl CommandSource {
    /// Starts `argv`, with nothing on its standard input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(argv: &[String], empty: Empty, cancel: CancellationToken) -> Result<Self, Error> {
        let Some((program, arguments)) = argv.split_first() else {
            return Err(Error::Invalid("the command's argv is empty; expected a program and its arguments".to_owned()));
        };
        let failed = |error: io::Error| Error::Command {
            argv: argv.to_vec(),
            outcome: format!("could not be started: {error}"),
            stderr: String::new(),
        };
        let cancel = Cancel::new(cancel).map_err(|error| failed(error.into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let group = Pid::from_child(&child);
        let exit = match pidfd_open(group, PidfdFlags::empty()) {
            Ok(exit) => exit,
            Err(error) => {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait();
                return Err(failed(error.into()));
            }
        };
        let stdout = child.stdout.take().map(OwnedFd::from);
        if let Some(stdout) = &stdout {
            // A smaller pipe works too, with more wake-ups.
            let _ = rustix::pipe::fcntl_setpipe_size(stdout, PIPE_SIZE);
        }
        let stderr = Stderr::new(child.stderr.take().map(OwnedFd::from), program);
        let argv = argv.to_vec();
        let (grace, state, warnings) = (GRACE, State::Running, Vec::new());
        Ok(Self { argv, child, group, exit, stdout, stderr, cancel, grace, state, empty, owed: 0, late: 0, warnings })
    }

    /// Waits until there is something to do, and drains standard error meanwhile.
    fn wait(&mut self, timeout: Option<Duration>) -> Ready {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let (stdout, stderr) = (self.stdout.as_ref(), self.stderr.pipe.as_ref());
        // The cancellation's descriptor takes the place of one that is not polled, so that the positions stay the same.
        let cancel = self.cancel.event();
        let exit = if self.state == State::Running { &self.exit } else { cancel };
        let mut fds = [
            PollFd::new(cancel, PollFlags::IN),
            PollFd::new(exit, PollFlags::IN),
            PollFd::new(stdout.unwrap_or(cancel), PollFlags::IN),
            PollFd::new(stderr.unwrap_or(cancel), PollFlags::IN),
        ];
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // Interrupted: the caller polls again. `poll` cannot fail otherwise with open descriptors.
            return Ready { stdout: false, exit: false };
        }
        let [_, exit, out, err] = fds.map(|fd| !fd.revents().is_empty());
        let ready = Ready { stdout: out && stdout.is_some(), exit: exit && self.state == State::Running };
        if err && stderr.is_some() {
            self.stderr.drain_once();
        }
        ready
    }

    /// How the command, which has exited, ended; `None` for status 0.
    fn outcome(&self) -> Option<String> {
        match waitid(WaitId::Pid(self.group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(0), _) => None,
                (Some(code), _) => Some(format!("exited with status {code}")),
                (None, Some(signal)) => Some(format!("was killed by signal {signal}")),
                (None, None) => Some("ended with an unknown status".to_owned()),
            },
            Ok(None) => Some("has not exited".to_owned()),
            Err(error) => Some(format!("ended, but its exit status could not be read: {error}")),
        }
    }

    fn failure(&mut self, outcome: String) -> Error {
        self.kill();
        Error::Command { argv: self.argv.clone(), outcome, stderr: self.stderr_tail() }
    }

    fn stderr_tail(&mut self) -> String {
        // The command's own output is in the pipe; a process that left the group may write without end.
        for _ in 0..PIPE_SIZE / TAIL {
            if !self.stderr.is_ready() {
                break;
            }
            self.stderr.drain_once();
        }
        self.stderr.finish();
        self.stderr.text()
    }

    /// How many bytes are in the pipe.
    fn in_pipe(&self) -> u64 {
        self.stdout.as_ref().and_then(|stdout| ioctl_fionread(stdout).ok()).unwrap_or(0)
    }

    fn count(&mut self, length: usize) -> usize {
        self.empty = Empty::Allowed;
        let owed = self.owed.min(length as u64);
        self.owed -= owed;
        if self.state != State::Running {
            self.late += length as u64 - owed;
        }
        length
    }

    /// Ends the stream after the command exited with 0 and all of its output was read.
    fn end(&mut self) -> Result<usize, Error> {
        self.reap();
        let stderr = self.stderr_tail();
        match self.empty {
            Empty::Refused => Err(Error::Silent { argv: self.argv.clone(), stderr }),
            Empty::Allowed => Ok(0),
        }
    }

    /// Ends a stream that another process keeps open.
    fn end_early(&mut self) -> Result<usize, Error> {
        let holder = self.stdout.as_ref().map(holders::of).unwrap_or_default();
        let late = match self.late {
            0 => String::new(),
            late => format!(", with {late} bytes written after the exit; later bytes are lost"),
        };
        let message = format!(
            "the command has exited, but {grace:?} later {holder} still had its standard output open: the stream ends here{late}; \
             make the command wait for the processes it starts, or redirect their output",
            grace = self.grace,
        );
        self.warnings.push(Warning { path: PathBuf::from(&self.argv[0]), message });
        self.stop();
        self.end()
    }

    /// Asks the whole group to end, waits, and kills the rest.
    fn stop(&mut self) {
        if self.state == State::Reaped {
            return;
        }
        let _ = kill_process_group(self.group, Signal::TERM);
        let deadline = Instant::now() + self.grace;
        let mut discarded = vec![0; 64 << 10];
        self.cancel.silence();
        while self.state == State::Running || self.stdout.is_some() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let ready = self.wait(Some(left));
            if ready.exit {
                self.state = State::Closing;
            }
            if ready.stdout && !matches!(self.read_stdout(&mut discarded), Ok(1..)) {
                self.stdout = None;
            }
        }
        self.kill();
    }

    /// Kills what is left of the group, and reaps the command.
    fn kill(&mut self) {
        if self.state != State::Reaped {
            let _ = kill_process_group(self.group, Signal::KILL);
            self.reap();
        }
    }

    fn reap(&mut self) {
        let _ = self.child.wait();
        self.state = State::Reaped;
    }

    fn read_stdout(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Some(stdout) = &self.stdout else { return Ok(0) };
        loop {
            match rustix::io::read(stdout, &mut *buffer) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }
}

impl Source for CommandSource {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if buffer.is_empty() || self.state == State::Reaped {
            return Ok(0);
        }
        loop {
            if self.cancel.is_cancelled() {
                self.stop();
                return Err(Error::Cancelled);
            }
            if self.state != State::Running && self.stdout.is_none() {
                return self.end();
            }
            let left = match self.state {
                State::Running => None,
                State::Exited(until) => Some(until.saturating_duration_since(Instant::now())),
                State::Closing | State::Reaped => Some(Duration::ZERO),
            };
            let ready = self.wait(left);
            if self.cancel.is_cancelled() {
                continue;
            }
            if ready.exit {
                match self.outcome() {
                    None => (self.state, self.owed) = (State::Exited(Instant::now() + self.grace), self.in_pipe()),
                    Some(outcome) => return Err(self.failure(outcome)),
                }
            }
            if self.owed == 0 && left.is_some_and(|left| left.is_zero()) {
                let in_pipe = self.in_pipe();
                match self.state {
                    State::Exited(_) if in_pipe > 0 => {
                        (self.state, self.owed) = (State::Closing, in_pipe);
                        self.late += in_pipe;
                    }
                    // Readable without a byte: nobody has the pipe open any more.
                    _ if ready.stdout && in_pipe == 0 => {}
                    _ => return self.end_early(),
                }
            }
            if ready.stdout {
                match self.read_stdout(buffer) {
                    Ok(0) => self.stdout = None,
                    Ok(length) => return Ok(self.count(length)),
                    Err(error) => return Err(self.failure(format!("wrote output that could not be read: {error}"))),
                }
            }
        }
    }

    fn take_warnings(&mut self) -> Vec<Warning> {
        std::mem::take(&mut self.warnings)
    }
}

impl Drop for CommandSource {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Standard error: logs each line and keeps the last [`TAIL`] bytes.
#[derive(Debug)]
struct Stderr {
    pipe: Option<OwnedFd>,
    program: String,
    tail: VecDeque<u8>,
    line: Vec<u8>,
}

impl Stderr {
    fn new(pipe: Option<OwnedFd>, program: &str) -> Self {
        Self { pipe, program: program.to_owned(), tail: VecDeque::new(), line: Vec::new() }
    }

    fn is_ready(&self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1))
    }

    /// Reads once; the pipe must be ready.
    fn drain_once(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let mut buffer = [0; TAIL];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(length @ 1..) => self.push(&buffer[..length]),
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        for byte in bytes {
            if *byte == b'\n' || self.line.len() == TAIL {
                self.log();
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }

    fn log(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        tracing::debug!(command = self.program, "stderr: {line}");
        self.line.clear();
    }

    fn finish(&mut self) {
        if !self.line.is_empty() {
            self.log();
        }
    }

    fn text(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}

#[cfg(test)]
mod tests;
