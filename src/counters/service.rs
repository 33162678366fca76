//! The methods: convert a request, ask the lanes or the store, convert the answer.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::Either;
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::copies::Copies;
use super::error;
use super::operation::Operation;
use super::peers::{Forwarded, Forwarder, RemoteOwner};
use super::stale::Stale;
use super::{record, watch};
use crate::lane::{LaneError, Lanes};
use crate::model::{FailedIncrement, KeyedHasher};
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, BatchIncrementCountersResponse, DeleteCounterRequest,
    DeleteCounterResponse, IncrementCounterRequest, IncrementCounterResponse,
    RecordIncrementsResponse, SetCounterRequest, SetCounterResponse, WatchCountersRequest,
    WatchCountersResponse,
};
use crate::replies::{self, ReplyStream};
use crate::store::{LaneNumber, Store};

/// Maximum number of attempts to execute an operation on the owner of its lane. Then this node executes it, even if
/// another node does the same.
const MAX_REROUTES: usize = 4;

/// The counters of a node, over lanes and their store.
#[derive(Clone)]
pub struct Counters {
    pub(super) lanes: Lanes,
    pub(super) hasher: KeyedHasher,
    /// Set if there are other nodes.
    pub(super) forwarder: Option<Forwarder>,
    /// The cache of stale reads, set by the first of them.
    stale: Arc<OnceLock<Stale>>,
}

impl Counters {
    /// The service over running lanes.
    #[must_use]
    pub fn new(lanes: Lanes) -> Self {
        Self {
            hasher: lanes.store().hasher(),
            lanes,
            forwarder: None,
            stale: Arc::default(),
        }
    }

    pub(super) fn store(&self) -> &dyn Store {
        self.lanes.store()
    }

    /// The cache of stale reads.
    pub(super) fn stale(&self) -> &Stale {
        let begin = || Stale::new(self.store().changes().clone());
        self.stale.get_or_init(begin)
    }

    /// The same service, in a cluster.
    #[must_use]
    pub fn among(self, forwarder: Forwarder) -> Self {
        let others = forwarder.clone();
        self.lanes
            .set_owner_check(move |lane| others.is_elsewhere(lane));
        Self {
            forwarder: Some(forwarder),
            ..self
        }
    }

    /// The same service, which forwards nothing.
    pub(super) fn alone(&self) -> Self {
        Self {
            forwarder: None,
            ..self.clone()
        }
    }

