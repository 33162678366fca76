//! Operations on their way between nodes: each lane is committed fastest by one of them.
//!
//! To hand an operation on is safe whatever becomes of it: it has an id by then, so that it can be carried out here, too, and
//! happens once. [`Copies`](super::copies::Copies) has what is known of it meanwhile.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::operation::Operation;
use super::record::{self, PartJoin};
use super::service::Counters;
use super::{error, refusal};
use crate::cluster::{self, Call, ForwardError, Kind, Node, PeerRefusal, Peers, Reply, View};
use crate::lane::LaneError;
use crate::model::FailedIncrement;
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, DeleteCounterRequest, IncrementCounterRequest, SetCounterRequest,
};
use crate::store::LaneNumber;

/// How long another node may answer nothing; half of what the caller waits, if that is less. One that cannot be reached is
/// known sooner, and one that has much to do must not be given competition.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the owner of a lane without memory for ids that this node makes is not asked for any.
const OWN_IDS_PAUSE: Duration = Duration::from_secs(1);
/// A node that has answered something in that time is busy, and not dead.
const LIVENESS_WINDOW: Duration = Duration::from_secs(1);

/// The way to the other nodes.
#[derive(Clone)]
pub struct Forwarder {
    own_id: Arc<str>,
    view: watch::Receiver<Arc<View>>,
    /// Those of this runtime's callers.
    peers: Option<Peers>,
    /// The lanes whose owner has refused an id of this node's making for want of memory, and when.
    full: Arc<Mutex<HashMap<LaneNumber, Instant>>>,
}

impl Forwarder {
    /// From this node to those of a view.
    #[must_use]
    pub fn new(own_id: &str, view: watch::Receiver<Arc<View>>) -> Self {
        Self {
            own_id: own_id.into(),
            peers: None,
            full: Arc::default(),
            view,
        }
    }

    /// The same, for callers on the runtime that this is called on.
    pub(super) fn for_this_runtime(&self) -> Self {
        Self {
            peers: Some(Peers::new(self.own_id.to_string(), self.view.clone())),
            full: Arc::default(),
            ..self.clone()
        }
    }

    /// Whether another node carries out a lane's operations best.
    pub(super) fn is_elsewhere(&self, lane: LaneNumber) -> bool {
        self.other_owner(&self.view.borrow(), lane).is_some()
    }

    fn other_owner<'a>(&self, view: &'a View, lane: LaneNumber) -> Option<&'a Node> {
        let owner = view.owner(u16::try_from(lane).ok()?)?;
        (*owner.id != *self.own_id).then_some(owner)
    }

    /// Whether the owner of a lane has memory for ids that this node makes, as far as is known.
    pub(super) fn has_memory(&self, lane: LaneNumber) -> bool {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = full.get(&lane);
        refused.is_none_or(|refused| refused.elapsed() > OWN_IDS_PAUSE)
    }

    /// The owner of a lane has no such memory.
    pub(super) fn has_no_memory(&self, lane: LaneNumber) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        full.insert(lane, Instant::now());
    }

    /// Where a lane's operations are carried out best, if that is not here and it can be reached.
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

/// Another node.
pub(super) struct RemoteOwner {
    peers: Peers,
    view: Arc<View>,
    lane: u16,
}

impl RemoteOwner {
    /// Which one.
    pub(super) fn node(&self) -> Option<&str> {
        let owner = self.view.owner(self.lane)?;
        Some(&owner.id)
    }

    /// Whether a lane's operations are carried out best there, too.
    pub(super) fn is_of(&self, lane: LaneNumber) -> bool {
        let owner = u16::try_from(lane)
            .ok()
            .and_then(|lane| self.view.owner(lane));
        owner.map(|owner| &*owner.id) == self.node()
    }

    /// Has the other node carry out a call.
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
                        debug!(lane = self.lane, "the other node has not answered in time");
                        return Forwarded::InDoubt;
                    }
                }
            }
        }
    }
}

