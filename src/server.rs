//! Serving: listeners, worker threads, connections, calls; and stopping without losing any.

mod address;
mod body;
mod call;
mod connection;
mod headers;
mod health;
mod idle;
mod limits;
mod listener;
mod request;
mod routes;
mod services;
mod stream;
mod timer;
mod worker;

pub use address::Address;
pub use limits::Limits;
pub use listener::{BindError, ListenOptions};
pub use services::Services;

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::cluster::{ClockState, ClusterService, Node as Member, PROTOCOL};
use connection::Admission;
use health::Health;
use listener::Listener;
use routes::Routes;
use services::Slot;
use worker::{Queues, Workers};

/// How long peers have to take in their last answers once the drain's time is over.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// What all connections share.
struct Node {
    limits: Limits,
    routes: Routes,
    services: Slot,
    /// This node, where it knows of no other.
    alone: ClusterService,
    phase: Phase,
    /// Every connection is a task of it.
    connections: TaskTracker,
}

/// How far shutting down has come. Each phase implies those before it.
#[derive(Default)]
struct Phase {
    /// No new calls: connections say so (GOAWAY) and end once their calls have.
    draining: CancellationToken,
    /// Calls that have not ended are ended.
    ending: CancellationToken,
    /// Connections are dropped.
    dropping: CancellationToken,
}

/// A server that has its addresses and is not serving yet.
pub struct Server {
    listeners: Vec<Listener>,
    node: Node,
    health: Health,
    workers: NonZeroUsize,
}

impl Server {
    /// Takes the addresses. Callers that connect now are answered once [`Server::run`] runs, and those who count once the
    /// services are there.
    ///
    /// # Errors
    /// Where an address cannot be had; it tells which, and why.
    pub async fn bind(
        listen: &ListenOptions,
        limits: Limits,
        workers: NonZeroUsize,
        services: watch::Receiver<Option<Services>>,
    ) -> Result<Self, BindError> {
        let listeners = Listener::bind_all(listen).await?;
        let health = Health::not_serving();
        let address = listeners.first().map(Listener::address);
        let alone = Member {
            // Of one node nobody needs to tell which it is.
            id: "sumd".to_owned(),
            address: address.map_or_else(String::new, |address| address.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            started: SystemTime::now().into(),
            draining: false,
            clock: ClockState::Agrees,
        };
        let node = Node {
            routes: Routes::new(&limits, &health),
            services,
            alone: ClusterService::alone(alone),
            limits,
            phase: Phase::default(),
            connections: TaskTracker::new(),
        };
        Ok(Self {
            listeners,
            node,
            health,
            workers,
        })
    }

    /// Where it listens: with the port that the system chose where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// The description of this node if there are no others.
    #[must_use]
    pub fn alone(&self) -> ClusterService {
        self.node.alone.clone()
    }

    /// Serves until `shutdown` resolves, then drains: first it says NOT_SERVING and waits for balancers
    /// to look elsewhere, then it takes no new calls and waits for those in flight, then it ends what is
    /// left. All of that is bounded by [`Limits::drain_delay`] + [`Limits::drain_timeout`] + one second.
    ///
    /// # Errors
    /// Where threads cannot be started, or a part of the server that must not stop has stopped.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self {
            listeners,
            node,
            health,
            workers,
        } = self;
        let node = Arc::new(node);
        let mut workers = Workers::start(workers, &node)?;
        let accepting = TaskTracker::new();
        for listener in listeners {
            accepting.spawn(accept(listener, workers.queues(), node.clone()));
        }
        accepting.close();
        health.set_serving(true);

        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            () = services::report(node.services.clone(), &health) => Ok(()),
            () = accepting.wait() => Err(io::Error::other("accepting connections has stopped")),
            error = workers.failure() => Err(error),
        };
        health.set_serving(false);
        health.set_counting(false);
        node.drain(&accepting).await;
        workers.join().await;
        outcome
    }
}

/// Accepts until the server drains, and then what has come by then: its peers believe themselves
/// connected, and may have sent calls.
async fn accept(listener: Listener, queues: Queues, node: Arc<Node>) {
    let max = node.limits.max_connections as usize;
    let max_with_probes = max + Limits::PROBE_CONNECTIONS as usize;
    let draining = &node.phase.draining;
    let mut full = false;
    loop {
        let next = listener.next();
        let socket = match draining.run_until_cancelled(next).await {
            Some(socket) => socket,
            None => match listener.next().now_or_never() {
                Some(socket) => socket,
                None => break,
            },
        };
        let open = node.connections.len();
        if open < max {
            queues.push(socket, Admission::All, node.connections.token());
            full = false;
            continue;
        }
        if !std::mem::replace(&mut full, true) {
            warn!(max, "refusing connections (--max-connections)");
        }
        if open < max_with_probes {
            queues.push(socket, Admission::HealthChecks, node.connections.token());
        }
    }
}

impl Phase {
    /// The same phases for one thread, which can then be waited for without a lock that others hold.
    fn child(&self) -> Self {
        Self {
            draining: self.draining.child_token(),
            ending: self.ending.child_token(),
            dropping: self.dropping.child_token(),
        }
    }
}

impl Node {
    /// The nodes; `None` as long as nobody knows if there are others.
    fn cluster(&self) -> Option<ClusterService> {
        let services = self.services.borrow();
        let cluster = services.as_ref()?.cluster.clone();
        Some(cluster.unwrap_or_else(|| self.alone.clone()))
    }

    async fn drain(&self, accepting: &TaskTracker) {
        let Limits {
            drain_delay,
            drain_timeout,
            ..
        } = self.limits;
        info!(?drain_delay, ?drain_timeout, "draining");
        if let Some(cluster) = self.cluster() {
            cluster.announce_draining();
        }
        tokio::time::sleep(drain_delay).await;
        self.phase.draining.cancel();
        accepting.wait().await;
        self.connections.close();
        if !self.idle_within(drain_timeout).await {
            let connections = self.connections.len();
            warn!(connections, "ending the calls that are left");
            self.phase.ending.cancel();
            self.idle_within(FLUSH_TIMEOUT).await;
        }
        self.phase.dropping.cancel();
    }

    async fn idle_within(&self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.connections.wait())
            .await
            .is_ok()
    }
}
