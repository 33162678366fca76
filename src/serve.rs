//! A server from its start to its end.

use std::error::Error;
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use sumd::cluster::{self, ClusterService, Members, PeerService};
use sumd::config::{NodeOptions, ServeOptions, StoreAddress};
use sumd::counter::{CounterService, Executor, Forwarding};
use sumd::lane;
use sumd::server::{Address, Server};
use sumd::store::Store;
use sumd::store::etcd::EtcdStore;
use sumd::store::etcd::client::Client;
use sumd::store::sqlite::SqliteStore;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long a start waits for a place among the nodes: one that has died under the same name holds it for a lease.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// How long the other nodes may take to hear that this one is about to stop, or has.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The lanes, and where there are other nodes what is needed to be one of them.
struct Opened {
    lanes: lane::Running,
    etcd: Option<(Client, cluster::Options)>,
}

/// Opens the store, and begins to serve its lanes.
async fn open(options: &ServeOptions) -> Result<Opened> {
    let bounds = options.memory.bounds();
    let mut runtime = runtime::Builder::new_current_thread();
    match options.store.address() {
        StoreAddress::Sqlite(path) => {
            let recent_bytes = options.memory.recent_bytes();
            let store = async move {
                let store = SqliteStore::open(&path, recent_bytes)?;
                Ok(Arc::new(store) as Arc<dyn Store>)
            };
            let lanes: Result<_> = lane::Running::open(runtime.build()?, store, bounds).await;
            Ok(Opened {
                lanes: lanes?,
                etcd: None,
            })
        }
        StoreAddress::Etcd(address) => {
            let etcd = &options.store.etcd;
            // Each of the two threads has a connection of its own.
            let (client, own) = (
                Client::new(etcd.client(&address)?)?,
                Client::new(etcd.client(&address)?)?,
            );
            let prefix = etcd.etcd_prefix.clone();
            let operations = etcd.etcd_max_txn_ops as usize;
            let store = async move {
                let store = EtcdStore::open(client, &prefix, operations).await?;
                Ok(Arc::new(store) as Arc<dyn Store>)
            };
            let runtime = runtime.enable_all().build()?;
            let lanes: Result<_> = lane::Running::open(runtime, store, bounds).await;
            let lanes = lanes?;
            let count = lanes.lanes.store().lanes();
            let cluster = cluster::Options {
                prefix: etcd.etcd_prefix.clone(),
                lanes: u16::try_from(count)?,
                ttl: cluster::DEFAULT_TTL,
            };
            Ok(Opened {
                lanes,
                etcd: Some((own, cluster)),
            })
        }
    }
}

/// Serves until a signal, or a failure.
///
/// # Errors
/// Where it cannot start, or has failed.
pub async fn run(options: ServeOptions) -> Result<ExitCode> {
    allow_files(options.limits.max_connections);
    // Before anybody is told that there is a server: who knows of it may signal it.
    let mut signals = Signals::new()?;
    let workers = options
        .workers
        .or_else(|| thread::available_parallelism().ok())
        .unwrap_or(NonZeroUsize::MIN);
    let Opened { mut lanes, etcd } = open(&options).await?;
    let counters = CounterService::new(lanes.lanes.clone());
    let mut server =
        Server::bind(&options.listen, options.limits, workers, counters.clone()).await?;
    let mut members = None;
    if let Some((client, cluster)) = etcd {
        let node = node(&options.node, &server.addresses())?;
        let id = node.id.clone();
        info!(id, address = node.address, "joining the cluster");
        let deadline = Instant::now() + JOIN_PATIENCE;
        let joined = Members::join(&client, &cluster, node, deadline).await?;
        let peers = PeerService::new(Arc::new(Executor::new(&counters)));
        let counters = counters.among(Forwarding::new(&id, joined.view()));
        let cluster = ClusterService::new(joined.view());
        server = server.with_counters(counters).in_cluster(cluster, peers);
        members = Some(joined);
    }
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
    let drained = async {
        let announced = async {
            if let Some(members) = &members {
                let deadline = Instant::now() + LEAVE_PATIENCE;
                if let Err(error) = members.announce_draining(deadline).await {
                    warn!("{error}");
                }
            }
        };
        tokio::join!(announced, &mut running).1
    };
    tokio::select! {
        result = drained => result?,
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
    if let Some(members) = members
        && let Err(error) = members.leave(Instant::now() + LEAVE_PATIENCE).await
    {
        warn!("{error}");
    }
    failure.map_or(Ok(ExitCode::SUCCESS), |failure| Err(failure.into()))
}

/// What this node tells of itself.
fn node(options: &NodeOptions, addresses: &[Address]) -> Result<cluster::Node> {
    let host = || gethostname::gethostname().to_string_lossy().into_owned();
    let tcp = addresses.iter().find_map(|address| match address {
        Address::Tcp(address) => Some(address.clone()),
        Address::Unix(_) => None,
    });
    let address = match (&options.advertise, tcp) {
        (Some(address), _) => address.clone(),
        (None, Some(address)) => reachable(&address, host),
        (None, None) => {
            return Err(
                "other nodes cannot reach a socket in the file system: --listen host:port".into(),
            );
        }
    };
    Ok(cluster::Node {
        id: options.node_id.clone().unwrap_or_else(host),
        address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: cluster::PROTOCOL,
        started: SystemTime::now().into(),
        draining: false,
    })
}

/// Where others reach what listens at an address: where that is everywhere, by the name of the host.
fn reachable(address: &str, host: impl FnOnce() -> String) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("{}:{port}", host()),
        _ => address.to_owned(),
    }
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
