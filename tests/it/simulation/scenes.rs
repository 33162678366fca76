//! Scripted scenarios that random runs reach too rarely.

use std::time::Duration;

use fastrand::Rng;
use sumd::lane::{LaneError, LaneRuntime};
use sumd::model::{Limits, Rejection, Request};
use sumd::store::Store as _;
use sumd::store::etcd::{EtcdStore, OpenError, Tuning};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::history::{Add, What};
use super::network::{HEADS, Link, Weather, World};
use super::nodes::{Cluster, Life, Node};
use super::plan::Plan;
use super::rows;
use super::sessions::stream::{Stream, request};

/// The default of etcd's `--max-request-bytes`.
const MAX_REQUEST_BYTES: usize = 3 << 19;

/// A cluster without faults except those that a scene makes.
fn cluster(lanes: u32, change: impl FnOnce(&mut Plan)) -> Cluster {
    let world = World::new(Rng::with_seed(1), None);
    rows::begin(&mut world.lock().etcd, lanes);
    cluster_in(world, lanes, change)
}

/// The same in a world that already has data with this number of lanes.
pub fn cluster_in(world: World, lanes: u32, change: impl FnOnce(&mut Plan)) -> Cluster {
    let mut plan = Plan::new(1);
    (plan.lanes, plan.nodes, plan.max_operations) = (lanes, 1, 128);
    plan.sizes = vec![Tuning::default()];
    change(&mut plan);
    Cluster::new(plan, world)
}

pub async fn node(cluster: &Cluster, link: Link) -> (LaneRuntime, Node) {
    let opened = cluster.open(link, 0, Life::default()).await;
    opened.expect("it is well")
}

pub fn add(name: &str, delta: i64, max: Option<i64>) -> Add {
    let limits = Limits {
        max,
        ..Limits::default()
    };
    Add {
        name: name.to_owned(),
        delta,
        limits,
    }
}

async fn increment(cluster: &Cluster, node: &Node, name: &str) {
    let operation = What::Add(add(name, 1, None)).operation();
    let lane = cluster.lane(operation.group());
    let request = Request {
        id: None,
        operation,
    };
    let done = node.lanes.execute(lane, request).await;
    done.expect("nothing is in its way");
}

async fn value(node: &Node, name: &str) -> Option<i64> {
    let found = node.store.read(vec![name.into()]).await;
    let row = found.expect("it is well").rows.remove(0);
    row.and_then(|row| row.value)
}

/// A message of a client that is offline for a long time is counted at most once, even if an earlier message arrives
/// only after the later one's lane has forgotten the session.
#[test]
fn a_message_is_counted_once_by_a_lane_that_forgot_its_session() {
    super::paused_runtime().block_on(async {
        let cluster = cluster(8, |plan| plan.bounds.session_horizon = 120_000);
        let (early, late) = ("sa/0", "sb/0");
        assert_ne!(cluster.lane("sa"), cluster.lane("sb"));
        let link = Link::calm(&cluster.world);
        let (_running, node) = node(&cluster, link.clone()).await;
        increment(&cluster, &node, late).await;
        let began = cluster.now();
        let message = |sequence, acknowledged, name| {
            let adds = [add(name, 1 << 20, None)];
            request("meter-7", began, sequence, acknowledged, &adds)
        };

        // The lane of the first message cannot be loaded at present; that of the second one is loaded.
        let first_sent = Instant::now();
        let mut stream = Stream::open(&node);
        stream.send(&request("meter-7", began, 0, 0, &[]));
        stream.next().await.expect("it is well");
        *link.weather.lock().expect("no panic") = Weather::Partly(HEADS);
        stream.send(&message(1, 0, early));
        stream.send(&message(2, 0, late));
        let end = loop {
            match stream.next().await {
                Ok(answer) => assert_eq!(answer.acknowledged, 0),
                Err(end) => break end,
            }
        };
        assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
        *link.weather.lock().expect("no panic") = Weather::Calm;
        let one = 1 << 20;
        assert_eq!(value(&node, early).await, None);
        assert_eq!(value(&node, late).await, Some(one + 1));

        // Some time later the first message arrives, and the stream breaks.
        sleep(Duration::from_secs(100)).await;
        let mut stream = Stream::open(&node);
        stream.send(&message(1, 0, early));
        while stream.next().await.expect("it is well").acknowledged < 1 {}
        drop(stream);
        assert_eq!(value(&node, early).await, Some(one));

        // Later still, after the second lane has committed again.
        sleep_until(first_sent + Duration::from_secs(195)).await;
        increment(&cluster, &node, late).await;
        let mut stream = Stream::open(&node);
        stream.send(&message(2, 1, late));
        let end = loop {
            match stream.next().await {
                Ok(answer) if answer.acknowledged < 2 => {}
                Ok(_) => break None,
                Err(end) => break Some(end),
            }
        };
        let found = value(&node, late).await;
        assert_eq!(
            found,
            Some(one + 2),
            "and the stream has ended with {end:?}"
        );
    });
}

