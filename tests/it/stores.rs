//! The behaviour of every store, and of a lane whose store fails, hangs or loses unsynced data.

mod unreliable;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sumd::lane::{Decided, LaneError, LaneRuntime};
use sumd::model::{
    Bounds, Effect, Increments, Limits, Millis, Operation, Predecessor, Record, Request,
    SESSION_WINDOW,
};
use sumd::store::etcd::{DEFAULT_LANES, EtcdStore, Location};
use sumd::store::sqlite::SqliteStore;
use sumd::store::{LaneNumber, Scan, Store};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::etcd::cluster::Cluster;
use crate::support::{eventually, soon};
use unreliable::Unreliable;

/// A store that can be closed and opened again on the same data.
trait Reopen {
    async fn open(&self) -> Arc<dyn Store>;
}

struct Sqlite {
    folder: TempDir,
    recent_bytes: usize,
}

impl Sqlite {
    fn new() -> Self {
        Self::with_recent(1 << 20)
    }

    /// A store that folds counters into their rows at every opportunity.
    fn folding() -> Self {
        Self::with_recent(0)
    }

    fn with_recent(recent_bytes: usize) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            recent_bytes,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sumd.db")
    }
}

impl Reopen for Sqlite {
    async fn open(&self) -> Arc<dyn Store> {
        let store = SqliteStore::open(&self.path(), self.recent_bytes);
        Arc::new(store.expect("nobody else has it"))
    }
}

/// One member of etcd, which stays up while a store is opened again.
struct Etcd(Cluster, u32);

impl Reopen for Etcd {
    async fn open(&self) -> Arc<dyn Store> {
        let place = Location {
            lanes: self.1,
            ..self.0.place()
        };
        let store = EtcdStore::open(place).await;
        Arc::new(store.expect("it is well"))
    }
}

/// Tests each behaviour on each store.
macro_rules! on_every_store {
    ($($behaviour:ident)*) => {
        mod on_sqlite { $(#[tokio::test] async fn $behaviour() {
            super::$behaviour(&super::Sqlite::new()).await;
        })* }
        mod on_sqlite_that_folds { $(#[tokio::test] async fn $behaviour() {
            super::$behaviour(&super::Sqlite::folding()).await;
        })* }
        mod on_etcd { $(
            #[tokio::test]
            #[ignore = "make test runs it"]
            async fn $behaviour() {
                let cluster = crate::etcd::cluster::Cluster::start(1, &[]).await;
                super::$behaviour(&super::Etcd(cluster, super::DEFAULT_LANES)).await;
            }
        )* }
        mod on_etcd_of_one_lane { $(
            #[tokio::test]
            #[ignore = "make test runs it"]
            async fn $behaviour() {
                let cluster = crate::etcd::cluster::Cluster::start(1, &[]).await;
                super::$behaviour(&super::Etcd(cluster, 1)).await;
            }
        )* }
        mod on_unreliable { $(#[tokio::test] async fn $behaviour() {
            super::$behaviour(&super::Unreliable::default()).await;
        })* }
    };
}

on_every_store! {
    what_is_acknowledged_is_there_after_a_restart
    revisions_grow_and_are_never_given_again
    ids_are_answered_as_they_were_first
    sessions_go_on
    reads_see_what_was_answered_before
    scans_go_by_name_and_prefix
    scans_tell_what_has_changed_since
    sums_are_exact
    a_batch_that_does_not_follow_is_refused
}

async fn start(store: &impl Reopen) -> (LaneRuntime, Arc<dyn Store>) {
    let bounds = Bounds {
        id_bytes: 1 << 20,
        counter_bytes: 1 << 12,
        id_horizon: 600_000,
        session_horizon: 600_000,
    };
    let store = store.open().await;
    let lane = LaneRuntime::start(store.clone(), bounds).await;
    (lane.expect("the rows can be read"), store)
}

