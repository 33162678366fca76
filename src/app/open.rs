//! Opens the store of a server, and joins the cluster.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sumd::api::Executor;
use sumd::cluster::{self, ClockState, IncomingCalls, JoinError, Members, Nodes};
use sumd::config::{NodeOptions, ServeOptions, StoreAddress};
use sumd::counters::{Counters, Forwarder};
use sumd::etcd::{Address, Client, Doubt, Outcome, get};
use sumd::lane;
use sumd::server::{self, Services};
use sumd::store::Store;
use sumd::store::etcd::{self, EtcdStore, OpenError};
use sumd::store::sqlite::{Condition, Found, SqliteStore};
use tokio::runtime;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// Maximum time for telling the other nodes that this one is about to stop, or has stopped.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Maximum time that a start waits for its node id: a node that has died under the same id holds it until its lease
/// ends. The start fails after that, unless etcd is full. It fails earlier if the other node is seen to be alive.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two attempts to reach etcd at the start.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Interval and timeout of the probes of etcd. After [`MAX_FAILED_PROBES`] failures in a row, counting is reported as
/// unavailable; a single failure may be an election.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_FAILED_PROBES: u32 = 3;

/// The parts of a server whose store is open.
pub(super) struct Opened {
    pub(super) lanes: lane::LaneRuntime,
    pub(super) services: Services,
    pub(super) members: Option<Members>,
    /// The condition of the store, if it can fail on its own.
    condition: Option<watch::Receiver<Condition>>,
}

impl Opened {
    /// Resolves with the reason when the lanes or the store have failed.
    pub(super) async fn failure(&mut self) -> Box<dyn Error + Send + Sync> {
        let condition = self.condition.as_mut();
        let failed = async {
            if let Some(condition) = condition
                && let Ok(failed) = condition
                    .wait_for(|now| matches!(now, Condition::Failed(_)))
                    .await
                && let Condition::Failed(problem) = &*failed
            {
                return problem.to_string();
            }
            std::future::pending().await
        };
        tokio::select! {
            error = self.lanes.failure() => error.into(),
            problem = failed => problem.into(),
        }
    }
}

/// Opens the store, and starts its lanes.
pub(super) async fn open(options: &ServeOptions, addresses: &[server::Address]) -> Result<Opened> {
    match options.store.address() {
        StoreAddress::Sqlite(path) => {
            let recent_bytes = options.memory.recent_bytes();
            let (opened, found) = oneshot::channel();
            let store = async move {
                let store = SqliteStore::open(&path, recent_bytes)?;
                tell_found(&path, store.found());
                // The receiver is awaited below, after this future is done.
                let _ = opened.send(store.condition());
                Ok(Arc::new(store) as Arc<dyn Store>)
            };
            let runtime = runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            let bounds = options.memory.bounds();
            let lanes: Result<_> = lane::LaneRuntime::open(runtime, store, bounds).await;
            let lanes = lanes?;
            let condition = found.await?;
            let (available, availability) = watch::channel(true);
            // The task ends with the process.
            tokio::spawn(tell_available(condition.clone(), available));
            Ok(Opened {
                services: Services {
                    available: Some(availability),
                    ..Services::alone(Counters::new(lanes.lanes.clone()))
                },
                lanes,
                members: None,
                condition: Some(condition),
            })
        }
        StoreAddress::Etcd(address) => open_etcd(options, &address, addresses).await,
    }
}

/// Logs which data were found.
fn tell_found(path: &Path, found: Found) {
    let path = path.display();
    match found {
        Found::Nothing => info!("created new counters at {path}"),
        Found::Counters(counters) => info!(counters, "opened the counters at {path}"),
        Found::Many => info!("opened the counters at {path}"),
    }
}

/// Reports to the health service whether the store takes commits.
async fn tell_available(mut condition: watch::Receiver<Condition>, available: watch::Sender<bool>) {
    loop {
        let is_well = *condition.borrow_and_update() == Condition::Well;
        available.send_if_modified(|before| std::mem::replace(before, is_well) != is_well);
        if condition.changed().await.is_err() {
            return;
        }
    }
}

