//! The outcomes of calls while members are killed and stopped.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sumd::etcd::{Client, Doubt, Outcome, get, prefix};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::proxy::{Proxy, Way};
use super::{create, in_time, insist, put_request};
use crate::support::eventually;

const WRITERS: usize = 8;

/// The progress of all writers.
#[derive(Default)]
struct Counts {
    done: AtomicU64,
    refused: AtomicU64,
}

/// The outcomes that writers got for their keys, each of which was requested once.
#[derive(Default)]
struct Told {
    done: Vec<String>,
    refused: Vec<String>,
    unknown: Vec<String>,
    /// The longest time without success.
    gap: Duration,
}

async fn write(
    client: Client,
    writer: usize,
    stop: CancellationToken,
    counts: Arc<Counts>,
) -> Told {
    let mut told = Told::default();
    let mut last = Instant::now();
    for i in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let key = format!("w/{writer}/{i:06}");
        let deadline = Instant::now() + Duration::from_secs(1);
        match create(&client, &key, deadline).await {
            Ok(answer) => {
                assert!(answer.succeeded, "{key} was asked for once");
                told.gap = told.gap.max(last.elapsed());
                last = Instant::now();
                counts.done.fetch_add(1, Ordering::Relaxed);
                told.done.push(key);
            }
            Err(error) => {
                assert!(error.is_passing(), "{error}");
                match error.outcome {
                    Outcome::Definite(_) => {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        told.refused.push(key);
                    }
                    Outcome::Unknown(_) => told.unknown.push(key),
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
    }
    told
}

/// Reads always succeed in the end, and never go back.
async fn read(client: Client, stop: CancellationToken) -> (u64, Duration) {
    let (mut reads, mut slowest, mut revision) = (0, Duration::ZERO, 0);
    while !stop.is_cancelled() {
        let begun = Instant::now();
        // A cluster without a majority has to recover first.
        let deadline = begun + Duration::from_mins(1);
        let answer = client.range(get("w/0/000000"), deadline).await;
        let header = answer.expect("another member is alive").header;
        let seen = header.expect("a header").revision;
        assert!(seen >= revision, "{seen} after {revision}");
        revision = seen;
        reads += 1;
        slowest = slowest.max(begun.elapsed());
    }
    (reads, slowest)
}

/// Kills and stops leaders and endpoints in use, and then takes the majority away.
async fn disturb(cluster: &mut Cluster, client: &Client, counts: &Counts) {
    let progress = async |more: u64| {
        let done = || counts.done.load(Ordering::Relaxed);
        let enough = done() + more;
        eventually("more writes", || done() >= enough).await;
    };
    progress(100).await;
    for kill in [true, false, true, false] {
        for leader in [true, false] {
            let victim = if leader {
                cluster.leader().await
            } else {
                eventually("a connection", || client.endpoint().is_some()).await;
                cluster.used_by(client)
            };
            if kill {
                victim.kill().await;
            } else {
                victim.stop();
            }
            progress(100).await;
            if kill {
                victim.start();
            } else {
                victim.resume();
            }
            cluster.healthy().await;
        }
    }
    // A single member does nothing, and reports that once it has noticed that it is alone.
    for member in &mut cluster.members[1..] {
        member.kill().await;
    }
    let refused = || counts.refused.load(Ordering::Relaxed);
    let enough = refused() + 2 * WRITERS as u64;
    eventually("refusals", || refused() >= enough).await;
    for member in &mut cluster.members[1..] {
        member.start();
    }
    progress(100).await;
}

/// Through all of that, keys that were acknowledged exist, refused ones never do, and those of unknown outcome exist
/// once or not at all.
#[tokio::test]
#[ignore = "make test runs it"]
async fn outcomes_are_true() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client();
    insist(&client, "w").await;
    let stop = CancellationToken::new();
    let counts = Arc::new(Counts::default());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(client.clone(), writer, stop.clone(), counts.clone()));
    }
    let mut readers = JoinSet::new();
    readers.spawn(read(client.clone(), stop.clone()));
    disturb(&mut cluster, &client, &counts).await;
    stop.cancel();

    let mut all = Told::default();
    while let Some(told) = writers.join_next().await {
        let told = told.expect("no panic");
        all.done.extend(told.done);
        all.refused.extend(told.refused);
        all.unknown.extend(told.unknown);
        all.gap = all.gap.max(told.gap);
    }
    let read = readers.join_next().await.expect("it read");
    let (reads, slowest) = read.expect("no panic");

    // Delayed copies of earlier writes would come before these.
    for member in 0..cluster.members.len() {
        insist(&client, &format!("end/{member}")).await;
    }
    let found = client.range(prefix("w/", 0), in_time()).await;
    let found = found.expect("rows").kvs.into_iter().map(|row| {
        assert_eq!(row.version, 1, "{row:?}");
        String::from_utf8(row.key.to_vec()).expect("text")
    });
    let found: HashSet<_> = found.collect();
    for key in &all.done {
        assert!(found.contains(key), "{key} was answered, and is gone");
    }
    for key in &all.refused {
        assert!(!found.contains(key), "{key} was refused, and is there");
    }
    let unknown = all.unknown.iter();
    let unknown = unknown.filter(|key| found.contains(*key)).count();
    assert_eq!(found.len(), all.done.len() + unknown, "each was asked for");
    println!(
        "{} done, {} refused, {} unknown, of which {unknown} were done; longest gap {:?}; \
         {reads} reads, slowest {slowest:?}",
        all.done.len(),
        all.refused.len(),
        all.unknown.len(),
        all.gap,
    );
    assert!(unknown > 0, "a stopped leader leaves some behind");
}

/// A write whose answer is lost is not sent again through any endpoint: its outcome is reported as unknown.
#[tokio::test]
#[ignore = "make test runs it"]
async fn answers_that_are_lost() {
    let cluster = Cluster::start(1, &[]).await;
    let outside = cluster.client();
    let mut proxies = Vec::new();
    for _ in 0..2 {
        proxies.push(Proxy::start(cluster.members[0].host()).await);
    }
    let mut options = cluster.options();
    options.endpoints = proxies.iter().map(|proxy| proxy.host.clone()).collect();
    let client = Client::new(options).expect("no TLS");
    for i in 0..4 {
        insist(&client, &format!("before/{i}")).await;
        let endpoint = client.endpoint().expect("it is connected");
        let used = proxies.iter().find(|proxy| proxy.host == endpoint);
        let used = used.expect("it is one of these");
        used.set(Way::Mute);
        let key = format!("w/{i}");
        let put = client.put(put_request(&key, ""), in_time());
        let cut = async {
            while outside
                .range(get(key.clone()), in_time())
                .await
                .expect("rows")
                .kvs
                .is_empty()
            {}
            used.set(Way::Closed);
        };
        let (answer, ()) = tokio::join!(put, cut);
        let error = answer.expect_err("the answer is lost");
        assert_eq!(
            error.outcome,
            Outcome::Unknown(Doubt::Unavailable),
            "{error}"
        );
        assert!(error.is_passing());
        used.set(Way::Open);
    }
    insist(&client, "after").await;
    let rows = outside
        .range(prefix("w/", 10), in_time())
        .await
        .expect("rows")
        .kvs;
    assert!(
        rows.len() == 4 && rows.iter().all(|row| row.version == 1),
        "{rows:?}"
    );
}
