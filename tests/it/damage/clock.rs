//! Wrong clocks: their effects on the data are reported, and can be undone.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sumd::model::{Changes, Commit, Millis, Stamp};
use sumd::proto::sum::v1::IncrementCounterRequest;
use sumd::store::Store as _;
use sumd::store::sqlite::SqliteStore;
use tonic::Status;
use uuid::{NoContext, Timestamp, Uuid};

use super::{Data, client, fails, sumd};
use crate::etcd::cluster::Cluster;
use crate::faults::clock::{Clock, Shim};
use crate::support::process::{Process, SUMD, command};
use crate::support::{reason, soon};

const DAY: Duration = Duration::from_hours(24);
const TEN_YEARS: Duration = Duration::from_hours(24 * 3650);

fn millis(time: SystemTime) -> Millis {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since_1970.expect("after 1970").as_millis();
    Millis::try_from(millis).expect("a time")
}

/// A UUIDv7 with a time this far ahead.
fn id(ahead: Duration) -> String {
    let time = SystemTime::now() + ahead;
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
    let since_1970 = since_1970.expect("after 1970");
    let time = Timestamp::from_unix(NoContext, since_1970.as_secs(), since_1970.subsec_nanos());
    Uuid::new_v7(time).to_string()
}

async fn increment(server: &Process, id: &str) -> Result<i64, Status> {
    let request = IncrementCounterRequest {
        counter: "acme/a".to_owned(),
        delta: 1,
        request_id: id.to_owned(),
        ..IncrementCounterRequest::default()
    };
    let answer = soon(client(server).await.increment_counter(request)).await?;
    Ok(answer.into_inner().value)
}

async fn stop(mut server: Process) {
    server.signal("TERM");
    assert!(server.exit().await.success());
}

/// Runs a command that must succeed. Returns its output, and its notes on standard error.
async fn run(args: &[&str]) -> (String, String) {
    let output = sumd(args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (text(output.stdout), text(output.stderr))
}

/// The notes of a check of undamaged data.
async fn notes(store: &str) -> String {
    let (report, notes) = run(&["check", "--store", store]).await;
    assert!(report.ends_with("problems=0\n"), "{report}");
    notes
}

impl Data {
    fn store(&self) -> String {
        format!("sqlite:{}", self.database().display())
    }

    fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.into_os_string().into_string().expect("text")
    }

    /// One run of a server whose clock is ahead, with one increment.
    async fn live_ahead(&self, ahead: Duration, id: &str) {
        let shim = Shim::compile().await;
        let clock = Clock::new(self.0.path().join("clock"));
        clock.set(ahead, true);
        let mut command = command(SUMD);
        command
            .arg("serve")
            .env("LD_PRELOAD", shim.path())
            .env("CLOCK_FILE", clock.file());
        let server = Process::start(&mut command, &["--data-dir", self.folder()]).await;
        increment(&server, id).await.expect("a value");
        stop(server).await;
    }

    /// Creates data in which ids and sessions were forgotten by a clock that was ahead.
    async fn poison(&self, ahead: Duration) {
        let time = millis(SystemTime::now() + ahead);
        let store = SqliteStore::open(&self.database(), 1 << 20).expect("a new database");
        let batch = Commit {
            seq: 1,
            time,
            stamp: Stamp {
                age: Some(0),
                newest: None,
            },
            horizon: time - 660_000,
            session_horizon: time - 86_400_000,
            places: 0,
            ids: [].into(),
            forget_before: 0,
            deletions_up_to: 0,
            changes: Changes::default(),
        };
        let stored = soon(store.commit(0, Arc::new(batch))).await;
        stored.expect("stored");
    }
}

/// A server that was started with its clock ten years ahead, and has forgotten nothing, leaves nothing that refuses ids
/// of today.
#[tokio::test]
async fn a_start_ten_years_ahead_refuses_nothing_later() {
    let data = Data::new();
    data.live_ahead(TEN_YEARS, "").await;
    let told = notes(&data.store()).await;
    assert!(told.contains("the last batch has a time of"), "{told}");
    assert!(!told.contains("are refused"), "{told}");
    let server = data.serve().await;
    let value = increment(&server, &id(Duration::ZERO)).await;
    assert_eq!(value.expect("it is of now"), 2);
    stop(server).await;
}