/// Opens the store on etcd, waiting for etcd to be reachable, and joins the cluster.
async fn open_etcd(
    options: &ServeOptions,
    address: &Address,
    addresses: &[server::Address],
) -> Result<Opened> {
    let etcd = &options.store.etcd;
    let node = node(&options.node, addresses)?;
    // The lanes' thread and this one need a client each.
    let place = etcd.place(Client::new(etcd.client(address)?)?, &options.store.layout);
    let own = Client::new(etcd.client(address)?)?;
    let store = async move {
        loop {
            match EtcdStore::open(place.clone()).await {
                Ok(store) => return Ok(Arc::new(store) as Arc<dyn Store>),
                Err(OpenError::Unavailable(problem)) => {
                    warn!(
                        "cannot open the counters yet, retrying: etcd cannot be reached: {problem}"
                    );
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let lanes: Result<_> = lane::LaneRuntime::open(runtime, store, options.memory.bounds()).await;
    let lanes = lanes?;
    let found = lanes.lanes.store().lanes();
    if let Some(lanes) = options.store.layout.etcd_lanes
        && lanes != found
    {
        warn!(
            lanes = found,
            "--etcd-lanes {lanes} is ignored: the existing counters keep their {found} lanes. To change the number of \
             lanes, stop all nodes, run sumd backup, run sumd restore with --etcd-lanes {lanes} and another \
             --etcd-prefix, and start the nodes with that prefix"
        );
    }
    let cluster = cluster::Options {
        prefix: etcd.etcd_prefix.clone(),
        lanes: u16::try_from(found)?,
        ttl: cluster::DEFAULT_TTL,
    };
    let id = node.id.clone();
    info!(id, address = node.address, "joining the cluster");
    let mut members = join(&own, &cluster, node).await?;
    // From here on a move finds this node registered. A move that was begun earlier is found by this check.
    if let Err(moved) = check_not_moved(&own, &etcd.etcd_prefix).await {
        let _ = members.leave(Instant::now() + LEAVE_TIMEOUT).await;
        return Err(moved.into());
    }
    let clock = lanes.lanes.clock();
    members.watch_clock(&id, move || clock.is_behind_horizon());
    let counters = Counters::new(lanes.lanes.clone());
    let peers = IncomingCalls::new(Arc::new(Executor::new(&counters)));
    let (available, availability) = watch::channel(true);
    // The task ends with the process.
    tokio::spawn(probe(own, etcd.etcd_prefix.clone(), available));
    Ok(Opened {
        services: Services {
            counters: counters.among(Forwarder::new(&id, members.view())),
            nodes: Some(Nodes::new(members.view())),
            peers: Some(peers),
            available: Some(availability),
        },
        lanes,
        members: Some(members),
        condition: None,
    })
}

/// Joins the cluster. If etcd is full, waits without a bound: this very node may make room by compacting etcd's
/// history.
async fn join(
    client: &Client,
    options: &cluster::Options,
    node: cluster::Node,
) -> std::result::Result<Members, JoinError> {
    loop {
        let deadline = Instant::now() + JOIN_PATIENCE;
        match Members::join(client, options, node.clone(), deadline).await {
            Err(JoinError::Etcd(error)) if error.outcome == Outcome::Unknown(Doubt::NoSpace) => {
                warn!(
                    "cannot join the cluster yet, retrying: etcd is full and accepts no more nodes: {error}"
                );
            }
            joined => return joined,
        }
    }
}

/// Refuses data that were moved to another store, as soon as etcd can be asked.
async fn check_not_moved(client: &Client, prefix: &str) -> std::result::Result<(), OpenError> {
    loop {
        match etcd::check_not_moved(client, prefix).await {
            Err(OpenError::Unavailable(_)) => sleep(RETRY_PAUSE).await,
            answer => return answer,
        }
    }
}

/// Probes etcd at an interval, and reports whether it can be reached.
async fn probe(client: Client, prefix: String, available: watch::Sender<bool>) {
    let mut failures = 0;
    loop {
        sleep(PROBE_INTERVAL).await;
        let meta = get(format!("{prefix}/meta"));
        match client.range(meta, Instant::now() + PROBE_TIMEOUT).await {
            Ok(_) => failures = 0,
            Err(_) => failures += 1,
        }
        let now = failures < MAX_FAILED_PROBES;
        available.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

/// The entry of this node in the list of members.
fn node(options: &NodeOptions, addresses: &[server::Address]) -> Result<cluster::Node> {
    let host = || gethostname::gethostname().to_string_lossy().into_owned();
    let tcp = addresses.iter().find_map(|address| match address {
        server::Address::Tcp(address) => Some(address.clone()),
        server::Address::Unix(_) => None,
    });
    let address = match (&options.advertise, tcp) {
        (Some(address), _) => address.clone(),
        (None, Some(address)) => reachable(&address, host),
        (None, None) => {
            return Err("other nodes cannot reach a Unix socket: add --listen host:port".into());
        }
    };
    Ok(cluster::Node {
        id: options.node_id.clone().unwrap_or_else(host),
        address,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: cluster::PROTOCOL,
        started: SystemTime::now().into(),
        draining: false,
        clock: ClockState::Agrees,
    })
}

/// The address at which other nodes reach a listener. For a wildcard address, it has the name of the host.
fn reachable(address: &str, host: impl FnOnce() -> String) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("{}:{port}", host()),
        _ => address.to_owned(),
    }
}
