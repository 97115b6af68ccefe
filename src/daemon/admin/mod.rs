//! The admin server: `/metrics`, `/healthz`, `/readyz`, `/api/v1/status` and a page, over HTTP/1.1, with TLS or without.
//!
//! Read-only: GET and HEAD. It asks nobody who they are, so `admin.listen` is the loopback address unless the operator says
//! otherwise.
//!
//! - **Nobody is kept out**: a head and an answer have their time limits, and beyond [`CONNECTIONS`] the oldest connection is closed for
//!   the newest ([`Callers`]). Callers that ask and do not read cannot silence `/healthz`.
//! - **Cost**: [`CONNECTIONS`] × ([`MAX_HEAD`] bytes and one answer) of memory at most.

mod accept;
mod answer;
mod page;
mod patience;
mod tls;

use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::Daemon;
use super::callers::{Caller, Callers};
use crate::config::Admin;
use crate::error::{Class, Report};
use patience::Patience;
pub(super) use tls::Tls;

/// Connections at a time. Prometheus keeps one.
const CONNECTIONS: usize = 64;

/// Of a request's line and headers.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// For a request's head to arrive, and for the next one on a connection that is kept: more than the minute between two scrapes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// For the next byte of an answer to be taken.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection is closed after this, between two requests where that is possible.
const LIFETIME: Duration = Duration::from_mins(15);
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// The listener that systemd passed (`LISTEN_FDS`), or one of our own.
pub(super) fn listen(config: &Admin) -> Result<TcpListener, Report> {
    let bound = || {
        let listener = match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
            Some(listener) => listener,
            None => StdListener::bind(config.listen)?,
        };
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    bound().map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "another process listens there (`ss -ltnp` names it): end it, or choose another `admin.listen`"
            }
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this host has that address: choose another `admin.listen`"
            }
            io::ErrorKind::PermissionDenied => {
                "a port below 1024 needs CAP_NET_BIND_SERVICE: choose another `admin.listen`"
            }
            _ => "check `admin.listen`, or the socket unit that systemd passes",
        };
        Report::new(Class::Local, format!("listening on {}: {error}", config.listen)).remedy(remedy)
    })
}

pub(super) async fn serve(listener: TcpListener, daemon: Arc<Daemon>) {
    let callers = Callers::new("the admin server", CONNECTIONS);
    let accept = |context: &mut Context<'_>| listener.poll_accept(context).map_ok(|(socket, _)| socket);
    callers.serve(accept, |socket, place| caller(socket, place, Arc::clone(&daemon))).await;
}

async fn caller(socket: TcpStream, place: Caller, daemon: Arc<Daemon>) {
    tokio::select! {
        ended = connection(socket, &daemon) => if let Err(error) = ended {
            tracing::debug!("a caller of the admin server: {error}");
        },
        () = place.lost() => tracing::debug!("a caller of the admin server made room for a newer one"),
    }
}

async fn connection(socket: TcpStream, daemon: &Arc<Daemon>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    socket.set_nodelay(true)?;
    let socket = Patience::new(socket, WRITE_TIMEOUT);
    match daemon.tls.acceptor() {
        None => http(TokioIo::new(socket), daemon).await,
        Some(acceptor) => {
            let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await??;
            http(TokioIo::new(stream), daemon).await
        }
    }
}

async fn http<S: Read + Write + Unpin>(
    stream: S,
    daemon: &Arc<Daemon>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let answer = answer::answer(daemon, request.method(), request.uri().path(), request.headers());
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = &mut connection => return Ok(result?),
        () = tokio::time::sleep(LIFETIME) => connection.as_mut().graceful_shutdown(),
    }
    Ok(tokio::time::timeout(LAST_ANSWER, connection).await??)
}
