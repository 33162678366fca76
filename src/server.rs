//! The server: listeners, worker threads, connections, calls, and a graceful shutdown.

mod address;
mod connection;
mod health;
mod limits;
mod listener;
mod node;
mod router;
mod services;
mod stateless;
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
use std::time::SystemTime;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::cluster::{ClockState, Node as Member, Nodes, PROTOCOL};
use crate::layers::{Calls, RequestMemory};
use connection::Admission;
use health::Health;
use listener::Listener;
use node::{Node, Phase};
use stateless::Stateless;
use worker::{Queues, Workers};

/// A server that is bound to its addresses, and is not serving yet.
pub struct Server {
    listeners: Vec<Listener>,
    node: Node,
    health: Health,
    workers: NonZeroUsize,
}

impl Server {
    /// Binds the addresses. Clients that connect now are served once [`Server::run`] runs; calls that need the store
    /// are answered once the services are set.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound; it names the address and the reason.
    pub async fn bind(
        listen: &ListenOptions,
        limits: Limits,
        workers: NonZeroUsize,
        request_memory: usize,
        services: watch::Receiver<Option<Services>>,
    ) -> Result<Self, BindError> {
        let listeners = Listener::bind_all(listen).await?;
        let health = Health::not_serving();
        let address = listeners.first().map(Listener::address);
        let alone = Member {
            // A standalone node needs no distinctive id.
            id: "sumd".to_owned(),
            address: address.map_or_else(String::new, |address| address.to_string()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            started: SystemTime::now().into(),
            draining: false,
            clock: ClockState::Agrees,
        };
        let node = Node {
            stateless: Stateless::new(&health),
            calls: Calls::new(limits.max_calls),
            request_memory: RequestMemory::new(request_memory),
            services,
            alone: Nodes::alone(alone),
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

    /// The bound addresses. A port 0 is replaced by the port that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.listeners.iter().map(Listener::address).collect()
    }

    /// The list of nodes if this one is standalone.
    #[must_use]
    pub fn alone(&self) -> Nodes {
        self.node.alone.clone()
    }

    /// Serves until `shutdown` resolves, then drains. First it reports NOT_SERVING and waits for load balancers to
    /// react. Then it takes no new calls and waits for those in flight. Then it ends the remaining calls. The drain
    /// takes at most [`Limits::drain_delay`] + [`Limits::drain_timeout`] + one second.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started, or if an essential part of the server has stopped.
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

/// Accepts connections until the server drains, then those that are queued by then: their peers believe themselves
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

#[cfg(test)]
mod tests;
