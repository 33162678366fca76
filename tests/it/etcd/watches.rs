//! Watches report every event once, in order, whatever happens to the endpoints.

use std::time::Duration;

use sumd::etcd::{Client, Watch, WatchError, prefix, put};
use sumd::proto::etcd::etcdserverpb::TxnRequest;

use tokio::time::Instant;

use super::cluster::Cluster;
use super::proxy::{Proxy, Way};
use super::{in_time, insist, put_request};
use crate::support::soon;

/// Events, as (key, revision).
type Seen = Vec<(String, i64)>;

/// The events that a watch has reported.
#[derive(Default)]
struct Story {
    seen: Seen,
    passed: i64,
}

impl Story {
    /// Takes the next batch.
    async fn listen(&mut self, watch: &mut Watch) {
        let batch = soon(watch.next()).await.expect("it goes on");
        assert!(
            batch.revision > self.passed,
            "{} after {}",
            batch.revision,
            self.passed
        );
        for event in batch.events {
            let kv = event.kv.expect("a key");
            assert!(kv.mod_revision > self.passed && kv.mod_revision <= batch.revision);
            let key = String::from_utf8(kv.key.to_vec()).expect("text");
            self.seen.push((key, kv.mod_revision));
        }
        self.passed = batch.revision;
    }

    /// Reads until the events reported are exactly those that happened: all of them, once, in order.
    async fn is_true(&mut self, watch: &mut Watch, client: &Client) {
        let (rows, revision) = truth(client).await;
        while self.passed < revision {
            self.listen(watch).await;
        }
        assert_eq!(self.seen, rows);
    }
}

/// The present keys in the order of their creation, and the present revision.
async fn truth(client: &Client) -> (Seen, i64) {
    let rows = client
        .range(prefix("w/", 0), in_time())
        .await
        .expect("rows");
    let revision = rows.header.expect("a header").revision;
    let rows = rows.kvs.into_iter().map(|row| {
        let key = String::from_utf8(row.key.to_vec()).expect("text");
        (key, row.mod_revision)
    });
    let mut rows: Seen = rows.collect();
    rows.sort_by_key(|(_, revision)| *revision);
    (rows, revision)
}

/// The watched endpoint is killed again and again, and stopped, while others write: every event comes once, in order.
#[tokio::test]
#[ignore = "make test runs it"]
async fn across_endpoints() {
    let mut cluster = Cluster::start(3, &[]).await;
    let (writer, watcher) = (cluster.client(), cluster.client());
    let mut watch = watcher.watch("w/", 1);
    let mut story = Story::default();
    for round in 0..6 {
        for i in 0..20 {
            insist(&writer, &format!("other/{round}/{i}")).await;
            insist(&writer, &format!("w/{round}/a/{i}")).await;
        }
        // Makes sure that the endpoint is in use.
        story.listen(&mut watch).await;
        let victim = cluster.used_by(&watcher);
        let kill = round % 2 == 0;
        if kill {
            victim.kill().await;
        } else {
            victim.stop();
        }
        for i in 0..20 {
            insist(&writer, &format!("w/{round}/b/{i}")).await;
        }
        story.is_true(&mut watch, &writer).await;
        if kill {
            victim.start();
        } else {
            victim.resume();
        }
        cluster.healthy().await;
    }
}

/// A connection that lets nothing through without being closed is noticed, and the events of that time are reported.
#[tokio::test]
#[ignore = "make test runs it"]
async fn across_silence() {
    let cluster = Cluster::start(1, &[]).await;
    let outside = cluster.client();
    let mut options = cluster.options();
    let mut proxies = Vec::new();
    for _ in 0..2 {
        proxies.push(Proxy::start(cluster.members[0].host()).await);
    }
    options.endpoints = proxies.iter().map(|proxy| proxy.host.clone()).collect();
    let client = Client::new(options).expect("no TLS");
    let mut watch = client.watch("w/", 1);
    let mut story = Story::default();
    for way in [Way::Silent, Way::Closed, Way::Silent] {
        insist(&outside, &format!("w/{}", story.seen.len())).await;
        story.is_true(&mut watch, &outside).await;
        let endpoint = client.endpoint().expect("it is connected");
        let used = proxies.iter().find(|proxy| proxy.host == endpoint);
        let used = used.expect("it is one of these");
        used.set(way);
        insist(&outside, &format!("w/{}", story.seen.len())).await;
        let cut = Instant::now();
        story.is_true(&mut watch, &outside).await;
        // Before HTTP/2 or TCP would have noticed.
        assert!(
            cut.elapsed() < Duration::from_secs(10),
            "{:?}",
            cut.elapsed()
        );
        assert_ne!(client.endpoint(), Some(endpoint));
        used.set(Way::Open);
    }
}

