//! A database that is full, and has room again.

use std::time::Duration;

use sumd::proto::etcd::etcdserverpb::{DeleteRangeRequest, TxnRequest};
use sumd::store::etcd::client::{Alarm, AlarmKind, Client, Doubt, Error, Outcome, get, put};
use tokio::time::{sleep, timeout};

use super::cluster::Cluster;
use super::{in_time, put_request};

/// Writes until no more is taken. Gives the last revision, and the error.
async fn fill(client: &Client) -> (i64, Error) {
    let mut revision = 0;
    loop {
        let request = TxnRequest {
            success: vec![put("large", vec![0; 1 << 20])],
            ..TxnRequest::default()
        };
        match client.txn(request, in_time()).await {
            Ok(done) => revision = done.header.expect("a header").revision,
            Err(error) => return (revision, error),
        }
    }
}

/// A write to a full database is not known to have failed; the alarm is there to see; after compaction and
/// defragmentation it can be taken back.
#[tokio::test]
#[ignore = "make test runs it"]
async fn no_space() {
    let quota = (16 << 20).to_string();
    let cluster = Cluster::start(1, &["--quota-backend-bytes", &quota]).await;
    let client = cluster.client();
    let (revision, error) = fill(&client).await;
    assert_eq!(error.outcome, Outcome::Unknown(Doubt::NoSpace), "{error}");
    assert!(!error.is_passing(), "not by itself");
    let member = client
        .members(in_time())
        .await
        .remove(0)
        .1
        .expect("it is well");
    let alarm = Alarm {
        member: member.id,
        kind: AlarmKind::NoSpace,
    };
    assert_eq!(client.alarms(in_time()).await, Ok(vec![alarm]));
    assert_eq!(member.errors.len(), 1, "{:?}", member.errors);
    let small = client.put(put_request("small", ""), in_time()).await;
    assert_eq!(
        small.expect_err("full").outcome,
        Outcome::Unknown(Doubt::NoSpace)
    );
    let large = client.range(get("large"), in_time()).await;
    assert_eq!(large.expect("reads go on").kvs.len(), 1);

    client
        .compact(revision, in_time())
        .await
        .expect("this still works");
    let host = cluster.members[0].host();
    // The compaction takes place a little later.
    loop {
        client.defragment(&host, in_time()).await.expect("done");
        let member = client
            .members(in_time())
            .await
            .remove(0)
            .1
            .expect("it is well");
        if member.database_bytes < 8 << 20 {
            break;
        }
    }
    client
        .disarm(alarm, in_time())
        .await
        .expect("there is room");
    assert_eq!(client.alarms(in_time()).await, Ok(Vec::new()));
    client
        .put(put_request("small", ""), in_time())
        .await
        .expect("room");
}

/// A node has room made, and counts again, also while a member is away.
#[tokio::test]
#[ignore = "make test runs it"]
async fn room_is_made_past_a_member_that_is_away() {
    let quota = (16 << 20).to_string();
    let mut cluster = Cluster::start(3, &["--quota-backend-bytes", &quota]).await;
    let (store, running) = cluster.lanes().await;
    let client = cluster.client();
    // The first of those that a node goes through one after the other.
    cluster.members[0].kill().await;
    let error = loop {
        let (_, error) = fill(&client).await;
        if !error.is_passing() {
            break error;
        }
    };
    assert_eq!(error.outcome, Outcome::Unknown(Doubt::NoSpace), "{error}");
    let large = DeleteRangeRequest {
        key: "large".into(),
        ..DeleteRangeRequest::default()
    };
    client
        .delete_range(large, in_time())
        .await
        .expect("deleted");
    let room = async {
        while client
            .put(put_request("small", ""), in_time())
            .await
            .is_err()
        {
            sleep(Duration::from_millis(200)).await;
        }
    };
    // A node looks every ten seconds or so.
    let room = timeout(Duration::from_mins(2), room).await;
    room.expect("there is room, and the alarm was taken back");
    drop((store, running));
}
