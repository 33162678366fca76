//! Messages of a session that were applied in some lanes and not in others when they were moved.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sumd::lane::Running;
use sumd::model::{Bounds, Done, Follows, Increments, Limits, Operation, Part, Record, Request};
use sumd::store::Store;
use sumd::store::etcd::EtcdStore;

use super::{Places, Server, moves, sumd};
use crate::support::soon;

const MESSAGE: [(&str, i64); 4] = [("s/a", 10), ("t/a", 20), ("s/a", i64::MAX), ("u/a", 30)];

/// Applies what the second message has for its first lane, and nothing else of it.
async fn tear(places: &Places, begun: SystemTime) {
    let store = EtcdStore::open(places.etcd.client(), "/sumd", 128).await;
    let store: Arc<dyn Store> = Arc::new(store.expect("it is well"));
    let bounds = Bounds {
        id_bytes: 1 << 20,
        counter_bytes: 1 << 20,
        id_horizon: 600_000,
        session_horizon: 86_400_000,
    };
    let running = Running::start(store.clone(), bounds).await;
    let running = running.expect("it begins");
    let digests = store.digests();
    let mut increments = Increments::default();
    for index in [0, 2] {
        let (name, delta) = MESSAGE[index];
        increments.push(name, delta, Limits::default());
    }
    let since_1970 = begun.duration_since(UNIX_EPOCH).expect("later");
    let record = Record {
        session: "meter".into(),
        time: i64::try_from(since_1970.as_millis()).expect("a time"),
        sequence: 2,
        acknowledged: 0,
        follows: Follows::InLane(Part {
            previous: Some(1),
            parts: 3,
            indices: [0, 2].into(),
        }),
        contents: digests.message(&increments),
        increments,
    };
    let request = Request {
        id: None,
        operation: Operation::Record(record),
    };
    let lane = digests.lane("s", store.lanes());
    let decided = soon(running.lanes.execute(lane, request)).await;
    let Done::Recorded { failures, .. } = decided.expect("it is applied").answer.done else {
        panic!("it is a message");
    };
    assert_eq!(failures.len(), 1);
    running.close().await.expect("a clean end");
}

/// Sent again, such a message is completed, and answered as a whole.
async fn completes(server: &mut Server, begun: SystemTime) {
    assert_eq!(server.sum("").await, 1 + 2 + 10);
    let mut stream = server.session("meter", begun).await;
    stream.send(2, 1, &MESSAGE).await;
    assert_eq!(stream.acknowledged(2).await, [(2, 2)]);
    for (prefix, sum) in [("s/", 11), ("t/", 22), ("u/", 30)] {
        assert_eq!(server.sum(prefix).await, sum, "{prefix}");
    }
    // And it goes on, over the same and other lanes.
    stream.send(3, 1, &[("s/a", 1), ("v/a", 1)]).await;
    stream.send(4, 2, &[("t/a", 1), ("s/a", 1)]).await;
    stream.acknowledged(4).await;
    let mut again = server.session("meter", begun).await;
    again.send(0, 2, &[]).await;
    again.send(3, 2, &[("s/a", 1), ("v/a", 1)]).await;
    again.send(4, 2, &[("t/a", 1), ("s/a", 1)]).await;
    again.send(5, 2, &[("u/a", 1)]).await;
    again.acknowledged(5).await;
    assert_eq!(server.sum("").await, 11 + 22 + 30 + 5);
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn what_is_torn_is_completed_wherever_it_is() {
    let places = Places::new().await;
    let there = places.etcd();
    let begun = SystemTime::now();
    let mut node = places.serve(&there).await;
    let mut stream = node.session("meter", begun).await;
    stream.send(1, 0, &[("s/a", 1), ("t/a", 2)]).await;
    stream.acknowledged(1).await;
    drop(stream);
    node.stop().await;
    tear(&places, begun).await;
    let backup = places.path("backup.db");
    let backup = backup.to_str().expect("a path");
    sumd(&["backup", backup, "--store", &there]).await;

    // In lanes again, by a backup and by way of a file.
    let by_file = places.file("between.db");
    sumd(&["restore", backup, "--store", &by_file]).await;
    for prefix in ["/other", "/third"] {
        let prefix = format!("--etcd-prefix={prefix}");
        if prefix.ends_with("other") {
            sumd(&["restore", backup, "--store", &there, &prefix]).await;
        } else {
            sumd(&["move", "--from", &by_file, "--to", &there, &prefix]).await;
        }
        let mut node = places.serve_with(&there, &[&prefix]).await;
        completes(&mut node, begun).await;
        node.stop().await;
        sumd(&["check", "--store", &there, &prefix]).await;
    }

    // In one lane.
    let here = places.file("a.db");
    moves(&there, &here).await;
    let mut server = places.serve(&here).await;
    completes(&mut server, begun).await;
    server.stop().await;
    sumd(&["check", "--store", &here]).await;
}
