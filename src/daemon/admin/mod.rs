//! The admin server: `/metrics`, `/healthz`, `/readyz`, `/api/v1/status` and a page, over HTTP/1.1, with TLS or without.
//!
//! Read-only: GET and HEAD. It asks nobody who they are, so `admin.listen` is the loopback address unless the operator says
//! otherwise. A caller can take [`CONNECTIONS`] × [`MAX_HEAD`] bytes of memory at most, and a slow one is cut off.

mod answer;
mod page;
mod tls;

use std::io;
use std::net::TcpListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Daemon;
use crate::config::Admin;
use crate::error::Class;
pub(super) use tls::Tls;

/// Connections at a time; the next ones wait in the kernel. Prometheus keeps one.
const CONNECTIONS: usize = 64;

/// Of a request's line and headers.
const MAX_HEAD: usize = 16 << 10;
const MAX_HEADERS: usize = 64;

/// For a request's head to arrive, and for the next one on a connection that is kept: more than the minute between two scrapes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is closed after this, between two requests where that is possible.
const LIFETIME: Duration = Duration::from_mins(15);
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// The listener that systemd passed (`LISTEN_FDS`), or one of our own.
pub(super) fn listen(config: &Admin) -> io::Result<StdListener> {
    let listener = match listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        Some(listener) => listener,
        None => StdListener::bind(config.listen)?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) async fn serve(listener: TcpListener, daemon: Arc<Daemon>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let daemon = Arc::clone(&daemon);
                tokio::spawn(async move {
                    let _permit = permit;
                    if let Err(error) = connection(socket, &daemon).await {
                        tracing::debug!("a caller of the admin server: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(class = %Class::Local, "the admin server cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, daemon: &Arc<Daemon>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    socket.set_nodelay(true)?;
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
