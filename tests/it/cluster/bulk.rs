//! Bulk messages for counters in lanes of several nodes, each of which stores its own part.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest, SumCountersRequest};
use tonic::Code;

use super::process::Node;
use crate::etcd::cluster::Cluster;
use crate::support::bulk::Stream;
use crate::support::soon;

/// Enough groups for each lane to have some.
const GROUPS: u32 = 40;

async fn start(etcd: &Cluster, id: &str) -> Node {
    let flags = ["--drain-delay", "0s", "--etcd-lanes", "8"];
    Node::start_with(&etcd.address(), id, &flags).await
}

/// Starts a second node, to which the first one forwards from then on.
async fn join(etcd: &Cluster, first: &mut Node) -> Node {
    let second = start(etcd, "b").await;
    first.process.logged("the nodes have changed").await;
    first.process.logged("connected to a node").await;
    second
}

/// One increment in each group. The counter of every tenth group has a limit of 2.
fn message(began: SystemTime, sequence: u64, acknowledged: u64) -> RecordIncrementsRequest {
    let increment = |group| Increment {
        counter: format!("group-{group}/x"),
        delta: 1,
        max: (group % 10 == 0).then_some(2),
        ..Increment::default()
    };
    RecordIncrementsRequest {
        session_id: "meter-7".to_owned(),
        session_time: Some(began.into()),
        sequence,
        acknowledged,
        increments: (0..GROUPS).map(increment).collect(),
    }
}

/// The failures of a message from the third on.
fn failures(sequence: u64) -> Vec<(u64, u32, i32)> {
    let failed = (0..GROUPS).step_by(10);
    let failed = failed.map(|index| (sequence, index, Code::FailedPrecondition as i32));
    failed.collect()
}

async fn send(
    stream: &mut Stream,
    began: SystemTime,
    sequences: RangeInclusive<u64>,
    acknowledged: u64,
) {
    for sequence in sequences {
        stream.send(message(began, sequence, acknowledged)).await;
    }
}

async fn sum(node: &Node) -> i64 {
    let mut client = node.counters();
    let sum = soon(client.sum_counters(SumCountersRequest::default())).await;
    sum.expect("an answer").into_inner().sum
}

/// The sum of all counters after this many messages.
fn expected(messages: u64) -> i64 {
    let limited = u64::from(GROUPS / 10);
    let sum = messages * (u64::from(GROUPS) - limited) + messages.min(2) * limited;
    i64::try_from(sum).expect("small")
}

/// A message is acknowledged once all nodes have stored their parts of it. Its failures are reported in the order of
/// its increments, whichever node they come from. On another stream, through either node, it is the same message.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_message_is_stored_by_all_nodes_that_own_its_lanes() {
    let etcd = Cluster::guarded(1).await;
    let mut a = start(&etcd, "a").await;
    let mut b = join(&etcd, &mut a).await;
    b.process.logged("connected to a node").await;
    let began = SystemTime::now();
    let mut sequence = 0;
    let mut known = 0;
    for node in [&a, &b, &a] {
        let mut stream = Stream::open(&mut node.counters()).await;
        // The client is behind, and sends acknowledged messages again.
        let empty = RecordIncrementsRequest {
            increments: vec![],
            ..message(began, 0, known)
        };
        stream.send(empty).await;
        let told = stream.acknowledged(sequence).await.expect("known");
        let untold = (known + 1..=sequence).filter(|sequence| *sequence > 2);
        assert_eq!(told, untold.flat_map(failures).collect::<Vec<_>>());
        for _ in 0..20 {
            sequence += 1;
            stream.send(message(began, sequence, sequence - 1)).await;
            let failed = stream.acknowledged(sequence).await.expect("stored");
            let all = if sequence > 2 {
                failures(sequence)
            } else {
                vec![]
            };
            assert_eq!(failed, all, "{sequence}");
        }
        known = sequence - 1;
        // Many messages at once.
        let first = sequence + 1;
        sequence += 50;
        send(&mut stream, began, first..=sequence, known).await;
        let failed = stream.acknowledged(sequence).await.expect("stored");
        let all: Vec<_> = (first..=sequence).flat_map(failures).collect();
        assert_eq!(failed, all);
        stream.end().await.expect("a clean end");
        for node in [&a, &b] {
            assert_eq!(sum(node).await, expected(sequence));
        }
    }
}

/// A stream survives the loss of other nodes: parts that they have not answered are stored once, by the lanes' new
/// owners.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_stream_goes_on_when_lanes_move() {
    let etcd = Cluster::guarded(1).await;
    let mut a = start(&etcd, "a").await;
    let began = SystemTime::now();
    let mut stream = Stream::open(&mut a.counters()).await;
    let mut last = 0;
    for signal in ["TERM", "STOP", "KILL"] {
        let mut b = join(&etcd, &mut a).await;
        send(&mut stream, began, last + 1..=last + 20, last).await;
        stream.acknowledged(last + 20).await.expect("stored");
        let known = last + 20;
        send(&mut stream, began, known + 1..=known + 20, known).await;
        b.process.signal(signal);
        send(&mut stream, began, known + 21..=known + 40, known).await;
        stream.acknowledged(known + 40).await.expect("stored");
        if signal == "STOP" {
            b.process.signal("KILL");
        }
        b.process.exit().await;
        last = known + 40;
        assert_eq!(sum(&a).await, expected(last));
    }
    stream.end().await.expect("a clean end");
}

/// A client need not declare at once what it knows to be acknowledged, nor repeat acknowledged messages. It continues
/// from the acknowledgement it got, on any stream, also if it repeats an earlier message.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_stream_goes_on_although_its_client_acknowledges_nothing() {
    let etcd = Cluster::guarded(1).await;
    let mut a = start(&etcd, "a").await;
    let b = join(&etcd, &mut a).await;
    let began = SystemTime::now();
    // Each message touches other lanes than the one before it.
    let some = |sequence| {
        let whole = message(began, sequence, 0);
        let at = usize::try_from(sequence).expect("few") % 7 * 5;
        let increments = whole.increments[at..at + 5].to_vec();
        RecordIncrementsRequest {
            increments,
            ..whole
        }
    };
    let mut last = 0;
    for node in [&a, &b, &a, &b] {
        let mut stream = Stream::open(&mut node.counters()).await;
        if last > 0 {
            stream.send(some(last / 2)).await;
        }
        for sequence in last + 1..=last + 20 {
            stream.send(some(sequence)).await;
        }
        last += 20;
        stream.acknowledged(last).await.expect("stored");
    }
}
