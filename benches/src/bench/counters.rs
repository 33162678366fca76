//! Measures durable counters of sumd beside those of its peers, on the same disk.

mod curve;
mod drive;
pub mod encode;
mod idle;
pub mod messages;
mod postgres;
mod redis;
mod report;
mod restart;
pub mod store;
pub mod sumd;
pub mod works;

use std::time::Duration;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::time::timeout;

use crate::{history::Entry, measure::WARM_UP};
use report::Results;
use store::Store;
use works::{CONTENDERS, Contender, Kind, Work};

pub use store::Programs;
pub use works::{WORKS, Work as CounterWork};

/// Time limit of a run beyond its window: for the start of the server, its connections and rows, and for its work after
/// the end of the load.
const RUN_GRACE: Duration = Duration::from_secs(60);

/// Time limit of a work that is measured once: for the counters and ids of a large server.
const LARGE_GRACE: Duration = Duration::from_secs(600);

const ORDER_SEED: u64 = 1;

/// Does `works` `runs` times, prints the results, and returns how many runs failed.
pub async fn bench(
    works: &[&'static Work],
    runs: u32,
    window: Duration,
    programs: Programs,
    entries: &mut Vec<Entry>,
) -> Result<usize> {
    let mut bench = Bench {
        programs,
        window,
        rng: Rng::with_seed(ORDER_SEED),
        results: Results::default(),
        failures: 0,
    };
    for run in 1..=runs {
        for work in works {
            // Works that grow a large server are measured once.
            if run == 1 || work.interleaved() {
                bench.run(work, &format!("run {run}/{runs}")).await;
            }
        }
    }
    bench.results.print();
    entries.extend(bench.results.entries());
    Ok(bench.failures)
}

struct Bench {
    programs: Programs,
    window: Duration,
    /// Each run has an order of its own, which is the same in every bench.
    rng: Rng,
    results: Results,
    failures: usize,
}

impl Bench {
    async fn run(&mut self, work: &'static Work, run: &str) {
        let done = match work.kind {
            Kind::Curve => self.curve().await,
            Kind::Restart => self.restart().await,
            _ => return self.interleaved(work, run).await,
        };
        self.note(done);
    }

    async fn interleaved(&mut self, work: &'static Work, run: &str) {
        let can = |contender: &&Contender| self.programs.can(contender, work);
        let mut contenders: Vec<_> = CONTENDERS.iter().filter(can).collect();
        // Random order, because a contender affects the next one by the state in which it leaves the disk and the
        // processors.
        self.rng.shuffle(&mut contenders);
        for contender in contenders {
            eprint!("{run} {} {}: ", work.name, contender.name);
            let limit = WARM_UP + self.window + RUN_GRACE;
            let done = match work.kind {
                Kind::Idle => timeout(limit, self.idle(work, contender)).await,
                _ => timeout(limit, self.loaded(work, contender)).await,
            };
            self.note(done.context("took too long").and_then(|done| done));
        }
    }

    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            eprintln!("FAILED: {error:#}");
            self.failures += 1;
        }
    }

    async fn loaded(&mut self, work: &'static Work, contender: &'static Contender) -> Result<()> {
        let mut store = Store::start(&self.programs, contender.engine, work.counters).await?;
        let run = drive::drive(&mut store, work.load(contender), self.window).await?;
        store.finish().await?;
        eprintln!(
            "{:.3} µs/increment, {:.0} increments/s",
            run.figures.cpu_us, run.figures.sums_per_second
        );
        self.results.add(work.name, contender.name, run);
        Ok(())
    }

    async fn idle(&mut self, work: &'static Work, contender: &'static Contender) -> Result<()> {
        let mut store = Store::start(&self.programs, contender.engine, work.counters).await?;
        let run = idle::measure(&mut store, self.window).await?;
        store.finish().await?;
        eprintln!(
            "{:.3} ms, fdatasync {:.3} ms",
            run.increments.p50_ms, run.flushes.p50_ms
        );
        self.results.add_idle(contender.name, run);
        Ok(())
    }

    async fn curve(&mut self) -> Result<()> {
        let points = curve::measure(&self.programs, self.window);
        let points = timeout(LARGE_GRACE, points).await;
        self.results.curve = points.context("took too long")??;
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        let restart = restart::measure(&self.programs);
        let restart = timeout(LARGE_GRACE, restart).await;
        self.results.restart = Some(restart.context("took too long")??);
        Ok(())
    }
}