    /// The same service, for callers on the current runtime.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            lanes: self.lanes.for_this_runtime(),
            forwarder: self.forwarder.as_ref().map(Forwarder::for_this_runtime),
            ..self.clone()
        }
    }

    /// Adds to a counter.
    ///
    /// # Errors
    /// Returns a status if the operation fails; the status says whether it was applied.
    pub fn increment(
        &self,
        request: IncrementCounterRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<IncrementCounterResponse, Status>> {
        self.operate(request, deadline)
    }

    /// Adds to several counters of a group: all of them or none.
    ///
    /// # Errors
    /// Returns a status if the operation fails; the status says whether it was applied.
    pub fn batch_increment(
        &self,
        request: BatchIncrementCountersRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<BatchIncrementCountersResponse, Status>> {
        self.operate(request, deadline)
    }

    /// Sets a counter.
    ///
    /// # Errors
    /// Returns a status if the operation fails; the status says whether it was applied.
    pub fn set(
        &self,
        request: SetCounterRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<SetCounterResponse, Status>> {
        self.operate(request, deadline)
    }

    /// Deletes a counter.
    ///
    /// # Errors
    /// Returns a status if the operation fails; the status says whether it was applied.
    pub fn delete(
        &self,
        request: DeleteCounterRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<DeleteCounterResponse, Status>> {
        self.operate(request, deadline)
    }

    /// Watches counters, or a prefix.
    ///
    /// # Errors
    /// Returns INVALID_ARGUMENT if the request is invalid.
    pub fn watch(
        &self,
        request: WatchCountersRequest,
    ) -> Result<ReplyStream<WatchCountersResponse, Status>, Status> {
        watch::serve(self, request)
    }

    /// Serves a stream of a bulk session. Once `draining` is cancelled, it accepts no more messages, and ends when
    /// those that it has are answered.
    pub fn record<M>(
        &self,
        messages: M,
        draining: CancellationToken,
    ) -> ReplyStream<RecordIncrementsResponse, Status>
    where
        M: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    {
        let counters = self.clone();
        replies::spawn(|replies| record::serve(counters, messages, replies, draining))
    }

    /// Executes an operation, here or on the node that owns its lane.
    fn operate<O: Operation>(
        &self,
        operation: O,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<O::Answer, Status>> {
        match self.forwarder {
            None => Either::Left(self.execute_here(operation)),
            // Boxed, because the future is large and a standalone node does not need it.
            Some(_) => Either::Right(Box::pin(self.execute_in_cluster(operation, deadline))),
        }
    }

    /// Executes an operation in a cluster. The owner of its lane may change meanwhile; after [`MAX_REROUTES`] attempts
    /// this node executes it in any case.
    async fn execute_in_cluster<O: Operation>(
        &self,
        mut operation: O,
        deadline: Option<Instant>,
    ) -> Result<O::Answer, Status> {
        let has_id = !operation.id().is_empty();
        let lane = self.lane(operation.group());
        let mut copies = self.copies(operation.id(), lane);
        let mut failed: Option<String> = None;
        let mut moves = 0;
        loop {
            moves += 1;
            let elsewhere = self.elsewhere(lane).filter(|to| {
                let is_failed = to.node() == failed.as_deref();
                moves <= MAX_REROUTES && !is_failed
            });
            let own_id = copies.mark(operation.id(), elsewhere.is_some());
            let tried = match &elsewhere {
                Some(to) => {
                    let payload = operation.encode_to_vec().into();
                    let forwarded = to.call(O::KIND, payload, deadline, own_id).await;
                    Tried::elsewhere(forwarded)
                }
                None => {
                    self.execute_if_owner(operation.clone(), lane, moves <= MAX_REROUTES)
                        .await
                }
            };
            match tried {
                Tried::Answered(mut answer) => {
                    *O::replayed(&mut answer) &= has_id;
                    return Ok(answer);
                }
                Tried::Failed(failure) => {
                    let (_, context) = operation.into_request(self.hasher)?;
                    return Err(O::failed(&context, &failure));
                }
                Tried::Invalid(status) => return Err(copies.invalid(status)),
                Tried::Refused(LaneError::Refused(full)) if copies.give_up_own_id(&full) => {
                    self.has_no_memory(lane);
                    continue;
                }
                Tried::Refused(error) => return Err(copies.error(error)),
                Tried::NotHere => {}
                Tried::InDoubt => {
                    let node = elsewhere.as_ref().and_then(RemoteOwner::node);
                    copies.doubt(node.unwrap_or_default())?;
                }
            }
            failed = elsewhere.and_then(|to| to.node().map(str::to_owned));
        }
    }

    fn copies(&self, id: &str, lane: LaneNumber) -> Copies {
        let forwarder = self.forwarder.as_ref();
        let has_memory = forwarder.is_some_and(|forwarder| forwarder.has_memory(lane));
        Copies::new(id, has_memory.then(|| self.lanes.own_id_age()))
    }

    fn has_no_memory(&self, lane: LaneNumber) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.has_no_memory(lane);
        }
    }

    /// Executes an operation here. With `if_owner`, it is not executed if another node owns the lane and commits to it.
    async fn execute_if_owner<O: Operation>(
        &self,
        operation: O,
        lane: LaneNumber,
        if_owner: bool,
    ) -> Tried<O::Answer> {
        let request = match operation.into_request(self.hasher) {
            Ok((request, _)) => request,
            Err(status) => return Tried::Invalid(status),
        };
        let decided = if if_owner {
            self.lanes.execute_if_owner(lane, request).await
        } else {
            self.lanes.execute(lane, request).await
        };
        match decided.map(O::answer) {
            Ok(Ok(answer)) => Tried::Answered(answer),
            Ok(Err(failure)) => Tried::Failed(failure),
            Err(LaneError::NotOwner) if if_owner => Tried::NotHere,
            Err(error) => Tried::Refused(error),
        }
    }

    /// Executes an operation here. It is queued in its lane at once, and the future does not hold it.
    fn execute_here<O: Operation>(
        &self,
        operation: O,
    ) -> impl Future<Output = Result<O::Answer, Status>> + use<O> {
        let queued = operation
            .into_request(self.hasher)
            .map(|(request, context)| {
                let lane = self.lane(request.operation.group());
                (self.lanes.execute(lane, request), context)
            });
        async move {
            let (decided, context) = queued?;
            let decided = decided.await.map_err(error::of_request)?;
            O::answer(decided).map_err(|failure| O::failed(&context, &failure))
        }
    }

    /// The owner of a lane, if it is another node and accepts calls.
    pub(super) fn elsewhere(&self, lane: LaneNumber) -> Option<RemoteOwner> {
        self.forwarder.as_ref()?.elsewhere(lane)
    }

    /// The lane of a group's counters.
    pub(super) fn lane(&self, group: &str) -> LaneNumber {
        self.hasher.lane(group, self.store().lanes())
    }
}

/// The outcome of one copy of an operation, on any node.
enum Tried<A> {
    /// The operation was decided, with this answer.
    Answered(A),
    /// The operation was decided: it failed by a limit.
    Failed(FailedIncrement),
    /// The request is invalid.
    Invalid(Status),
    /// This copy was not applied, unless the error says that this is unknown.
    Refused(LaneError),
    /// This copy was not applied. Another node may accept it.
    NotHere,
    /// This copy may have been applied, or may still be.
    InDoubt,
}

impl<A: Message + Default> Tried<A> {
    fn elsewhere(forwarded: Forwarded) -> Self {
        match forwarded {
            // An answer that cannot be decoded says that the operation was executed. A copy with its id finds the
            // result.
            Forwarded::Answered(answer) => A::decode(answer).map_or(Self::InDoubt, Self::Answered),
            Forwarded::Failed(failure) => Self::Failed(failure),
            Forwarded::Refused(error) => Self::Refused(error),
            Forwarded::NotSent => Self::NotHere,
            Forwarded::InDoubt => Self::InDoubt,
        }
    }
}