fn add(name: &str, delta: i64) -> Operation {
    Operation::Increment(Increments::one(name.into(), delta, Limits::default()))
}

/// The lane of an operation. All sessions here are of counters in group "g".
fn lane(store: &dyn Store, operation: &Operation) -> LaneNumber {
    let group = match operation {
        Operation::Record(_) => "g",
        other => other.group(),
    };
    store.hasher().lane(group, store.lanes())
}

async fn ask(running: &LaneRuntime, store: &dyn Store, operation: Operation) -> Decided {
    let lane = lane(store, &operation);
    let request = Request {
        id: None,
        operation,
    };
    soon(running.lanes.execute(lane, request))
        .await
        .expect("an answer")
}

async fn ask_as(
    running: &LaneRuntime,
    store: &dyn Store,
    id: &str,
    operation: Operation,
) -> Decided {
    let lane = lane(store, &operation);
    let id = store.hasher().id(id, None, &operation);
    let request = Request {
        id: Some(id),
        operation,
    };
    soon(running.lanes.execute(lane, request))
        .await
        .expect("an answer")
}

fn value(decided: &Decided) -> i64 {
    match &decided.answer.done {
        Effect::Incremented(added) => added.value,
        other => panic!("{other:?} is no increment"),
    }
}

async fn what_is_acknowledged_is_there_after_a_restart(data: &impl Reopen) {
    let (running, store) = start(data).await;
    for i in 1..=50 {
        assert_eq!(
            value(&ask(&running, &*store, add("g/a", i)).await),
            i * (i + 1) / 2
        );
    }
    ask(&running, &*store, Operation::Set("g/b".into(), -7)).await;
    ask(&running, &*store, Operation::Delete("g/b".into())).await;
    running.close().await.expect("a clean end");
    drop(store);

    let (running, store) = start(data).await;
    assert_eq!(value(&ask(&running, &*store, add("g/a", 0)).await), 1275);
    assert_eq!(value(&ask(&running, &*store, add("g/b", 1)).await), 1);
}

async fn revisions_grow_and_are_never_given_again(data: &impl Reopen) {
    let mut last = 0;
    for _ in 0..3 {
        let (running, store) = start(data).await;
        for _ in 0..5 {
            let revision = ask(&running, &*store, add("g/a", 1)).await.revision;
            assert!(revision > last, "{revision} after {last}");
            last = revision;
        }
        running.close().await.expect("a clean end");
        drop(store);
    }
}

async fn ids_are_answered_as_they_were_first(data: &impl Reopen) {
    let (running, store) = start(data).await;
    let first = ask_as(&running, &*store, "a", add("g/a", 5)).await;
    ask(&running, &*store, add("g/a", 1)).await;
    running.close().await.expect("a clean end");
    drop(store);

    let (running, store) = start(data).await;
    let again = ask_as(&running, &*store, "a", add("g/a", 5)).await;
    assert!(again.answer.replayed);
    assert_eq!((again.revision, value(&again)), (first.revision, 5));
    assert_eq!(value(&ask(&running, &*store, add("g/a", 0)).await), 6);
}

fn message(store: &dyn Store, sequence: u64, acknowledged: u64, time: Millis) -> Operation {
    let mut increments = Increments::default();
    increments.push("g/a", 1, Limits::default());
    increments.push("g/b", i64::MAX, Limits::default());
    record(store, sequence, acknowledged, time, increments)
}

fn record(
    store: &dyn Store,
    sequence: u64,
    acknowledged: u64,
    time: Millis,
    increments: Increments,
) -> Operation {
    Operation::Record(Record {
        session: "meter".into(),
        time,
        sequence,
        acknowledged,
        follows: Predecessor::TheOneBefore,
        contents: store.hasher().message(&increments),
        increments,
    })
}

fn now() -> Millis {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Millis::try_from(time.expect("after 1970").as_millis()).expect("before 292277026")
}

