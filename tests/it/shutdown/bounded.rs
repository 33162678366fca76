//! A server that is told to stop stops within its bound, whatever a store, a reader or a peer does.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use sumd::model::{Changes, Commit, CounterChange, Stamp};
use sumd::proto::sum::v1::{
    Increment, IncrementCounterRequest, RecordIncrementsRequest, SumCountersRequest,
    WatchCountersRequest,
};
use sumd::store::Store as _;
use sumd::store::sqlite::SqliteStore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::process::Node;
use crate::crash::operation::Client;
use crate::damage::disk::Disk;
use crate::etcd::cluster::Cluster;
use crate::support::process::{Process, SUMD, command};
use crate::support::raw::{Call, Connection, framed};
use crate::support::{eventually, soon};

/// Flags for a drain of one second, plus a second for the calls that it ends.
const FLAGS: [&str; 4] = ["--drain-delay", "0s", "--drain-timeout", "1s"];
/// That bound, plus time for a busy machine.
const BOUND: Duration = Duration::from_secs(1 + 1 + 5);
/// In addition, the time for which a node waits for etcd: for an outcome, and to leave the cluster.
const BOUND_OF_NODE: Duration = Duration::from_secs(7 + 10);

/// Tells a server to stop, and waits for its end.
async fn ends(mut server: Process, bound: Duration, what: &str) {
    let told = Instant::now();
    server.signal("TERM");
    let code = server.exit().await.code();
    let took = told.elapsed();
    assert!(took < bound, "{what}: it took {took:?}");
    assert!(code.is_some(), "{what}: {code:?}");
}

async fn connect(address: &str) -> Client {
    let client = Client::connect(format!("http://{address}")).await;
    client.expect("it listens")
}

async fn increment(client: &mut Client, counter: &str) {
    let request = IncrementCounterRequest {
        counter: counter.to_owned(),
        delta: 1,
        ..IncrementCounterRequest::default()
    };
    soon(client.increment_counter(request))
        .await
        .expect("a value");
}

/// A call of a client that sends and reads nothing.
async fn deaf(address: &str, method: &str, messages: &[impl Message]) -> (Connection, Call) {
    let mut connection = Connection::open_deaf(address).await;
    let mut call = connection
        .call_path(&format!("/sum.v1.CounterService/{method}"))
        .await;
    for message in messages {
        assert!(call.send_all(framed(&message.encode_to_vec())).await);
    }
    (connection, call)
}

/// Creates enough counters for a sum of all to take some time.
async fn fill(path: &Path) {
    let store = SqliteStore::open(path, 1 << 20).expect("a new database");
    for seq in 1..=40_u64 {
        let counters = (0..5000).map(|i| CounterChange {
            name: format!("many/{seq}-{i:040}").into(),
            value: Some(1),
            place: i + 1,
            is_new: true,
        });
        let batch = Commit {
            seq,
            time: 0,
            stamp: Stamp::of_time(0),
            horizon: 0,
            session_horizon: 0,
            places: 5000,
            ids: [].into(),
            forget_before: seq,
            deletions_up_to: 0,
            changes: Changes {
                counters: counters.collect(),
                sessions: Vec::new(),
            },
        };
        soon(store.commit(0, Arc::new(batch)))
            .await
            .expect("stored");
    }
}

/// Scans on all threads that may run them.
#[tokio::test]
async fn scans_do_not_hold_the_end_up() {
    let data = tempfile::tempdir().expect("a folder");
    fill(&data.path().join("sumd.db")).await;
    let folder = data.path().to_str().expect("text");
    let server = Process::serve(&[&["--data-dir", folder], &FLAGS[..]].concat()).await;
    let mut scans = JoinSet::new();
    for _ in 0..4 {
        let mut client = connect(&server.address).await;
        scans.spawn(async move {
            // Until the server refuses, or has ended.
            while client
                .sum_counters(SumCountersRequest::default())
                .await
                .is_ok()
            {}
        });
    }
    let mut client = connect(&server.address).await;
    let sum = soon(client.sum_counters(SumCountersRequest::default())).await;
    assert_eq!(sum.expect("a sum").into_inner().count, 200_000);
    ends(server, BOUND, "scans").await;
    soon(scans.join_all()).await;
}

