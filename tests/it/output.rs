//! The output of commands: it is written, or the command fails.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::support::process::{Process, SUMD, command, run};
use crate::support::soon;

async fn run_to(stdout: Stdio, args: &[&str]) -> Output {
    let mut command = command(SUMD);
    command.args(args).stdout(stdout).stderr(Stdio::piped());
    let child = command.kill_on_drop(true).spawn();
    let output = child.expect("the program is built").wait_with_output();
    soon(output).await.expect("a child")
}

fn full_disk() -> Stdio {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.expect("/dev/full").into()
}

/// A pipe whose reader has gone, as `| head` does when it has enough.
fn closed_pipe() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Every command that prints something, with its arguments; `file` does not exist yet.
fn commands<'a>(
    address: &'a str,
    data: &'a str,
    file: &'a str,
    other: &'a str,
) -> Vec<Vec<&'a str>> {
    let server = ["--address", address];
    let asked = |command: &[&'a str]| [command, &server].concat();
    vec![
        vec!["--help"],
        vec!["--version"],
        asked(&["add", "1", "2"]),
        asked(&["health"]),
        asked(&["counter", "inc", "acme/a"]),
        asked(&["counter", "get", "acme/a"]),
        asked(&["counter", "list"]),
        asked(&["counter", "sum"]),
        asked(&["counter", "watch"]),
        asked(&["counter", "set", "acme/b", "5"]),
        asked(&["counter", "rm", "acme/b"]),
        vec!["check", "--data-dir", data],
        vec!["backup", file, "--data-dir", data],
        vec!["restore", file, "--data-dir", other],
    ]
}

async fn serve() -> (tempfile::TempDir, Process) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let server = Process::serve(&["--data-dir", data.to_str().expect("a path")]).await;
    let output = run(&["counter", "inc", "acme/a", "--address", &server.address]).await;
    assert!(output.status.success());
    (folder, server)
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().expect("a path").to_owned()
}

/// A command whose output cannot be written fails with one sentence.
#[tokio::test]
async fn output_that_is_lost_is_a_failure() {
    let (folder, server) = serve().await;
    let [data, file, other] = ["data", "file", "other"].map(|name| path(folder.path(), name));
    for args in commands(&server.address, &data, &file, &other) {
        let output = run_to(full_disk(), &args).await;
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
        assert!(
            err.contains("standard output") && err.contains("No space left"),
            "{args:?}: {err}"
        );
        assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    }
}

/// A closed pipe is no failure and no message.
#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_failure() {
    let (folder, server) = serve().await;
    let [data, file, other] = ["data", "file", "other"].map(|name| path(folder.path(), name));
    for args in commands(&server.address, &data, &file, &other) {
        let output = run_to(closed_pipe(), &args).await;
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
        assert_eq!(err, "", "{args:?}");
    }
}

/// Backup prints what is in the backup, and restore does, too.
#[tokio::test]
async fn a_backup_says_what_is_in_it() {
    let (folder, _server) = serve().await;
    let [data, file] = ["data", "file"].map(|name| path(folder.path(), name));
    let output = run(&["backup", &file, "--data-dir", &data]).await;
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.starts_with("counters=1 deleted=0 ids=1 "), "{out}");
}

/// The help of commands shows the options that they use, and no others.
#[tokio::test]
async fn help_has_the_options_that_matter() {
    for (command, there, not_there) in [
        ("backup", "--etcd-prefix", "--etcd-lanes"),
        ("backup", "--etcd-user", "--etcd-max-txn-ops"),
        ("check", "--etcd-prefix", "--etcd-lanes"),
        ("restore", "--etcd-lanes", "--id-memory"),
        ("move", "--etcd-lanes", "--data-dir"),
        ("serve", "--etcd-max-txn-ops", "--address"),
    ] {
        let help = run(&[command, "--help"]).await;
        let help = String::from_utf8_lossy(&help.stdout);
        assert!(
            help.contains(there) && !help.contains(not_there),
            "{command}: {help}"
        );
    }
}

/// A refusal is printed with its reason, and whether a change was applied.
#[tokio::test]
async fn refusals_have_their_reason() {
    let (_folder, server) = serve().await;
    let output = run(&[
        "counter",
        "inc",
        "acme/a",
        "5",
        "--max",
        "3",
        "--address",
        &server.address,
    ])
    .await;
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains("LIMIT_REACHED") && err.contains("NOT_APPLIED"),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
}

/// A change without an answer prints the id to repeat it with, which counts once.
#[tokio::test]
async fn a_change_in_doubt_names_its_id() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().expect("an address").to_string();
    let server = ["--address", &silent, "--timeout", "200ms"];
    for args in [
        &["inc", "acme/a"][..],
        &["set", "acme/a", "5"],
        &["rm", "acme/a"],
    ] {
        let output = run(&[&["counter"], args, &server].concat()).await;
        let err = String::from_utf8_lossy(&output.stderr);
        let id = err.split("--request-id ").nth(1).expect("an id");
        let id = id.split([',', '\n']).next().expect("an id");
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{err}");
    }
    // A call that changes nothing has no id.
    let output = run(&[&["counter", "get", "acme/a"][..], &server].concat()).await;
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        err.contains("no answer") && !err.contains("--request-id"),
        "{err}"
    );
}

/// A watch that ends with its server prints the revision to resume from.
#[tokio::test]
async fn a_watch_that_ends_says_where_to_go_on() {
    let (_folder, server) = serve().await;
    let mut command = command(SUMD);
    command.args(["counter", "watch", "--address", &server.address]);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    watch = watch.kill_on_drop(true);
    let mut watch = watch.spawn().expect("built");
    let mut lines = {
        use tokio::io::AsyncBufReadExt as _;
        tokio::io::BufReader::new(watch.stdout.take().expect("piped")).lines()
    };
    let line = soon(lines.next_line()).await.expect("a line");
    assert_eq!(line.as_deref(), Some("acme/a 1"));
    server.signal("TERM");
    let output = soon(watch.wait_with_output()).await.expect("a child");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err.contains("SHUTTING_DOWN") && err.contains("--from-revision 1\n"),
        "{err}"
    );
}
