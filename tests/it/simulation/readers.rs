//! Clients that read.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use sumd::store::Scan;
use tokio::time::{Instant, sleep};

use super::history::{CatchUp, History, Read, Span};
use super::nodes::{Cluster, Node};
use super::plan::{BITS, NAMED, NAMES, SESSIONS};
use super::writers::Client;

pub async fn read(cluster: Cluster, rng: Rng) -> History {
    let mut client = Client::new(&cluster, rng);
    let mut newest = 0;
    for _ in 0..3 * cluster.plan.operations {
        if let Some(node) = cluster.any(&mut client.rng) {
            let asked = Instant::now();
            let delay = Duration::from_millis(client.rng.u64(..4));
            let work = look(&node, &mut client.rng, newest);
            let seen = node.lives(work).await.flatten();
            sleep(delay).await;
            let answered = Instant::now();
            if let Some(seen) = seen {
                let span = Span { asked, answered };
                let read = Read { span, seen };
                newest = newest.max(read.revision());
                client.history.reads.push(read);
            }
        }
        client.rest().await;
    }
    client.history
}

async fn look(node: &Node, rng: &mut Rng, newest: i64) -> Option<CatchUp> {
    match rng.u8(..4) {
        0 | 1 => {
            let count = rng.usize(1..8);
            let names: Vec<Arc<str>> = (0..count).map(|_| name(rng).into()).collect();
            let rows = node.store.read(names.clone()).await.ok()?;
            Some(CatchUp::Rows(names, rows))
        }
        2 => {
            let of = NAMED[rng.usize(..NAMED.len())];
            let prefix: Arc<str> = ["n", of, &format!("{of}/")][rng.usize(..3)].into();
            let after = rng
                .bool()
                .then(|| format!("{of}/{}", rng.usize(..NAMES)).into());
            let scan = Scan {
                prefix,
                after,
                since: [0, newest][rng.usize(..2)],
                limit: rng.usize(1..20),
            };
            let page = node.store.scan(scan.clone()).await.ok()?;
            Some(CatchUp::Page(scan, page))
        }
        _ => {
            let of = NAMED[rng.usize(..NAMED.len())];
            let prefix: Arc<str> = ["n", of, &format!("{of}/")][rng.usize(..3)].into();
            let sum = node.store.sum(prefix.clone()).await.ok()?;
            Some(CatchUp::Sum(prefix, sum))
        }
    }
}

fn name(rng: &mut Rng) -> String {
    let group = match rng.u8(..4) {
        0 => BITS[rng.usize(..BITS.len())],
        1 => SESSIONS[rng.usize(..SESSIONS.len())],
        _ => NAMED[rng.usize(..NAMED.len())],
    };
    format!("{group}/{}", rng.usize(..NAMES))
}
