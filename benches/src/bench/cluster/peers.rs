//! What people do today with etcd alone: written on the same client that sumd has, and asking the leader, so that
//! nothing is lost on the way.

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

/// Keys that transactions put, as many as there are counters in the works that they are compared with.
const KEYS: u32 = 10_000;

/// The key that all increment who compare and swap; no transaction of others puts it.
const HOT: u32 = KEYS;

const PATIENCE: Duration = Duration::from_secs(20);

/// Seldom enough not to be felt.
const BESIDE_PAUSE: Duration = Duration::from_millis(10);

/// Has etcd do what `peer` does for the warm-up and a window of that length.
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
        // Connected, and nobody's time is measured for that.
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
        // Each has moved it by one.
        Way::Txn { .. } => u64::try_from(after.now - before.now)? * puts as u64,
    };
    ensure!(
        done == figures.answered,
        "wrong total: got {done}, want {}",
        figures.answered
    );
    Ok(figures)
}

/// Has etcd commit now and then while something else is done: what one commit takes there and then.
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

/// The hot key, as it was at some time.
struct Hot {
    value: u64,
    /// The revision of its last change.
    changed: i64,
    /// The revision of everything.
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

/// One increment of the hot key after the other, each tried until nobody else came in between.
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

/// Tries to write the next value; what is there in its stead, if that is read along.
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

/// One transaction after the other, each of so many puts of keys at random.
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
        // Etcd refuses the same key twice. A stride that ends in 3 comes to none a second time.
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