async fn sessions_go_on(data: &impl Reopen) {
    let (running, store) = start(data).await;
    let time = now();
    ask(&running, &*store, message(&*store, 1, 0, time)).await;
    let second = ask(&running, &*store, message(&*store, 2, 1, time)).await;
    running.close().await.expect("a clean end");
    drop(store);

    let (running, store) = start(data).await;
    let again = ask(&running, &*store, message(&*store, 2, 1, time)).await;
    assert!(again.answer.replayed);
    assert_eq!(
        again.answer.done, second.answer.done,
        "the failure is told again"
    );
    ask(&running, &*store, message(&*store, 3, 2, time)).await;
    assert_eq!(value(&ask(&running, &*store, add("g/a", 0)).await), 3);
}

async fn reads_see_what_was_answered_before(data: &impl Reopen) {
    let (running, store) = start(data).await;
    for i in 1..=20 {
        let decided = ask(&running, &*store, add("g/a", 1)).await;
        let names = vec!["g/a".into(), "g/none".into()];
        let found = soon(store.read(names)).await.expect("rows");
        let row = found.rows[0].as_ref().expect("it is there");
        assert_eq!((row.value, row.revision), (Some(i), decided.revision));
        assert_eq!(found.rows[1], None);
        assert!(found.revision >= decided.revision);
    }
}

/// The names on all pages of a scan.
async fn scan(store: &dyn Store, prefix: &str, since: i64, limit: usize) -> Vec<String> {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let scan = Scan {
            prefix: prefix.into(),
            after,
            since,
            limit,
        };
        let page = soon(store.scan(scan)).await.expect("a page");
        assert!(page.rows.len() <= limit);
        if since == 0 && page.next.is_some() {
            assert_eq!(page.rows.len(), limit, "there is more");
        }
        for row in page.rows {
            let deleted = if row.value.is_none() { "-" } else { "" };
            names.push(format!("{deleted}{}", row.name));
        }
        after = page.next;
        if after.is_none() {
            return names;
        }
    }
}

async fn scans_go_by_name_and_prefix(data: &impl Reopen) {
    let (running, store) = start(data).await;
    let names = ["b", "a/1", "a", "a/2", "a0", "ä", "a/2/x", "a-"];
    for name in names {
        ask(&running, &*store, add(name, 1)).await;
    }
    let mut sorted = names.map(str::to_owned);
    sorted.sort();
    for limit in [1, 2, 3, 100] {
        assert_eq!(scan(&*store, "", 0, limit).await, sorted);
        assert_eq!(scan(&*store, "a/", 0, limit).await, ["a/1", "a/2", "a/2/x"]);
        assert_eq!(scan(&*store, "x", 0, limit).await, [""; 0]);
    }
}

async fn scans_tell_what_has_changed_since(data: &impl Reopen) {
    let (running, store) = start(data).await;
    for name in ["a", "b", "c"] {
        ask(&running, &*store, add(name, 1)).await;
    }
    let since = ask(&running, &*store, add("d", 1)).await.revision;
    ask(&running, &*store, add("b", 1)).await;
    ask(&running, &*store, Operation::Delete("c".into())).await;
    ask(&running, &*store, Operation::Delete("a".into())).await;
    ask(&running, &*store, add("a", 1)).await;
    for limit in [1, 100] {
        assert_eq!(scan(&*store, "", since, limit).await, ["a", "b", "-c"]);
        assert_eq!(scan(&*store, "", 0, limit).await, ["a", "b", "d"]);
    }
}

async fn sums_are_exact(data: &impl Reopen) {
    let (running, store) = start(data).await;
    for name in ["a/x", "a/y", "b"] {
        ask(&running, &*store, add(name, i64::MAX)).await;
    }
    let last = ask(&running, &*store, Operation::Delete("b".into())).await;
    let all = soon(store.sum("".into())).await.expect("a sum");
    assert_eq!((all.sum, all.count), (2 * i128::from(i64::MAX), 2));
    assert!(all.revision >= last.revision);
    let one = soon(store.sum("a/y".into())).await.expect("a sum");
    assert_eq!((one.sum, one.count), (i64::MAX.into(), 1));
}