/// A remembered id with a time in ten years would move the horizon there. The check reports it, and it is undone before
/// that happens.
#[tokio::test]
async fn an_id_of_a_clock_that_was_ahead_is_taken_back() {
    let data = Data::new();
    data.live_ahead(TEN_YEARS, &id(TEN_YEARS)).await;
    let told = notes(&data.store()).await;
    assert!(told.contains("a remembered request id"), "{told}");
    let (printed, _) = run(&["reset-horizon", &data.path("sumd.db")]).await;
    assert!(
        printed.contains("an id was remembered with the time"),
        "{printed}"
    );
    assert_eq!(notes(&data.store()).await, "");
    let server = data.serve().await;
    let value = increment(&server, &id(Duration::ZERO)).await;
    assert_eq!(value.expect("it is of now"), 2);
    stop(server).await;
}

/// A horizon in the future refuses all ids. The check of data or of a backup reports it with the remedy, and the remedy
/// works.
#[tokio::test]
async fn a_horizon_in_the_future_is_told_of_and_taken_back() {
    let data = Data::new();
    data.poison(7 * DAY).await;
    let server = data.serve().await;
    let refused = increment(&server, &id(Duration::ZERO)).await;
    assert_eq!(reason(&refused.expect_err("too old")).0, "REQUEST_TOO_OLD");
    let value = increment(&server, "").await;
    assert_eq!(value.expect("without an id it counts"), 1);
    let asked = &["cluster", "status", "--address", &server.address];
    let says = async |clock: &str| while !run(asked).await.0.contains(clock) {};
    soon(says("BEHIND_HORIZON")).await;
    let told = notes(&data.store()).await;
    for part in [
        "(REQUEST_TOO_OLD), which is all of them for the next 6days 23h",
        "(SESSION_TOO_OLD), which is all new ones for the next 5days 23h",
        "sumd reset-horizon",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    let backup = data.path("backup.db");
    let (_, told) = run(&["backup", &backup, "--store", &data.store()]).await;
    assert!(told.contains("(REQUEST_TOO_OLD)"), "{told}");

    let problem = fails(&["reset-horizon", &data.path("sumd.db")]).await;
    assert!(problem.contains("in use by another process"), "{problem}");
    stop(server).await;
    let problem = fails(&["reset-horizon", &data.path("other.db")]).await;
    assert!(problem.contains("there is no database"), "{problem}");

    let restored = format!("sqlite:{}", data.path("restored.db"));
    for file in [&data.path("sumd.db"), &backup] {
        let (printed, _) = run(&["reset-horizon", file]).await;
        for part in [
            "ids were refused up to",
            "sessions were refused up to",
            "counts twice",
        ] {
            assert!(printed.contains(part), "{part:?} is not in {printed}");
        }
        let (printed, _) = run(&["reset-horizon", file]).await;
        assert!(printed.contains("nothing was changed"), "{printed}");
    }
    let left = |name: &str| std::path::Path::new(&data.path(name)).exists();
    assert!(!left("backup.db-wal") && !left("backup.db-lock"));
    let (_, told) = run(&["restore", &backup, "--store", &restored]).await;
    assert_eq!(told, "");
    for store in [&data.store(), &restored] {
        assert_eq!(notes(store).await, "");
        let server = Process::serve(&["--store", store]).await;
        let value = increment(&server, &id(Duration::ZERO)).await;
        assert_eq!(value.expect("it is of now"), 2);
        stop(server).await;
    }
}

/// The same on etcd, through a backup.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_horizon_in_the_future_is_taken_back_on_etcd() {
    let (etcd, data) = (Cluster::start(1, &[]).await, Data::new());
    let store = etcd.address().to_string();
    data.poison(7 * DAY).await;
    let poisoned = data.path("sumd.db");
    run(&["restore", &poisoned, "--store", &store]).await;
    let told = notes(&store).await;
    assert!(told.contains("(REQUEST_TOO_OLD)"), "{told}");
    let serve = async |flags: &[&str]| {
        let node = ["--store", &store, "--node-id", "a", "--drain-delay", "0s"];
        let mut server = Process::serve(&[&node, flags].concat()).await;
        server.logged("counting").await;
        server
    };
    let server = serve(&[]).await;
    let refused = increment(&server, &id(Duration::ZERO)).await;
    assert_eq!(reason(&refused.expect_err("too old")).0, "REQUEST_TOO_OLD");
    stop(server).await;

    let backup = data.path("backup.db");
    let (_, told) = run(&["backup", &backup, "--store", &store]).await;
    assert!(told.contains("(REQUEST_TOO_OLD)"), "{told}");
    run(&["reset-horizon", &backup]).await;
    let prefix = "--etcd-prefix=/other";
    let (_, told) = run(&["restore", &backup, "--store", &store, prefix]).await;
    assert_eq!(told, "");
    let server = serve(&[prefix]).await;
    let value = increment(&server, &id(Duration::ZERO)).await;
    assert_eq!(value.expect("it is of now"), 1);
    stop(server).await;
}
