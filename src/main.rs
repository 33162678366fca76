//! The `sumd` command: parse, start, exit code.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::Parser as _;
use sumd::client;
use sumd::config::{BackupOptions, Command, Config, RestoreOptions, ServeOptions, StoreAddress};
use sumd::counter::CounterService;
use sumd::lane;
use sumd::server::Server;
use sumd::store::Store;
use sumd::store::etcd::EtcdStore;
use sumd::store::etcd::client::Client;
use sumd::store::sqlite::{self, SqliteStore, ToolError};
use sumd::telemetry;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A wrong command line: EX_USAGE of sysexits.h. Everything else that fails is 1.
const USAGE: u8 = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let config = match Config::try_parse() {
        Ok(config) => config,
        Err(error) if error.use_stderr() => {
            eprintln!("{}", one_line(&error));
            return ExitCode::from(USAGE);
        }
        Err(help) => {
            // A reader that has seen enough, as `| head` has, is no failure.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    match config.command {
        None => serve(config.serve).await,
        Some(Command::Serve(options)) => serve(*options).await,
        Some(Command::Add(options)) => report(client::add(options).await),
        Some(Command::Health(options)) => report(client::health(options).await),
        Some(Command::Counter(command)) => {
            let lines = client::counter(command).await;
            report(lines.map(|lines| lines.join("\n")))
        }
        Some(Command::Cluster(command)) => {
            let lines = client::cluster(command).await;
            report(lines.map(|lines| lines.join("\n")))
        }
        Some(Command::Backup(BackupOptions { to, store })) => match store.address() {
            StoreAddress::Sqlite(path) => {
                report(sqlite::backup(&path, &to).map(|()| String::new()))
            }
            StoreAddress::Etcd(_) => not_on_etcd("backup"),
        },
        Some(Command::Restore(RestoreOptions { from, store })) => match store.address() {
            StoreAddress::Sqlite(path) => report(sqlite::restore(&from, &path)),
            StoreAddress::Etcd(_) => not_on_etcd("restore"),
        },
        Some(Command::Check(store)) => match store.address() {
            StoreAddress::Sqlite(path) => check(&path),
            StoreAddress::Etcd(_) => not_on_etcd("check"),
        },
    }
}

async fn serve(options: ServeOptions) -> ExitCode {
    if let Err(problem) = options.limits.check() {
        eprintln!("sumd: {problem}");
        return ExitCode::from(USAGE);
    }
    telemetry::init(&options.log);
    allow_files(options.limits.max_connections);
    match try_serve(options).await {
        Ok(code) => code,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn not_on_etcd(command: &str) -> ExitCode {
    eprintln!("sumd: {command} is for sqlite: as yet");
    ExitCode::from(USAGE)
}

type StartResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Opens the store, and begins to serve its lanes.
async fn open(options: &ServeOptions) -> StartResult<lane::Running> {
    let bounds = options.memory.bounds();
    let mut runtime = runtime::Builder::new_current_thread();
    match options.store.address() {
        StoreAddress::Sqlite(path) => {
            let recent_bytes = options.memory.recent_bytes();
            let store = async move {
                let store = SqliteStore::open(&path, recent_bytes)?;
                Ok(Arc::new(store) as Arc<dyn Store>)
            };
            lane::Running::open(runtime.build()?, store, bounds).await
        }
        StoreAddress::Etcd(address) => {
            let etcd = &options.store.etcd;
            let client = Client::new(etcd.client(&address)?)?;
            let (prefix, operations) = (etcd.etcd_prefix.clone(), etcd.etcd_max_txn_ops as usize);
            let store = async move {
                let store = EtcdStore::open(client, &prefix, operations).await?;
                Ok(Arc::new(store) as Arc<dyn Store>)
            };
            lane::Running::open(runtime.enable_all().build()?, store, bounds).await
        }
    }
}

async fn try_serve(options: ServeOptions) -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    // Before anybody is told that there is a server: who knows of it may signal it.
    let mut signals = Signals::new()?;
    let workers = options
        .workers
        .or_else(|| thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    let mut lanes = open(&options).await?;
    let counters = CounterService::new(lanes.lanes.clone());
    let server = Server::bind(&options.listen, options.limits, workers, counters).await?;
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        workers,
        "listening on {}",
        addresses.join(", ")
    );

    let (stop, stopped) = oneshot::channel();
    let mut running = pin!(server.run(async {
        // Either way there is nothing more to wait for.
        let _ = stopped.await;
    }));
    let failure = tokio::select! {
        result = &mut running => return Ok(result.map(|()| ExitCode::SUCCESS)?),
        _ = signals.next() => None,
        failure = lanes.failure() => Some(failure),
    };
    let _ = stop.send(());
    tokio::select! {
        result = &mut running => result?,
        signal = signals.next() => {
            warn!("stopped at once by a second signal");
            // What a shell reports of a process that a signal ended.
            return Ok(ExitCode::from(128 + signal));
        }
    }
    let failure = match failure {
        // It may have failed since, with those who were drained waiting for it.
        None => lanes.close().await.err(),
        told => told,
    };
    failure.map_or(Ok(ExitCode::SUCCESS), |failure| Err(failure.into()))
}

/// Raises the limit of open files as far as it may be, since each connection is one.
fn allow_files(connections: u32) {
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(files) if files > u64::from(connections) => {}
        Ok(files) => warn!(
            files,
            connections, "too few open files for --max-connections"
        ),
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The number of the next signal.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 15,
            _ = self.interrupt.recv() => 2,
        }
    }
}

/// Prints a client command's answer, or why there is none.
fn report<T: Display, E: Display>(answer: Result<T, E>) -> ExitCode {
    match answer {
        Ok(answer) => {
            let answer = answer.to_string();
            if !answer.is_empty() {
                // A reader that has gone, as in `| head -0`, is no failure.
                let _ = writeln!(io::stdout(), "{answer}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("sumd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match sqlite::check(path) {
        Ok(found) if found.problems.is_empty() => report::<_, ToolError>(Ok(found)),
        Ok(found) => {
            for problem in &found.problems {
                eprintln!("sumd: {problem}");
            }
            println!("{found}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("sumd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with the command line, without the usage that clap puts below it.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let problem = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<_> = problem
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect();
    format!("sumd: {} (see sumd --help)", words.join(" "))
}
