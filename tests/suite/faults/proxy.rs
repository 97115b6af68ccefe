//! A proxy that breaks things, on a real socket in front of a real S3 server.
//!
//! One request a connection, so that what happens to one happens to nobody else. Which request is broken, and how, is said by a
//! script that sees the request's head and how many of its operation came before.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Of one read and write.
const PIECE: usize = 64 << 10;

/// Longer than any request's head.
const MAX_HEAD: usize = 64 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    Put,
    UploadPart,
    Create,
    Complete,
    Abort,
    ListParts,
    Delete,
    /// Get, Head, List.
    Read,
}

#[derive(Clone)]
pub(crate) enum Fault {
    /// Goes on after so long.
    Delay(Duration),
    /// The connection ends before a byte was read.
    Drop,
    /// A reset after so many bytes of the body.
    ResetInBody(usize),
    /// Our side of the connection is closed once the head is there; the request is read, and not carried out.
    HalfClose,
    /// Not carried out; this status, and this code in an error document, or no body.
    Answer(u16, Option<&'static str>),
    /// Carried out; then the connection ends without an answer.
    LoseAnswer,
    /// Carried out; half of the answer's bytes arrive.
    TruncateAnswer,
    /// Carried out; this header's value is another one, or one more.
    Header(&'static str, &'static str),
    /// Not carried out: a 200 with an error document, as S3 does to a Complete.
    ErrorIn200,
    /// Not carried out: these bytes, in the place of an answer.
    Instead(Vec<u8>),
    /// Carried out; the answer arrives as this makes it.
    Rewrite(fn(&[u8]) -> Vec<u8>),
    /// The body is not read any more after so many bytes, for ever.
    Stall(usize),
    /// The body is read at so many bytes a second.
    Slow(usize),
    /// Something happens at a moment; the request goes on.
    Hook(Moment, Arc<dyn Fn() + Send + Sync>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The head is there, nothing was passed on.
    Head,
    /// After so many bytes of the body.
    InBody(usize),
    /// Carried out, and not answered yet.
    BeforeAnswer,
    /// So long after the last byte of the answer.
    After(Duration),
}

/// Decides about one request: its operation, and how many of that came before.
pub(crate) type Script = Box<dyn Fn(Operation, usize) -> Option<Fault> + Send + Sync>;

pub(crate) struct Proxy {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    script: Mutex<Script>,
    seen: Mutex<HashMap<Operation, usize>>,
    injected: AtomicUsize,
}

impl Proxy {
    /// In front of `upstream`, `http://HOST:PORT`. Faultless at first.
    pub(crate) fn start(
        runtime: &tokio::runtime::Handle,
        (listener, address): (TcpListener, SocketAddr),
        upstream: &str,
    ) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().parse().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            script: Mutex::new(Box::new(|_, _| None)),
            seen: Mutex::default(),
            injected: AtomicUsize::new(0),
        });
        let all = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&all);
                // A client that goes away is the test's matter.
                tokio::spawn(async move { shared.connection(client).await });
            }
        });
        Self { url: format!("http://{address}"), shared }
    }

    /// From now on; what has come so far is forgotten.
    pub(crate) fn script(&self, script: impl Fn(Operation, usize) -> Option<Fault> + Send + Sync + 'static) {
        self.shared.seen.lock().unwrap().clear();
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Runs a program that is killed with SIGKILL at that moment of that request; it may end by itself before.
    pub(crate) fn run_killed(
        &self,
        program: &mut Command,
        operation: Operation,
        count: usize,
        moment: Moment,
    ) -> ExitStatus {
        let pid = Arc::new(AtomicI32::new(0));
        let victim = Arc::clone(&pid);
        let kill: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            // The first request comes long after the process was started, but nothing says that we have been told its ID.
            while victim.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            let pid = rustix::process::Pid::from_raw(victim.load(Ordering::Acquire)).unwrap();
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        self.script(move |seen, before| {
            (seen == operation && before == count).then(|| Fault::Hook(moment, Arc::clone(&kill)))
        });
        let mut child = program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pid.store(i32::try_from(child.id()).unwrap(), Ordering::Release);
        let status = child.wait().unwrap();
        self.behave();
        status
    }

    pub(crate) fn behave(&self) {
        self.script(|_, _| None);
    }

    /// How many requests were broken.
    pub(crate) fn injected(&self) -> usize {
        self.shared.injected.load(Ordering::Relaxed)
    }

    pub(crate) fn seen(&self, operation: Operation) -> usize {
        self.shared.seen.lock().unwrap().get(&operation).copied().unwrap_or_default()
    }
}

/// A request's head, and the first bytes of its body.
struct Head {
    text: String,
    operation: Operation,
    length: usize,
    body: Vec<u8>,
}

fn operation(method: &str, target: &str) -> Operation {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    match (method, has("uploadId"), has("uploads")) {
        ("PUT", true, _) => Operation::UploadPart,
        ("PUT", false, _) => Operation::Put,
        ("POST", true, _) => Operation::Complete,
        ("POST", false, _) => Operation::Create,
        ("DELETE", true, _) => Operation::Abort,
        ("DELETE", false, _) => Operation::Delete,
        ("GET", true, _) => Operation::ListParts,
        _ => Operation::Read,
    }
}

