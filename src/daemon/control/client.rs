//! The client of the control socket, for `penstock status`, `trigger` and `reload`.
//!
//! Every step has a time limit: a daemon that is stopped or hangs gives class timeout. If nobody listens, the class is not-found.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{ANSWER_WITHIN, Answer, MAX_ANSWER, Request};
use crate::error::{Class, Report};

/// Between two attempts while the queue of callers is full.
const CONNECT_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    stream: BufReader<tokio::io::Take<UnixStream>>,
    patience: Duration,
}

impl Client {
    /// Sends `request` to the daemon at `socket`.
    ///
    /// # Errors
    /// When nobody listens there, or nobody accepts the request in time.
    pub async fn send(socket: &Path, request: &Request) -> Result<Self, Report> {
        Self::send_within(socket, request, ANSWER_WITHIN).await
    }

    async fn send_within(socket: &Path, request: &Request, patience: Duration) -> Result<Self, Report> {
        let nobody = |error: io::Error| {
            let class = match error.kind() {
                io::ErrorKind::PermissionDenied => Class::AccessDenied,
                _ => Class::NotFound,
            };
            Report::new(class, format!("no daemon answers at {}: {error}", socket.display()))
                .remedy("start it with `penstock run`; only its own user and root may ask it")
        };
        let asking = async {
            let mut stream = connect(socket).await?;
            let line = serde_json::to_string(request)? + "\n";
            stream.write_all(line.as_bytes()).await?;
            Ok(stream)
        };
        let stream = timeout(patience, asking).await.map_err(|_| silent(socket, patience))?.map_err(nobody)?;
        Ok(Self { socket: socket.to_owned(), stream: BufReader::new(stream.take(MAX_ANSWER)), patience })
    }

    /// The next answer.
    ///
    /// # Errors
    /// When none comes in time, the daemon hangs up, or its answer cannot be read.
    pub async fn answer(&mut self) -> Result<Answer, Report> {
        let mut line = String::new();
        let ended = |why: String| {
            Report::new(Class::Transient, format!("could not read the daemon's answer: {why}"))
                .remedy("see the daemon's log: it may have been stopped")
        };
        let read = timeout(self.patience, self.stream.read_line(&mut line)).await;
        match read.map_err(|_| silent(&self.socket, self.patience))? {
            Ok(0) => Err(ended("it hung up".to_owned())),
            Ok(_) => {
                // The limit is for one answer, and a caller that waits gets many.
                self.stream.get_mut().set_limit(MAX_ANSWER);
                serde_json::from_str(&line).map_err(|error| ended(error.to_string()))
            }
            Err(error) => Err(ended(error.to_string())),
        }
    }
}

fn silent(socket: &Path, patience: Duration) -> Report {
    let (socket, seconds) = (socket.display(), patience.as_secs());
    Report::new(
        Class::Timeout,
        format!("the daemon at {socket} has not answered for {seconds} s: it is stopped, or hangs"),
    )
    .remedy("look at the process (`ps`: state T is stopped) and at its log; the daemon completes a run that has begun")
}

/// Waits while the queue of callers is full: a Unix socket reports that at once (`EAGAIN`).
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(CONNECT_EVERY).await,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{UnixListener, UnixSocket};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn no_listener_is_not_found_and_a_silent_one_is_a_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let missing = Client::send(&path, &Request::Status).await.unwrap_err();
        assert_eq!(missing.class, Class::NotFound, "{missing:?}");
        // A listener that accepts nobody, like that of a stopped process, with a queue for one caller.
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut client = Client::send_within(&path, &Request::Status, SHORT).await.unwrap();
        let silent = client.answer().await.unwrap_err();
        assert_eq!(silent.class, Class::Timeout, "{silent:?}");
        let full = Client::send_within(&path, &Request::Reload, SHORT).await.unwrap_err();
        assert_eq!(full.class, Class::Timeout, "{full:?}");
        drop(listener);
        let left = Client::send(&path, &Request::Status).await.unwrap_err();
        assert_eq!(left.class, Class::NotFound, "{left:?}");
    }

    #[tokio::test]
    async fn a_daemon_that_falls_silent_or_ends_while_a_caller_waits_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let request = Request::Trigger { job: "etcd".into() };
        let (client, caller) = tokio::join!(Client::send_within(&path, &request, SHORT), listener.accept());
        let (mut client, (mut caller, _)) = (client.unwrap(), caller.unwrap());
        caller.write_all(b"\"queued\"\n\"queued\"\n").await.unwrap();
        for _ in 0..2 {
            assert!(matches!(client.answer().await, Ok(Answer::Queued)));
        }
        assert_eq!(client.answer().await.unwrap_err().class, Class::Timeout);
        drop(caller);
        assert_eq!(client.answer().await.unwrap_err().class, Class::Transient);
    }
}
