//! The real program: its standard error, its signals, its exit code, its memory.

use std::env;
use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::{PATIENCE, soon};

pub const SUMD: &str = env!("CARGO_BIN_EXE_sumd");

/// A program without the flags that the environment of the tests may have.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    let theirs = env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SUMD_"));
    for (name, _) in theirs {
        command.env_remove(name);
    }
    command
}

/// A server in a process of its own, which is killed when the test ends.
pub struct Process {
    pub address: String,
    /// The lines that it logged before it listened.
    pub beginning: Vec<Value>,
    child: Child,
    _data: TempDir,
    log: Lines<BufReader<ChildStderr>>,
}

impl Process {
    /// Starts a server on a free port.
    pub async fn serve(flags: &[&str]) -> Self {
        Self::serve_at("127.0.0.1:0", flags).await
    }

    pub async fn serve_at(address: &str, flags: &[&str]) -> Self {
        let mut command = command(SUMD);
        Self::start(command.args(["serve", "--listen", address]), flags).await
    }

    /// Starts a server with a given command, on a free port unless it says otherwise.
    pub async fn start(command: &mut Command, flags: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a folder");
        let mut child = command
            .args(flags)
            // Defaults, unless flags say otherwise.
            .env("SUMD_DATA_DIR", data.path())
            .env("SUMD_LISTEN", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built");
        let stderr = child.stderr.take().expect("it is piped");
        let mut log = BufReader::new(stderr).lines();
        let start = "listening on ";
        let mut beginning = Vec::new();
        let line = logged(&mut log, start, |line| beginning.push(line)).await;
        let message = line["message"].as_str().expect("a message");
        Self {
            address: message[start.len()..].to_owned(),
            beginning,
            child,
            _data: data,
            log,
        }
    }

    /// The next line of the log whose message begins with `message`.
    pub async fn logged(&mut self, message: &str) -> Value {
        logged(&mut self.log, message, drop).await
    }

    /// The lines that it logs from here on, until it ends.
    pub async fn rest_of_log(&mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(line) = soon(self.log.next_line()).await.expect("a log") {
            rest.push(serde_json::from_str(&line).expect("a log of JSON objects"));
        }
        rest
    }

    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub async fn exit(&mut self) -> ExitStatus {
        soon(self.child.wait()).await.expect("a child")
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// The memory in use, as the kernel counts it.
    pub fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        let kib = line.split_whitespace().nth(1).expect("a number");
        kib.parse::<u64>().expect("a number") * 1024
    }

    pub fn open_sockets(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("/proc");
        files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

/// Sends a signal to a running child. After a stop signal, waits until all its threads have stopped.
pub fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill")
        .args(["-s", name, &pid])
        .status();
    assert!(sent.expect("kill").success());
    let late = Instant::now() + PATIENCE;
    while name == "STOP" && !has_stopped(&pid) {
        assert!(Instant::now() < late, "{pid} does not stop");
        thread::yield_now();
    }
}

fn has_stopped(pid: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
    let mut states = threads.flatten().map(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The state follows the name, which is in parentheses and may contain some itself.
        let state = stat.rsplit(") ").next();
        state.is_none_or(|state| state.starts_with('T'))
    });
    states.all(|stopped| stopped)
}

async fn logged(
    log: &mut Lines<BufReader<ChildStderr>>,
    message: &str,
    mut before: impl FnMut(Value),
) -> Value {
    let search = async {
        loop {
            let line = log.next_line().await.expect("a log").expect("more log");
            let line: Value = serde_json::from_str(&line).expect("a log of JSON objects");
            let found = line["message"].as_str();
            if found.is_some_and(|found| found.starts_with(message)) {
                return line;
            }
            before(line);
        }
    };
    soon(search).await
}

/// Runs a command of the program to its end.
pub async fn run(args: &[&str]) -> std::process::Output {
    soon(command(SUMD).args(args).output())
        .await
        .expect("the program is built")
}
