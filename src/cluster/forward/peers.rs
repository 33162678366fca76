//! The other nodes, for callers on one thread.

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

/// Connections to all other nodes. Each runtime has its own, so that no call changes threads; clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Local>);

struct Local {
    /// Excluded from the peers.
    own_id: String,
    view: watch::Receiver<Arc<View>>,
    peers: Arc<RwLock<HashMap<String, Peer>>>,
    _task: AbortOnDropHandle<()>,
}

/// Dropping a peer retires it: its pending calls are still answered.
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
    /// Connects, on the current runtime, to the nodes of the view and of later views.
    #[must_use]
    pub fn new(own_id: String, view: watch::Receiver<Arc<View>>) -> Self {
        Self::with_clocks(own_id, view, Clocks::default())
    }

    /// Like [`Self::new`], and records the clocks of the nodes.
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

    /// Connections to the same nodes, for callers on the current runtime.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self::new(self.0.own_id.clone(), self.0.view.clone())
    }

    /// Whether a call to this node would be sent, as far as is known, or would wait for the first connection to it.
    #[must_use]
    pub fn takes_calls(&self, node: &Node) -> bool {
        self.line(node).is_some_and(|line| line.takes_calls())
    }

    /// Whether there is a connection to this node, as far as is known.
    #[must_use]
    pub fn is_reachable(&self, node: &Node) -> bool {
        self.line(node).is_some_and(|line| line.is_open())
    }

    /// Sends a call to a node, which carries it out at most once. A sent call is not cancelled when its caller stops
    /// waiting.
    ///
    /// # Errors
    /// Returns [`ForwardError::NotSent`] if the node has not carried out the call and never will, at once if it is
    /// known to be unreachable. Returns [`ForwardError::Unknown`] if the outcome is unknown.
    pub async fn call(&self, node: &Node, call: Call) -> Result<Answer, ForwardError> {
        let line = self.line(node);
        let line = line.ok_or(ForwardError::NotSent(NotSent::NotConnected))?;
        let pushed = match call.kind {
            // Bulk waits for capacity: executed here, it would compete with the owner of the lane just when the owner
            // is busy.
            Kind::RecordParts => line.push_ordered(call).await,
            _ => line.push(call),
        };
        let outcome = pushed.map_err(ForwardError::NotSent)?;
        let lost = Err(ForwardError::Unknown(Doubt::Broken));
        outcome.await.unwrap_or(lost)
    }

    /// Whether a node has answered a call with success within the last `lately`.
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

/// Keeps a connection to each node of the view.
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
                // Existing connections stay.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = changed => {}
            // Removes connections that have ended after they were retired.
            Some(_) = links.join_next() => {}
        }
    }
}
