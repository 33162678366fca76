//! Nodes join, leave and return, and all others see it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sumd::cluster::{JoinError, Members, Options, View};
use sumd::etcd::{Client, delete_prefix, get};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{in_time, node};
use crate::etcd::cluster::Cluster;
use crate::etcd::proxy::{Proxy, Way};
use crate::support::soon;

const LANES: u16 = 256;

fn options() -> Options {
    Options {
        prefix: "/sumd".to_owned(),
        lanes: LANES,
        ttl: Duration::from_secs(2),
    }
}

async fn try_join(client: &Client, id: &str, address: &str) -> Result<Members, JoinError> {
    soon(Members::join(
        client,
        &options(),
        node(id, address),
        in_time(),
    ))
    .await
}

async fn join(client: &Client, id: &str) -> Members {
    let joined = try_join(client, id, &address(id)).await;
    joined.expect("nothing is in the way")
}

fn address(id: &str) -> String {
    format!("{id}.example:8080")
}

/// Waits until the view of a node is as expected.
async fn sees(view: &mut watch::Receiver<Arc<View>>, what: impl FnMut(&Arc<View>) -> bool) {
    soon(view.wait_for(what)).await.expect("it watches");
}

fn ids(view: &View) -> Vec<&str> {
    let ids = view.nodes().iter().map(|node| node.id.as_str());
    ids.collect()
}

/// A client whose only connection to etcd can be cut.
async fn behind_a_proxy(cluster: &Cluster) -> (Proxy, Client) {
    let proxy = Proxy::start(cluster.members[0].host()).await;
    let mut options = cluster.options();
    options.endpoints = vec![proxy.host.clone()];
    (proxy, Client::new(options).expect("no TLS"))
}

async fn value_of(client: &Client, id: &str) -> Option<Value> {
    let found = client.range(get(format!("/sumd/nodes/{id}")), in_time());
    let found = found.await.expect("an answer").kvs;
    found
        .first()
        .map(|kv| serde_json::from_slice(&kv.value).expect("JSON"))
}

/// Three nodes see the same members, whichever member of etcd dies. A node that leaves is removed at once, and a silent
/// one after its lease has expired.
#[tokio::test]
#[ignore = "make test runs it"]
async fn all_see_the_same() {
    let mut cluster = Cluster::guarded(3).await;
    let clients = [cluster.client(), cluster.client(), cluster.client()];
    let a = join(&clients[0], "a").await;
    let b = join(&clients[1], "b").await;
    let c = join(&clients[2], "c").await;
    let mut view = a.view();
    sees(&mut view, |view| ids(view) == ["a", "b", "c"]).await;
    sees(&mut b.view(), |view| ids(view) == ["a", "b", "c"]).await;
    let (of_a, of_b) = (a.view().borrow().clone(), b.view().borrow().clone());
    assert!((0..LANES).all(|lane| of_a.owner(lane) == of_b.owner(lane)));
    assert_eq!(of_a.node("c").expect("it is there").address, address("c"));

    c.leave(in_time()).await.expect("it may go");
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    let victim = cluster.used_by(&clients[0]);
    victim.kill().await;
    let d = join(&clients[2], "d").await;
    sees(&mut view, |view| ids(view) == ["a", "b", "d"]).await;
    // Like a killed process: its lease is neither renewed nor revoked.
    drop(b);
    sees(&mut view, |view| ids(view) == ["a", "d"]).await;
    let view = a.view().borrow().clone();
    assert!((0..LANES).all(|lane| view.owner(lane).expect("somebody").id != "b"));
    drop(d);
}

