//! Common ways to count with etcd alone, on the same client as sumd and calling the leader, so that no time is lost on
//! the way.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use sumd::{
    etcd::{Client, at_revision, get, put},
    proto::etcd::etcdserverpb::{RequestOp, TxnRequest, response_op::Response},
};
use tokio::{
    task::JoinSet,
    time::{Instant, interval},
};

use super::{
    system::{Figures, System, Window},
    works::{Peer, Way},
};
use crate::{counters::encode::name, measure::Latencies};

/// Keys that transactions put: as many as the counters of the works that they are compared with.
const KEYS: u32 = 10_000;

/// The key that compare-and-swap increments; transactions of puts never write it.
const HOT: u32 = KEYS;

const PATIENCE: Duration = Duration::from_secs(20);

/// Rare enough not to affect the load.
const BESIDE_PAUSE: Duration = Duration::from_millis(10);

/// Runs `peer` against etcd, and measures a window of this length after the warm-up.
pub async fn drive(system: &System, peer: &Peer, length: Duration) -> Result<Figures> {
    let options = system.etcd.leader().await?;
    let connections = if peer.own_connections {
        peer.in_flight
    } else {
        1
    };
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = Client::new(options.clone())?;
        // The client is connected before any time is measured.
        client.range(get(name(HOT)), patience()).await?;
        clients.push(client);
    }
    let before = Hot::read(&clients[0]).await?;
    let latencies = Latencies::default();
    let window = Window::of(length);
    let mut tasks = JoinSet::new();
    let writers = clients.iter().cycle().take(peer.in_flight).cloned();
    for (client, number) in writers.zip(0..) {
        let (end, latencies) = (window.end, latencies.clone());
        match peer.way {
            Way::Cas { reads_along } => {
                tasks.spawn(compare_and_swap(client, reads_along, end, latencies));
            }
            Way::Txn { puts } => {
                tasks.spawn(write(client, puts, Rng::with_seed(number), end, latencies));
            }
        }
    }
    let puts = match peer.way {
        Way::Cas { .. } => 1,
        Way::Txn { puts } => puts,
    };
    let figures = system.measure(tasks, window, &latencies, puts).await?;
    let after = Hot::read(&clients[0]).await?;
    let done = match peer.way {
        Way::Cas { .. } => after.value - before.value,
        // Each transaction has raised the revision by one.
        Way::Txn { .. } => u64::try_from(after.now - before.now)? * puts as u64,
    };
    ensure!(
        done == figures.answered,
        "wrong total: got {done}, want {}",
        figures.answered
    );
    Ok(figures)
}

/// Commits to etcd now and then during another load, to measure what one commit takes at that time.
pub async fn beside(system: &System, length: Duration) -> Result<Figures> {
    let client = Client::new(system.etcd.leader().await?)?;
    let latencies = Latencies::default();
    let window = Window::of(length);
    let mut tasks = JoinSet::new();
    tasks.spawn(now_and_then(client, window.end, latencies.clone()));
    system.measure(tasks, window, &latencies, 1).await
}

async fn now_and_then(client: Client, end: Instant, latencies: Latencies) -> Result<()> {
    let mut turns = interval(BESIDE_PAUSE);
    while turns.tick().await < end {
        let sent = Instant::now();
        let request = TxnRequest {
            success: vec![put(name(HOT), "0".to_owned())],
            ..TxnRequest::default()
        };
        client.txn(request, patience()).await?;
        latencies.with(|all| all.push(sent.elapsed()));
    }
    Ok(())
}

fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// The hot key at some time.
struct Hot {
    value: u64,
    /// The revision of its last change.
    changed: i64,
    /// The revision of the whole store.
    now: i64,
}

impl Hot {
    async fn read(client: &Client) -> Result<Self> {
        let read = client.range(get(name(HOT)), patience()).await?;
        let now = read.header.context("a header")?.revision;
        let row = read.kvs.first();
        let value = row.map(|row| anyhow::Ok(str::from_utf8(&row.value)?.parse()?));
        Ok(Self {
            value: value.transpose()?.unwrap_or_default(),
            changed: row.map_or(0, |row| row.mod_revision),
            now,
        })
    }
}

/// Increments the hot key again and again, and repeats each increment until no other client has interfered.
async fn compare_and_swap(
    client: Client,
    reads_along: bool,
    end: Instant,
    latencies: Latencies,
) -> Result<()> {
    loop {
        let begun = Instant::now();
        if begun >= end {
            return Ok(());
        }
        let mut hot = Hot::read(&client).await?;
        while let Err(lost) = swap(&client, &hot, reads_along).await? {
            hot = match lost {
                Some(read) => read,
                None => Hot::read(&client).await?,
            };
        }
        latencies.with(|all| all.push(begun.elapsed()));
    }
}

/// Tries to write the next value. If that fails and `reads_along` is set, returns the present value.
async fn swap(client: &Client, hot: &Hot, reads_along: bool) -> Result<Result<(), Option<Hot>>> {
    let key = name(HOT);
    let mut request = TxnRequest {
        compare: vec![at_revision(key.clone(), hot.changed)],
        success: vec![put(key.clone(), (hot.value + 1).to_string())],
        failure: Vec::new(),
    };
    if reads_along {
        request.failure.push(RequestOp::from(get(key)));
    }
    let mut answer = client.txn(request, patience()).await?;
    if answer.succeeded {
        return Ok(Ok(()));
    }
    let Some(Response::ResponseRange(read)) =
        answer.responses.pop().and_then(|first| first.response)
    else {
        return Ok(Err(None));
    };
    let row = read.kvs.first().context("it was written before")?;
    Ok(Err(Some(Hot {
        value: str::from_utf8(&row.value)?.parse()?,
        changed: row.mod_revision,
        now: 0,
    })))
}

/// Makes one transaction after the other, each with `puts` puts of random keys.
async fn write(
    client: Client,
    puts: usize,
    mut rng: Rng,
    end: Instant,
    latencies: Latencies,
) -> Result<()> {
    let puts = u32::try_from(puts)?;
    for round in 1_u64.. {
        let sent = Instant::now();
        if sent >= end {
            break;
        }
        // etcd refuses a transaction with the same key twice. A stride that ends in 3 repeats no key.
        let (first, stride) = (rng.u32(..KEYS), rng.u32(..KEYS / 10) * 10 + 3);
        let keys = (0..puts).map(|place| (first + place * stride) % KEYS);
        let request = TxnRequest {
            success: keys.map(|key| put(name(key), round.to_string())).collect(),
            ..TxnRequest::default()
        };
        let answer = client.txn(request, patience()).await?;
        ensure!(answer.succeeded, "a transaction without conditions failed");
        latencies.with(|all| all.push(sent.elapsed()));
    }
    Ok(())
}
