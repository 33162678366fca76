//! The other nodes, for the callers on one thread.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::{Clocks, Node, View};
use super::call::{Answer, Call, Doubt, ForwardError, Kind, NotSent};
use super::connection::PeerConnection;
use super::queue::PeerQueue;

/// Ways to all other nodes. Each runtime has its own connections, so that no call ever changes threads; clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Local>);

struct Local {
    /// This node is no peer of itself.
    own_id: String,
    view: watch::Receiver<Arc<View>>,
    peers: Arc<RwLock<HashMap<String, Peer>>>,
    _task: AbortOnDropHandle<()>,
}

/// Dropped, it is retired: what it was asked is still answered.
struct Peer {
    address: String,
    line: Arc<PeerQueue>,
    retired: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.retired.cancel();
    }
}

impl Peers {
    /// Connects to the nodes of a view, and to those of later ones, on the runtime that this is called on.
    #[must_use]
    pub fn new(own_id: String, view: watch::Receiver<Arc<View>>) -> Self {
        Self::with_clocks(own_id, view, Clocks::default())
    }

    /// The same, and notes what the nodes tell of their clocks.
    pub(in crate::cluster) fn with_clocks(
        own_id: String,
        view: watch::Receiver<Arc<View>>,
        clocks: Clocks,
    ) -> Self {
        let peers = Arc::default();
        let task = follow(own_id.clone(), view.clone(), clocks, Arc::clone(&peers));
        Self(Arc::new(Local {
            own_id,
            view,
            peers,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }))
    }

    /// Ways to the same nodes, for callers on the runtime that this is called on.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self::new(self.0.own_id.clone(), self.0.view.clone())
    }

    /// Whether a call to this node would be sent, as far as is known, or wait for the first connection to it.
    #[must_use]
    pub fn takes_calls(&self, node: &Node) -> bool {
        self.line(node).is_some_and(|line| line.takes_calls())
    }

    /// Whether there is a connection to this node, as far as is known.
    #[must_use]
    pub fn is_reachable(&self, node: &Node) -> bool {
        self.line(node).is_some_and(|line| line.is_open())
    }

    /// Has a node carry out a call, once at most. A caller that stops waiting changes nothing about that, once the call was
    /// sent.
    ///
    /// # Errors
    /// Where the node has certainly not carried it out and will not, as soon as it is known that it cannot be reached; or where
    /// nobody knows.
    pub async fn call(&self, node: &Node, call: Call) -> Result<Answer, ForwardError> {
        let line = self.line(node);
        let line = line.ok_or(ForwardError::NotSent(NotSent::NotConnected))?;
        let pushed = match call.kind {
            // Bulk waits for its turn: were it done here, it would be in the way of that node just when that has much to do.
            Kind::RecordParts => line.push_ordered(call).await,
            _ => line.push(call),
        };
        let outcome = pushed.map_err(ForwardError::NotSent)?;
        let lost = Err(ForwardError::Unknown(Doubt::Broken));
        outcome.await.unwrap_or(lost)
    }

    /// Whether a node has answered a call well in the last so much time.
    #[must_use]
    pub fn has_answered(&self, node: &Node, lately: Duration) -> bool {
        let line = self.line(node);
        let last = line.and_then(|line| line.last_answer());
        last.is_some_and(|last| last.elapsed() < lately)
    }

    fn line(&self, node: &Node) -> Option<Arc<PeerQueue>> {
        let peers = self.0.peers.read().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.get(&node.id)?;
        (peer.address == node.address).then(|| peer.line.clone())
    }
}

/// Keeps a link to each node there is.
async fn follow(
    own_id: String,
    mut view: watch::Receiver<Arc<View>>,
    clocks: Clocks,
    peers: Arc<RwLock<HashMap<String, Peer>>>,
) {
    let mut links = JoinSet::new();
    loop {
        let now = view.borrow_and_update().clone();
        let others = || now.nodes().iter().filter(|node| node.id != own_id);
        {
            let mut peers = peers.write().unwrap_or_else(PoisonError::into_inner);
            peers.retain(|id, peer| {
                let node = now.node(id);
                node.is_some_and(|node| node.address == peer.address)
            });
            for node in others() {
                let new = || {
                    let peer = Peer {
                        address: node.address.clone(),
                        line: Arc::new(PeerQueue::default()),
                        retired: CancellationToken::new(),
                    };
                    let link = PeerConnection {
                        id: node.id.clone(),
                        address: node.address.clone(),
                        line: peer.line.clone(),
                        clocks: clocks.clone(),
                        retired: peer.retired.clone(),
                    };
                    links.spawn(link.run());
                    peer
                };
                peers.entry(node.id.clone()).or_insert_with(new);
            }
        }
        let changed = async {
            if view.changed().await.is_err() {
                // The links go on.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            // Those that were retired are let go.
            Some(_) = links.join_next() => {}
        }
    }
}