/// etcd's resolver for Go reads the values that sumd writes.
#[tokio::test]
#[ignore = "make test runs it"]
async fn clients_in_go_find_nodes() {
    let cluster = Cluster::guarded(1).await;
    let client = cluster.client();
    let members = join(&client, "a").await;
    let value = value_of(&client, "a").await.expect("it is there");
    assert_eq!(value["Op"], 0);
    assert_eq!(value["Addr"], "a.example:8080");
    assert_eq!(value["Metadata"], Value::Null);
    let ours = &value["Node"];
    assert_eq!(ours["id"], "a");
    assert_eq!(ours["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        (&ours["protocol"], &ours["draining"]),
        (&json!(1), &json!(false))
    );
    let found = client.range(get("/sumd/nodes/a"), in_time()).await;
    assert_ne!(
        found.expect("an answer").kvs[0].lease,
        0,
        "it goes with its node"
    );
    members.leave(in_time()).await.expect("it may go");
    assert_eq!(value_of(&client, "a").await, None);
}

/// A node that is about to stop owns no lanes, but is still a member.
#[tokio::test]
#[ignore = "make test runs it"]
async fn draining_gives_all_lanes_up() {
    let cluster = Cluster::guarded(1).await;
    let client = cluster.client();
    let a = join(&client, "a").await;
    let b = join(&client, "b").await;
    let mut view = b.view();
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    assert!(view.borrow().lanes_of("a").count() > 0);
    a.announce_draining(in_time()).await.expect("it is told");
    let drains = |view: &Arc<View>| view.node("a").is_some_and(|node| node.draining);
    sees(&mut view, drains).await;
    assert_eq!(view.borrow().lanes_of("b").count(), usize::from(LANES));
    a.announce_draining(in_time()).await.expect("as before");
    a.leave(in_time()).await.expect("it may go");
    sees(&mut view, |view| ids(view) == ["b"]).await;
}

/// A joining node waits for the id of a draining one as long as it is alive: a replacement may start before the old
/// process has ended.
#[tokio::test]
#[ignore = "make test runs it"]
async fn the_id_of_a_node_that_drains_is_waited_for() {
    let cluster = Cluster::guarded(1).await;
    let client = cluster.client();
    let (first, _other) = (join(&client, "a").await, join(&client, "b").await);
    first
        .announce_draining(in_time())
        .await
        .expect("it is told");
    let late = Instant::now() + Duration::from_hours(1);
    let replaces = |id: &'static str| {
        let client = client.clone();
        let node = node(id, "elsewhere.example:8080");
        async move { Members::join(&client, &options(), node, late).await }
    };
    let waiting = tokio::spawn(replaces("a"));
    // Meanwhile, a node that does not drain is found to be alive, twice.
    for _ in 0..2 {
        let refused = soon(replaces("b")).await.err();
        assert!(
            matches!(refused, Some(JoinError::Taken { .. })),
            "{refused:?}"
        );
    }
    assert!(!waiting.is_finished(), "it waits");
    first.leave(in_time()).await.expect("it may go");
    let joined = soon(waiting).await.expect("no panic");
    joined.expect("the id is free");
}

/// An id belongs to one node: another node waits for it in vain, a restarted node gets it at once, and after a death it
/// is free.
#[tokio::test]
#[ignore = "make test runs it"]
async fn an_id_is_one_nodes() {
    let cluster = Cluster::guarded(1).await;
    let client = cluster.client();
    let first = join(&client, "a").await;
    let other = node("a", "elsewhere.example:8080");
    let soon_enough = Instant::now() + Duration::from_secs(3);
    let refused = soon(Members::join(&client, &options(), other, soon_enough)).await;
    let taken = JoinError::Taken {
        id: "a".to_owned(),
        address: address("a"),
    };
    assert_eq!(refused.err().as_ref(), Some(&taken));

    // The holder is seen to be alive long before the deadline.
    let other = node("a", "elsewhere.example:8080");
    let late = Instant::now() + Duration::from_hours(1);
    let refused = soon(Members::join(&client, &options(), other, late)).await;
    assert_eq!(refused.err(), Some(taken));

    let again = join(&client, "a").await;
    drop(first);
    // The lease of the first ends without deleting the key of the second.
    let later = join(&client, "b").await;
    let mut view = later.view();
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    drop(again);
    let moved = try_join(&client, "a", "elsewhere.example:8080").await;
    let moved = moved.expect("once the lease has run out");
    let is_there = |view: &Arc<View>| {
        let node = view.node("a");
        node.is_some_and(|node| node.address == "elsewhere.example:8080")
    };
    sees(&mut view, is_there).await;
    drop(moved);

    for (id, address) in [("a/b", "a:1"), ("a", "a")] {
        let refused = try_join(&client, id, address).await;
        assert!(matches!(refused.err(), Some(JoinError::Invalid(_))));
    }
}

