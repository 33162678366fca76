//! Data that are in use, foreign, too new or damaged, or a disk that is full: never a wrong answer, always a clear
//! error. And the commands that copy and check data.

mod clock;
pub mod disk;
mod folders;
mod rows;
mod sessions;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use sumd::model::{Changes, Commit, Stamp};
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{GetCounterRequest, IncrementCounterRequest, SumCountersRequest};
use sumd::store::Store as _;
use sumd::store::sqlite::SqliteStore;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::process::{Process, SUMD, command};
use crate::support::{reason, soon};

/// A folder with a database in it.
struct Data(TempDir);

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn folder(&self) -> &str {
        self.0.path().to_str().expect("a path")
    }

    fn database(&self) -> PathBuf {
        self.0.path().join("sumd.db")
    }

    async fn serve(&self) -> Process {
        Process::serve(&["--data-dir", self.folder()]).await
    }

    /// Creates counters in it, and stops the server.
    async fn fill(&self) {
        let mut server = self.serve().await;
        let mut client = client(&server).await;
        for name in ["acme/a", "acme/b"] {
            increment(&mut client, name).await.expect("a value");
        }
        server.signal("TERM");
        assert!(server.exit().await.success());
    }

    /// Changes the database without sumd.
    fn tamper(&self, sql: &str) {
        let connection = Connection::open(self.database()).expect("a database");
        connection.execute_batch(sql).expect("it can be changed");
    }
}

async fn client(server: &Process) -> CounterServiceClient<Channel> {
    let address = format!("http://{}", server.address);
    let client = CounterServiceClient::connect(address).await;
    client.expect("it listens")
}

async fn increment(
    client: &mut CounterServiceClient<Channel>,
    counter: &str,
) -> Result<i64, Status> {
    let request = IncrementCounterRequest {
        counter: counter.into(),
        delta: 1,
        ..IncrementCounterRequest::default()
    };
    let answer = soon(client.increment_counter(request)).await?;
    Ok(answer.into_inner().value)
}

async fn sumd(args: &[&str]) -> Output {
    let output = command(SUMD).args(args).output();
    soon(output).await.expect("the program is built")
}

