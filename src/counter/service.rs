//! The methods: convert, ask the lane or the store, convert back.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::Either;
use http::Response;
use http_body::Body;
use prost::Message;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::error;
use super::operation::Operation;
use super::peers::{Elsewhere, Forwarding, malformed};
use super::stale::Stale;
use super::{read, record, watch};
use crate::grpc::{self, Messages, ResponseBody};
use crate::lane::{LaneError, Lanes};
use crate::model::Digests;
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, DeleteCounterRequest, IncrementCounterRequest, SetCounterRequest,
};
use crate::store::{LaneNumber, Store};

/// The largest message: a thousand increments with names and limits of the largest kind are a third of it. A message is
/// held until it is complete, which is why this is not the limit of sums.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Adds to a counter.
    Increment,
    /// Adds to several.
    BatchIncrement,
    /// Adds in bulk.
    Record,
    /// Sets a counter.
    Set,
    /// Deletes a counter.
    Delete,
    /// Reads a counter.
    Get,
    /// Reads several.
    BatchGet,
    /// Reads a page.
    List,
    /// Adds up.
    Sum,
    /// Tells of changes.
    Watch,
}

/// How often an operation is handed on, and back, before it is carried out here beside whoever does the same.
const MAX_MOVES: usize = 4;

/// The service, over lanes and their store.
#[derive(Clone)]
pub struct CounterService {
    pub(super) lanes: Lanes,
    pub(super) store: Arc<dyn Store>,
    pub(super) digests: Digests,
    /// Where there are other nodes.
    pub(super) forwarding: Option<Forwarding>,
    /// For reads that may be behind, once there is one.
    stale: Arc<OnceLock<Stale>>,
}

impl CounterService {
    /// The service's full name, as health checks and reflection know it.
    pub const NAME: &str = "sum.v1.CounterService";

    /// The service over lanes at work.
    #[must_use]
    pub fn new(lanes: Lanes) -> Self {
        let store = lanes.store().clone();
        Self {
            lanes,
            digests: store.digests(),
            store,
            forwarding: None,
            stale: Arc::default(),
        }
    }

    /// For reads that may be behind.
    pub(super) fn stale(&self) -> &Stale {
        self.stale.get_or_init(|| Stale::new(self.store.clone()))
    }

    /// The same service as one of several nodes'.
    #[must_use]
    pub fn among(self, forwarding: Forwarding) -> Self {
        let others = forwarding.clone();
        self.lanes.hand_back(move |lane| others.is_elsewhere(lane));
        Self {
            forwarding: Some(forwarding),
            ..self
        }
    }

    /// The same service as if there were no other node.
    pub(super) fn alone(&self) -> Self {
        Self {
            forwarding: None,
            ..self.clone()
        }
    }

