//! The load: a number of clients, each with one request in flight, and every answer checked.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, sleep_until},
};

use super::{
    encode::{Names, ONE_GROUP},
    store::{Caller, Store},
    sumd,
    works::{Engine, Load},
};
use crate::{
    grpc::Client,
    measure::{Edge, Latencies, Measurement, WARM_UP, micros},
    process::{Processes, cores_cpu, own_cpu},
};

/// A server that uses less of a core than this has finished its deferred work.
const QUIET: f64 = 0.05;
const QUIET_PAUSE: Duration = Duration::from_millis(200);
/// After this time the wait is given up.
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);

/// The results of one run.
pub struct Run {
    pub figures: Measurement,
    /// Cores that the load used.
    pub load_busy: f64,
    /// Cores, of the two, that other processes used, including the kernel.
    pub others_busy: f64,
}

/// Puts the load on the server, and measures `window` after the warm-up.
///
/// Only CPU time is measured from the first request until the server is quiet, because work that it defers while it is
/// busy is part of the cost.
pub async fn drive(store: &mut Store, load: Load, window: Duration) -> Result<Run> {
    let server = store.running.processes;
    let idle_mib = server.shared_mib()?;
    let latencies = Latencies::default();
    let clients = Clients::connect(store, load).await?;

    let first = Moment::now(server, &latencies).await?;
    let opening = Instant::now() + WARM_UP;
    let end = opening + window;
    let mut tasks = clients.start(end, &latencies);
    sleep_until(opening).await;
    let opened = Moment::now(server, &latencies).await?;
    sleep_until(end).await;
    let closed = Moment::now(server, &latencies).await?;
    let mut callers = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        callers.push(ended??);
    }
    quiet(server).await?;
    let last = Moment::now(server, &latencies).await?;
    let memory = (idle_mib, server.shared_mib()?);
    // The clients stay connected until here, so that the server has not freed their connections yet.
    drop(callers);

    let increments = last.answered * load.batch;
    store.acknowledged += increments as u64;
    let in_window = latencies.with(|all| all[opened.answered..closed.answered].to_vec());
    let (opening, closing) = (&opened.server, &closed.server);
    let mut figures = Measurement::new(opening, closing, in_window, load.batch, memory)?;
    let cpu = last.server.cpu.saturating_sub(first.server.cpu);
    figures.cpu_us = micros(cpu) / f64::from(u32::try_from(increments)?);
    let elapsed = closing.at.duration_since(opening.at);
    let used = |before: Duration, after: Duration| {
        let time = after.saturating_sub(before);
        time.div_duration_f64(elapsed)
    };
    let load_busy = used(opened.load, closed.load);
    let all_busy = used(opened.cores, closed.cores);
    Ok(Run {
        others_busy: (all_busy - load_busy - figures.busy).max(0.0),
        load_busy,
        figures,
    })
}

/// The clients of a run, connected.
enum Clients {
    Callers(Vec<Caller>),
    /// Clients for sessions, with the counters that each increments.
    Sessions(Vec<(Client, Names)>),
}

impl Clients {
    async fn connect(store: &Store, load: Load) -> Result<Self> {
        if store.engine != Engine::Sumd || load.batch == 1 {
            return Ok(Self::Callers(store.callers(load).await?));
        }
        let address = store.running.address;
        let clients = sumd::clients(address, "RecordIncrements", load.clients).await?;
        let names = (0..).map(|client| Names::random(load.counters, client));
        Ok(Self::Sessions(clients.into_iter().zip(names).collect()))
    }

    /// Starts the clients; each returns the caller that has to be kept, if any.
    fn start(self, end: Instant, latencies: &Latencies) -> JoinSet<Result<Option<Caller>>> {
        let mut tasks = JoinSet::new();
        match self {
            Self::Callers(callers) => {
                for caller in callers {
                    tasks.spawn(repeat(caller, end, latencies.clone()));
                }
            }
            Self::Sessions(sessions) => {
                for (client, names) in sessions {
                    let latencies = latencies.clone();
                    let session = sumd::record(client, names, ONE_GROUP, end, latencies);
                    tasks.spawn(async { session.await.map(|()| None) });
                }
            }
        }
        tasks
    }
}

/// Makes one request after the other.
async fn repeat(mut caller: Caller, end: Instant, latencies: Latencies) -> Result<Option<Caller>> {
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(Some(caller));
        }
        caller.call().await?;
        latencies.with(|all| all.push(sent.elapsed()));
    }
}

/// Waits until the server has no work left.
pub async fn quiet(server: Processes) -> Result<()> {
    let limit = Instant::now() + QUIET_TIMEOUT;
    let mut before = server.cpu()?;
    while Instant::now() < limit {
        sleep(QUIET_PAUSE).await;
        let now = server.cpu()?;
        if now.saturating_sub(before) < QUIET_PAUSE.mul_f64(QUIET) {
            break;
        }
        before = now;
    }
    Ok(())
}

/// All counts at some time.
struct Moment {
    server: Edge,
    /// CPU time of the load.
    load: Duration,
    /// CPU time of all processes.
    cores: Duration,
    /// Requests that were answered.
    answered: usize,
}

impl Moment {
    async fn now(server: Processes, latencies: &Latencies) -> Result<Self> {
        let at = Instant::now().into_std();
        let answered = latencies.with(|all| all.len());
        // The load continues while hundreds of processes are read from `/proc`.
        let cpu = spawn_blocking(move || {
            let load = own_cpu(std::process::id())?;
            anyhow::Ok((server.cpu()?, load, cores_cpu()?))
        });
        let (cpu, load, cores) = cpu.await??;
        Ok(Self {
            server: Edge { at, cpu },
            load,
            cores,
            answered,
        })
    }
}
