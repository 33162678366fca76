//! The log: whatever happens to it, the server serves and drains. A full disk, a pipe whose reader has gone and a pipe
//! that is not read cost only lines, which are counted.

mod refusals;

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, PipeReader};
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use sumd::proto::sum::v1::sum_service_client::SumServiceClient;
use tempfile::TempDir;
use tokio::process::Child;
use tonic::transport::{Channel, Endpoint};

use crate::support::process::{Process, SUMD, command, run, signal};
use crate::support::{TestServer, add_request, eventually, soon};

/// No delay for balancers, since there are none.
const NOW: &str = "--drain-delay=0s";

/// A server whose log cannot be relied on. It is found by its socket instead.
struct Unheard {
    child: Child,
    address: String,
    _folder: TempDir,
}

impl Unheard {
    async fn start(log: impl Into<Stdio>, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = format!("unix:{}", folder.path().join("socket").display());
        let mut child = command(SUMD)
            .args(["serve", "--listen", &address])
            .args(flags)
            .env("SUMD_DATA_DIR", folder.path().join("data"))
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the program is built");
        let serves = async {
            while !run(&["health", "--address", &address])
                .await
                .status
                .success()
            {
                let ended = child.try_wait().expect("a child");
                assert_eq!(ended, None, "it has ended");
            }
        };
        soon(serves).await;
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    async fn connect(&self) -> SumServiceClient<Channel> {
        let endpoint = Endpoint::from_shared(self.address.clone()).expect("an address");
        SumServiceClient::new(endpoint.connect().await.expect("it listens"))
    }

    /// Makes many calls, each of which logs something.
    async fn call(&self, times: u32) {
        let mut client = self.connect().await;
        for _ in 0..times {
            let answer = soon(client.add(add_request([1, 2, 3]))).await;
            assert_eq!(answer.expect("an answer").into_inner().sum, 6);
        }
    }

    async fn stop(&mut self) -> ExitStatus {
        signal(&self.child, "TERM");
        soon(self.child.wait()).await.expect("a child")
    }
}

fn full_disk() -> Stdio {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.expect("/dev/full").into()
}

/// A pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Without space for a single line, the server starts, serves and drains.
#[tokio::test]
async fn a_log_on_a_full_disk_ends_nothing() {
    let mut server = Unheard::start(full_disk(), &["--log-level", "trace", NOW]).await;
    server.call(100).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

/// The same if the log has no reader from the start, or loses it later.
#[tokio::test]
async fn a_log_whose_reader_has_gone_ends_nothing() {
    let mut server = Unheard::start(closed_pipe(), &["--log-level", "trace", NOW]).await;
    server.call(100).await;
    assert_eq!(server.stop().await.code(), Some(0));

    let (reader, writer) = io::pipe().expect("a pipe");
    let mut server = Unheard::start(writer, &["--log-level", "debug", NOW]).await;
    drop(reader);
    server.call(100).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

/// A full pipe delays no call, and delays the exit only within its bound.
#[tokio::test]
async fn a_log_that_nobody_reads_delays_nothing() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    let mut server = Unheard::start(writer, &["--log-level", "trace", NOW]).await;
    // Each call logs some kilobytes: far more than a pipe holds.
    server.call(200).await;
    assert_eq!(server.stop().await.code(), Some(0));
}

/// Dropped lines are counted and reported as soon as the log is read; the lines around the gap are whole.
#[tokio::test]
async fn dropped_lines_are_told() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let mut server = Unheard::start(writer, &["--log-level", "trace", NOW]).await;
    // Until the pipe and the queue before it are full. Nothing shows that; the queue has 1 MiB.
    server.call(400).await;
    let told = tokio::task::spawn_blocking(move || dropped(reader));
    let (before, dropped, mut reader) = soon(told).await.expect("a log");
    assert!(
        before > 0 && dropped > 0,
        "{before} lines, {dropped} dropped"
    );

    // From here on the log is complete, to its last line.
    let rest = tokio::task::spawn_blocking(move || {
        let mut messages = Vec::new();
        while let Some(line) = next(&mut reader) {
            messages.push(line["message"].as_str().unwrap_or_default().to_owned());
        }
        messages
    });
    assert_eq!(server.stop().await.code(), Some(0));
    let rest = soon(rest).await.expect("a log");
    assert!(rest.iter().any(|message| message.starts_with("draining")));
}

fn next(log: &mut BufReader<PipeReader>) -> Option<Value> {
    let mut line = String::new();
    log.read_line(&mut line).expect("a log");
    (!line.is_empty()).then(|| serde_json::from_str(&line).expect("a line is an object"))
}

/// The number of lines before the report of dropped lines, and the number of these.
fn dropped(reader: PipeReader) -> (usize, u64, BufReader<PipeReader>) {
    let mut reader = BufReader::new(reader);
    for before in 0.. {
        let line = next(&mut reader).expect("more log");
        if line["message"].as_str() == Some("lines of this log were dropped") {
            return (before, line["lines"].as_u64().expect("a number"), reader);
        }
    }
    unreachable!("the log has an end")
}

/// The reason for a failed start is logged at every level, in the format of the log.
#[tokio::test]
async fn a_failed_start_is_told_at_every_level() {
    let server = TestServer::start(&[]).await;
    for level in ["off", "error", "info,sumd=off"] {
        let output = run(&["--listen", &server.address, "--log-level", level]).await;
        assert_eq!(output.status.code(), Some(1));
        let err = String::from_utf8(output.stderr).expect("text");
        let line: Value = serde_json::from_str(err.lines().last().expect("a line")).expect("JSON");
        let message = line["message"].as_str().expect("a message");
        assert!(message.contains("in use"), "{level}: {err}");
    }
}

/// A level for one module leaves the default for the others.
#[tokio::test]
async fn a_level_for_a_part_is_for_that_part() {
    let mut server = Process::serve(&["--log-level", "sumd::counters=debug", NOW]).await;
    server.signal("TERM");
    server.logged("draining").await;
    assert!(server.exit().await.success());
}

/// The first lines give the data and the memory that the server uses.
#[tokio::test]
async fn the_first_lines_say_what_is_served() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("data");
    let data = path.to_str().expect("a path");
    let server = Process::serve(&["--data-dir", data, "--id-memory", "1MiB"]).await;
    let first = &server.beginning[0];
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"), "{first}");
    assert_eq!(first["store"], format!("sqlite:{data}/sumd.db"), "{first}");
    assert_eq!(first["id_memory"], "1.0 MiB", "{first}");
    for figure in ["memory", "counter_memory"] {
        let figure = first[figure].as_str().expect("a size");
        assert!(figure.ends_with("iB"), "{first}");
    }
    assert!(first["workers"].as_u64().is_some(), "{first}");
}

