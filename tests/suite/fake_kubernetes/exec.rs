//! Commands in pods: the WebSocket of `pods/exec`, with Kubernetes' protocol of channels.

use std::sync::{Arc, Mutex};

use futures_util::SinkExt as _;
use hyper::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::uri::percent;
use super::{Reply, State, answer, body, missing, refusal};
use crate::servers::Seen;

/// A command that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Command {
    /// `NAMESPACE/NAME`.
    pub(crate) pod: String,
    pub(crate) container: String,
    pub(crate) argv: Vec<String>,
}

/// What it writes and how it ends: an exit code, or `None` if it never does.
pub(crate) type Script = Arc<dyn Fn(&Command) -> (String, Option<u8>) + Send + Sync>;

fn command(request: &Seen) -> Command {
    let (path, query) = request.uri.split_once('?').unwrap();
    let parts: Vec<String> = path.split('/').map(percent).collect();
    let values = |key: &str| {
        let of_key = |pair: &str| pair.strip_prefix(key)?.strip_prefix('=').map(percent);
        query.split('&').filter_map(of_key).collect::<Vec<_>>()
    };
    Command {
        pod: format!("{}/{}", parts[4], parts[6]),
        container: values("container").concat(),
        argv: values("command"),
    }
}

impl State {
    /// Opens the WebSocket of a command; [`serve`] does the rest.
    pub(super) fn open(&self, account: Option<&str>, namespace: &str, name: &str, request: &Seen) -> Reply {
        for verb in ["get", "create"] {
            if let Some(user) = account.filter(|user| !self.may(user, verb, "", "pods/exec", Some(namespace))) {
                let message = format!(
                    "pods {name:?} is forbidden: User {user:?} cannot {verb} resource \"pods/exec\" in API group \"\" in the namespace {namespace:?}"
                );
                return answer(403, &refusal(403, "Forbidden", &message));
            }
        }
        // A real server has no other form of this answer.
        if request.header("accept").is_some_and(|accept| accept != "*/*") {
            let message = "only the following media types are accepted: */*";
            return answer(406, &refusal(406, "NotAcceptable", message));
        }
        let kind = self.kinds.iter().find(|kind| kind.plural == "pods").unwrap();
        let Some(pod) = self.objects.get("pods").and_then(|pods| pods.get(&format!("{namespace}/{name}"))) else {
            return missing(kind, name);
        };
        let wanted = command(request).container;
        if !pod["spec"]["containers"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == *wanted)) {
            let message = format!("container {wanted} is not valid for pod {name}");
            return answer(400, &refusal(400, "BadRequest", &message));
        }
        let (key, protocols) = (request.header("sec-websocket-key"), request.header("sec-websocket-protocol"));
        let (Some(key), Some("v4.channel.k8s.io")) = (key, protocols) else {
            return answer(400, &refusal(400, "BadRequest", "you must specify at least 1 of stdin, stdout, stderr"));
        };
        let head = Response::builder().status(101).header("connection", "Upgrade").header("upgrade", "websocket");
        let head = head.header("sec-websocket-accept", derive_accept_key(key.as_bytes()));
        head.header("sec-websocket-protocol", "v4.channel.k8s.io").body(body("")).unwrap()
    }
}

fn on(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}

pub(super) async fn serve(upgrade: OnUpgrade, request: Seen, state: Arc<Mutex<State>>) {
    let Ok(io) = upgrade.await else { return };
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
    let script = state.lock().unwrap().commands.clone();
    let command = command(&request);
    let run = move || script.map_or_else(|| (String::new(), Some(127)), |script| script(&command));
    let (output, code) = tokio::task::spawn_blocking(run).await.unwrap();
    for piece in output.as_bytes().chunks(32 << 10) {
        let _ = socket.send(on(1, piece)).await;
    }
    let status = match code {
        None => return std::future::pending().await,
        Some(0) => json!({ "metadata": {}, "status": "Success" }),
        Some(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
    };
    let _ = socket.send(on(3, status.to_string().as_bytes())).await;
    let _ = socket.close(None).await;
}