/// A past that does not fit one message comes in several, and no transaction is split.
#[tokio::test]
#[ignore = "make test runs it"]
async fn large_pasts() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    // A message of 2 MiB would end in the middle of every other transaction.
    let value = vec![7; 130 << 10];
    let mut last = 0;
    for txn in 0..12 {
        let puts = (0..10).map(|i| put(format!("w/{txn:02}/{i}"), value.clone()));
        let request = TxnRequest {
            success: puts.collect(),
            ..TxnRequest::default()
        };
        let done = client.txn(request, in_time()).await.expect("written");
        last = done.header.expect("a header").revision;
    }
    let mut watch = client.watch("w/", 1);
    let (mut batches, mut events, mut passed) = (0, 0, 0);
    while passed < last {
        let batch = soon(watch.next()).await.expect("it goes on");
        let mut of_one = batch.events.chunk_by(|a, b| revision(a) == revision(b));
        assert!(
            of_one.all(|events| events.len() == 10),
            "none is torn apart"
        );
        passed = batch.revision;
        events += batch.events.len();
        batches += 1;
    }
    assert_eq!(events, 120);
    assert!(batches > 5, "{batches} batches for 16 MB");
}

fn revision(event: &sumd::proto::etcd::mvccpb::Event) -> i64 {
    event.kv.as_ref().expect("a key").mod_revision
}

/// A watch of keys that do not change still advances, so that a compaction does not overtake it.
#[tokio::test]
#[ignore = "make test runs it"]
async fn idle_watches_keep_up() {
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let mut watch = client.watch("w/", 1);
    for i in 0..20 {
        insist(&client, &format!("other/{i}")).await;
    }
    let mut story = Story::default();
    story.is_true(&mut watch, &client).await;
    assert_eq!(story.seen, []);
    client
        .compact(story.passed, in_time())
        .await
        .expect("compacted");
    let member = &mut cluster.members[0];
    member.kill().await;
    member.start();
    insist(&client, "w/0").await;
    story.is_true(&mut watch, &client).await;
}

/// A watch that would miss events says so, with the revision from which watching is possible.
#[tokio::test]
#[ignore = "make test runs it"]
async fn compacted() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let mut last = 0;
    for i in 0..10 {
        let done = client
            .put(put_request("w/0", &i.to_string()), in_time())
            .await;
        last = done.expect("written").header.expect("a header").revision;
    }
    let proxy = Proxy::start(cluster.members[0].host()).await;
    let mut options = cluster.options();
    options.endpoints = vec![proxy.host.clone()];
    let slow = Client::new(options).expect("no TLS");
    let mut left_behind = slow.watch("w/", last);
    let batch = soon(left_behind.next()).await.expect("the last one");
    assert_eq!(batch.revision, last);
    proxy.set(Way::Closed);
    for i in 0..10 {
        let done = client
            .put(put_request("w/0", &i.to_string()), in_time())
            .await;
        last = done.expect("written").header.expect("a header").revision;
    }
    client.compact(last, in_time()).await.expect("compacted");
    proxy.set(Way::Open);

    let gone = Err(WatchError::Compacted { revision: last });
    assert_eq!(
        soon(left_behind.next()).await,
        gone,
        "it was cut off for too long"
    );
    let mut late = client.watch("w/", 2);
    assert_eq!(soon(late.next()).await, gone, "it asks for too much");
    let ended = tokio::time::timeout(Duration::from_millis(100), late.next()).await;
    assert!(ended.is_err(), "it says so once");
    let mut from = client.watch("w/", last);
    let batch = soon(from.next()).await.expect("this is possible");
    assert_eq!(batch.events.len(), 1);
}

/// A slow reader delays no other, and misses nothing.
#[tokio::test]
#[ignore = "make test runs it"]
async fn slow_readers() {
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client();
    let mut slow = client.watch("w/", 1);
    let mut puts = tokio::task::JoinSet::new();
    for task in 0..16 {
        let client = client.clone();
        // More than a stream may leave unread.
        let value = "v".repeat(1024);
        puts.spawn(async move {
            for i in 0..250 {
                let put = put_request(&format!("w/{task}/{i}"), &value);
                client.put(put, in_time()).await.expect("nobody is held up");
            }
        });
    }
    while let Some(done) = puts.join_next().await {
        done.expect("no panic");
    }
    let mut story = Story::default();
    story.is_true(&mut slow, &client).await;
    assert_eq!(story.seen.len(), 4000);
}