/// Sessions grow large if their clients do not acknowledge failed increments. No request that writes them exceeds
/// etcd's limit.
#[test]
fn sessions_with_many_failures_are_written_bit_by_bit() {
    super::paused_runtime().block_on(async {
        let cluster = cluster(2, |plan| {
            plan.bounds.id_bytes = 64 << 20;
            plan.sizes[0].recent_sessions = 45;
        });
        let (mut running, node) = node(&cluster, Link::calm(&cluster.world)).await;
        let adds = (0..1000).map(|_| add("sa/0", 1 << 50, Some(-1 << 60)));
        let adds: Vec<_> = adds.collect();
        let mut streams = Vec::new();
        for _ in 0..60 {
            streams.push(Stream::open(&node));
        }
        let began = cluster.now();
        for sequence in 1..=4 {
            for (stream, number) in streams.iter().zip(0..) {
                let session = format!("meter-{number}");
                stream.send(&request(&session, began, sequence, 0, &adds));
            }
            for stream in &mut streams {
                let mut answer = stream.next().await.expect("it is well");
                while answer.acknowledged < sequence {
                    answer = stream.next().await.expect("it is well");
                }
                assert!(answer.failures.len() >= 1000);
            }
        }
        let is_well = sleep(Duration::from_secs(10));
        tokio::select! {
            failure = running.failure() => panic!("{failure}"),
            () = is_well => {}
        }
        let largest = cluster.world.lock().largest;
        assert!(largest > 100_000, "{largest} bytes are few");
        assert!(largest <= MAX_REQUEST_BYTES, "{largest} bytes at once");
    });
}

/// Callers get UNKNOWN within seconds if etcd does not answer, however many lanes there are: a single lane does not
/// make etcd a local disk.
#[test]
fn callers_are_told_that_etcd_does_not_answer() {
    for lanes in [2, 1] {
        super::paused_runtime().block_on(is_told(lanes));
    }
}

async fn is_told(lanes: u32) {
    let cluster = cluster(lanes, |_| {});
    let link = Link::calm(&cluster.world);
    let (_running, node) = node(&cluster, link.clone()).await;
    increment(&cluster, &node, "sa/0").await;
    let ask = || {
        let operation = What::Add(add("sa/0", 1, None)).operation();
        let request = Request {
            id: None,
            operation,
        };
        let lane = cluster.lane("sa");
        timeout(Duration::from_secs(15), node.lanes.execute(lane, request))
    };
    *link.weather.lock().expect("no panic") = Weather::Cut;
    for _ in 0..20 {
        let answer = ask().await;
        let answer = answer.unwrap_or_else(|_| panic!("nothing is told, of {lanes} lanes"));
        let Err(LaneError::Unknown(_) | LaneError::Unavailable(_)) = answer else {
            panic!("{answer:?} while nothing comes through");
        };
    }
    *link.weather.lock().expect("no panic") = Weather::Calm;
    // Requests in flight land, or are lost.
    sleep(Duration::from_mins(2)).await;
    let answer = ask().await.expect("it is told in time");
    answer.expect("it goes on");
}

/// Ids of an idle lane are forgotten on time, which frees memory for those of other lanes.
#[test]
fn an_idle_lane_gives_memory_back() {
    super::paused_runtime().block_on(async {
        let cluster = cluster(8, |plan| {
            plan.bounds.id_bytes = 8 << 10;
            plan.bounds.id_horizon = 20_000;
        });
        assert_ne!(cluster.lane("sa"), cluster.lane("sb"));
        let (_running, node) = node(&cluster, Link::calm(&cluster.world)).await;
        let ask = |group: &str, id: usize| {
            let operation = What::Add(add(&format!("{group}/0"), 1, None)).operation();
            let id = rows::hasher().id(&format!("{group}-{id}"), None, &operation);
            let request = Request {
                id: Some(id),
                operation,
            };
            node.lanes.execute(cluster.lane(group), request)
        };
        let mut taken = 0;
        let full = loop {
            match ask("sa", taken).await {
                Ok(_) => taken += 1,
                Err(full) => break full,
            }
        };
        assert!(taken > 20, "{taken} ids and {full:?}");
        let LaneError::Refused(Rejection::Full { .. }) = full else {
            panic!("{full:?} after {taken} ids");
        };
        ask("sb", 0).await.expect_err("all memory is taken");
        sleep(Duration::from_mins(3)).await;
        ask("sb", 0).await.expect("it is forgotten by now");
    });
}

/// Nodes that find no data create them, and all get the same data, even if etcd's answers are lost.
#[test]
fn nodes_that_begin_at_once_begin_the_same_data() {
    for seed in 0..20 {
        super::paused_runtime().block_on(async {
            let world = World::new(Rng::with_seed(seed), None);
            let begin = async || {
                let link = Link::calm(&world);
                *link.weather.lock().expect("no panic") = Weather::Flaky(3);
                loop {
                    let opened =
                        EtcdStore::over(link.clone(), rows::PREFIX, 128, Tuning::default());
                    match opened.await {
                        Ok(store) => return store.hasher().key(),
                        Err(OpenError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            };
            let (a, b, c) = tokio::join!(begin(), begin(), begin());
            assert!(a == b && b == c, "they would not know each other's rows");
        });
    }
}