/// A batch is stored only on top of its predecessor, which stops one of two writers.
async fn a_batch_that_does_not_follow_is_refused(data: &impl Reopen) {
    let (running, store) = start(data).await;
    ask(&running, &*store, add("g/a", 1)).await;
    running.close().await.expect("a clean end");
    let lane = lane(&*store, &add("g/a", 1));
    // The last batch again, and batches that leave others out.
    for seq in [1, 3, 4] {
        let commit = sumd::model::Commit {
            seq,
            time: 0,
            stamp: sumd::model::Stamp::of_time(0),
            horizon: 0,
            session_horizon: 0,
            places: 1,
            ids: [].into(),
            forget_before: 0,
            deletions_up_to: 0,
            changes: sumd::model::Changes::default(),
        };
        let refused = soon(store.commit(lane, Arc::new(commit))).await;
        refused.expect_err("it was taken");
    }
    let names = vec!["g/a".into()];
    let rows = soon(store.read(names)).await.expect("it is well").rows;
    let value = rows[0].as_ref().and_then(|row| row.value);
    assert_eq!(value, Some(1));
}

/// A commit that fails may have been applied or not: its callers get UNKNOWN, the lane ends, and the state is found
/// when the store is opened again.
#[tokio::test]
async fn a_commit_that_fails_ends_the_lane() {
    for applied in [false, true] {
        let data = Unreliable::default();
        let (mut running, store) = start(&data).await;
        let lane = running.lanes.clone();
        ask_as(&running, &*store, "first", add("g/a", 1)).await;
        data.fail_next_commit(applied);
        let operation = add("g/a", 10);
        let id = store.hasher().id("second", None, &operation);
        let request = Request {
            id: Some(id),
            operation,
        };
        let error = soon(lane.execute(0, request)).await.expect_err("it failed");
        assert!(matches!(error, LaneError::Unknown(_)), "{error:?}");
        soon(running.failure()).await;
        let afterwards = Request {
            id: None,
            operation: add("g/a", 100),
        };
        let error = soon(lane.execute(0, afterwards))
            .await
            .expect_err("it has ended");
        assert!(matches!(error, LaneError::Closed), "{error:?}");

        let (again, store) = start(&data).await;
        let retried = ask_as(&again, &*store, "second", add("g/a", 10)).await;
        assert_eq!((value(&retried), retried.answer.replayed), (11, applied));
    }
}

/// If a counter cannot be read, the earlier decisions of its batch are committed, and the refused operations change
/// nothing.
#[tokio::test]
async fn what_cannot_be_read_takes_nothing_with_it() {
    // More operations than are decided at a time; those that are decided together with the failing one are refused,
    // too.
    const BEFORE: usize = 2000;
    let data = Unreliable::default();
    let (running, store) = start(&data).await;
    let execute = |operation| {
        let request = Request {
            id: None,
            operation,
        };
        running.lanes.execute(0, request)
    };
    let mut counted = value(&ask(&running, &*store, add("g/a", 1)).await);
    data.freeze();
    let first = execute(add("g/first", 1));
    data.commit_hangs().await;
    data.fail_reads_of(Some("g/unreadable"));
    let before: Vec<_> = (0..BEFORE).map(|_| execute(add("g/a", 1))).collect();
    let unreadable = execute(add("g/unreadable", 1));
    data.thaw();
    assert_eq!(value(&soon(first).await.expect("an answer")), 1);
    let is_refused = |error: LaneError| assert!(matches!(error, LaneError::Unavailable(_)));
    for answer in before {
        match soon(answer).await {
            Ok(decided) => {
                counted += 1;
                assert_eq!(value(&decided), counted);
            }
            Err(error) => is_refused(error),
        }
    }
    assert!(counted > 1, "none was answered");
    is_refused(soon(unreadable).await.expect_err("it cannot be read"));
    data.fail_reads_of(None);
    for (name, before) in [("g/a", counted), ("g/unreadable", 0)] {
        let decided = ask(&running, &*store, add(name, 1)).await;
        assert_eq!(value(&decided), before + 1);
    }
}

