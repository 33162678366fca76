//! Measures sumd and its peers on the same work, one server at a time. Servers for sums have one core, and their load
//! another; servers for counters, and clusters, share two cores with their load.

mod cluster;
mod counters;
mod grpc;
mod history;
mod load;
mod measure;
mod memory;
mod netrpc;
mod process;
mod report;
mod server;
mod works;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tokio::time::timeout;

use cluster::{ClusterWork, Programs};
use counters::CounterWork;
use history::Entry;
use measure::{Measurement, WARM_UP};
use report::Results;
use server::{BOTH_CORES, LOAD_CORE, Running};
use works::{
    MEMORY_STREAM, MEMORY_WORKS, MemoryWork, Protocol, SERVERS, SUMD, Server, WORKS, Work,
};

/// Names of groups of works. Sums are all works that are neither on counters nor on a cluster.
const GROUPS: [&str; 3] = ["sums", "counters", "cluster"];

/// Number of runs of each server on each work.
const RUNS: u32 = 5;
const COUNTER_RUNS: u32 = 3;

/// Time limit of a run beyond its window: for the start of the server, its requests in flight at the end, and a
/// gigabyte on one stream.
const RUN_GRACE: Duration = Duration::from_secs(30);

/// Measures sumd and its peers on the same work, and prints tables in Markdown.
///
/// Peers are looked for in the folder of this program; missing ones are skipped.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Options {
    /// Runs of every server on every work, interleaved; medians are printed [default: 5, for counters and clusters 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    runs: Option<u32>,
    /// Seconds measured in each run, after a second of warm-up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Measure only this work, or all of sums, counters or cluster (repeatable)
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// List the works and exit
    #[arg(long)]
    list: bool,
    /// Program to measure against its peers
    #[arg(long, default_value = "target/release/sumd", value_name = "PATH")]
    sumd: PathBuf,
    /// Leave out the peers in sums and counters, and measure sumd alone
    #[arg(long)]
    no_peers: bool,
    /// etcd program for the clusters
    #[arg(long, default_value = ".tools/bin/etcd", value_name = "PATH")]
    etcd: PathBuf,
    /// Append sumd's medians to this file, a line of CSV for each work, unless a run fails
    #[arg(long, value_name = "PATH")]
    history: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .context("cannot start tokio")
        .and_then(|runtime| runtime.block_on(bench(&options)));
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failures) => {
            eprintln!("bench: {failures} runs failed; see above");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything, and returns how many runs failed.
async fn bench(options: &Options) -> Result<usize> {
    let chosen = Chosen::of(&options.only)?;
    if options.list {
        chosen.print();
        return Ok(0);
    }
    let mut failures = 0;
    let mut entries = Vec::new();
    if !chosen.sums.is_empty() || !chosen.memory.is_empty() {
        server::pin_ourselves(LOAD_CORE).await?;
        failures += sums(options, &chosen, &mut entries).await?;
    }
    if !chosen.counters.is_empty() {
        server::pin_ourselves(BOTH_CORES).await?;
        let runs = options.runs.unwrap_or(COUNTER_RUNS);
        let window = Duration::from_secs(options.seconds);
        let programs = if options.no_peers {
            counters::Programs::alone(&options.sumd)
        } else {
            counters::Programs::found(&options.sumd)
        };
        let works = &chosen.counters;
        failures += counters::bench(works, runs, window, programs?, &mut entries).await?;
    }
    if !chosen.cluster.is_empty() {
        server::pin_ourselves(BOTH_CORES).await?;
        let runs = options.runs.unwrap_or(COUNTER_RUNS);
        let window = Duration::from_secs(options.seconds);
        let programs = Programs {
            sumd: options.sumd.clone(),
            etcd: options.etcd.clone(),
        };
        let works = &chosen.cluster;
        failures += cluster::bench(works, runs, window, programs, &mut entries).await?;
    }
    if let Some(path) = options.history.as_ref().filter(|_| failures == 0) {
        let appended = history::append(path, &options.sumd, &entries).await;
        appended.with_context(|| format!("cannot append to {}", path.display()))?;
    }
    Ok(failures)
}

/// Measures sums, and memory for streams and connections.
async fn sums(options: &Options, chosen: &Chosen, entries: &mut Vec<Entry>) -> Result<usize> {
    let servers = found(&options.sumd, options.no_peers)?;
    let runs = options.runs.unwrap_or(RUNS);
    let window = Duration::from_secs(options.seconds);
    let mut results = Results::default();
    let mut failures = 0;

    for run in 1..=runs {
        for work in &chosen.sums {
            for (server, program) in servers.iter().filter(|(server, _)| server.can(work)) {
                eprint!("run {run}/{runs} {} {}: ", work.name, server.name);
                match measure(server, program, work, window).await {
                    Ok(measured) => {
                        eprintln!("{:.3} µs/sum", measured.cpu_us);
                        results.add(work.name, server.name, measured);
                    }
                    Err(error) => {
                        eprintln!("FAILED: {error:#}");
                        failures += 1;
                    }
                }
            }
        }
        for work in &chosen.memory {
            eprint!("run {run}/{runs} {}: ", work.name);
            match measure_memory(&options.sumd, work).await {
                Ok(mib) => {
                    eprintln!("{mib:.1} MiB");
                    results.add_memory(work.name, mib);
                }
                Err(error) => {
                    eprintln!("FAILED: {error:#}");
                    failures += 1;
                }
            }
        }
    }
    results.print();
    entries.extend(results.entries());
    Ok(failures)
}

/// The chosen works.
struct Chosen {
    sums: Vec<&'static Work>,
    memory: Vec<&'static MemoryWork>,
    counters: Vec<&'static CounterWork>,
    cluster: Vec<&'static ClusterWork>,
}

impl Chosen {
    /// The works with these names or of these groups, or all if none is given.
    fn of(only: &[String]) -> Result<Self> {
        let sums = WORKS.iter().map(|work| work.name);
        let memory = MEMORY_WORKS.iter().map(|work| work.name);
        let counters = counters::WORKS.iter().map(|work| work.name);
        let cluster = cluster::WORKS.iter().map(|work| work.name);
        let known = sums.chain(memory).chain(counters).chain(cluster);
        let known: Vec<_> = known.chain(GROUPS).collect();
        for name in only {
            let known = known.contains(&name.as_str());
            ensure!(known, "no work {name}; --list has them all");
        }
        let wanted = |group: &str, name: &str| {
            only.is_empty() || only.iter().any(|only| only == name || only == group)
        };
        let [sums, counters, cluster] = GROUPS;
        let all_memory = MEMORY_WORKS.iter();
        let all_counters = counters::WORKS.iter();
        let all_cluster = cluster::WORKS.iter();
        Ok(Self {
            sums: WORKS
                .iter()
                .filter(|work| wanted(sums, work.name))
                .collect(),
            memory: all_memory.filter(|work| wanted(sums, work.name)).collect(),
            counters: all_counters
                .filter(|work| wanted(counters, work.name))
                .collect(),
            cluster: all_cluster
                .filter(|work| wanted(cluster, work.name))
                .collect(),
        })
    }

    fn print(&self) {
        let sums = self.sums.iter().map(|work| (work.name, work.title));
        let memory = self.memory.iter().map(|work| (work.name, work.title));
        let cluster = self.cluster.iter().map(|work| (work.name, work.title));
        for (name, title) in sums.chain(memory) {
            println!("{name:28}{title}");
        }
        for work in &self.counters {
            println!("{:28}{}", work.name, work.heading());
        }
        for (name, title) in cluster {
            println!("{name:28}{title}");
        }
    }
}

/// The servers whose programs exist, with their paths.
fn found(sumd: &Path, no_peers: bool) -> Result<Vec<(&'static Server, PathBuf)>> {
    let mut found = Vec::new();
    for server in &SERVERS {
        let program = if server.name == SUMD.name {
            sumd.to_owned()
        } else if no_peers {
            continue;
        } else {
            server::beside_us(server.name)?
        };
        if program.exists() {
            found.push((server, program));
        } else {
            eprintln!("skipping {}: no {}", server.name, program.display());
        }
    }
    Ok(found)
}

async fn measure(
    server: &Server,
    program: &Path,
    work: &Work,
    window: Duration,
) -> Result<Measurement> {
    let run = async {
        let running = Running::start(server, program).await?;
        let measured = match server.protocol {
            Protocol::Grpc => {
                let queries = work.queries().into_iter();
                let queries = queries.map(|query| server.expect(query)).collect();
                load::drive(&running, work, queries, window).await?
            }
            Protocol::NetRpc => netrpc::drive(&running, work, window).await?,
        };
        running.end().await?;
        Ok(measured)
    };
    timeout(WARM_UP + window + RUN_GRACE, run)
        .await
        .context("took too long")?
}

async fn measure_memory(sumd: &Path, work: &MemoryWork) -> Result<f64> {
    let run = async {
        let running = Running::start(&SUMD, sumd).await?;
        let mib = if work.name == MEMORY_STREAM.name {
            memory::stream(&running).await?
        } else {
            memory::connections(&running).await?
        };
        running.end().await?;
        Ok(mib)
    };
    timeout(RUN_GRACE, run).await.context("took too long")?
}