/// Clients that watch, or record, and read none of their answers.
#[tokio::test]
async fn clients_that_never_read_do_not_hold_the_end_up() {
    let server = Process::serve(&FLAGS).await;
    let watch = WatchCountersRequest {
        prefix: "acme/".to_owned(),
        ..WatchCountersRequest::default()
    };
    let _watches = deaf(&server.address, "WatchCounters", &[watch]).await;
    let increment_once = Increment {
        counter: "acme/bulk".to_owned(),
        delta: 1,
        ..Increment::default()
    };
    let session = uuid::Uuid::now_v7().to_string();
    let messages = (1..=100).map(|sequence| RecordIncrementsRequest {
        session_id: session.clone(),
        sequence,
        increments: vec![increment_once.clone()],
        ..RecordIncrementsRequest::default()
    });
    let messages: Vec<_> = messages.collect();
    let _records = deaf(&server.address, "RecordIncrements", &messages).await;
    let mut client = connect(&server.address).await;
    for i in 0..1000 {
        increment(&mut client, &format!("acme/{i}")).await;
    }
    ends(server, BOUND, "deaf clients").await;
}

/// If a disk neither answers nor fails while the database is closed, a second signal still ends the process.
#[tokio::test]
async fn a_disk_that_hangs_does_not_hold_up_a_second_signal() {
    let disk = Disk::new().await;
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut server = disk.serve().await;
        let mut client = connect(&server.address).await;
        increment(&mut client, "acme/a").await;
        disk.set("hang", true);
        server.signal("TERM");
        let hangs = || disk.done_to_the_log().iter().any(|done| done == "hang");
        eventually("the close of the database", hangs).await;
        server.signal(signal);
        assert_eq!(server.exit().await.code(), Some(code));
        disk.set("hang", false);
    }
}

async fn node(etcd: &Cluster, id: &str) -> Node {
    let mut command = command(SUMD);
    let mut node = Node::begin_as(&mut command, &etcd.address(), id, &FLAGS).await;
    node.process.logged("counting").await;
    node
}

/// Increments that stay in flight as long as a peer or etcd does not answer.
fn increments(node: &Node) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    for group in 0..20 {
        let mut client = node.counters();
        calls.spawn(async move {
            let request = IncrementCounterRequest {
                counter: format!("group-{group}/a"),
                delta: 1,
                ..IncrementCounterRequest::default()
            };
            // The call may end in any way.
            let _ = client.increment_counter(request).await;
        });
    }
    calls
}

/// An etcd that does not answer, with increments and a sum in flight.
#[tokio::test]
#[ignore = "make test runs it"]
async fn an_etcd_that_has_stopped_does_not_hold_the_end_up() {
    etcd_has_stopped("8").await;
}

/// The same with a single lane, which does not make etcd a local disk.
#[tokio::test]
#[ignore = "make test runs it"]
async fn an_etcd_of_one_lane_that_has_stopped_does_not_hold_the_end_up() {
    etcd_has_stopped("1").await;
}

async fn etcd_has_stopped(lanes: &str) {
    let etcd = Cluster::start(1, &[]).await;
    let mut command = command(SUMD);
    let flags = [&FLAGS[..], &["--etcd-lanes", lanes]].concat();
    let mut node = Node::begin_as(&mut command, &etcd.address(), "a", &flags).await;
    node.process.logged("counting").await;
    // Counters in memory are committed at once.
    for group in 0..20 {
        let counter = format!("group-{group}/a");
        node.increment(&counter, "").await.expect("a value");
    }
    etcd.members[0].stop();
    let calls = increments(&node);
    let mut client = node.counters();
    let sum = tokio::spawn(async move {
        let _ = client.sum_counters(SumCountersRequest::default()).await;
    });
    // Nothing shows that the calls are in flight; if they are not, stopping is only easier.
    sleep(Duration::from_millis(300)).await;
    ends(node.process, BOUND_OF_NODE, "etcd has stopped").await;
    soon(calls.join_all()).await;
    soon(sum).await.expect("no panic");
    etcd.members[0].resume();
}

/// The same while a node is still starting.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_node_that_waits_for_etcd_ends_in_time() {
    let etcd = Cluster::start(1, &[]).await;
    etcd.members[0].stop();
    let mut command = command(SUMD);
    let node = Node::begin_as(&mut command, &etcd.address(), "a", &FLAGS).await;
    ends(node.process, BOUND_OF_NODE, "it has not begun").await;
    etcd.members[0].resume();
}

/// A peer that does not answer, with increments forwarded to it.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_peer_that_has_stopped_does_not_hold_the_end_up() {
    let etcd = Cluster::start(1, &[]).await;
    let (first, second) = (node(&etcd, "a").await, node(&etcd, "b").await);
    for group in 0..20 {
        let counter = format!("group-{group}/a");
        first.increment(&counter, "").await.expect("a value");
    }
    second.process.signal("STOP");
    let calls = increments(&first);
    sleep(Duration::from_millis(300)).await;
    ends(first.process, BOUND_OF_NODE, "a peer has stopped").await;
    soon(calls.join_all()).await;
    second.process.signal("CONT");
}
