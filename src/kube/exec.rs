//! Runs a command in a container: a WebSocket on the connection of the request, with Kubernetes' protocol of channels in it.
//!
//! Each message is a channel's number and bytes of it: 1 and 2 are the command's output, 3 is a Status that says how it ended. The API
//! server passes them on from the kubelet. Only the end of the output is kept, and a message has at most [`MAX_MESSAGE`] bytes.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use hyper::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use super::answer::{Received, header};
use super::request::{Asking, asked, encoded, get};
use super::{Client, failure};
use crate::cluster::classify::{Asked, unexpected};
use crate::cluster::{Exec, Executed, Failure, MAX_OUTPUT, Resource, Scope};
use crate::error::Class;

/// Every server since 1.4 has it; the next one only adds an end to the input.
pub(super) const PROTOCOL: &str = "v4.channel.k8s.io";

/// A kubelet sends at most 32 KiB at a time.
const MAX_MESSAGE: usize = 1 << 20;

/// Keeps a connection whose command writes nothing alive: its answer counts as a byte ([`super::READ`]), for proxies in between too.
const PING: Duration = Duration::from_secs(25);

/// The longest reason that is passed on.
const MAX_REASON: usize = 400;

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    message: String,
}

impl Client {
    pub(super) async fn execute(&self, exec: &Exec<'_>) -> Result<Executed, Failure> {
        let pods = Resource::core("pods", "Pod", Scope::Namespaced);
        let path = format!("{}/{}/exec", pods.path(Some(exec.namespace)), encoded(exec.pod));
        // Servers before 1.35 ask for the right to `get`, since a WebSocket begins with a GET.
        let asked = Asked { verb: "create", resource: "pods/exec", namespace: Some(exec.namespace), ..asked(&path) };
        let mut uri = format!("{path}?stdout=true&stderr=true&container={}", encoded(exec.container));
        for word in exec.command {
            uri.extend(["&command=", &encoded(word)]);
        }
        let key = generate_key();
        // A server refuses to answer this request in JSON (406).
        let request = Asking { accept: "*/*", upgrade: Some(key.clone()), ..get(&uri) };
        let received = self.send(&asked, request).await?;
        let mut socket = upgraded(received, &asked, &key).await?;
        let ended = watch(&mut socket, &asked).await;
        // The answer is here, or will not come.
        let _ = socket.close(None).await;
        ended
    }
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn upgraded(received: Received, asked: &Asked<'_>, key: &str) -> Result<Socket, Failure> {
    let Received { response, trust } = received;
    let (status, headers) = (response.status(), response.headers());
    let accepted = header(headers, SEC_WEBSOCKET_ACCEPT.as_str()) == Some(derive_accept_key(key.as_bytes()).as_str());
    let protocol = header(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
    if status != StatusCode::SWITCHING_PROTOCOLS || !accepted || protocol != Some(PROTOCOL) {
        return Err(unexpected(asked, status.as_u16(), "the answer does not open a WebSocket for commands"));
    }
    let upgraded = hyper::upgrade::on(response).await;
    let upgraded = upgraded.map_err(|error| failure::transport(asked, &error, &trust))?;
    let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(limits)).await)
}

/// Reads until the command has ended.
async fn watch(socket: &mut Socket, asked: &Asked<'_>) -> Result<Executed, Failure> {
    let broken = |why: String| {
        Failure::from(asked.error(Class::Transient, format!("the connection ended before the command did: {why}")))
    };
    let mut tail = Vec::new();
    let mut ping = tokio::time::interval(PING);
    ping.reset();
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = ping.tick() => {
                let sent = socket.send(Message::Ping(bytes::Bytes::new())).await;
                sent.map_err(|error| broken(error.to_string()))?;
                continue;
            }
        };
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(_))) | None => return Err(broken("it was closed".to_owned())),
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(broken(error.to_string())),
        };
        match bytes.split_first() {
            Some((1 | 2, output)) => keep_end(&mut tail, output),
            Some((3, status)) => {
                let status: Status = serde_json::from_slice(status)
                    .map_err(|_| unexpected(asked, 101, "the command's end is not a Status"))?;
                let failure = (status.status != "Success").then(|| reason(&status.message));
                return Ok(Executed { failure, output: String::from_utf8_lossy(&tail).into_owned() });
            }
            Some(_) | None => {}
        }
    }
}

fn keep_end(tail: &mut Vec<u8>, output: &[u8]) {
    tail.extend_from_slice(&output[output.len().saturating_sub(MAX_OUTPUT)..]);
    let surplus = tail.len().saturating_sub(MAX_OUTPUT);
    tail.drain(..surplus);
}

fn reason(message: &str) -> String {
    let text: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect();
    if text.is_empty() { "the server does not say why".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let mut tail = Vec::new();
        keep_end(&mut tail, b"first");
        keep_end(&mut tail, &vec![b'x'; 3 * MAX_OUTPUT]);
        assert_eq!(tail, vec![b'x'; MAX_OUTPUT]);
        keep_end(&mut tail, b"last");
        assert!(tail.len() == MAX_OUTPUT && tail.ends_with(b"xlast"));
    }
}
