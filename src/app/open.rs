//! The start of a server: its store is opened, and it joins the other nodes.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sumd::cluster::{self, ClockState, ClusterService, JoinError, Members, PeerService};
use sumd::config::{NodeOptions, ServeOptions, StoreAddress};
use sumd::counter::{CounterService, Executor, Forwarder};
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

/// How long the other nodes may take to hear that this one is about to stop, or has.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How long a start waits for a place among the nodes: one that has died under the same name holds it for a lease. Then it
/// fails, unless etcd is full; and before that if the other one is seen to live.
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
/// Between two attempts to reach etcd at a start.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often etcd is asked whether it is there, and how long it may take. After some failures this node counts as one that
/// cannot count; one by itself may be an election.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_FAILED_PROBES: u32 = 3;

/// What there is of a server that has its store.
pub(super) struct Opened {
    pub(super) lanes: lane::LaneRuntime,
    pub(super) services: Services,
    pub(super) members: Option<Members>,
    /// The store, if it can fail by itself.
    condition: Option<watch::Receiver<Condition>>,
}

impl Opened {
    /// Resolves when nothing can be counted any more.
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

/// Opens the store, and begins to serve its lanes.
pub(super) async fn open(options: &ServeOptions, addresses: &[server::Address]) -> Result<Opened> {
    match options.store.address() {
        StoreAddress::Sqlite(path) => {
            let recent_bytes = options.memory.recent_bytes();
            let (opened, found) = oneshot::channel();
            let store = async move {
                let store = SqliteStore::open(&path, recent_bytes)?;
                tell_found(&path, store.found());
                // It is waited for below, once this is done.
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
            // It ends with the process.
            tokio::spawn(tell_available(condition.clone(), available));
            Ok(Opened {
                services: Services {
                    available: Some(availability),
                    ..Services::alone(CounterService::new(lanes.lanes.clone()))
                },
                lanes,
                members: None,
                condition: Some(condition),
            })
        }
        StoreAddress::Etcd(address) => open_etcd(options, &address, addresses).await,
    }
}

/// Tells the operator which data these are.
fn tell_found(path: &Path, found: Found) {
    let path = path.display();
    match found {
        Found::Nothing => info!("began new counters at {path}"),
        Found::Counters(counters) => info!(counters, "counters are at {path}"),
        Found::Many => info!("counters are at {path}"),
    }
}

/// Tells health whether the store takes commits.
async fn tell_available(mut condition: watch::Receiver<Condition>, available: watch::Sender<bool>) {
    loop {
        let is_well = *condition.borrow_and_update() == Condition::Well;
        available.send_if_modified(|before| std::mem::replace(before, is_well) != is_well);
        if condition.changed().await.is_err() {
            return;
        }
    }
}

/// The same on etcd, which is waited for, and joins the other nodes.
async fn open_etcd(
    options: &ServeOptions,
    address: &Address,
    addresses: &[server::Address],
) -> Result<Opened> {
    let etcd = &options.store.etcd;
    let node = node(&options.node, addresses)?;
    // Each of two threads has a connection of its own.
    let place = etcd.place(Client::new(etcd.client(address)?)?, &options.store.layout);
    let own = Client::new(etcd.client(address)?)?;
    let store = async move {
        loop {
            match EtcdStore::open(place.clone()).await {
                Ok(store) => return Ok(Arc::new(store) as Arc<dyn Store>),
                Err(OpenError::Unavailable(problem)) => {
                    warn!("no counters yet: etcd cannot be reached: {problem}");
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
            "--etcd-lanes {lanes} is not used: the counters have {found} lanes, and keep them. To divide them anew, stop all nodes, \
             then sumd backup, and sumd restore with another --etcd-prefix, which they are then started with"
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
    // From now on whoever would move the data finds this node; who did so before is found here.
    if let Err(moved) = check_not_moved(&own, &etcd.etcd_prefix).await {
        let _ = members.leave(Instant::now() + LEAVE_TIMEOUT).await;
        return Err(moved.into());
    }
    let clock = lanes.lanes.clock();
    members.watch_clock(&id, move || clock.is_behind_horizon());
    let counters = CounterService::new(lanes.lanes.clone());
    let peers = PeerService::new(Arc::new(Executor::new(&counters)));
    let (available, availability) = watch::channel(true);
    // It ends with the process.
    tokio::spawn(probe(own, etcd.etcd_prefix.clone(), available));
    Ok(Opened {
        services: Services {
            counters: counters.among(Forwarder::new(&id, members.view())),
            cluster: Some(ClusterService::new(members.view())),
            peers: Some(peers),
            available: Some(availability),
        },
        lanes,
        members: Some(members),
        condition: None,
    })
}

/// Joins the other nodes. A full etcd is waited for, however long that takes: the upkeep of this very node may make room.
async fn join(
    client: &Client,
    options: &cluster::Options,
    node: cluster::Node,
) -> std::result::Result<Members, JoinError> {
    loop {
        let deadline = Instant::now() + JOIN_PATIENCE;
        match Members::join(client, options, node.clone(), deadline).await {
            Err(JoinError::Etcd(error)) if error.outcome == Outcome::Unknown(Doubt::NoSpace) => {
                warn!("no counters yet: etcd is full, and takes no more nodes: {error}");
            }
            joined => return joined,
        }
    }
}

/// Refuses data that were moved elsewhere, once etcd can be asked.
async fn check_not_moved(client: &Client, prefix: &str) -> std::result::Result<(), OpenError> {
    loop {
        match etcd::check_not_moved(client, prefix).await {
            Err(OpenError::Unavailable(_)) => sleep(RETRY_PAUSE).await,
            answer => return answer,
        }
    }
}

/// Tells whether etcd can be reached, by asking it now and then.
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

/// What this node tells of itself.
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
        clock: ClockState::Agrees,
    })
}

/// Where others reach what listens at an address: where that is everywhere, by the name of the host.
fn reachable(address: &str, host: impl FnOnce() -> String) -> String {
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("{}:{port}", host()),
        _ => address.to_owned(),
    }
}
