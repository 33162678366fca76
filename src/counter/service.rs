//! The methods: convert, ask the lane or the store, convert back.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::error::{self, Kind, lane_error};
use super::{convert, read, record, watch};
use crate::grpc::{self, Messages, ResponseBody};
use crate::lane::{Decided, Lanes};
use crate::model::{Added, Digests, Done, Request};
use crate::proto::sum::v1::{
    BatchIncrementCountersRequest, BatchIncrementCountersResponse, DeleteCounterRequest,
    DeleteCounterResponse, IncrementCounterRequest, IncrementCounterResponse, IncrementResult,
    SetCounterRequest, SetCounterResponse,
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

/// The service, over lanes and their store.
#[derive(Clone)]
pub struct CounterService {
    pub(super) lanes: Lanes,
    pub(super) store: Arc<dyn Store>,
    pub(super) digests: Digests,
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
        }
    }

    /// The same service, for callers on the runtime that this is called on.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            lanes: self.lanes.for_this_runtime(),
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
        draining: &CancellationToken,
    ) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        let mut messages = Messages::new(request, MAX_MESSAGE_BYTES);
        let store = &*self.store;
        let answer = match method {
            Method::Increment => unary(messages, |request| self.increment(request)).await,
            // The others in boxes, lest this future, which is moved a few times, be as large as the largest.
            Method::BatchIncrement => {
                Box::pin(unary(messages, |request| self.batch(request))).await
            }
            Method::Set => Box::pin(unary(messages, |request| self.set(request))).await,
            Method::Delete => Box::pin(unary(messages, |request| self.delete(request))).await,
            Method::Get => Box::pin(unary(messages, |request| read::get(store, request))).await,
            Method::BatchGet => {
                Box::pin(unary(messages, |request| read::batch_get(store, request))).await
            }
            Method::List => {
                let list = |request| read::list(store, self.digests, request);
                Box::pin(unary(messages, list)).await
            }
            Method::Sum => Box::pin(unary(messages, |request| read::sum(store, request))).await,
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

    async fn increment(
        &self,
        request: IncrementCounterRequest,
    ) -> Result<IncrementCounterResponse, Status> {
        let name = request.counter.clone();
        let request = convert::increment(request, self.digests)?;
        let decided = self.execute(request).await?;
        let replayed = decided.answer.replayed;
        match decided.answer.done {
            Done::Incremented(Added { value, applied }) => Ok(IncrementCounterResponse {
                value,
                applied,
                revision: decided.revision,
                replayed,
            }),
            Done::Failed(failure) => Err(error::failure(&failure, Some(&name), false)),
            other => unreachable!("{other:?} is no answer to an increment"),
        }
    }

    async fn batch(
        &self,
        request: BatchIncrementCountersRequest,
    ) -> Result<BatchIncrementCountersResponse, Status> {
        let converted = convert::batch(&request, self.digests)?;
        let decided = self.execute(converted).await?;
        let replayed = decided.answer.replayed;
        match decided.answer.done {
            Done::Batch(results) => Ok(BatchIncrementCountersResponse {
                results: results.iter().map(result).collect(),
                revision: decided.revision,
                replayed,
            }),
            Done::Failed(failure) => {
                let failed = request.increments.get(failure.index as usize);
                let name = failed.map(|increment| increment.counter.as_str());
                Err(error::failure(&failure, name, true))
            }
            other => unreachable!("{other:?} is no answer to a batch"),
        }
    }

    async fn set(&self, request: SetCounterRequest) -> Result<SetCounterResponse, Status> {
        let request = convert::set(&request, self.digests)?;
        let decided = self.execute(request).await?;
        Ok(SetCounterResponse {
            previous_value: replaced(&decided),
            revision: decided.revision,
            replayed: decided.answer.replayed,
        })
    }

    async fn delete(&self, request: DeleteCounterRequest) -> Result<DeleteCounterResponse, Status> {
        let request = convert::delete(&request, self.digests)?;
        let decided = self.execute(request).await?;
        Ok(DeleteCounterResponse {
            previous_value: replaced(&decided),
            revision: decided.revision,
            replayed: decided.answer.replayed,
        })
    }

    /// The lane that a group's counters are in.
    pub(super) fn lane(&self, group: &str) -> LaneNumber {
        self.digests.lane(group, self.store.lanes())
    }

    async fn execute(&self, request: Request) -> Result<Decided, Status> {
        let lane = self.lane(request.operation.group());
        let decided = self.lanes.execute(lane, request).await;
        decided.map_err(|error| lane_error(error, Kind::Request))
    }
}

fn result(added: &Added) -> IncrementResult {
    IncrementResult {
        value: added.value,
        applied: added.applied,
    }
}

fn replaced(decided: &Decided) -> i64 {
    match &decided.answer.done {
        Done::Replaced(before) => *before,
        other => unreachable!("{other:?} is no answer to a replacement"),
    }
}

/// A call of one message and one answer.
async fn unary<B, M, A, F>(
    mut messages: Messages<B>,
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
