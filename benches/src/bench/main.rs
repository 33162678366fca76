//! Measures sumd and its peers on the same work, one server at a time: the server on one core, the
//! load on another.

mod grpc;
mod load;
mod measure;
mod memory;
mod netrpc;
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

use measure::{Measurement, WARM_UP};
use report::Results;
use server::Running;
use works::{
    MEMORY_STREAM, MEMORY_WORKS, MemoryWork, Protocol, SERVERS, SUMD, Server, WORKS, Work,
};

/// What a run may take beyond its window: the start of the server, its requests in flight at the
/// end, a gigabyte on one stream.
const RUN_GRACE: Duration = Duration::from_secs(30);

/// Measures sumd and its peers on the same work, and prints tables in Markdown.
///
/// Peers are looked for in the folder of this program; those that are not there are skipped.
#[derive(Parser)]
struct Options {
    /// Runs of every server on every work, interleaved; medians are printed
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds that each run is measured, after a second of warm-up
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Measure this work only (repeatable)
    #[arg(long, value_name = "WORK")]
    only: Vec<String>,
    /// List the works and exit
    #[arg(long)]
    list: bool,
    /// The program to measure against its peers
    #[arg(long, default_value = "target/release/sumd", value_name = "PATH")]
    sumd: PathBuf,
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
    let (works, memory_works) = chosen(&options.only)?;
    if options.list {
        let names = works.iter().map(|work| (work.name, work.title));
        let memory_names = memory_works.iter().map(|work| (work.name, work.title));
        for (name, title) in names.chain(memory_names) {
            println!("{name:20}{title}");
        }
        return Ok(0);
    }
    server::pin_ourselves().await?;
    let servers = found(&options.sumd)?;
    let window = Duration::from_secs(options.seconds);
    let mut results = Results::default();
    let mut failures = 0;

    for run in 1..=options.runs {
        for work in &works {
            for (server, program) in servers.iter().filter(|(server, _)| server.can(work)) {
                eprint!("run {run}/{} {} {}: ", options.runs, work.name, server.name);
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
        for work in &memory_works {
            eprint!("run {run}/{} {}: ", options.runs, work.name);
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
    Ok(failures)
}

/// The works of these names, or all if there is none.
fn chosen(only: &[String]) -> Result<(Vec<&'static Work>, Vec<&'static MemoryWork>)> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    let works: Vec<_> = WORKS.iter().filter(|work| wanted(work.name)).collect();
    let memory: Vec<_> = MEMORY_WORKS
        .iter()
        .filter(|work| wanted(work.name))
        .collect();
    ensure!(
        works.len() + memory.len() >= only.len(),
        "no such work; --list has them all"
    );
    Ok((works, memory))
}

/// The servers whose programs are there, with their paths.
fn found(sumd: &Path) -> Result<Vec<(&'static Server, PathBuf)>> {
    let mut found = Vec::new();
    for server in &SERVERS {
        let program = if server.name == SUMD.name {
            sumd.to_owned()
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
            Protocol::Grpc => load::drive(&running, work, window).await?,
            Protocol::NetRpc => netrpc::drive(&running, work, window).await?,
        };
        running.kill().await?;
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
        running.kill().await?;
        Ok(mib)
    };
    timeout(RUN_GRACE, run).await.context("took too long")?
}
