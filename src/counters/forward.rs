//! Forwarding of operations between nodes: the owner of a lane commits it fastest.
//!
//! An operation is forwarded with an id if the owner has memory for it. If the answer is then lost, the operation is
//! executed here too, and is still applied once. [`Copies`](super::copies::Copies) tracks its outcome.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::refusal::Forwarded;
use crate::cluster::{Call, ForwardError, Kind, Node, Peers, View};
use crate::store::LaneNumber;

/// How long a node may take to answer; half of the caller's time, if that is less. An unreachable node is detected
/// sooner. A busy node gets more time, because executing its operations here would compete with it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the owner of a lane gets no ids made by this node, after it had no memory for one.
const OWN_IDS_PAUSE: Duration = Duration::from_secs(1);
/// A node that has answered a call within this time is busy, not dead.
const LIVENESS_WINDOW: Duration = Duration::from_secs(1);

/// Forwards calls to the other nodes.
#[derive(Clone)]
pub struct Forwarder {
    own_id: Arc<str>,
    view: watch::Receiver<Arc<View>>,
    /// The nodes, for callers on one runtime; `None` before [`Forwarder::for_this_runtime`].
    peers: Option<Peers>,
    /// The lanes whose owner has refused an id made by this node for lack of memory, and the time of the refusal.
    full: Arc<Mutex<HashMap<LaneNumber, Instant>>>,
}

impl Forwarder {
    /// Forwards from this node to the nodes of a view.
    #[must_use]
    pub fn new(own_id: &str, view: watch::Receiver<Arc<View>>) -> Self {
        Self {
            own_id: own_id.into(),
            peers: None,
            full: Arc::default(),
            view,
        }
    }

    /// The same, for callers on the current runtime.
    pub(super) fn for_this_runtime(&self) -> Self {
        Self {
            peers: Some(Peers::new(self.own_id.to_string(), self.view.clone())),
            full: Arc::default(),
            ..self.clone()
        }
    }

    /// Whether another node owns a lane.
    pub(super) fn is_elsewhere(&self, lane: LaneNumber) -> bool {
        self.other_owner(&self.view.borrow(), lane).is_some()
    }

    fn other_owner<'a>(&self, view: &'a View, lane: LaneNumber) -> Option<&'a Node> {
        let owner = view.owner(u16::try_from(lane).ok()?)?;
        (*owner.id != *self.own_id).then_some(owner)
    }

    /// Whether the owner of a lane has memory for ids made by this node, as far as is known.
    pub(super) fn has_memory(&self, lane: LaneNumber) -> bool {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = full.get(&lane);
        refused.is_none_or(|refused| refused.elapsed() > OWN_IDS_PAUSE)
    }

    /// Records that the owner of a lane has no memory for ids made by this node.
    pub(super) fn has_no_memory(&self, lane: LaneNumber) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        full.insert(lane, Instant::now());
    }

    /// The owner of a lane, if it is another node and accepts calls.
    pub(super) fn elsewhere(&self, lane: LaneNumber) -> Option<RemoteOwner> {
        let peers = self.peers.as_ref()?;
        let view = self.view.borrow().clone();
        let is_elsewhere = peers.takes_calls(self.other_owner(&view, lane)?);
        let lane = u16::try_from(lane).ok()?;
        is_elsewhere.then(|| RemoteOwner {
            peers: peers.clone(),
            view,
            lane,
        })
    }
}

/// Another node that owns a lane.
pub(super) struct RemoteOwner {
    peers: Peers,
    view: Arc<View>,
    lane: u16,
}

impl RemoteOwner {
    /// The id of the node.
    pub(super) fn node(&self) -> Option<&str> {
        let owner = self.view.owner(self.lane)?;
        Some(&owner.id)
    }

    /// Whether the node owns this lane, too.
    pub(super) fn is_of(&self, lane: LaneNumber) -> bool {
        let owner = u16::try_from(lane)
            .ok()
            .and_then(|lane| self.view.owner(lane));
        owner.map(|owner| &*owner.id) == self.node()
    }

    /// Has the node execute a call.
    pub(super) async fn call(
        &self,
        kind: Kind,
        payload: Bytes,
        deadline: Option<Instant>,
        own_id: bool,
    ) -> Forwarded {
        let Some(owner) = self.view.owner(self.lane) else {
            return Forwarded::NotSent;
        };
        let begun = Instant::now();
        let until = deadline.map(|deadline| begun + deadline.saturating_duration_since(begun) / 2);
        let call = Call {
            kind,
            payload,
            deadline: until,
            own_id,
        };
        let mut answer = pin!(self.peers.call(owner, call));
        loop {
            let patience = Instant::now() + ANSWER_TIMEOUT;
            let patience = until.map_or(patience, |until| until.min(patience));
            match timeout_at(patience, &mut answer).await {
                Ok(Ok(Ok(response))) => return Forwarded::Answered(response),
                Ok(Ok(Err(why))) => return why.into(),
                Ok(Err(error)) => {
                    debug!(lane = self.lane, "{error}");
                    return match error {
                        ForwardError::NotSent(_) => Forwarded::NotSent,
                        ForwardError::Unknown(_) => Forwarded::InDoubt,
                    };
                }
                Err(_) => {
                    let has_time = until.is_none_or(|until| Instant::now() < until);
                    if !has_time || !self.peers.has_answered(owner, LIVENESS_WINDOW) {
                        debug!(lane = self.lane, "the other node did not answer in time");
                        return Forwarded::InDoubt;
                    }
                }
            }
        }
    }
}