/// A variable that looks like an option but is none is reported.
#[tokio::test]
async fn a_variable_that_no_option_takes_is_told() {
    let mut command = command(SUMD);
    let server = Process::start(command.arg("serve").env("SUMD_LOGLEVEL", "debug"), &[]).await;
    let told = server.beginning.iter().find(|line| line["level"] == "WARN");
    let told = told.expect("a warning").to_string();
    assert!(told.contains("SUMD_LOGLEVEL"), "{told}");
}

/// SIGHUP reloads nothing and does not stop the server.
#[tokio::test]
async fn a_hangup_ends_nothing() {
    let mut server = Process::serve(&[NOW]).await;
    for _ in 0..2 {
        server.signal("HUP");
        server.logged("SIGHUP").await;
    }
    let output = run(&["add", "--address", &server.address, "1", "2"]).await;
    assert!(output.status.success());
    server.signal("TERM");
    assert!(server.exit().await.success());
}

/// If a command cannot print its error, its exit code stays the same.
#[tokio::test]
async fn errors_that_cannot_be_printed_change_no_exit_code() {
    for (args, code) in [
        (&["add", "one"][..], 64),
        (&["--stream-window", "1MiB"], 64),
        (&["health", "--address", "127.0.0.1:1"], 1),
        (&["check", "--data-dir", "/nonexistent"], 1),
    ] {
        for log in [full_disk(), closed_pipe()] {
            let mut command = command(SUMD);
            let mut child = command.args(args).stderr(log).spawn().expect("built");
            let status = soon(child.wait()).await.expect("a child");
            assert_eq!(status.code(), Some(code), "{args:?}");
        }
    }
}

/// A second signal does not wait for the log's thread.
#[tokio::test]
async fn an_unread_log_does_not_hold_up_a_second_signal() {
    let (_reader, writer) = io::pipe().expect("a pipe");
    let flags = ["--log-level", "trace", "--drain-delay", "1h"];
    let mut server = Unheard::start(writer, &flags).await;
    server.call(200).await;
    signal(&server.child, "TERM");
    // The server has handled the first signal once health says so.
    let address = server.address.clone();
    eventually("the drain", || {
        let mut health = command(SUMD).into_std();
        let health = health
            .args(["health", "--address", &address])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        !health.expect("built").success()
    })
    .await;
    assert_eq!(server.stop().await.code(), Some(143));
}