/// A node that was cut off until its lease had expired registers again; meanwhile it keeps the last view. The same
/// holds after its lease was revoked, or its key deleted.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_lost_lease_is_replaced() {
    let cluster = Cluster::guarded(1).await;
    let outside = cluster.client();
    let b = join(&outside, "b").await;
    let mut view = b.view();
    for way in [Way::Closed, Way::Silent] {
        let (proxy, client) = behind_a_proxy(&cluster).await;
        let a = join(&client, "a").await;
        sees(&mut view, |view| ids(view) == ["a", "b"]).await;
        sees(&mut a.view(), |view| ids(view) == ["a", "b"]).await;
        proxy.set(way);
        sees(&mut view, |view| ids(view) == ["b"]).await;
        assert_eq!(
            ids(&a.view().borrow()),
            ["a", "b"],
            "the last that it heard"
        );
        proxy.set(Way::Open);
        sees(&mut view, |view| ids(view) == ["a", "b"]).await;
        a.leave(in_time()).await.expect("it may go");
        sees(&mut view, |view| ids(view) == ["b"]).await;
    }

    let a = join(&outside, "a").await;
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    let found = outside.range(get("/sumd/nodes/a"), in_time()).await;
    let lease = found.expect("an answer").kvs[0].lease;
    let id = json!({ "ID": lease.to_string() });
    cluster.ask_as_root("/v3/lease/revoke", id).await;
    sees(&mut view, |view| ids(view) == ["b"]).await;
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;

    let request = sumd::proto::etcd::etcdserverpb::TxnRequest {
        success: vec![delete_prefix("/sumd/nodes/a")],
        ..Default::default()
    };
    outside.txn(request, in_time()).await.expect("deleted");
    sees(&mut view, |view| ids(view) == ["b"]).await;
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    drop(a);
}

/// Changes that were compacted away while a node was cut off are found by reading again.
#[tokio::test]
#[ignore = "make test runs it"]
async fn compaction_hides_nothing() {
    let cluster = Cluster::guarded(1).await;
    let outside = cluster.client();
    let (proxy, client) = behind_a_proxy(&cluster).await;
    let a = join(&client, "a").await;
    let b = join(&outside, "b").await;
    let mut view = a.view();
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    proxy.set(Way::Closed);
    let c = join(&outside, "c").await;
    b.leave(in_time()).await.expect("it may go");
    sees(&mut c.view(), |view| view.node("b").is_none()).await;
    let revision = c.view().borrow().revision();
    let root = cluster.root();
    root.compact(revision, in_time()).await.expect("compacted");
    assert_eq!(ids(&a.view().borrow()), ["a", "b"]);
    proxy.set(Way::Open);
    sees(&mut view, |view| ids(view) == ["a", "c"]).await;
}

/// A key with a value that is no node's is ignored.
#[tokio::test]
#[ignore = "make test runs it"]
async fn strangers_are_passed_over() {
    let cluster = Cluster::guarded(1).await;
    let client = cluster.client();
    let put =
        |key: &'static str, value: &'static str| sumd::proto::etcd::etcdserverpb::PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        };
    for (key, value) in [
        ("/sumd/nodes/x", "x"),
        ("/sumd/nodes/y", r#"{"Op":0,"Addr":"y:1","Metadata":null}"#),
        ("/sumd/nodesz", "{}"),
    ] {
        client
            .put(put(key, value), in_time())
            .await
            .expect("written");
    }
    let a = join(&client, "a").await;
    assert_eq!(ids(&a.view().borrow()), ["a"]);
    let b = join(&client, "b").await;
    let mut view = a.view();
    sees(&mut view, |view| ids(view) == ["a", "b"]).await;
    drop(b);
}

/// If etcd cannot be reached, a join fails with the reason.
#[tokio::test]
#[ignore = "make test runs it"]
async fn nobody_joins_without_etcd() {
    let cluster = Cluster::guarded(1).await;
    let (proxy, client) = behind_a_proxy(&cluster).await;
    proxy.set(Way::Closed);
    let deadline = Instant::now() + Duration::from_secs(3);
    let refused = soon(Members::join(
        &client,
        &options(),
        node("a", "a:1"),
        deadline,
    ))
    .await;
    assert!(matches!(refused.err(), Some(JoinError::Etcd(_))));
}
