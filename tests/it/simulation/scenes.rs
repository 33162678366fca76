//! What chance finds too seldom, step by step.

use std::time::Duration;

use fastrand::Rng;
use sumd::lane::Running;
use sumd::model::Limits;
use sumd::store::etcd::Sizes;
use tokio::time::sleep;

use super::history::Add;
use super::network::{Link, World};
use super::nodes::{Cluster, Life, Node};
use super::plan::Plan;
use super::rows;
use super::sessions::stream::{Stream, request};

/// What etcd takes in one request, unless it is told otherwise.
const MAX_REQUEST_BYTES: usize = 3 << 19;

/// A cluster without faults, but for those that a scene makes.
fn cluster(lanes: u32, change: impl FnOnce(&mut Plan)) -> Cluster {
    let world = World::new(Rng::with_seed(1), None);
    let mut plan = Plan::new(1);
    (plan.lanes, plan.nodes, plan.max_operations) = (lanes, 1, 128);
    plan.sizes = vec![Sizes::default()];
    change(&mut plan);
    rows::begin(&mut world.lock().etcd, lanes);
    Cluster::new(plan, world)
}

async fn node(cluster: &Cluster, link: Link) -> (Running, Node) {
    let opened = cluster.open(link, 0, Life::default()).await;
    opened.expect("it is well")
}

fn add(name: &str, delta: i64, max: Option<i64>) -> Add {
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

/// Clients that do not say what they know of increments that failed make sessions large: what is written of them at once is
/// no more than etcd takes.
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
            streams.push(Stream::open(&node).await);
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
