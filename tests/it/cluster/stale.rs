//! Reads that may be stale, on nodes that have not made the change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use prost::Message as _;
use sumd::proto::sum::v1::{
    BatchGetCountersRequest, BatchIncrementCountersRequest, Consistency, Counter,
    DeleteCounterRequest, GetCounterRequest, Increment, WatchCountersRequest,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::process::Node;
use crate::etcd::cluster::Cluster;
use crate::support::raw::{Connection, framed};
use crate::support::{reason, soon};

/// The consistency and the revision of a read.
#[derive(Clone, Copy)]
struct Read {
    consistency: Consistency,
    min_revision: i64,
}

const NEWEST: Read = Read {
    consistency: Consistency::Linearizable,
    min_revision: 0,
};
const STALE: Read = Read {
    consistency: Consistency::StaleOk,
    ..NEWEST
};

impl Read {
    fn at(self, min_revision: i64) -> Self {
        Self {
            min_revision,
            ..self
        }
    }

    async fn one(self, node: &Node, counter: &str) -> Result<Counter, Status> {
        let request = GetCounterRequest {
            counter: counter.to_owned(),
            consistency: self.consistency.into(),
            min_revision: self.min_revision,
        };
        let answer = soon(node.counters().get_counter(request)).await?;
        Ok(answer.into_inner().counter.expect("a counter"))
    }

    /// The server's error if the timeout is this short. tonic's client would return an error of its own.
    async fn within(self, timeout: &str, node: &Node, counter: &str) -> Status {
        let message = GetCounterRequest {
            counter: counter.to_owned(),
            consistency: self.consistency.into(),
            min_revision: self.min_revision,
        };
        let request = http::Request::post("http://sumd/sum.v1.CounterService/GetCounter")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .body(());
        let mut connection = Connection::open(&node.process.address).await;
        let mut call = connection.send(request.expect("a request")).await;
        call.send(framed(&message.encode_to_vec()), true);
        call.answer().await.status
    }

    async fn all(self, node: &Node, counters: &[&str]) -> Result<Vec<Counter>, Status> {
        let request = BatchGetCountersRequest {
            counters: counters.iter().map(|&name| name.to_owned()).collect(),
            consistency: self.consistency.into(),
            min_revision: self.min_revision,
        };
        let answer = soon(node.counters().batch_get_counters(request)).await?;
        Ok(answer.into_inner().counters)
    }
}

fn counter(name: &str, value: i64, revision: i64) -> Counter {
    Counter {
        name: name.to_owned(),
        value,
        revision,
    }
}

async fn add(node: &Node, counter: &str) -> Counter {
    let answer = soon(node.increment(counter, "")).await;
    let answer = answer.expect("nothing is wrong with it");
    self::counter(counter, answer.value, answer.revision)
}

async fn delete(node: &Node, counter: &str) -> i64 {
    let request = DeleteCounterRequest {
        counter: counter.to_owned(),
        ..DeleteCounterRequest::default()
    };
    let answer = soon(node.counters().delete_counter(request)).await;
    answer.expect("deleted").into_inner().revision
}

/// Two nodes on one etcd.
async fn two_nodes() -> (Cluster, Node, Node) {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let a = Node::start(&address, "a").await;
    let b = Node::start(&address, "b").await;
    (etcd, a, b)
}

/// A read with the revision of a change shows that change, on any node and from the node's first such read on: for one
/// counter or several, and for deleted ones.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_revision_is_enough_to_be_shown_a_change() {
    let (_etcd, a, b) = two_nodes().await;
    let names: Vec<_> = (0..5).map(|group| format!("group-{group}/x")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for round in 0..40 {
        let mut truth = Vec::new();
        for name in &names {
            let made = add(&a, name).await;
            let seen = STALE.at(made.revision).one(&b, name).await;
            assert_eq!(seen.expect("an answer"), made, "in round {round}");
            truth.push(made);
        }
        let last = truth.last().expect("some").revision;
        let seen = STALE.at(last).all(&b, &names).await;
        assert_eq!(seen.expect("an answer"), truth, "in round {round}");
        if round % 8 == 7 {
            let deleted = delete(&a, names[2]).await;
            let seen = STALE.at(deleted).one(&b, names[2]).await;
            assert_eq!(seen.expect("an answer"), counter(names[2], 0, 0));
        }
    }
}

/// A read without a revision shows an earlier state with its revision, and counters of one group as of the same moment.
/// The latest state is shown soon, without any further request or change.
#[tokio::test]
#[ignore = "make test runs it"]
async fn without_a_revision_it_is_something_that_was_so() {
    let (_etcd, a, b) = two_nodes().await;
    let (names, done) = (["pair/x", "pair/y"], CancellationToken::new());
    let writer = async {
        let increment = |name: &str, delta| Increment {
            counter: name.to_owned(),
            delta,
            ..Increment::default()
        };
        let mut made = BTreeMap::from([(0, 0)]);
        for _ in 0..300 {
            let request = BatchIncrementCountersRequest {
                increments: vec![increment(names[0], 1), increment(names[1], -1)],
                ..BatchIncrementCountersRequest::default()
            };
            let answer = soon(a.counters().batch_increment_counters(request)).await;
            let answer = answer.expect("nothing is wrong with it").into_inner();
            made.insert(answer.results[0].value, answer.revision);
        }
        done.cancel();
        made
    };
    let reader = async {
        let mut seen = Vec::new();
        while !done.is_cancelled() {
            seen.push(STALE.all(&b, &names).await.expect("an answer"));
            seen.push(vec![STALE.one(&b, names[0]).await.expect("an answer")]);
        }
        seen
    };
    let (made, seen) = tokio::join!(writer, reader);
    for counters in &seen {
        for each in counters {
            let revision = made.get(&each.value.abs());
            assert_eq!(revision, Some(&each.revision), "{each:?} was never so");
        }
        let sum: i64 = counters.iter().map(|each| each.value).sum();
        assert!(
            counters.len() < 2 || sum == 0,
            "{counters:?} were never so at one moment"
        );
    }
    let moments = seen.iter().map(|counters| counters[0].revision);
    let moments: BTreeSet<_> = moments.collect();
    assert!(moments.len() > 10, "{} moments were seen", moments.len());
    soon(async {
        while STALE.one(&b, names[0]).await.expect("an answer").value < 300 {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// A read waits for a future revision as long as its caller does, and for at most a second. Then it shows the latest
/// state.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_revision_of_the_future_is_not_waited_for_for_ever() {
    let (_etcd, a, b) = two_nodes().await;
    add(&a, "acme/x").await;
    let future = STALE.at(i64::MAX);
    let late = future.within("300m", &b, "acme/x").await;
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
    for value in 2..4 {
        let made = add(&a, "acme/x").await;
        assert_eq!(made.value, value);
        let seen = future.one(&b, "acme/x").await.expect("an answer");
        assert_eq!(seen, made);
        let seen = future.all(&b, &["acme/y", "acme/x"]).await;
        let seen = seen.expect("an answer");
        assert_eq!(seen, [counter("acme/y", 0, 0), made]);
    }
    for (wrong, field) in [
        (STALE.at(-1), "min_revision"),
        (NEWEST.at(-1), "min_revision"),
    ] {
        let refused = wrong.one(&b, "acme/x").await.expect_err("below 0");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(field), "{refused:?}");
    }
}

/// A node keeps answering reads of counters that it was asked for while etcd is down. It does not matter why the node
/// began to follow the changes, nor how long ago the last one was. Other calls fail with STORE_UNAVAILABLE, and change
/// nothing.
#[tokio::test]
#[ignore = "make test runs it"]
async fn memory_is_read_while_etcd_is_down() {
    let (mut etcd, a, b) = two_nodes().await;
    let made = add(&a, "acme/x").await;
    let watch = WatchCountersRequest {
        counters: vec!["acme/x".to_owned()],
        from_revision: made.revision - 1,
        ..WatchCountersRequest::default()
    };
    let watch = soon(b.counters().watch_counters(watch)).await;
    let mut watch = watch.expect("a stream").into_inner();
    let mut told = 0;
    let newest = loop {
        // Until the node follows the changes, the watch reads the store; later answers are changes.
        let made = add(&a, "acme/x").await;
        while told < made.revision {
            let answer = soon(watch.message()).await.expect("no error");
            told = answer.expect("it has no end").revision;
        }
        if made.value > 3 {
            break made;
        }
    };
    let never = counter("acme/never", 0, 0);
    for at in [0, newest.revision] {
        let read = STALE.at(at).all(&b, &["acme/x", "acme/never"]).await;
        assert_eq!(read.expect("an answer"), [newest.clone(), never.clone()]);
    }

    etcd.members[0].kill().await;
    for at in [0, newest.revision] {
        let read = STALE.at(at).one(&b, "acme/x").await;
        assert_eq!(read.expect("an answer"), newest);
        let read = STALE.at(at).all(&b, &["acme/never", "acme/x"]).await;
        assert_eq!(read.expect("an answer"), [never.clone(), newest.clone()]);
    }
    let in_memory = STALE.one(&b, "acme/x");
    let unreachable = [
        NEWEST.one(&b, "acme/x"),
        STALE.at(i64::MAX).one(&b, "acme/x"),
        STALE.one(&b, "acme/not-asked-for"),
    ];
    let late = [
        NEWEST.within("300m", &b, "acme/x"),
        STALE.at(i64::MAX).within("300m", &b, "acme/x"),
    ];
    let (unreachable, late, in_memory) =
        tokio::join!(join_all(unreachable), join_all(late), in_memory,);
    assert_eq!(in_memory.expect("an answer"), newest);
    for status in unreachable {
        let status = status.expect_err("etcd is down");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let (reason, metadata) = reason(&status);
        assert_eq!(reason, "STORE_UNAVAILABLE");
        assert_eq!(metadata["outcome"], "NOT_APPLIED");
    }
    for status in late {
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }

    etcd.members[0].start();
    etcd.healthy().await;
    let made = soon(async {
        loop {
            match a.increment("acme/x", "once").await {
                Ok(made) => break counter("acme/x", made.value, made.revision),
                Err(early) => assert_eq!(early.code(), Code::Unavailable, "{early:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let made = made.await;
    assert_eq!(made.value, newest.value + 1);
    let seen = STALE.at(made.revision).one(&b, "acme/x").await;
    assert_eq!(seen.expect("an answer"), made);
}
