//! Messages of a session that were applied in some lanes and not in others when the data were moved.

use std::time::{SystemTime, UNIX_EPOCH};

use sumd::model::{
    Effect, Increments, Limits, Operation, Part, Predecessor, Record, Request, group,
};
use sumd::store::Store;
use sumd::store::etcd::EtcdStore;

use super::{Places, Server, moves, sumd};
use crate::support::soon;

/// Three counters, each in a lane of its own.
struct Counters {
    s: String,
    t: String,
    u: String,
}

impl Counters {
    async fn new(places: &Places) -> Self {
        let store = EtcdStore::open(places.etcd.place()).await;
        let store = store.expect("it is well");
        let mut lanes = Vec::new();
        let mut next = |group: char| {
            let names = (0..).map(|number| format!("{group}{number}"));
            let lane = |name: &str| store.hasher().lane(name, store.lanes());
            let mut free = names.filter(|name| !lanes.contains(&lane(name)));
            let name = free.next().expect("there are lanes");
            lanes.push(lane(&name));
            name + "/a"
        };
        Self {
            s: next('s'),
            t: next('t'),
            u: next('u'),
        }
    }

    fn message(&self) -> [(&str, i64); 4] {
        let Self { s, t, u } = self;
        [(s, 10), (t, 20), (s, i64::MAX), (u, 30)]
    }
}

/// Applies the part of the second message for its first lane, and no other part.
async fn tear(places: &Places, counters: &Counters, begun: SystemTime) {
    let (store, running) = places.etcd.lanes().await;
    let hasher = store.hasher();
    let mut increments = Increments::default();
    for index in [0, 2] {
        let (name, delta) = counters.message()[index];
        increments.push(name, delta, Limits::default());
    }
    let since_1970 = begun.duration_since(UNIX_EPOCH).expect("later");
    let record = Record {
        session: "meter".into(),
        time: i64::try_from(since_1970.as_millis()).expect("a time"),
        sequence: 2,
        acknowledged: 0,
        follows: Predecessor::InLane(Part {
            previous: Some(1),
            parts: 3,
            above: None,
            whole: 0,
            indices: [0, 2].into(),
        }),
        contents: hasher.message(&increments),
        increments,
    };
    let request = Request {
        id: None,
        operation: Operation::Record(record),
    };
    let lane = hasher.lane(group(&counters.s), store.lanes());
    let decided = soon(running.lanes.execute(lane, request)).await;
    let Effect::Recorded { failures, .. } = decided.expect("it is applied").answer.done else {
        panic!("it is a message");
    };
    assert_eq!(failures.len(), 1);
    running.close().await.expect("a clean end");
}

/// Repeated, such a message is completed, and answered as a whole.
async fn completes(server: &mut Server, counters: &Counters, begun: SystemTime) {
    let Counters { s, t, u } = counters;
    assert_eq!(server.sum("").await, 1 + 2 + 10);
    let mut stream = server.session("meter", begun).await;
    stream.send(2, 1, &counters.message()).await;
    assert_eq!(stream.acknowledged(2).await, [(2, 2)]);
    for (prefix, sum) in [(s, 11), (t, 22), (u, 30)] {
        assert_eq!(server.sum(prefix).await, sum, "{prefix}");
    }
    // The session continues, in the same and in other lanes.
    stream.send(3, 1, &[(s, 1), ("v/a", 1)]).await;
    stream.send(4, 2, &[(t, 1), (s, 1)]).await;
    stream.acknowledged(4).await;
    let mut again = server.session("meter", begun).await;
    again.send(0, 2, &[]).await;
    again.send(3, 2, &[(s, 1), ("v/a", 1)]).await;
    again.send(4, 2, &[(t, 1), (s, 1)]).await;
    again.send(5, 2, &[(u, 1)]).await;
    again.acknowledged(5).await;
    assert_eq!(server.sum("").await, 11 + 22 + 30 + 5);
}

#[tokio::test]
#[ignore = "make test runs it"]
async fn what_is_torn_is_completed_wherever_it_is() {
    let places = Places::new().await;
    let there = places.etcd();
    let begun = SystemTime::now();
    let counters = Counters::new(&places).await;
    let mut node = places.serve(&there).await;
    let mut stream = node.session("meter", begun).await;
    let first = [(&*counters.s, 1), (&*counters.t, 2)];
    stream.send(1, 0, &first).await;
    stream.acknowledged(1).await;
    drop(stream);
    node.stop().await;
    tear(&places, &counters, begun).await;
    let backup = places.path("backup.db");
    let backup = backup.to_str().expect("a path");
    sumd(&["backup", backup, "--store", &there]).await;

    // Restored to lanes again, from a backup and through a file.
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
        completes(&mut node, &counters, begun).await;
        node.stop().await;
        sumd(&["check", "--store", &there, &prefix]).await;
    }

    // Moved to one lane.
    let here = places.file("a.db");
    moves(&there, &here).await;
    let mut server = places.serve(&here).await;
    completes(&mut server, &counters, begun).await;
    server.stop().await;
    sumd(&["check", "--store", &here]).await;
}