/// The outcome of a call to another node.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// It is carried out. The response, encoded.
    Answered(Bytes),
    /// It fails by a limit, which is committed.
    Failed(FailedIncrement),
    /// It was not carried out, for what it asks or because too much waits: another node would not do better.
    Refused(LaneError),
    /// It was not carried out, and never will be by that node.
    NotSent,
    /// It may have been carried out, or may yet be.
    InDoubt,
}

/// Carries out what other nodes hand on.
pub struct Executor {
    service: Counters,
    /// Parts of messages, which wait for room in the lanes: the senders bound how many. Were they refused, their node would
    /// carry them out itself, and be in the way of this one just when that has too much to do.
    parts: mpsc::UnboundedSender<(Bytes, Reply)>,
}

impl Executor {
    /// By the lanes of a service, which does not hand on anything itself, for calls on the runtime that this is called on.
    #[must_use]
    pub fn new(service: &Counters) -> Self {
        let service = service.alone();
        let (parts, waiting) = mpsc::unbounded_channel();
        tokio::spawn(run_parts(service.clone(), waiting));
        Self { service, parts }
    }

    fn run<O: Operation>(&self, call: &Call, reply: Reply) {
        let service = &self.service;
        let lanes = &service.lanes;
        if call.own_id
            && let Err(full) = lanes.admit_own_id()
        {
            let full = LaneError::Refused(full);
            return reply.send(Err(refusal::of_lane(full, error::Kind::Request)));
        }
        let request = match O::decode(call.payload.clone()) {
            Ok(request) => request,
            Err(error) => return reply.send(Err(malformed(&error))),
        };
        let (request, context) = match request.into_request(service.hasher) {
            Ok(converted) => converted,
            // Its sender finds the same, and says it, unless it is of a version that takes more: then it carries it out.
            Err(status) => {
                let problem = status.message().to_owned();
                return reply.send(Err(PeerRefusal::declined(problem)));
            }
        };
        let lane = service.lane(request.operation.group());
        lanes.execute_then(lane, request, move |decided| {
            let answer = match decided.map(O::answer) {
                Ok(Ok(answer)) => Ok(answer.encode_to_vec().into()),
                Ok(Err(failure)) => {
                    let status = O::failed(&context, &failure);
                    Err(refusal::of_failure(&failure, status))
                }
                Err(error) => Err(refusal::of_lane(error, error::Kind::Request)),
            };
            reply.send(answer);
        });
    }
}

/// One call after the other, so that the parts of each lane stay in their order.
async fn run_parts(service: Counters, mut waiting: mpsc::UnboundedReceiver<(Bytes, Reply)>) {
    while let Some((payload, reply)) = waiting.recv().await {
        match record::decode_parts(payload, service.hasher, service.store().lanes()) {
            Ok(parts) => {
                let join = Arc::new(PartJoin::new(parts.len(), move |answers| {
                    reply.send(Ok(answers));
                }));
                let put = move |index, decided| join.put(index, decided);
                service.lanes.enqueue_all(parts, put).await;
            }
            Err(error) => reply.send(Err(malformed(&error))),
        }
    }
}

fn malformed(error: &dyn std::fmt::Display) -> PeerRefusal {
    PeerRefusal::declined(format!("the call cannot be read: {error}"))
}

impl cluster::Executor for Executor {
    fn execute(&self, call: Call, reply: Reply) {
        match call.kind {
            Kind::Increment => self.run::<IncrementCounterRequest>(&call, reply),
            Kind::BatchIncrement => self.run::<BatchIncrementCountersRequest>(&call, reply),
            Kind::Set => self.run::<SetCounterRequest>(&call, reply),
            Kind::Delete => self.run::<DeleteCounterRequest>(&call, reply),
            Kind::RecordParts => {
                // Where that is gone, the reply says that the call is lost.
                let _ = self.parts.send((call.payload, reply));
            }
        }
    }

    fn for_this_runtime(&self) -> Arc<dyn cluster::Executor> {
        Arc::new(Self::new(&self.service.for_this_runtime()))
    }
}
