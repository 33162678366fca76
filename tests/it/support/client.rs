//! The clients in `clients/` and the real grpcurl, as `make test` builds them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use super::soon;

/// The command that starts a client.
pub fn client(language: &str) -> Command {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let (program, arguments): (PathBuf, &[&str]) = match language {
        "go" => (clients.join("go/client"), &[]),
        "python" => (
            clients.join("python/.venv/bin/python"),
            &["python/client.py"],
        ),
        "node" => ("node".into(), &["node/client.js"]),
        // The client runs for seconds: optimized compilation, and garbage collection on all processors, would only
        // delay its first call.
        "java" => (
            "java".into(),
            &[
                "-XX:TieredStopAtLevel=1",
                "-XX:+UseSerialGC",
                "-jar",
                "java/target/sumd-client.jar",
            ],
        ),
        "rust" => (clients.join("rust/target/debug/sumd-client"), &[]),
        other => panic!("there is no client in {other}"),
    };
    let mut command = Command::new(program);
    command
        .current_dir(clients)
        .args(arguments)
        .kill_on_drop(true);
    command
}

/// Runs grpcurl for a method: a call, or a description.
pub async fn grpcurl(address: &str, flags: &[&str], method: &str) -> Output {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin/grpcurl");
    let mut command = Command::new(program);
    command.arg("-plaintext").args(flags).arg(address);
    run(command.args(method.split(' ')), "").await
}

/// Runs a command to its end.
pub async fn run(command: &mut Command, input: &str) -> Output {
    soon(end(start(command, input.to_owned()))).await
}

pub fn start(command: &mut Command, input: String) -> Child {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("`make test` has built it");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A client that refuses its arguments does not read its input.
    tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    child
}

pub async fn end(child: Child) -> Output {
    let output = child.wait_with_output().await.expect("a child");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Output {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Output {
    /// Asserts that the client has succeeded and printed this.
    pub fn printed(&self, out: &str) {
        assert_eq!((self.code, &*self.out), (Some(0), out), "{}", self.err);
    }

    /// Asserts that the client was refused, with this code and these details.
    pub fn failed(&self, code: &str, details: &[&str]) {
        assert_eq!((self.code, &*self.out), (Some(1), ""));
        let start = format!("error: {code}: ");
        assert!(self.err.starts_with(&start), "{}", self.err);
        for detail in details {
            assert!(self.err.contains(detail), "{detail} in {}", self.err);
        }
    }

    /// The output of a client's `get`, without the revisions.
    pub fn values(&self) -> Vec<(&str, i64)> {
        assert_eq!(self.code, Some(0), "{}", self.err);
        let values = self.out.lines().map(|line| {
            let mut words = line.rsplitn(3, ' ').skip(1);
            let value = words.next().and_then(|value| value.parse().ok());
            (words.next().expect("a name"), value.expect("a value"))
        });
        values.collect()
    }

    /// The output of grpcurl.
    pub fn answers(&self) -> Vec<Value> {
        let answers = serde_json::Deserializer::from_str(&self.out).into_iter();
        let answers = answers.collect::<Result<Vec<_>, _>>().expect("JSON");
        assert!(!answers.is_empty(), "{}", self.err);
        answers
    }
}
