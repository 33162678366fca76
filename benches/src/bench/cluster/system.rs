//! etcd with the nodes in front of it, and their figures under a load.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};

use super::{Programs, etcd::Etcd, nodes::Nodes};
use crate::{
    measure::{Latencies, WARM_UP},
    process::{Processes, cores_cpu, own_cpu},
};

pub struct System {
    pub etcd: Etcd,
    pub nodes: Nodes,
}

impl System {
    /// Starts a new etcd with `members` members, and `nodes` nodes in front of it.
    pub async fn start(
        programs: &Programs,
        members: usize,
        nodes: usize,
        lanes: Option<u32>,
    ) -> Result<Self> {
        let etcd = Etcd::start(&programs.etcd, members).await;
        let etcd = etcd.context("etcd does not start")?;
        let nodes = Nodes::start(&programs.sumd, nodes, &etcd.address, lanes).await?;
        Ok(Self { etcd, nodes })
    }

    /// Compares the sum of the counters with the acknowledged increments, and stops everything.
    pub async fn finish(mut self) -> Result<()> {
        self.nodes.check().await?;
        self.nodes.end().await?;
        self.etcd.kill().await
    }

    /// Measures `tasks` from the opening of `window` to its end, at which they end too. Each of the `latencies` stands
    /// for `batch` increments.
    pub async fn measure(
        &self,
        mut tasks: JoinSet<Result<()>>,
        window: Window,
        latencies: &Latencies,
        batch: usize,
    ) -> Result<Figures> {
        sleep_until(window.opening).await;
        let opened = self.moment(latencies).await?;
        sleep_until(window.end).await;
        let closed = self.moment(latencies).await?;
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let mut in_window = latencies.with(|all| all[opened.answered..closed.answered].to_vec());
        in_window.sort_unstable();
        let last = in_window.len().checked_sub(1);
        let last = last.context("no answer in the window")?;
        let percentile = |percent: usize| in_window[last * percent / 100].as_secs_f64() * 1e3;
        let increments = f64::from(u32::try_from(in_window.len() * batch)?);
        let seconds = (closed.at - opened.at).as_secs_f64();
        let [etcd, nodes, load, all] = [0, 1, 2, 3].map(|part: usize| {
            let used = closed.cpu[part].saturating_sub(opened.cpu[part]);
            used.as_secs_f64()
        });
        Ok(Figures {
            answered: latencies.with(|all| all.len() * batch) as u64,
            per_second: increments / seconds,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
            cpu_us: (etcd + nodes) / increments * 1e6,
            etcd_seconds: etcd,
            nodes_seconds: nodes,
            load_seconds: load,
            others_seconds: (all - etcd - nodes - load).max(0.0),
            nodes_mib: self.nodes.mib()?,
            database_mib: self.etcd.database_mib().await?,
        })
    }

    async fn moment(&self, latencies: &Latencies) -> Result<Moment> {
        let at = Instant::now();
        let answered = latencies.with(|all| all.len());
        let etcd: Vec<_> = self.etcd.processes().collect();
        let nodes: Vec<_> = self.nodes.processes().collect();
        // The load continues while `/proc` is read.
        let cpu = spawn_blocking(move || {
            let sum = |some: Vec<Processes>| some.into_iter().map(Processes::first_cpu).sum();
            let (etcd, nodes): (Result<_>, Result<_>) = (sum(etcd), sum(nodes));
            anyhow::Ok([etcd?, nodes?, own_cpu(std::process::id())?, cores_cpu()?])
        });
        Ok(Moment {
            at,
            answered,
            cpu: cpu.await??,
        })
    }
}

/// The measured part of a load, and its end.
#[derive(Clone, Copy)]
pub struct Window {
    pub opening: Instant,
    pub end: Instant,
}

impl Window {
    /// A window that opens after a warm-up from now on.
    pub fn of(length: Duration) -> Self {
        let opening = Instant::now() + WARM_UP;
        let end = opening + length;
        Self { opening, end }
    }
}

/// All counts at some time.
struct Moment {
    at: Instant,
    /// Requests that were answered.
    answered: usize,
    /// CPU time of etcd, of the nodes, of the load, and of all processes.
    cpu: [Duration; 4],
}

/// The figures of a run. Increments stand for sums or puts in works that make those.
#[derive(Clone, Copy)]
pub struct Figures {
    /// Increments that were answered, including those outside of the window.
    pub answered: u64,
    pub per_second: f64,
    /// Latencies of a request.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// CPU time of etcd and the nodes for each increment.
    pub cpu_us: f64,
    /// CPU time in the window.
    pub etcd_seconds: f64,
    pub nodes_seconds: f64,
    pub load_seconds: f64,
    pub others_seconds: f64,
    /// At the end, of all nodes.
    pub nodes_mib: f64,
    /// At the end, of the member with the largest database.
    pub database_mib: f64,
}
