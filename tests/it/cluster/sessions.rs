//! Bulk sessions with parts in many lanes, on real etcd.

use std::time::{Duration, Instant, SystemTime};

use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{Increment, RecordIncrementsRequest};
use tonic::{Code, Status};

use super::process::Node;
use crate::etcd::cluster::Cluster;
use crate::support::process::Process;
use crate::support::{reason, soon};

/// The shortest horizon allowed.
const HORIZON: Duration = Duration::from_secs(1);

/// A session that sends each message on a stream of its own.
struct Session {
    node: Process,
    began: SystemTime,
    sequence: u64,
}

impl Session {
    async fn start(etcd: &Cluster, more: &[&str]) -> Self {
        let flags = ["--drain-delay", "0s", "--session-horizon", "1s"];
        let flags = [&flags[..], more].concat();
        let node = Node::start_with(&etcd.address(), "a", &flags).await;
        Self {
            node: node.process,
            began: SystemTime::now(),
            sequence: 0,
        }
    }

    /// Sends a message, and waits until it is acknowledged.
    async fn record(&mut self, counters: impl Iterator<Item = String>) -> Result<(), Status> {
        let increment = |counter| Increment {
            counter,
            delta: 1,
            ..Increment::default()
        };
        let message = RecordIncrementsRequest {
            session_id: "meter-7".to_owned(),
            session_time: Some(self.began.into()),
            sequence: self.sequence + 1,
            acknowledged: self.sequence,
            increments: counters.map(increment).collect(),
        };
        let address = format!("http://{}", self.node.address);
        let mut client = CounterServiceClient::connect(address)
            .await
            .expect("it listens");
        let answers = client.record_increments(tokio_stream::once(message));
        let mut answers = soon(answers).await?.into_inner();
        while let Some(answer) = soon(answers.message()).await? {
            self.sequence = self.sequence.max(answer.acknowledged);
        }
        Ok(())
    }
}

/// The age of a session does not matter while it is in use: lanes that are new to it accept its messages, too.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_session_in_use_does_not_grow_old() {
    for lanes in ["8", "1"] {
        let etcd = Cluster::guarded(1).await;
        let mut session = Session::start(&etcd, &["--etcd-lanes", lanes]).await;
        let begun = Instant::now();
        while begun.elapsed() < HORIZON * 2 {
            let counter = "always/x".to_owned();
            session.record([counter].into_iter()).await.expect("in use");
        }
        let late = (0..50).map(|group| format!("late-{group}/x"));
        session.record(late).await.expect("in use");
    }
}

/// A session that was unused for longer than the horizon is forgotten in all lanes, even in those that still have its
/// row.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_session_out_of_use_is_forgotten() {
    for lanes in ["8", "1"] {
        let etcd = Cluster::guarded(1).await;
        let mut session = Session::start(&etcd, &["--etcd-lanes", lanes]).await;
        let counters = || ["a/x".to_owned(), "b/x".to_owned()].into_iter();
        session.record(counters()).await.expect("a new one");
        // Only time makes it old.
        tokio::time::sleep(HORIZON * 2).await;
        for counter in ["a/x", "c/x"] {
            let refused = session.record([counter.to_owned()].into_iter()).await;
            let refused = refused.expect_err("a lane may have forgotten it");
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert_eq!(reason(&refused).0, "SESSION_TOO_OLD");
        }
    }
}
