//! Increments at a fixed rate, whether or not earlier ones are answered: the latency that independent callers see of a
//! service with spare capacity.

use std::{collections::VecDeque, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{JoinSet, spawn_blocking},
    time::Instant,
};

use super::{
    system::{Figures, System, Window},
    works::Load,
};
use crate::{counters::sumd::Incrementer, measure::Latencies};

/// Tokio's timers are precise to a millisecond, which is as long as an increment takes. A sleeping thread is more
/// precise. Calls that become due between two of its wake-ups are late by that time, which counts as latency.
const TURN: Duration = Duration::from_micros(200);

/// Calls in flight at once; with more of them, the service cannot keep up.
const MOST: usize = 50_000;

const SEED: u64 = 1;

/// Puts `load` on the nodes with `per_second` increments a second, and measures a window of this length after the
/// warm-up.
pub async fn open(
    system: &System,
    load: Load,
    per_second: f64,
    length: Duration,
) -> Result<Figures> {
    let latencies = Latencies::default();
    let incrementers = system
        .nodes
        .incrementers(load.layout, load.counters, load.clients)
        .await?;
    let (sender, calls) = unbounded_channel();
    let window = Window::of(length);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        spawn_blocking(move || pace(per_second, window.end, &sender)).await?;
        Ok(())
    });
    tasks.spawn(dispatch(calls, incrementers, latencies.clone()));
    system.measure(tasks, window, &latencies, 1).await
}

/// Sends the times at which calls are due: random, as for many independent callers.
fn pace(per_second: f64, end: Instant, calls: &UnboundedSender<Instant>) {
    let mut rng = Rng::with_seed(SEED);
    let mut due = Instant::now();
    while due < end {
        while due > Instant::now() {
            thread::sleep(TURN);
        }
        if calls.send(due).is_err() {
            return;
        }
        due += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / per_second);
    }
}

/// Makes each call when it is due. Latencies count from the due time, so that delays before a call are included.
async fn dispatch(
    mut dues: UnboundedReceiver<Instant>,
    incrementers: Vec<Incrementer>,
    latencies: Latencies,
) -> Result<()> {
    // In turn, so that all nodes get their share.
    let mut idle = VecDeque::from(incrementers);
    let mut calls = JoinSet::new();
    while let Some(due) = dues.recv().await {
        while let Some(ended) = calls.try_join_next() {
            idle.push_back(ended??);
        }
        let mut incrementer = match idle.pop_front() {
            Some(incrementer) => incrementer,
            None => wait(&mut calls).await?,
        };
        let latencies = latencies.clone();
        calls.spawn(async move {
            incrementer.call().await?;
            latencies.with(|all| all.push(due.elapsed()));
            anyhow::Ok(incrementer)
        });
        ensure!(dues.len() < MOST, "it cannot keep up with half its rate");
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(())
}

/// Waits for the next answer. As many calls are in flight then as at the full rate.
async fn wait(calls: &mut JoinSet<Result<Incrementer>>) -> Result<Incrementer> {
    let ended = calls.join_next().await;
    ended.context("neither idle nor at work")??
}
