//! The control socket: `trigger`, `reload` and `status`, for the daemon's own user and root.
//!
//! One request on each connection, a line of JSON; the answer is one line, or for `trigger` several: `queued`, `progress` now
//! and then, `ended`. Whoever does not want to wait hangs up after `queued`.
//!
//! The socket appears with mode 0600, never with another first, and each caller's user is checked besides.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::Daemon;
use super::board::Refusal;
use super::status::{Failed, JobStatus, LastRun, RunningStatus, Status};
use crate::error::{Class, Report};

/// The longest request; a job's name has 64 bytes.
const MAX_REQUEST: u64 = 4 << 10;

/// The longest answer: the status of thousands of jobs.
const MAX_ANSWER: u64 = 64 << 20;

/// Callers at a time; the next ones wait.
const CALLERS: usize = 16;

/// For the request to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two lines of `progress`.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum Request {
    Status,
    Reload,
    Trigger { job: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Status(Box<Status>),
    Reloaded,
    Queued,
    Progress(RunningStatus),
    Ended(LastRun),
    Refused(Failed),
}

/// What the scheduler's loop is asked to do; it answers when it has done it.
#[derive(Debug)]
pub(super) enum Order {
    Reload(oneshot::Sender<Result<(), Report>>),
    Trigger(String, oneshot::Sender<Result<u64, Refusal>>),
}