/// The error message of a command that must fail.
async fn fails(args: &[&str]) -> String {
    let output = sumd(args).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

async fn does_not_serve(data: &Data) -> String {
    let listen = "--listen=127.0.0.1:0";
    fails(&["serve", listen, "--data-dir", data.folder()]).await
}

#[tokio::test]
async fn data_in_use_is_refused_to_a_second_server() {
    let data = Data::new();
    let _first = data.serve().await;
    let problem = does_not_serve(&data).await;
    assert!(
        problem.contains("is in use by another process"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_file_of_something_else_is_left_alone() {
    for contents in [&b"my notes, which are not to be lost"[..], &[0x5a; 8192]] {
        let data = Data::new();
        std::fs::write(data.database(), contents).expect("a file");
        let problem = does_not_serve(&data).await;
        assert!(problem.contains("sumd.db"), "{problem}");
        assert_eq!(std::fs::read(data.database()).expect("a file"), contents);
    }
    let data = Data::new();
    data.tamper("CREATE TABLE notes (text); PRAGMA user_version = 1");
    let problem = does_not_serve(&data).await;
    assert!(problem.contains("is not a database of sumd"), "{problem}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let data = Data::new();
    data.fill().await;
    data.tamper("PRAGMA user_version = 99");
    let problem = does_not_serve(&data).await;
    assert!(problem.contains("written by a newer sumd"), "{problem}");
    assert!(problem.contains("99"), "{problem}");
}

/// Data of an older sumd are migrated when they are served or restored elsewhere, and nothing is lost.
#[tokio::test]
async fn an_older_format_is_brought_up_to_date() {
    let data = Data::new();
    data.tamper(include_str!("damage/format-1.sql"));
    let problem = fails(&["check", "--data-dir", data.folder()]).await;
    assert!(problem.contains("written by an older sumd"), "{problem}");

    let backup = data.database();
    let backup = backup.to_str().expect("a path");
    let elsewhere = Data::new();
    let output = sumd(&["restore", backup, "--data-dir", elsewhere.folder()]).await;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        report.starts_with("counters=2 deleted=1 ids=5 sessions=0"),
        "{report}"
    );

    for data in [data, elsewhere] {
        let mut server = data.serve().await;
        let mut client = client(&server).await;
        for (name, value) in [("acme/a", 8), ("acme/b", 1), ("acme/c", 10)] {
            let now = increment(&mut client, name).await.expect("a value");
            assert_eq!(now, value, "{name}");
        }
        server.signal("TERM");
        assert!(server.exit().await.success());
        let output = sumd(&["check", "--data-dir", data.folder()]).await;
        assert!(output.status.success(), "{output:?}");
    }
}

/// The log of changes decides the values of counters, so a server does not start if it is damaged.
#[tokio::test]
async fn a_damaged_log_is_no_start() {
    let data = Data::new();
    let mut server = data.serve().await;
    increment(&mut client(&server).await, "acme/a")
        .await
        .expect("a value");
    server.signal("KILL");
    server.exit().await;
    data.tamper("UPDATE batch SET log = CAST(substr(log, 1, length(log) - 1) || x'7f' AS BLOB)");
    let problem = does_not_serve(&data).await;
    assert!(
        problem.contains("the log of batch 1 is damaged"),
        "{problem}"
    );
}

/// No method answers with a counter whose row is damaged, while all other counters are served.
#[tokio::test]
async fn a_damaged_row_is_an_error_and_no_answer() {
    let data = Data::new();
    data.fill().await;
    data.tamper("UPDATE counter SET value = value + 1 WHERE name = 'acme/b'");
    let mut server = data.serve().await;
    let mut client = client(&server).await;
    let mut get = async |counter: &str| {
        let counter = counter.to_owned();
        soon(client.get_counter(GetCounterRequest {
            counter,
            ..GetCounterRequest::default()
        }))
        .await
    };
    let status = get("acme/b").await.expect_err("its row is damaged");
    assert_eq!(
        (status.code(), &*reason(&status).0),
        (Code::DataLoss, "COUNTER_DAMAGED")
    );
    let other = get("acme/a").await.expect("its row is not");
    assert_eq!(other.into_inner().counter.expect("a counter").value, 1);
    let all = SumCountersRequest::default();
    let status = soon(client.sum_counters(all)).await.expect_err("damaged");
    let (why, metadata) = reason(&status);
    assert_eq!(why, "COUNTER_DAMAGED");
    assert_eq!(metadata["counter"], "acme/b");

    // The damaged counter accepts no increments. Others do, even those in the same batch.
    let increments = ["acme/b", "acme/a"].repeat(20).into_iter().map(|name| {
        let mut client = client.clone();
        async move { (name, increment(&mut client, name).await) }
    });
    for (name, answer) in futures_util::future::join_all(increments).await {
        let Err(status) = answer else {
            assert_eq!(name, "acme/a");
            continue;
        };
        let (why, metadata) = reason(&status);
        assert_eq!((name, &*why), ("acme/b", "COUNTER_DAMAGED"));
        assert_eq!(metadata["outcome"], "NOT_APPLIED");
        assert_eq!(metadata["counter"], "acme/b");
        assert!(status.message().contains("sumd restore"), "{status}");
    }
    assert_eq!(increment(&mut client, "acme/a").await.expect("a value"), 22);
    server.signal("TERM");
    let log = server.rest_of_log().await;
    let of_it = |line: &&serde_json::Value| line.to_string().contains("acme/b");
    let told: Vec<_> = log.iter().filter(of_it).collect();
    let [line] = told[..] else {
        panic!("however often it is asked for: {told:?}");
    };
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("COUNTER_DAMAGED"), "{line}");
    assert_eq!(line["level"], "ERROR", "{line}");
    assert!(server.exit().await.success());
    let output = sumd(&["check", "--data-dir", data.folder()]).await;
    assert_eq!(output.status.code(), Some(1));
    let problems = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        problems.contains(r#"counter "acme/b" is damaged"#),
        "{problems}"
    );
}

/// The remembered ids decide what counts twice, so a server does not start if they are damaged.
#[tokio::test]
async fn damaged_memory_of_ids_is_no_start() {
    let data = Data::new();
    data.fill().await;
    data.tamper("UPDATE batch SET ids = x'00'");
    let problem = does_not_serve(&data).await;
    for part in [
        "the row of batch 2 is damaged",
        "which request ids",
        "count twice",
        "`sumd check`",
        "`sumd restore`",
    ] {
        assert!(problem.contains(part), "{part}: {problem}");
    }
}

/// A clock that was ahead has made ids too old that are not. That cannot be undone while serving, so the next start
/// reports it.
#[tokio::test]
async fn a_clock_that_was_ahead_is_told_of() {
    const HOUR: Duration = Duration::from_hours(1);
    for (ahead, told) in [(7 * 24 * HOUR, true), (Duration::ZERO, false)] {
        let data = Data::new();
        let then = SystemTime::now() + ahead;
        let since_1970 = then.duration_since(SystemTime::UNIX_EPOCH).expect("later");
        let time = i64::try_from(since_1970.as_millis()).expect("a time");
        let store = SqliteStore::open(&data.database(), 1 << 20).expect("a new database");
        let batch = Commit {
            seq: 1,
            time,
            stamp: Stamp::of_time(time),
            horizon: time - 600_000,
            session_horizon: time - 86_400_000,
            places: 0,
            ids: [].into(),
            forget_before: 0,
            deletions_up_to: 0,
            changes: Changes::default(),
        };
        soon(store.commit(0, Arc::new(batch)))
            .await
            .expect("stored");
        drop(store);

        let server = data.serve().await;
        let mut warnings = server.beginning.iter();
        let warned = warnings.find(|line| line["level"] == "WARN");
        assert_eq!(warned.is_some(), told, "{warned:?}");
        let request = IncrementCounterRequest {
            counter: "acme/a".into(),
            delta: 1,
            request_id: "1".into(),
            request_time: Some(SystemTime::now().into()),
            ..IncrementCounterRequest::default()
        };
        let answer = soon(client(&server).await.increment_counter(request)).await;
        if let Some(warned) = warned {
            let message = warned["message"].as_str().expect("a message");
            assert!(message.contains("6days 23h 49m"), "{message}");
            let status = answer.expect_err("it is too old by what was forgotten");
            assert_eq!(reason(&status).0, "REQUEST_TOO_OLD");
        } else {
            answer.expect("it is not too old");
        }
    }
}

/// If a write fails for another reason than a full disk, pending calls get UNKNOWN and the server stops. Everything
/// that it had acknowledged is there after a restart.
#[tokio::test]
async fn a_write_that_fails_stops_the_server_and_loses_nothing() {
    let data = Data::new();
    // A limit on the size of files, for this process alone.
    let limited = format!("trap '' XFSZ; ulimit -f 400; exec {SUMD} serve \"$@\"");
    let flags = ["--data-dir", data.folder(), "--drain-delay", "0s"];
    let mut server = Process::start(command("sh").args(["-c", &limited, "sh"]), &flags).await;
    let mut first = client(&server).await;
    let mut acknowledged = 0;
    let status = loop {
        match increment(&mut first, "acme/a").await {
            Ok(value) => acknowledged = value,
            Err(status) => break status,
        }
    };
    let (reason, metadata) = reason(&status);
    assert_eq!(
        (&*reason, &*metadata["outcome"]),
        ("STORE_FAILED", "UNKNOWN")
    );
    assert!(acknowledged > 10, "{acknowledged}");
    assert_eq!(server.exit().await.code(), Some(1));

    let server = data.serve().await;
    let next = increment(&mut client(&server).await, "acme/a").await;
    let unknown = next.expect("there is room") - 1 - acknowledged;
    assert!((0..=1).contains(&unknown), "{unknown}");
}

#[tokio::test]
async fn a_backup_of_a_live_server_is_restored_elsewhere() {
    let data = Data::new();
    let server = data.serve().await;
    let mut client = client(&server).await;
    for _ in 0..10 {
        increment(&mut client, "acme/a").await.expect("a value");
    }
    let elsewhere = tempfile::tempdir().expect("a folder");
    let path = |name: &str| {
        let path = elsewhere.path().join(name);
        path.to_str().expect("a path").to_owned()
    };
    let backup = path("backup.db");
    let of_live = ["--data-dir", data.folder()];
    let output = sumd(&[&["backup", &backup], &of_live[..]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    let problem = fails(&[&["backup", &backup], &of_live[..]].concat()).await;
    assert!(problem.contains("already exists"), "{problem}");
    let output = sumd(&[&["check"], &of_live[..]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    increment(&mut client, "acme/a").await.expect("a value");

    let problem = fails(&[&["restore", &backup], &of_live[..]].concat()).await;
    assert!(problem.contains("in use"), "{problem}");
    let target = path("restored");
    let output = sumd(&["restore", &backup, "--data-dir", &target]).await;
    assert!(output.status.success(), "{output:?}");
    let problem = fails(&["restore", &backup, "--data-dir", &target]).await;
    assert!(problem.contains("already exists"), "{problem}");

    let restored = Process::serve(&["--data-dir", &target]).await;
    let mut client = self::client(&restored).await;
    let value = increment(&mut client, "acme/a").await.expect("a value");
    assert_eq!(value, 11, "as it was when the backup was made");
    assert!(Path::new(&backup).exists());
    let missing = fails(&["check", "--data-dir", &path("nowhere")]).await;
    assert!(missing.contains("there is no database"), "{missing}");
}
