//! One member of etcd, as a process of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sumd::etcd::Host;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::support::ports::free_port;
use crate::support::process::signal;
use crate::support::soon;

/// Far longer than an election takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A member that is running, stopped or dead, and is killed when the test ends.
pub struct Member {
    pub name: String,
    pub ports: Ports,
    folder: TempDir,
    flags: Vec<String>,
    child: Option<Child>,
}

/// The ports of a member, which it keeps across restarts.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub client: u16,
    pub peer: u16,
    pub health: u16,
}

impl Ports {
    pub fn free() -> Self {
        Self {
            client: free_port(),
            peer: free_port(),
            health: free_port(),
        }
    }
}

impl Member {
    /// A member that is not running yet.
    pub fn new(name: String, ports: Ports, flags: Vec<String>) -> Self {
        Self {
            name,
            ports,
            folder: tempfile::tempdir().expect("a folder"),
            flags,
            child: None,
        }
    }

    /// The address for clients.
    pub fn host(&self) -> Host {
        let host = format!("127.0.0.1:{}", self.ports.client);
        host.parse().expect("a host")
    }

    /// Starts it, on the data that it has on disk. It may take a while until it is [healthy](Self::healthy).
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "{} runs", self.name);
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.expect("a log");
        let child = Command::new(program())
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.folder.path().join("data"))
            .args(["--logger", "zap", "--log-level", "error"])
            .args(&self.flags)
            // Without the variables of the tests' environment.
            .env_clear()
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.expect("`make test` has built etcd"));
    }

    /// Kills it, and waits until it is gone and its ports are free.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.start_kill().expect("it runs");
        soon(child.wait()).await.expect("a child");
    }

    /// Stops the process, with all its connections open.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Resumes the process.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Waits until it has a leader and answers.
    pub async fn healthy(&self) {
        let mut last = None;
        let asked = async {
            while last
                .as_ref()
                .is_none_or(|answer: &Value| answer["health"] != "true")
            {
                sleep(Duration::from_millis(20)).await;
                last = http(self.ports.health, "GET", "/health", "").await;
            }
        };
        let in_time = timeout(PATIENCE, asked).await.is_ok();
        assert!(in_time, "{} is not healthy, but {last:?}", self.name);
    }

    /// Calls it through etcd's JSON gateway, without the client.
    pub async fn ask(&self, path: &str, request: Value, token: Option<&str>) -> Value {
        let header = token.map(|token| format!("Authorization: {token}\r\n"));
        let body = format!("{}\r\n{request}", header.unwrap_or_default());
        let length = request.to_string().len();
        let rest = format!("Content-Length: {length}\r\n{body}");
        let answer = soon(http(self.ports.client, "POST", path, &rest)).await;
        let answer = answer.expect("it answers");
        let is_refused = answer.get("error").or(answer.get("code")).is_some();
        assert!(!is_refused, "{path}: {answer}");
        answer
    }

    fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("it runs"), name);
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("the end of the log of {}:\n{}", self.name, last.join("\n"));
        }
    }
}

/// etcd as `make test` builds it, or the one that the environment names.
fn program() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/etcd");
    std::env::var_os("SUMD_TEST_ETCD").map_or(ours, PathBuf::from)
}

/// A JSON answer over HTTP, or `None` if there is none yet. `rest` is everything after the first line of the request.
async fn http(port: u16, method: &str, path: &str, rest: &str) -> Option<Value> {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let end = if rest.is_empty() { "\r\n" } else { "" };
        let request = format!("{method} {path} HTTP/1.0\r\n{rest}{end}");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    };
    timeout(Duration::from_secs(10), asked).await.ok()?
}