/// Removes the socket's file when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Takes the place of a socket that an earlier process left behind; the state directory's lock says that none lives.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        // A folder of our own until the mode is right: nobody else can connect before.
        let own = tempfile::Builder::new().prefix(".penstock-").tempdir_in(folder)?;
        let first = own.path().join("s");
        let listener = UnixListener::bind(&first)?;
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&first, path)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    pub(super) async fn serve(self, daemon: Arc<Daemon>, orders: mpsc::Sender<Order>) {
        let room = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (daemon, orders) = (Arc::clone(&daemon), orders.clone());
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = serve(stream, &daemon, &orders).await {
                            tracing::debug!("a caller of the control socket: {error}");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors: others end.
                    tracing::warn!(class = %Class::Local, "the control socket cannot take a caller: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already where the folder is.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a caller may give orders: root may do anything anyway.
fn may_call(caller: u32, own: u32) -> Result<(), String> {
    if caller == own || caller == 0 { Ok(()) } else { Err(format!("user {caller} may not; user {own} or root may")) }
}

async fn serve(mut stream: UnixStream, daemon: &Daemon, orders: &mpsc::Sender<Order>) -> io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    if let Err(why) = may_call(caller, rustix::process::geteuid().as_raw()) {
        tracing::warn!(class = %Class::AccessDenied, "the control socket refused a caller: {why}");
        return send(&mut stream, &refused(Report::new(Class::AccessDenied, why))).await;
    }
    let mut line = String::new();
    let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    match serde_json::from_str(&line) {
        Ok(Request::Status) => {
            let status = Status::of(daemon, Timestamp::now());
            send(&mut stream, &Answer::Status(Box::new(status))).await
        }
        Ok(Request::Reload) => {
            let (answer, result) = oneshot::channel();
            let result = match orders.send(Order::Reload(answer)).await {
                Ok(()) => result.await.ok(),
                Err(_) => None,
            };
            let answer = match result {
                Some(Ok(())) => Answer::Reloaded,
                Some(Err(report)) => refused(report),
                None => refused(Report::new(Class::Busy, Refusal::Stopping.to_string())),
            };
            send(&mut stream, &answer).await
        }
        Ok(Request::Trigger { job }) => trigger(&mut stream, daemon, orders, job).await,
        Err(error) => {
            send(&mut stream, &refused(Report::new(Class::Config, format!("no such request: {error}")))).await
        }
    }
}

fn refused(report: Report) -> Answer {
    Answer::Refused(Failed { class: report.class.to_string(), message: report.message, remedy: report.remedy })
}

async fn trigger(
    stream: &mut UnixStream,
    daemon: &Daemon,
    orders: &mpsc::Sender<Order>,
    job: String,
) -> io::Result<()> {
    let (answer, result) = oneshot::channel();
    let sent = orders.send(Order::Trigger(job.clone(), answer)).await;
    let result = if sent.is_ok() { result.await.ok() } else { None };
    let ticket = match result.unwrap_or(Err(Refusal::Stopping)) {
        Ok(ticket) => ticket,
        Err(refusal) => {
            let class = match refusal {
                Refusal::Unknown(..) => Class::NotFound,
                Refusal::Runs(..) | Refusal::Stopping => Class::Busy,
            };
            return send(stream, &refused(Report::new(class, refusal.to_string()))).await;
        }
    };
    send(stream, &Answer::Queued).await?;
    loop {
        let Some((ended, status)) = daemon.job(&job) else {
            let gone = Report::new(Class::Cancelled, format!("job {job} left the configuration"));
            return send(stream, &refused(gone)).await;
        };
        let JobStatus { running, last, waiting_since, .. } = status;
        match (ended >= ticket, last, running, waiting_since) {
            (true, Some(last), ..) => return send(stream, &Answer::Ended(last)).await,
            (_, _, Some(running), _) => send(stream, &Answer::Progress(running)).await?,
            (_, _, None, Some(_)) => {}
            (_, _, None, None) => {
                let gone = Report::new(Class::Cancelled, "the daemon stopped before the run began");
                return send(stream, &refused(gone)).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PROGRESS_EVERY) => {}
            // A caller says nothing more: what can be read is its end.
            _ = stream.readable() => match stream.try_read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return Ok(()),
            },
        }
    }
}

async fn send(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// The other side: what `penstock status`, `trigger` and `reload` speak with.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<tokio::io::Take<UnixStream>>,
}

impl Client {
    /// Sends `request` to the daemon at `socket`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn send(socket: &Path, request: &Request) -> Result<Self, Report> {
        let failed = |error: io::Error| {
            let class = match error.kind() {
                io::ErrorKind::PermissionDenied => Class::AccessDenied,
                _ => Class::NotFound,
            };
            Report::new(class, format!("no daemon answers at {}: {error}", socket.display()))
                .remedy("start it with `penstock run`; only its own user and root may ask it")
        };
        let mut stream = UnixStream::connect(socket).await.map_err(failed)?;
        let line = serde_json::to_string(request).map_err(|error| failed(error.into()))? + "\n";
        stream.write_all(line.as_bytes()).await.map_err(failed)?;
        Ok(Self { stream: BufReader::new(stream.take(MAX_ANSWER)) })
    }

    /// The next answer.
    ///
    /// # Errors
    /// When the daemon hangs up or speaks another language.
    pub async fn answer(&mut self) -> Result<Answer, Report> {
        let mut line = String::new();
        let ended = |why: String| {
            Report::new(Class::Transient, format!("the daemon's answer ended: {why}"))
                .remedy("see the daemon's log: it may have been stopped")
        };
        match self.stream.read_line(&mut line).await {
            Ok(0) => Err(ended("it hung up".to_owned())),
            Ok(_) => serde_json::from_str(&line).map_err(|error| ended(error.to_string())),
            Err(error) => Err(ended(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_the_users_alone_and_takes_the_place_of_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/control.sock");
        let first = Socket::bind(&path).unwrap();
        // As a process that was killed leaves it.
        std::mem::forget(first);
        let second = Socket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).await.is_ok());
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else stays");
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn only_the_own_user_and_root_may_call() {
        assert!(may_call(1000, 1000).is_ok() && may_call(0, 1000).is_ok());
        assert_eq!(may_call(1001, 1000).unwrap_err(), "user 1001 may not; user 1000 or root may");
        assert!(may_call(1000, 0).is_err());
    }
}
