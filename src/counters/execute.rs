//! The methods that change counters: validate a request, execute it on the owner of its lane, and make the answer.

use futures_util::future::Either;
use prost::Message;
use tokio::time::Instant;

use super::copies::Copies;
use super::error::Error;
use super::forward::RemoteOwner;
use super::operation::Operation;
use super::refusal::Forwarded;
use super::service::Counters;
use crate::lane::LaneError;
use crate::model::FailedIncrement;
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, BatchIncrementCountersResponse, DeleteCounterRequest,
    DeleteCounterResponse, IncrementCounterRequest, IncrementCounterResponse, SetCounterRequest,
    SetCounterResponse,
};
use crate::store::LaneNumber;

/// Maximum number of attempts to execute an operation on the owner of its lane. Then this node executes it, even if
/// another node does the same.
const MAX_REROUTES: usize = 4;

impl Counters {
    /// Adds to a counter.
    ///
    /// # Errors
    /// Returns an error if the operation fails; the error says whether it was applied.
    pub fn increment(
        &self,
        request: IncrementCounterRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<IncrementCounterResponse, Error>> {
        self.operate(request, deadline)
    }

    /// Adds to several counters of a group: all of them or none.
    ///
    /// # Errors
    /// Returns an error if the operation fails; the error says whether it was applied.
    pub fn batch_increment(
        &self,
        request: BatchIncrementCountersRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<BatchIncrementCountersResponse, Error>> {
        self.operate(request, deadline)
    }

    /// Sets a counter.
    ///
    /// # Errors
    /// Returns an error if the operation fails; the error says whether it was applied.
    pub fn set(
        &self,
        request: SetCounterRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<SetCounterResponse, Error>> {
        self.operate(request, deadline)
    }

    /// Deletes a counter.
    ///
    /// # Errors
    /// Returns an error if the operation fails; the error says whether it was applied.
    pub fn delete(
        &self,
        request: DeleteCounterRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<DeleteCounterResponse, Error>> {
        self.operate(request, deadline)
    }

    /// Executes an operation, here or on the node that owns its lane.
    fn operate<O: Operation>(
        &self,
        operation: O,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<O::Answer, Error>> {
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
    ) -> Result<O::Answer, Error> {
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
                    return Err(O::failed(context, failure));
                }
                Tried::Invalid(invalid) => return Err(copies.invalid(invalid)),
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
            Err(invalid) => return Tried::Invalid(invalid),
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
    ) -> impl Future<Output = Result<O::Answer, Error>> + use<O> {
        let queued = operation
            .into_request(self.hasher)
            .map(|(request, context)| {
                let lane = self.lane(request.operation.group());
                (self.lanes.execute(lane, request), context)
            });
        async move {
            let (decided, context) = queued?;
            let decided = decided.await.map_err(Error::of_request)?;
            O::answer(decided).map_err(|failure| O::failed(context, failure))
        }
    }

    /// Checks that there is memory for an id that another node has made for a caller without one.
    ///
    /// # Errors
    /// Returns an error if callers' own ids need the memory.
    pub(crate) fn admit_own_id(&self) -> Result<(), Error> {
        let admitted = self.lanes.admit_own_id();
        admitted.map_err(|full| Error::of_request(LaneError::Refused(full)))
    }

    /// Executes an operation that another node has forwarded, and never forwards it. `done` gets the answer on this
    /// handle's runtime.
    pub(crate) fn execute_forwarded<O: Operation>(
        &self,
        operation: O,
        done: impl FnOnce(Result<O::Answer, Error>) + Send + 'static,
    ) {
        let (request, context) = match operation.into_request(self.hasher) {
            Ok(converted) => converted,
            Err(invalid) => return done(Err(invalid)),
        };
        let lane = self.lane(request.operation.group());
        self.lanes.execute_then(lane, request, move |decided| {
            let decided = decided.map_err(Error::of_request);
            done(decided.and_then(|decided| {
                O::answer(decided).map_err(|failure| O::failed(context, failure))
            }));
        });
    }
}

/// The outcome of one copy of an operation, on any node.
enum Tried<A> {
    /// The operation was decided, with this answer.
    Answered(A),
    /// The operation was decided: it failed by a limit.
    Failed(FailedIncrement),
    /// The request is invalid.
    Invalid(Error),
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
