//! What the daemon does with a caller.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::super::Daemon;
use super::super::board::Refusal;
use super::super::callers::{Caller, Callers};
use super::super::state::Ended;
use super::super::status::Status;
use super::{Answer, MAX_REQUEST, OBEY_WITHIN, Order, PROGRESS_EVERY, Request, Socket};
use crate::error::{Class, Report};

/// Callers at a time that are asking or being answered.
const CALLERS: usize = 128;

/// Callers at a time that wait for a run to end; each costs a descriptor.
const WAITING: usize = 256;

/// For a request to arrive, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every caller is served with.
#[derive(Clone)]
struct Server {
    daemon: Arc<Daemon>,
    orders: mpsc::Sender<Order>,
    waiting: Arc<Semaphore>,
}

/// A run that the caller may wait for.
struct Queued {
    job: String,
    end: oneshot::Receiver<Ended>,
}

impl Socket {
    pub(in crate::daemon) async fn serve(self, daemon: Arc<Daemon>, orders: mpsc::Sender<Order>) {
        let server = Server { daemon, orders, waiting: Arc::new(Semaphore::new(WAITING)) };
        let callers = Callers::new("the control socket", CALLERS);
        let accept =
            |context: &mut std::task::Context<'_>| self.listener.poll_accept(context).map_ok(|(stream, _)| stream);
        callers.serve(accept, |stream, place| server.clone().caller(stream, place)).await;
    }
}

impl Server {
    async fn caller(self, mut stream: UnixStream, place: Caller) {
        let result = tokio::select! {
            answered = self.answer(&mut stream) => answered,
            () = place.lost() => Err(io::Error::other("it made room for a newer one")),
        };
        // Waiting for a run takes nobody's place.
        drop(place);
        let result = match result {
            Ok(Some(queued)) => self.wait(&mut stream, queued).await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!("a caller of the control socket: {error}");
        }
    }

    /// Reads the request and answers it; a run that was triggered is left to be waited for.
    async fn answer(&self, stream: &mut UnixStream) -> io::Result<Option<Queued>> {
        let caller = stream.peer_cred()?.uid();
        if let Err(why) = may_call(caller, rustix::process::geteuid().as_raw()) {
            tracing::warn!(class = %Class::AccessDenied, "the control socket refused a caller: {why}");
            send(stream, &Report::new(Class::AccessDenied, why).into()).await?;
            return Ok(None);
        }
        let mut line = String::new();
        let mut reader = BufReader::new((&mut *stream).take(MAX_REQUEST));
        timeout(PATIENCE, reader.read_line(&mut line)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        // As after a time in which this process was stopped: the caller has been told that nobody answers.
        if has_gone(stream)? {
            return Err(io::Error::other("it hung up before it was answered"));
        }
        let answer = match serde_json::from_str(&line) {
            Ok(Request::Status) => Answer::Status(Box::new(Status::of(&self.daemon, Timestamp::now()))),
            Ok(Request::Reload) => match self.obeyed(Order::Reload).await {
                Ok(Ok(())) => Answer::Reloaded,
                Ok(Err(report)) | Err(report) => report.into(),
            },
            Ok(Request::Trigger { job }) => match self.obeyed(|answer| Order::Trigger(job.clone(), answer)).await {
                Ok(Ok(end)) => {
                    send(stream, &Answer::Queued).await?;
                    return Ok(Some(Queued { job, end }));
                }
                Ok(Err(refusal)) => refused(&refusal).into(),
                Err(report) => report.into(),
            },
            Err(error) => Report::new(Class::Config, format!("no such request: {error}")).into(),
        };
        send(stream, &answer).await?;
        Ok(None)
    }

    /// What the scheduler answers to an order, in time.
    async fn obeyed<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Report> {
        let (answer, result) = oneshot::channel();
        let order = order(answer);
        let obeyed = async {
            self.orders.send(order).await.ok()?;
            result.await.ok()
        };
        match timeout(OBEY_WITHIN, obeyed).await {
            Ok(Some(result)) => Ok(result),
            Ok(None) => Err(refused(&Refusal::Stopping)),
            Err(_) => {
                let seconds = OBEY_WITHIN.as_secs();
                let message = format!("the daemon's scheduler has not taken the order for {seconds} s");
                Err(Report::new(Class::Timeout, message).remedy(
                    "it is not obeyed later, unless it has begun; see the daemon's log and /healthz, and ask again",
                ))
            }
        }
    }

    async fn wait(&self, stream: &mut UnixStream, queued: Queued) -> io::Result<()> {
        let Queued { job, mut end } = queued;
        let Ok(_permit) = self.waiting.try_acquire() else {
            let message = format!("{job} is queued, and {WAITING} callers wait for runs already: no more may");
            let report = Report::new(Class::Busy, message).remedy("`penstock status` shows how it goes");
            return send(stream, &report.into()).await;
        };
        loop {
            tokio::select! {
                biased;
                ended = &mut end => {
                    let answer = ended.map_or_else(|_| self.never_began(&job).into(), |ended| Answer::Ended((&ended).into()));
                    return send(stream, &answer).await;
                }
                // A caller says nothing more: what can be read is its end.
                _ = stream.readable() => match stream.try_read(&mut [0; 1]) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    _ => return Ok(()),
                },
                () = tokio::time::sleep(PROGRESS_EVERY) => {
                    let progress = self.daemon.progress(&job);
                    send(stream, &progress.map_or(Answer::Queued, Answer::Progress)).await?;
                }
            }
        }
    }

    fn never_began(&self, job: &str) -> Report {
        let why = if self.daemon.stop.is_cancelled() {
            "the daemon stopped before the run began".to_owned()
        } else {
            format!("job {job} left the configuration before its run began")
        };
        Report::new(Class::Cancelled, why)
    }
}

fn refused(refusal: &Refusal) -> Report {
    let class = match refusal {
        Refusal::Unknown(..) => Class::NotFound,
        Refusal::Runs(..) | Refusal::Stopping => Class::Busy,
    };
    Report::new(class, refusal.to_string())
}

/// Whether a caller may give orders: root may do anything anyway.
fn may_call(caller: u32, own: u32) -> Result<(), String> {
    if caller == own || caller == 0 { Ok(()) } else { Err(format!("user {caller} may not; user {own} or root may")) }
}

/// Whether the caller has closed its end, and not only stopped sending.
fn has_gone(stream: &UnixStream) -> io::Result<bool> {
    let mut ends = [PollFd::new(stream, PollFlags::empty())];
    rustix::event::poll(&mut ends, Some(&Timespec::default()))?;
    Ok(ends[0].revents().contains(PollFlags::HUP))
}

async fn send(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_user_and_root_may_call() {
        assert!(may_call(1000, 1000).is_ok() && may_call(0, 1000).is_ok());
        assert_eq!(may_call(1001, 1000).unwrap_err(), "user 1001 may not; user 1000 or root may");
        assert!(may_call(1000, 0).is_err());
    }

    #[tokio::test]
    async fn a_caller_that_only_stops_sending_has_not_gone() {
        let (near, mut far) = UnixStream::pair().unwrap();
        assert!(!has_gone(&near).unwrap());
        far.write_all(b"a line\n").await.unwrap();
        far.shutdown().await.unwrap();
        assert!(!has_gone(&near).unwrap());
        drop(far);
        assert!(has_gone(&near).unwrap());
    }
}
