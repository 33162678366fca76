//! Measures nodes of sumd on a cluster of etcd, beside common ways to count with etcd alone.

mod curve;
mod drive;
mod etcd;
mod nodes;
mod pace;
mod peers;
mod report;
mod system;
mod works;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::time::timeout;

use crate::history::Entry;
use report::Results;
use system::{Figures, System};
use works::{ADDS, BESIDE, HALF, Kind, Load, NODES, PEERS, SIZES};

pub use works::{WORKS, Work as ClusterWork};

/// Time limit of one run of a work: the starts of etcd and of the nodes, and several windows.
const WORK_LIMIT: Duration = Duration::from_secs(180);

/// Time limit of a curve, for which the data grow large.
const CURVE_LIMIT: Duration = Duration::from_secs(2_400);

/// The programs to start.
pub struct Programs {
    pub sumd: PathBuf,
    pub etcd: PathBuf,
}

/// Does `works` `runs` times, prints the results, and returns how many runs failed.
pub async fn bench(
    works: &[&'static ClusterWork],
    runs: u32,
    window: Duration,
    programs: Programs,
    entries: &mut Vec<Entry>,
) -> Result<usize> {
    for program in [&programs.sumd, &programs.etcd] {
        ensure!(program.exists(), "no {}", program.display());
    }
    let mut bench = Bench {
        programs,
        window,
        results: Results::default(),
        failures: 0,
    };
    for run in 1..=runs {
        for work in works {
            if let Kind::Curve = work.kind {
                continue;
            }
            for members in SIZES {
                eprintln!("run {run}/{runs} {}, etcd of {members}:", work.name);
                let done = timeout(WORK_LIMIT, bench.run(work, members)).await;
                bench.note(done.context("took too long").and_then(|done| done));
            }
        }
    }
    // The curves fill a large etcd, and are measured once.
    if works.iter().any(|work| matches!(work.kind, Kind::Curve)) {
        let points = &mut bench.results.curve;
        let curve = curve::measure(&bench.programs, bench.window, points);
        let done = timeout(CURVE_LIMIT, curve).await;
        bench.note(done.context("took too long").and_then(|done| done));
    }
    bench.results.print();
    entries.extend(bench.results.entries());
    Ok(bench.failures)
}

struct Bench {
    programs: Programs,
    window: Duration,
    results: Results,
    failures: usize,
}

impl Bench {
    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            eprintln!("FAILED: {error:#}");
            self.failures += 1;
        }
    }

    async fn run(&mut self, work: &'static ClusterWork, members: usize) -> Result<()> {
        let nodes = match work.kind {
            Kind::Peers => 0,
            _ => NODES,
        };
        let mut system = System::start(&self.programs, members, nodes, None).await?;
        match work.kind {
            Kind::Peers => {
                for peer in &PEERS {
                    let figures = peers::drive(&system, peer, self.window).await;
                    let figures = figures.with_context(|| peer.name.to_owned())?;
                    self.add(members, peer.name, figures);
                }
            }
            Kind::Closed(load) => {
                let figures = drive::closed(&mut system, load, self.window).await?;
                self.add(members, work.name, figures);
            }
            Kind::Half(load) => {
                let (figures, commits) = self.half(&mut system, load).await?;
                self.add(members, work.name, figures);
                self.add(members, BESIDE, commits);
            }
            Kind::Adds => return self.adds(system, members).await,
            Kind::Curve => {}
        }
        system.finish().await
    }

    /// Measures increments at half the full rate, and single commits to etcd meanwhile.
    async fn half(&self, system: &mut System, load: Load) -> Result<(Figures, Figures)> {
        let full = drive::closed(system, load, self.window).await?;
        let rate = HALF * full.per_second;
        let (increments, commits) = tokio::try_join!(
            pace::open(system, load, rate, self.window),
            peers::beside(system, self.window),
        )?;
        system.nodes.acknowledged += increments.answered;
        Ok((increments, commits))
    }

    /// Measures sums, then kills etcd and measures them again.
    async fn adds(&mut self, mut system: System, members: usize) -> Result<()> {
        for (work, down) in ADDS.into_iter().zip([false, true]) {
            if down {
                system.etcd.kill().await?;
            }
            let figures = drive::adds(&system, self.window).await?;
            self.add(members, work, figures);
        }
        system.nodes.end().await
    }

    fn add(&mut self, members: usize, work: &'static str, figures: Figures) {
        eprintln!(
            "  {work}: {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            figures.per_second, figures.p50_ms, figures.p99_ms
        );
        self.results.add(members, work, figures);
    }
}
