//! Whole nodes, as processes of their own, on real etcd.

use serde_json::Value;
use sumd::proto::sum::v1::sum_service_client::SumServiceClient;
use sumd::proto::sum::v1::{AddRequest, Consistency, GetCounterRequest, SumCountersRequest};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::process::Node;
use crate::etcd::cluster::Cluster;
use crate::support::process::{SUMD, command};
use crate::support::soon;

/// All nodes share one counter, and the same id is one increment, on whichever node it is repeated.
#[tokio::test]
#[ignore = "make test runs it"]
async fn nodes_count_as_one() {
    count_as_one(&[]).await;
}

/// The same holds with a single lane: a store with one lane is still shared.
#[tokio::test]
#[ignore = "make test runs it"]
async fn nodes_count_as_one_in_one_lane() {
    count_as_one(&["--etcd-lanes", "1"]).await;
}

async fn count_as_one(flags: &[&str]) {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let start = async |id| Node::start_with(&address, id, flags).await;
    let (a, b) = (start("a").await, start("b").await);
    for group in 0..20 {
        let counter = format!("group-{group}/x");
        let first = a.increment(&counter, "one").await.expect("an answer");
        assert_eq!((first.value, first.replayed), (1, false));
        let again = b.increment(&counter, "one").await.expect("an answer");
        assert!(again.replayed, "wherever it is repeated");
        assert_eq!((again.value, again.revision), (1, first.revision));
        let more = b.increment(&counter, "").await.expect("an answer");
        assert_eq!((more.value, more.replayed), (2, false));
        assert!(more.revision > first.revision);
        let request = GetCounterRequest {
            counter: counter.clone(),
            ..GetCounterRequest::default()
        };
        let read = a.counters().get_counter(request).await.expect("an answer");
        let read = read.into_inner().counter.expect("a counter");
        assert_eq!((read.value, read.revision), (2, more.revision));
        // A revision that only the other node has returned, so this node has to follow it.
        let more = a.increment(&counter, "").await.expect("an answer");
        let request = GetCounterRequest {
            counter: read.name,
            consistency: Consistency::StaleOk.into(),
            min_revision: more.revision,
        };
        let read = b.counters().get_counter(request).await.expect("an answer");
        let read = read.into_inner().counter.expect("a counter");
        assert_eq!((read.value, read.revision), (3, more.revision));
    }
    let mut client = b.counters();
    let sum = client.sum_counters(SumCountersRequest::default());
    let sum = sum.await.expect("an answer").into_inner();
    assert_eq!((sum.sum, sum.count), (60, 20));
}

/// Counters keep the number of lanes that they were created with, and a node with another setting warns about it.
#[tokio::test]
#[ignore = "make test runs it"]
async fn another_number_of_lanes_is_told() {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let _first = Node::start(&address, "a").await;
    for (lanes, is_told) in [("8", false), ("3", true)] {
        let flags = ["--etcd-lanes", lanes, "--drain-delay", "0s"];
        let mut node = Node::begin_as(&mut command(SUMD), &address, "b", &flags).await;
        let counting = "sum.v1.CounterService";
        node.becomes(counting, ServingStatus::Serving).await;
        node.process.signal("TERM");
        let log = node.process.rest_of_log().await;
        let is_of_lanes = |line: &&Value| {
            let message = line["message"].as_str();
            message.is_some_and(|message| message.contains("--etcd-lanes"))
        };
        let told: Vec<_> = log.iter().filter(is_of_lanes).collect();
        assert_eq!(told.len(), usize::from(is_told), "{log:?}");
        for told in told {
            assert_eq!(told["level"], "WARN", "{told}");
            let message = told["message"].as_str().expect("a message");
            assert!(message.contains("--etcd-lanes 3"), "{told}");
            assert!(message.contains("stop all nodes"), "{told}");
            assert_eq!(told["lanes"], 8, "{told}");
        }
    }
}

/// A node logs it if another node with the same id and address takes its place.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_node_whose_place_is_taken_says_so() {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let flags = ["--advertise", "node.example:8080", "--drain-delay", "0s"];
    let start = async || {
        let mut node = Node::begin_as(&mut command(SUMD), &address, "a", &flags).await;
        node.process.logged("counting").await;
        node
    };
    let mut first = start().await;
    let _second = start().await;
    let told = "another node with this id and address";
    first.process.logged(told).await;
}

/// The other nodes take over the lanes of a dead node at once; those of a stopped process too, which notices when it
/// resumes.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_node_that_dies_is_not_missed() {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let (a, b) = (
        Node::start(&address, "a").await,
        Node::start(&address, "b").await,
    );
    let counter = |group: usize| format!("group-{group}/x");
    for group in 0..20 {
        a.increment(&counter(group), "").await.expect("an answer");
    }
    b.process.signal("STOP");
    for group in 0..20 {
        let value = soon(a.increment(&counter(group), "")).await;
        assert_eq!(value.expect("an answer").value, 2);
    }
    b.process.signal("CONT");
    for group in 0..20 {
        let value = soon(b.increment(&counter(group), "")).await;
        assert_eq!(value.expect("an answer").value, 3);
    }
    b.process.signal("KILL");
    for group in 0..20 {
        let value = soon(a.increment(&counter(group), "")).await;
        assert_eq!(value.expect("an answer").value, 4);
    }
}

/// Sums need no etcd, and counters are served once etcd is there.
#[tokio::test]
#[ignore = "make test runs it"]
async fn sums_do_not_wait_for_etcd() {
    let mut etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    etcd.members[0].kill().await;
    let mut node = Node::begin(&address, "a").await;
    let add = async || {
        let request = AddRequest { values: vec![1, 2] };
        let sum = SumServiceClient::new(node.channel.clone())
            .add(request)
            .await;
        sum.expect("it needs no store").into_inner().sum
    };
    assert_eq!(add().await, 3);
    assert_eq!(node.health("").await, ServingStatus::Serving);
    let refused = node.increment("a/b", "").await.expect_err("no store");
    assert_eq!(refused.code(), Code::Unavailable);
    let counting = "sum.v1.CounterService";
    assert_eq!(node.health(counting).await, ServingStatus::NotServing);

    etcd.members[0].start();
    node.process.logged("counting").await;
    assert_eq!(node.increment("a/b", "").await.expect("an answer").value, 1);
    node.becomes(counting, ServingStatus::Serving).await;

    etcd.members[0].kill().await;
    node.becomes(counting, ServingStatus::NotServing).await;
    let request = AddRequest { values: vec![1, 2] };
    let sum = SumServiceClient::new(node.channel.clone())
        .add(request)
        .await;
    assert_eq!(sum.expect("it needs no store").into_inner().sum, 3);
    assert_eq!(node.health("").await, ServingStatus::Serving);
}
