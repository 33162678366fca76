//! The state shared by all connections, and by those of one worker.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::limits::Limits;
use super::services::Slot;
use super::stateless::Stateless;
use crate::api::{
    CounterApi, CounterServiceServer, PeerApi, PeerServiceServer, SumApi, SumServiceServer,
};
use crate::cluster::Nodes;
use crate::layers::{Calls, RequestMemory};

/// Time for peers to receive their last answers after the drain timeout.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// tonic checks no sizes: the layers do, and their errors have reasons.
const ANY_SIZE: usize = usize::MAX;

/// State shared by all connections.
pub(super) struct Node {
    pub(super) limits: Limits,
    pub(super) stateless: Stateless,
    pub(super) calls: Arc<Calls>,
    pub(super) request_memory: Arc<RequestMemory>,
    pub(super) services: Slot,
    /// The list of nodes if this one is standalone.
    pub(super) alone: Nodes,
    pub(super) phase: Phase,
    /// Tracks the task of every connection.
    pub(super) connections: TaskTracker,
}

/// The phases of a shutdown. Each implies those before it.
#[derive(Default)]
pub(super) struct Phase {
    /// No new calls: connections send GOAWAY, and end after their last call.
    pub(super) draining: CancellationToken,
    /// The remaining calls are ended.
    pub(super) ending: CancellationToken,
    /// Connections are dropped.
    pub(super) dropping: CancellationToken,
}

impl Phase {
    /// The same phases for one thread, which can wait for them without a lock that other threads hold.
    pub(super) fn child(&self) -> Self {
        Self {
            draining: self.draining.child_token(),
            ending: self.ending.child_token(),
            dropping: self.dropping.child_token(),
        }
    }
}

impl Node {
    /// The nodes; `None` until it is known whether there are others.
    pub(super) fn nodes(&self) -> Option<Nodes> {
        let services = self.services.borrow();
        let nodes = services.as_ref()?.nodes.clone();
        Some(nodes.unwrap_or_else(|| self.alone.clone()))
    }

    /// Drains: load balancers get time to react, then new calls are refused, and those in flight get time to finish.
    pub(super) async fn drain(&self, accepting: &TaskTracker) {
        let Limits {
            drain_delay,
            drain_timeout,
            ..
        } = self.limits;
        info!(?drain_delay, ?drain_timeout, "draining");
        if let Some(nodes) = self.nodes() {
            nodes.announce_draining();
        }
        tokio::time::sleep(drain_delay).await;
        self.phase.draining.cancel();
        accepting.wait().await;
        self.connections.close();
        if !self.idle_within(drain_timeout).await {
            let connections = self.connections.len();
            warn!(connections, "ending the remaining calls");
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

/// State shared by the connections of one worker.
pub(super) struct Local {
    pub(super) node: Arc<Node>,
    pub(super) phase: Phase,
    /// One for each worker: their counts of references are not shared between threads.
    pub(super) sums: SumServiceServer<SumApi>,
    counters: OnceLock<CounterServiceServer<CounterApi>>,
    peers: OnceLock<Option<PeerServiceServer<PeerApi>>>,
}

impl Local {
    pub(super) fn new(node: Arc<Node>) -> Self {
        let phase = node.phase.child();
        Self {
            node,
            phase,
            sums: SumServiceServer::new(SumApi).max_decoding_message_size(ANY_SIZE),
            counters: OnceLock::new(),
            peers: OnceLock::new(),
        }
    }

    /// The counter service; `None` until there is a store.
    pub(super) fn counters(&self) -> Option<&CounterServiceServer<CounterApi>> {
        if let Some(counters) = self.counters.get() {
            return Some(counters);
        }
        let services = self.node.services.borrow().clone()?;
        let counters = || {
            let counters = services.counters.for_this_runtime();
            CounterServiceServer::new(CounterApi(counters)).max_decoding_message_size(ANY_SIZE)
        };
        Some(self.counters.get_or_init(counters))
    }

    /// The service for calls of other nodes, if this one is in a cluster.
    pub(super) fn peers(&self) -> Option<&PeerServiceServer<PeerApi>> {
        if let Some(peers) = self.peers.get() {
            return peers.as_ref();
        }
        let services = self.node.services.borrow().clone()?;
        let peers = || {
            let peers = services.peers.as_ref()?.for_this_runtime();
            let server = PeerServiceServer::new(PeerApi(peers));
            Some(server.max_decoding_message_size(ANY_SIZE))
        };
        self.peers.get_or_init(peers).as_ref()
    }
}
