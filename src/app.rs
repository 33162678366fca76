//! Runs a server from its start to its end.

mod open;

use std::error::Error;
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use sumd::cluster::{ClockState, Members, Nodes};
use sumd::config::{Config, ServeOptions, StoreAddress};
use sumd::lane::Clock;
use sumd::server::Server;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use open::{LEAVE_TIMEOUT, Opened, Result, open};

/// Interval at which a standalone server checks its clock.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// Reports the state of the clock of a standalone server to its callers.
async fn tell_clock(clock: Clock, alone: Nodes) {
    loop {
        alone.tell_clock(if clock.is_behind_horizon() {
            ClockState::BehindHorizon
        } else {
            ClockState::Agrees
        });
        sleep(CLOCK_INTERVAL).await;
    }
}

/// Serves until a signal or a failure.
///
/// # Errors
/// Returns an error if the server cannot start, or fails.
pub async fn run(options: ServeOptions) -> Result<ExitCode> {
    let workers = options
        .workers
        .or_else(|| thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    allow_files(options.limits.max_connections);
    // Before the server is announced, because it may be signalled as soon as it is known.
    let mut signals = Signals::new()?;
    let (serving, services) = watch::channel(None);
    let server = tokio::select! {
        server = Server::bind(&options.listen, options.limits.clone(), workers, options.memory.request_bytes(), services) => server?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let addresses = server.addresses();
    introduce(&options, workers);
    let mut opening = pin!(open(&options, &addresses));
    let mut opened = None;
    if let StoreAddress::Sqlite(_) = options.store.address() {
        // A file opens or fails at once, unlike etcd. Reading it may take long, and no client is served yet.
        opened = Some(tokio::select! {
            opened = opening.as_mut() => opened?,
            _ = signals.next() => return Ok(ExitCode::SUCCESS),
        });
    }
    if let Some(opened) = &opened {
        serving.send_replace(Some(opened.services.clone()));
        // The task ends with the process.
        tokio::spawn(tell_clock(opened.lanes.lanes.clock(), server.alone()));
    }
    let told: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        workers,
        "listening on {}",
        told.join(", ")
    );

    let (stop, stopped) = oneshot::channel();
    let mut running = pin!(server.run(async {
        // A dropped sender is a request to stop, too.
        let _ = stopped.await;
    }));
    let mut failure = None;
    if opened.is_none() {
        tokio::select! {
            result = &mut running => return Ok(result.map(|()| ExitCode::SUCCESS)?),
            _ = signals.next() => {}
            result = opening => match result {
                Ok(done) => {
                    serving.send_replace(Some(done.services.clone()));
                    info!("counting");
                    opened = Some(done);
                }
                Err(error) => failure = Some(error),
            },
        }
    }
    let Some(mut opened) = opened else {
        // No store was opened, so nothing has to be closed; sums need none.
        let _ = stop.send(());
        running.await?;
        return failure.map_or(Ok(ExitCode::SUCCESS), Err);
    };
    tokio::select! {
        result = &mut running => return Ok(result.map(|()| ExitCode::SUCCESS)?),
        _ = signals.next() => {}
        error = opened.failure() => failure = Some(error),
    }
    let _ = stop.send(());
    let closed = async {
        let announced = announce(opened.members.as_ref());
        tokio::join!(announced, &mut running).1?;
        serving.send_replace(None);
        close(opened, failure).await
    };
    tokio::select! {
        result = closed => result,
        signal = signals.next() => {
            warn!("stopped at once by a second signal");
            // The exit code that a shell reports for a process killed by this signal.
            Ok(ExitCode::from(128 + signal))
        }
    }
}

/// Logs what is about to be served: which data, and how much memory.
fn introduce(options: &ServeOptions, workers: NonZeroUsize) {
    let prefix = match options.store.address() {
        StoreAddress::Sqlite(_) => None,
        StoreAddress::Etcd(_) => Some(&options.store.etcd.etcd_prefix),
    };
    let size = |bytes: usize| ByteSize::b(bytes as u64).to_string();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        store = %options.store.address().absolute(),
        prefix,
        workers,
        memory = %ByteSize::b(options.memory.available()),
        id_memory = size(options.memory.id_bytes()),
        counter_memory = size(options.memory.counter_bytes()),
        request_memory = size(options.memory.request_bytes()),
        "starting"
    );
    let unknown = Config::unknown_variables();
    if !unknown.is_empty() {
        warn!(
            "no option reads {} from the environment",
            unknown.join(", ")
        );
    }
}

/// Tells the other nodes that this one is about to stop.
async fn announce(members: Option<&Members>) {
    if let Some(members) = members {
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        if let Err(error) = members.announce_draining(deadline).await {
            warn!("{error}");
        }
    }
}

/// Stops the lanes, closes their store unless it has failed, and leaves the cluster. Signals are still received
/// meanwhile, because the store is closed on the lanes' thread.
async fn close(opened: Opened, failure: Option<Box<dyn Error + Send + Sync>>) -> Result<ExitCode> {
    let Opened {
        lanes,
        services,
        members,
        ..
    } = opened;
    // The lanes close the store once no service holds a handle to them.
    drop(services);
    let failure = match failure {
        // They may have failed during the drain.
        None => lanes.close().await.err().map(Into::into),
        told => told,
    };
    if let Some(members) = members
        && let Err(error) = members.leave(Instant::now() + LEAVE_TIMEOUT).await
    {
        warn!("{error}");
    }
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Raises the limit of open files as far as possible: each connection needs one.
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
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal to stop and returns its number. SIGHUP is only logged.
    async fn next(&mut self) -> u8 {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return 15,
                _ = self.interrupt.recv() => return 2,
                _ = self.hangup.recv() => info!("SIGHUP: there is nothing to reload"),
            }
        }
    }
}
