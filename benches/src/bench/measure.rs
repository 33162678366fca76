//! The figures of one run of one server on one work.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::process::Processes;

/// Time for a server to reach its full speed before it is measured.
pub const WARM_UP: Duration = Duration::from_secs(1);

/// The latencies of all answered requests, or batches of messages.
#[derive(Clone, Default)]
pub struct Latencies(Arc<Mutex<Vec<Duration>>>);

impl Latencies {
    pub fn with<T>(&self, use_them: impl FnOnce(&mut Vec<Duration>) -> T) -> T {
        use_them(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An edge of the measured window.
pub struct Edge {
    pub at: Instant,
    pub cpu: Duration,
}

impl Edge {
    pub fn now(server: Processes) -> Result<Self> {
        Ok(Self {
            cpu: server.cpu()?,
            at: Instant::now(),
        })
    }
}

/// The figures of one run. For counters, sums stand for increments.
pub struct Measurement {
    /// Server CPU time for each sum.
    pub cpu_us: f64,
    pub sums_per_second: f64,
    /// Latency of a call, or of a batch of messages on a stream.
    pub p50_us: f64,
    pub p99_us: f64,
    /// Cores that the server used.
    pub busy: f64,
    pub idle_mib: f64,
    pub peak_mib: f64,
}

impl Measurement {
    /// Computes the figures from the latencies between two edges; each latency stands for `sums_a_latency` sums.
    pub fn new(
        opened: &Edge,
        closed: &Edge,
        mut latencies: Vec<Duration>,
        sums_a_latency: usize,
        memory_mib: (f64, f64),
    ) -> Result<Self> {
        latencies.sort_unstable();
        let last = latencies
            .len()
            .checked_sub(1)
            .context("no answer in the window")?;
        let sums = latencies.len() * sums_a_latency;
        let percentile = |percent: usize| micros(latencies[last * percent / 100]);
        let quantiles = (percentile(50), percentile(99));
        Ok(Self::from_quantiles(
            opened, closed, sums, quantiles, memory_mib,
        ))
    }

    pub fn from_quantiles(
        opened: &Edge,
        closed: &Edge,
        sums: usize,
        (p50_us, p99_us): (f64, f64),
        (idle_mib, peak_mib): (f64, f64),
    ) -> Self {
        #[allow(clippy::cast_precision_loss)]
        let sums = sums as f64;
        let cpu = closed.cpu.saturating_sub(opened.cpu);
        let elapsed = closed.at.duration_since(opened.at);
        Self {
            cpu_us: micros(cpu) / sums,
            sums_per_second: sums / elapsed.as_secs_f64(),
            p50_us,
            p99_us,
            busy: cpu.as_secs_f64() / elapsed.as_secs_f64(),
            idle_mib,
            peak_mib,
        }
    }
}

pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
