//! moto, a stand-in for AWS, as a process of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// On a free port; ends when dropped.
pub(crate) struct Moto {
    child: Child,
    pub(crate) url: String,
}

impl Moto {
    pub(crate) fn start() -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let installed = Command::new(format!("{root}/tests/tools/moto.sh")).stderr(Stdio::inherit()).output().unwrap();
        assert!(installed.status.success(), "moto cannot be installed");
        let server = String::from_utf8(installed.stdout).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(server.trim())
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self { child, url: format!("http://127.0.0.1:{port}") };
        let start = Instant::now();
        while !moto.request("GET", "/moto-api/").is_some_and(|reply| reply.starts_with("HTTP/1.1 200")) {
            assert!(start.elapsed() < Duration::from_mins(2), "moto does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        moto
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Option<String> {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut socket = TcpStream::connect(address).ok()?;
        write!(socket, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok()?;
        let mut reply = String::new();
        socket.read_to_string(&mut reply).ok()?;
        Some(reply)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