/// Nothing is answered while a commit hangs, and requests that come meanwhile share the next commit.
#[tokio::test]
async fn while_a_commit_hangs_the_next_batch_gathers() {
    let data = Unreliable::default();
    let (running, _store) = start(&data).await;
    data.freeze();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let lane = running.lanes.clone();
        let request = Request {
            id: None,
            operation: add("g/a", 1),
        };
        waiting
            .spawn(async move { value(&soon(lane.execute(0, request)).await.expect("an answer")) });
    }
    // All requests are queued, and the first commit has begun.
    data.commit_hangs().await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(waiting.try_join_next().is_none(), "nothing is durable");
    data.thaw();
    let mut values = soon(waiting.join_all()).await;
    values.sort_unstable();
    assert_eq!(
        values,
        (1..=500).collect::<Vec<_>>(),
        "each gets its own value"
    );
    assert!(data.commits() <= 3, "{} commits", data.commits());
}

/// Parts of messages that find no capacity wait for it in order, and none is refused.
#[tokio::test]
async fn bulk_waits_for_room() {
    const MESSAGES: u64 = 600;
    let data = Unreliable::default();
    let (running, store) = start(&data).await;
    data.freeze();
    let (told, mut answers) = mpsc::unbounded_channel();
    let queued = Arc::new(AtomicU64::new(0));
    let (lanes, counted, time) = (running.lanes.clone(), queued.clone(), now());
    let sender = tokio::spawn(async move {
        for sequence in 1..=MESSAGES {
            let mut increments = Increments::default();
            (0..1000).for_each(|_| increments.push("g/a", 1, Limits::default()));
            let request = Request {
                id: None,
                // The client is a window ahead of the last acknowledged message that it knows.
                operation: record(
                    &*store,
                    sequence,
                    sequence.saturating_sub(SESSION_WINDOW),
                    time,
                    increments,
                ),
            };
            let told = told.clone();
            let done = move |_, decided| drop(told.send(decided));
            lanes.enqueue_all(vec![(0, request)], done).await;
            counted.store(sequence, Ordering::Relaxed);
        }
    });
    data.commit_hangs().await;
    // As many messages as have 512 Ki increments.
    eventually("what there is room for", || {
        queued.load(Ordering::Relaxed) == 523
    })
    .await;
    data.thaw();
    soon(sender).await.expect("no panic");
    for sequence in 1..=MESSAGES {
        let decided = soon(answers.recv()).await.expect("an answer");
        let Ok(Effect::Recorded { acknowledged, .. }) = decided.map(|decided| decided.answer.done)
        else {
            panic!("message {sequence} was refused");
        };
        assert_eq!(acknowledged, sequence);
    }
}

/// If a store loses unsynced data, no answered change is lost.
#[tokio::test]
async fn what_was_not_synced_was_not_answered() {
    let data = Unreliable::default();
    let (running, store) = start(&data).await;
    let answered = value(&ask_as(&running, &*store, "a", add("g/a", 1)).await);
    data.freeze();
    let lane = running.lanes.clone();
    let lost = tokio::spawn(async move {
        lane.execute(
            0,
            Request {
                id: None,
                operation: add("g/a", 10),
            },
        )
        .await
    });
    data.commit_hangs().await;
    data.lose_power();
    soon(lost)
        .await
        .expect("no panic")
        .expect_err("it is not durable");

    let (running, store) = start(&data).await;
    assert_eq!(
        value(&ask(&running, &*store, add("g/a", 0)).await),
        answered
    );
    assert!(
        ask_as(&running, &*store, "a", add("g/a", 1))
            .await
            .answer
            .replayed
    );
}
