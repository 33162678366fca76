//! Increments at a fixed rate, whether or not those before are answered: what callers who do not wait for each
//! other see of a service that has room left.

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

/// Tokio's timers are good to a millisecond, which is what an increment takes. A thread that sleeps does better,
/// and calls that are due between two of its turns are late by so much, which counts as theirs.
const TURN: Duration = Duration::from_micros(200);

/// Calls under way at once: a service that has more of them cannot keep up.
const MOST: usize = 50_000;

const SEED: u64 = 1;

/// Has the nodes do `load`, so many increments a second, for the warm-up and a window of that length.
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

/// Tells when calls are due: at random, as those of many callers who do not know of each other.
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

/// Makes each call as it comes due. Latencies are from when it was due, so that nothing is forgiven that was held up.
async fn dispatch(
    mut dues: UnboundedReceiver<Instant>,
    incrementers: Vec<Incrementer>,
    latencies: Latencies,
) -> Result<()> {
    // In turn, so that all nodes have their share.
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

/// The next one that has its answer. Then as many calls are under way as make the full rate.
async fn wait(calls: &mut JoinSet<Result<Incrementer>>) -> Result<Incrementer> {
    let ended = calls.join_next().await;
    ended.context("neither idle nor at work")??
}