    /// The same service, for callers on the runtime that this is called on.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            lanes: self.lanes.for_this_runtime(),
            forwarding: self.forwarding.as_ref().map(Forwarding::for_this_runtime),
            ..self.clone()
        }
    }

    /// The method that a request's path asks for, if it is one of this service.
    #[must_use]
    pub fn method(path: &str) -> Option<Method> {
        Some(match path.strip_prefix("/sum.v1.CounterService/")? {
            "IncrementCounter" => Method::Increment,
            "BatchIncrementCounters" => Method::BatchIncrement,
            "RecordIncrements" => Method::Record,
            "SetCounter" => Method::Set,
            "DeleteCounter" => Method::Delete,
            "GetCounter" => Method::Get,
            "BatchGetCounters" => Method::BatchGet,
            "ListCounters" => Method::List,
            "SumCounters" => Method::Sum,
            "WatchCounters" => Method::Watch,
            _ => return None,
        })
    }

    /// Answers one call. An error of `request` becomes the call's status. Once `draining` is cancelled, a bulk
    /// stream takes no more messages, and ends when those it has are answered.
    pub async fn call<B>(
        &self,
        method: Method,
        request: B,
        deadline: Option<Instant>,
        draining: &CancellationToken,
    ) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        let mut messages = Messages::new(request, MAX_MESSAGE_BYTES);
        let store = &*self.store;
        let answer = match method {
            Method::Increment => {
                let increment = |request: IncrementCounterRequest| self.operate(request, deadline);
                unary(&mut messages, increment).await
            }
            // The others in boxes, lest this future, which is moved a few times, be as large as the largest.
            Method::BatchIncrement => {
                let batch =
                    |request: BatchIncrementCountersRequest| self.operate(request, deadline);
                Box::pin(unary(&mut messages, batch)).await
            }
            Method::Set => {
                let set = |request: SetCounterRequest| self.operate(request, deadline);
                Box::pin(unary(&mut messages, set)).await
            }
            Method::Delete => {
                let delete = |request: DeleteCounterRequest| self.operate(request, deadline);
                Box::pin(unary(&mut messages, delete)).await
            }
            Method::Get => Box::pin(unary(&mut messages, |request| read::get(self, request))).await,
            Method::BatchGet => {
                Box::pin(unary(&mut messages, |request| {
                    read::batch_get(self, request)
                }))
                .await
            }
            Method::List => {
                let list = |request| read::list(store, self.digests, request);
                Box::pin(unary(&mut messages, list)).await
            }
            Method::Sum => {
                Box::pin(unary(&mut messages, |request| read::sum(store, request))).await
            }
            Method::Record => {
                let (service, draining) = (self.clone(), draining.clone());
                Ok(grpc::stream(move |replies| {
                    record::serve(service, messages, replies, draining)
                }))
            }
            Method::Watch => match messages.only().await {
                Ok(request) => watch::serve(self, request),
                Err(status) => Err(status),
            },
        };
        answer.unwrap_or_else(Status::into_http)
    }

    /// Carries out an operation, here or on the node that commits its lane best.
    fn operate<O: Operation>(
        &self,
        operation: O,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Result<O::Answer, Status>> {
        match self.forwarding {
            None => Either::Left(self.operate_here(operation)),
            // In a box, since it is large, and a node alone has no need of it.
            Some(_) => Either::Right(Box::pin(self.operate_among(operation, deadline))),
        }
    }

    async fn operate_among<O: Operation>(
        &self,
        mut operation: O,
        deadline: Option<Instant>,
    ) -> Result<O::Answer, Status> {
        let has_id = !operation.id().is_empty();
        let mut answer = match self.hand_around(&mut operation, deadline).await {
            Some(answer) => answer,
            None => self.operate_here(operation).await,
        };
        if let Ok(answer) = &mut answer {
            *O::replayed(answer) &= has_id;
        }
        answer
    }

    /// Has an operation carried out where its lane is committed best, which may change meanwhile. Nothing where that does not
    /// come to an end: then somebody has to insist.
    async fn hand_around<O: Operation>(
        &self,
        operation: &mut O,
        deadline: Option<Instant>,
    ) -> Option<Result<O::Answer, Status>> {
        let lane = self.lane(operation.group());
        let mut failed: Option<String> = None;
        for _ in 0..MAX_MOVES {
            let elsewhere = self.elsewhere(lane);
            if let Some(to) = elsewhere.filter(|to| to.node() != failed.as_deref()) {
                if operation.id().is_empty() {
                    // So that it happens once, whatever becomes of other nodes.
                    *operation.id() = Uuid::new_v4().simple().to_string();
                }
                let payload = operation.encode_to_vec().into();
                if let Some(answer) = to.call(O::KIND, payload, deadline).await {
                    let decode =
                        |answer| O::Answer::decode(answer).map_err(|error| malformed(&error));
                    return Some(answer.and_then(decode));
                }
                failed = to.node().map(str::to_owned);
            } else {
                let answer = self.try_here(operation.clone(), lane).await;
                if let Some(answer) = answer.transpose() {
                    return Some(answer);
                }
                failed = None;
            }
        }
        None
    }

    /// Carries out an operation here, unless another node commits its lane best, and does so.
    async fn try_here<O: Operation>(
        &self,
        operation: O,
        lane: LaneNumber,
    ) -> Result<Option<O::Answer>, Status> {
        let (request, context) = operation.into_request(self.digests)?;
        match self.lanes.execute_or_move(lane, request).await {
            Err(LaneError::Moved) => Ok(None),
            decided => O::answer(&context, decided.map_err(error::of_request)?).map(Some),
        }
    }

    /// Carries out an operation here. It waits in its lane from now on, and the future does not hold it.
    fn operate_here<O: Operation>(
        &self,
        operation: O,
    ) -> impl Future<Output = Result<O::Answer, Status>> + use<O> {
        let queued = operation
            .into_request(self.digests)
            .map(|(request, context)| {
                let lane = self.lane(request.operation.group());
                (self.lanes.execute(lane, request), context)
            });
        async move {
            let (decided, context) = queued?;
            O::answer(&context, decided.await.map_err(error::of_request)?)
        }
    }

    /// Where a lane's operations are carried out best, if that is not here.
    pub(super) fn elsewhere(&self, lane: LaneNumber) -> Option<Elsewhere> {
        self.forwarding.as_ref()?.elsewhere(lane)
    }

    /// The lane that a group's counters are in.
    pub(super) fn lane(&self, group: &str) -> LaneNumber {
        self.digests.lane(group, self.store.lanes())
    }
}

/// A call of one message and one answer.
async fn unary<B, M, A, F>(
    messages: &mut Messages<B>,
    handler: impl FnOnce(M) -> F,
) -> Result<Response<ResponseBody>, Status>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
    M: Message + Default,
    A: Message,
    F: Future<Output = Result<A, Status>>,
{
    let answer = handler(messages.only().await?).await?;
    Ok(grpc::unary(&answer))
}
