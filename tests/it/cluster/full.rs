//! Nodes that start while etcd is full.

use std::time::Duration;

use sumd::cluster::{JoinError, Members, Options};
use sumd::etcd::{Doubt, Outcome};
use tokio::time::Instant;

use super::process::Node;
use super::{in_time, node};
use crate::etcd::cluster::Cluster;
use crate::etcd::quota::{ROOM, fill, make_room};
use crate::support::soon;

const QUOTA_BYTES: &str = "16777216";

/// A node waits for space until the deadline of its join, and reports what has to be done.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_node_joins_once_there_is_room() {
    let cluster = Cluster::start(1, &["--quota-backend-bytes", QUOTA_BYTES]).await;
    let client = cluster.client();
    let (revision, _) = fill(&client).await;
    let options = Options {
        prefix: "/sumd".to_owned(),
        lanes: 128,
        ttl: Duration::from_secs(2),
    };
    let join = |deadline| Members::join(&client, &options, node("a", "a.example:8080"), deadline);
    let deadline = Instant::now() + Duration::from_secs(2);
    match soon(join(deadline)).await.err() {
        Some(JoinError::Etcd(error)) => {
            assert_eq!(error.outcome, Outcome::Unknown(Doubt::NoSpace), "{error}");
            assert!(error.to_string().contains("defragment"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert!(Instant::now() >= deadline, "it was given up early");
    let client = cluster.client();
    let (joined, ()) = tokio::join!(
        join(in_time()),
        make_room(&cluster, &client, revision, ROOM)
    );
    joined.expect("there is room");
}

/// A node that starts alone on a full etcd makes space itself, and then counts.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_server_that_starts_without_room_makes_some() {
    let cluster = Cluster::start(1, &["--quota-backend-bytes", QUOTA_BYTES]).await;
    let mut first = Node::start(&cluster.address(), "a").await;
    first.increment("c", "one").await.expect("there is room");
    first.process.signal("TERM");
    first.process.exit().await;
    fill(&cluster.client()).await;
    let second = Node::start(&cluster.address(), "a").await;
    let counted = second.increment("c", "two").await;
    assert_eq!(counted.expect("there is room").value, 2);
}