async fn head(client: &mut TcpStream) -> std::io::Result<Option<Head>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        assert!(bytes.len() < MAX_HEAD, "a head without an end");
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let body = bytes.split_off(end);
    let text = String::from_utf8(bytes).unwrap();
    let mut words = text.split(' ');
    let operation = operation(words.next().unwrap(), words.next().unwrap());
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    Ok(Some(Head { text, operation, length: length.unwrap_or(0), body }))
}

impl Shared {
    fn fault(&self, operation: Operation) -> Option<Fault> {
        let before = {
            let mut seen = self.seen.lock().unwrap();
            let count = seen.entry(operation).or_default();
            *count += 1;
            *count - 1
        };
        let fault = self.script.lock().unwrap()(operation, before);
        if fault.is_some() {
            self.injected.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }

    async fn connection(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_nodelay(true)?;
        let Some(head) = head(&mut client).await? else { return Ok(()) };
        let fault = self.fault(head.operation);
        match &fault {
            Some(Fault::Drop) => return Ok(()),
            Some(Fault::Delay(time)) => tokio::time::sleep(*time).await,
            Some(Fault::Hook(Moment::Head, hook)) => happen(&**hook),
            Some(Fault::HalfClose) => {
                client.shutdown().await?;
                read(&mut client, &head, &mut |_| {}).await?;
                return Ok(());
            }
            Some(Fault::Answer(status, code)) => {
                read(&mut client, &head, &mut |_| {}).await?;
                return client.write_all(&refusal(*status, *code)).await;
            }
            Some(Fault::ErrorIn200) => {
                read(&mut client, &head, &mut |_| {}).await?;
                return client.write_all(&refusal(200, Some("InternalError"))).await;
            }
            Some(Fault::Instead(answer)) => {
                read(&mut client, &head, &mut |_| {}).await?;
                return client.write_all(answer).await;
            }
            _ => {}
        }
        let mut server = TcpStream::connect(self.upstream).await?;
        // With this the answer ends where the server closes, whatever its framing.
        let text = head.text.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        server.write_all(text.as_bytes()).await?;
        if !pass_on(&mut client, &mut server, &head, fault.as_ref()).await? {
            return Ok(());
        }
        let mut answer = Vec::new();
        server.read_to_end(&mut answer).await?;
        match fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::Rewrite(rewrite)) => answer = rewrite(&answer),
            Some(Fault::TruncateAnswer) => answer.truncate(answer.len() / 2),
            Some(Fault::Header(name, value)) => answer = with_header(&answer, name, value),
            Some(Fault::Hook(Moment::BeforeAnswer, hook)) => happen(&*hook),
            Some(Fault::Hook(Moment::After(time), hook)) => {
                client.write_all(&answer).await?;
                client.flush().await?;
                tokio::time::sleep(time).await;
                happen(&*hook);
                return Ok(());
            }
            _ => {}
        }
        client.write_all(&answer).await
    }
}

/// Reads the body to its end.
async fn read(client: &mut TcpStream, head: &Head, each: &mut (dyn FnMut(usize) + Send)) -> std::io::Result<()> {
    let mut left = head.length - head.body.len();
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let count = client.read(&mut piece[..left.min(PIECE)]).await?;
        if count == 0 {
            break;
        }
        left -= count;
        each(left);
    }
    Ok(())
}

/// Passes the body on; `false` when the connection was broken on the way.
async fn pass_on(
    client: &mut TcpStream,
    server: &mut TcpStream,
    head: &Head,
    fault: Option<&Fault>,
) -> std::io::Result<bool> {
    let mut piece = head.body.clone();
    let (mut passed, mut hook) = (0, fault);
    loop {
        server.write_all(&piece).await?;
        passed += piece.len();
        match hook {
            Some(Fault::ResetInBody(at)) if passed >= *at => {
                client.set_zero_linger()?;
                return Ok(false);
            }
            Some(Fault::Stall(at)) if passed >= *at => std::future::pending().await,
            Some(Fault::Hook(Moment::InBody(at), call)) if passed >= *at => {
                call();
                hook = None;
            }
            Some(Fault::Slow(rate)) => {
                let micros = 1_000_000 * piece.len() / rate;
                tokio::time::sleep(Duration::from_micros(micros as u64)).await;
            }
            _ => {}
        }
        if passed >= head.length {
            return Ok(true);
        }
        piece.resize((head.length - passed).min(PIECE), 0);
        let count = client.read(&mut piece).await?;
        if count == 0 {
            return Ok(false);
        }
        piece.truncate(count);
    }
}

/// A hook may run programs that talk to this proxy: what waits on this thread must be able to go on elsewhere.
fn happen(hook: &(dyn Fn() + Send + Sync)) {
    tokio::task::block_in_place(hook);
}

fn refusal(status: u16, code: Option<&str>) -> Vec<u8> {
    let body = code.map_or_else(String::new, |code| {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>as the script says</Message></Error>")
    });
    let length = body.len();
    format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").into_bytes()
}

fn with_header(answer: &[u8], name: &str, value: &str) -> Vec<u8> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let kept: Vec<&str> =
        head.split("\r\n").filter(|line| !line.to_lowercase().starts_with(&format!("{name}:"))).collect();
    let mut changed = format!("{}\r\n{name}: {value}", kept.join("\r\n")).into_bytes();
    changed.extend_from_slice(&answer[end..]);
    changed
}
