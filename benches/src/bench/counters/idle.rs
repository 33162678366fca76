//! One increment at a time on an idle service, beside the latency of the disk.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{store::Store, works::Load};
use crate::measure::WARM_UP;

/// The bytes that the disk probe appends before each flush.
const BLOCK: [u8; 4096] = [1; 4096];

/// Increments in a row, and flushes in a row. They alternate, so that both see the same conditions of the disk, and the
/// server is idle before each of its turns.
const TURN: usize = 50;

pub struct Idle {
    pub increments: Times,
    /// Latencies of an append and a flush.
    pub flushes: Times,
}

pub struct Times {
    pub p50_ms: f64,
    pub p99_ms: f64,
}

pub async fn measure(store: &mut Store, window: Duration) -> Result<Idle> {
    let load = Load {
        counters: 1,
        clients: 1,
        batch: 1,
    };
    let mut caller = store.callers(load).await?.pop().context("no client")?;
    let mut disk = Disk::new(&store.scratch())?;
    let (mut increments, mut flushes) = (Vec::new(), Vec::new());
    let opening = Instant::now() + WARM_UP;
    while Instant::now() < opening + window {
        for _ in 0..TURN {
            let sent = Instant::now();
            caller.call().await?;
            store.acknowledged += 1;
            if sent >= opening {
                increments.push(sent.elapsed());
            }
        }
        // Blocking is fine, because nothing else runs meanwhile.
        for _ in 0..TURN {
            flushes.push(disk.append()?);
        }
    }
    Ok(Idle {
        increments: Times::of(increments)?,
        flushes: Times::of(flushes)?,
    })
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        let last = times.len().checked_sub(1);
        let last = last.context("no answer in the window")?;
        let percentile = |percent: usize| times[last * percent / 100].as_secs_f64() * 1e3;
        Ok(Self {
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        })
    }
}

/// A file that is only appended to.
struct Disk(File);

impl Disk {
    fn new(path: &Path) -> Result<Self> {
        Ok(Self(File::create(path)?))
    }

    fn append(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.0.write_all(&BLOCK)?;
        self.0.sync_data()?;
        Ok(start.elapsed())
    }
}
