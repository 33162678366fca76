//! Nodes that cannot reach each other all commit to one lane, in an etcd that is slow.

use std::time::Duration;

use sumd::etcd::Error;
use sumd::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use sumd::store::etcd::{Hold, Kv, Tuning};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::{LANES, World, increment, open, paused_runtime, rows, world};

/// A counter of the other lane.
const ELSEWHERE: &str = "nb/0";
const NODES: usize = 3;
/// Latency between a node and etcd.
const HOP: Duration = Duration::from_micros(300);

/// A connection to an etcd that answers reads at once, and syncs its disk before it carries out writes.
#[derive(Clone)]
struct Slow {
    world: World,
    sync: Duration,
}

impl Kv for Slow {
    async fn txn(&self, request: TxnRequest, _deadline: Instant) -> Result<TxnResponse, Error> {
        let writes = !request.compare.is_empty();
        let there = HOP + if writes { self.sync } else { Duration::ZERO };
        let world = self.world.clone();
        // It is carried out even if the caller stops waiting.
        let done = tokio::spawn(async move {
            sleep(there).await;
            world.lock().etcd.txn(&request)
        });
        let answer = done.await.expect("no panic").expect("it is calm");
        sleep(HOP).await;
        Ok(answer)
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

/// The number of answers that the callers of each node got. They call without a pause, some of them for counters of
/// another lane.
async fn served(sync: Duration, time: Duration) -> [u32; NODES] {
    let world = world(LANES);
    let until = Instant::now() + time;
    let (mut nodes, mut callers) = (Vec::new(), JoinSet::new());
    for node in 0..NODES {
        let kv = Slow {
            world: world.clone(),
            sync,
        };
        let running = open(kv, Tuning::default()).await;
        for caller in 0..6 {
            let lanes = running.lanes.clone();
            let name = if caller == 0 { ELSEWHERE } else { "na/0" };
            let lane = rows::hasher().lane(&name[..2], LANES);
            assert_eq!(lane == super::lane(), caller > 0);
            callers.spawn(async move {
                let mut answered = 0;
                while let Ok(answer) = timeout_at(until, lanes.execute(lane, increment(name))).await
                {
                    answer.expect("a turn before its callers are sent away");
                    answered += 1;
                }
                (node, answered)
            });
        }
        nodes.push(running);
    }
    let mut served = [0; NODES];
    while let Some(caller) = callers.join_next().await {
        let (node, answered) = caller.expect("no panic");
        served[node] += answered;
    }
    served
}

/// The node that has just committed is the first to know the lane's head, and other nodes that want to commit learn of
/// it only then. All of them get their turn, however busy they are, and however slow etcd is, even if it answers only
/// after a transaction was sent again.
#[test]
fn nodes_that_commit_to_one_lane_take_turns() {
    for sync in [2, 20, 500, 1000].map(Duration::from_millis) {
        let served = paused_runtime().block_on(served(sync, sync * 200));
        let (least, most) = (served.iter().min(), served.iter().max());
        let is_fair = least
            .zip(most)
            .is_some_and(|(least, most)| least * 3 > *most);
        assert!(is_fair, "{sync:?}: {served:?}");
    }
}
