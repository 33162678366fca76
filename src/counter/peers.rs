//! Operations on their way between nodes: each lane is committed fastest by one of them.
//!
//! To hand an operation on is safe whatever becomes of it, since it has an id by then: where the other node does not answer,
//! it is carried out here under the same id, and happens once.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tracing::debug;

use super::operation::Operation;
use super::record::{self, Gathering};
use super::service::CounterService;
use crate::cluster::{self, Call, Kind, Node, Peers, Reply, View};
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, DeleteCounterRequest, IncrementCounterRequest, SetCounterRequest,
};
use crate::status;
use crate::store::LaneNumber;

/// How long another node may answer nothing; half of what the caller waits, if that is less. One that cannot be reached is
/// known sooner, and one that has much to do must not be given competition.
const PATIENCE: Duration = Duration::from_secs(3);
/// A node that has answered something in that time is busy, and not dead.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The way to the other nodes.
#[derive(Clone)]
pub struct Forwarding {
    own_id: Arc<str>,
    view: watch::Receiver<Arc<View>>,
    /// Those of this runtime's callers.
    peers: Option<Peers>,
}

impl Forwarding {
    /// From this node to those of a view.
    #[must_use]
    pub fn new(own_id: &str, view: watch::Receiver<Arc<View>>) -> Self {
        Self {
            own_id: own_id.into(),
            peers: None,
            view,
        }
    }

    /// The same, for callers on the runtime that this is called on.
    pub(super) fn for_this_runtime(&self) -> Self {
        Self {
            peers: Some(Peers::new(self.own_id.to_string(), self.view.clone())),
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

    /// Where a lane's operations are carried out best, if that is not here and it can be reached.
    pub(super) fn elsewhere(&self, lane: LaneNumber) -> Option<Elsewhere> {
        let peers = self.peers.as_ref()?;
        let view = self.view.borrow().clone();
        let is_elsewhere = peers.takes_calls(self.other_owner(&view, lane)?);
        let lane = u16::try_from(lane).ok()?;
        is_elsewhere.then(|| Elsewhere {
            peers: peers.clone(),
            view,
            lane,
        })
    }
}

/// Another node.
pub(super) struct Elsewhere {
    peers: Peers,
    view: Arc<View>,
    lane: u16,
}

impl Elsewhere {
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

    /// Has the other node carry out a call; `None` where it is to be carried out here, for that node does not.
    pub(super) async fn call(
        &self,
        kind: Kind,
        payload: Bytes,
        deadline: Option<Instant>,
    ) -> Option<Result<Bytes, Status>> {
        let owner = self.view.owner(self.lane)?;
        let begun = Instant::now();
        let until = deadline.map(|deadline| begun + (deadline - begun) / 2);
        let call = Call {
            kind,
            payload,
            deadline: until,
        };
        let mut answer = pin!(self.peers.call(owner, call));
        loop {
            let patience = Instant::now() + PATIENCE;
            let patience = until.map_or(patience, |until| until.min(patience));
            match timeout_at(patience, &mut answer).await {
                Ok(Ok(Err(status))) if is_of_the_node(&status) => return None,
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => {
                    debug!(lane = self.lane, "{error}");
                    return None;
                }
                Err(_) => {
                    let has_time = until.is_none_or(|until| Instant::now() < until);
                    if !has_time || !self.peers.has_answered(owner, SIGN_OF_LIFE) {
                        debug!(lane = self.lane, "the other node has not answered in time");
                        return None;
                    }
                }
            }
        }
    }
}

/// Another node may do better.
fn is_of_the_node(status: &Status) -> bool {
    let overloaded = || {
        let details = status.get_error_details();
        let info = details.error_info();
        info.is_some_and(|info| info.reason == "OVERLOADED")
    };
    // Where too much waits, it would only wait elsewhere.
    status.code() == Code::Unavailable && !overloaded()
}

/// Carries out what other nodes hand on.
pub struct Executor {
    service: CounterService,
    /// Parts of messages, which wait for room in the lanes: the senders bound how many. Were they refused, their node would
    /// carry them out itself, and be in the way of this one just when that has too much to do.
    parts: mpsc::UnboundedSender<(Bytes, Reply)>,
}

impl Executor {
    /// By the lanes of a service, which does not hand on anything itself, for calls on the runtime that this is called on.
    #[must_use]
    pub fn new(service: &CounterService) -> Self {
        let service = service.alone();
        let (parts, waiting) = mpsc::unbounded_channel();
        tokio::spawn(run_parts(service.clone(), waiting));
        Self { service, parts }
    }

    fn run<O: Operation>(&self, call: &Call, reply: Reply) {
        let service = &self.service;
        let request = O::decode(call.payload.clone());
        let request = request.map_err(|error| malformed(&error));
        let converted = request.and_then(|request| request.into_request(service.digests));
        let (request, context) = match converted {
            Ok(converted) => converted,
            Err(status) => return reply.send(Err(status)),
        };
        let lane = service.lane(request.operation.group());
        service.lanes.execute_then(lane, request, move |decided| {
            let decided = decided.map_err(super::error::of_request);
            let answer = decided.and_then(|decided| O::answer(&context, decided));
            reply.send(answer.map(|answer| answer.encode_to_vec().into()));
        });
    }
}

/// One call after the other, so that the parts of each lane stay in their order.
async fn run_parts(service: CounterService, mut waiting: mpsc::UnboundedReceiver<(Bytes, Reply)>) {
    while let Some((payload, reply)) = waiting.recv().await {
        match record::decode_parts(payload, service.digests, service.store.lanes()) {
            Ok(parts) => {
                let gathering = Arc::new(Gathering::new(parts.len(), reply));
                let put = move |index, decided| gathering.put(index, decided);
                service.lanes.enqueue_all(parts, put).await;
            }
            Err(status) => reply.send(Err(status)),
        }
    }
}

pub(super) fn malformed(error: &dyn std::fmt::Display) -> Status {
    status::with_reason(
        Code::Internal,
        format!("another node's call cannot be read: {error}"),
        "MALFORMED_CALL",
        &[status::not_applied()],
    )
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
