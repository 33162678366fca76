//! `sum.v1.CounterService`: running totals.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{ErrInto, MapOk};
use futures_util::{Stream, TryStreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::wire::Encoded;
use super::{counter_service_server, reads, record};
use crate::counters::{Changes, Counters, Error, RecordReply};
use crate::layers::CallContext;
use crate::proto::sum::v1::{
    BatchGetCountersRequest, BatchGetCountersResponse, BatchIncrementCountersRequest,
    BatchIncrementCountersResponse, DeleteCounterRequest, DeleteCounterResponse, GetCounterRequest,
    GetCounterResponse, IncrementCounterRequest, IncrementCounterResponse, ListCountersRequest,
    ListCountersResponse, RecordIncrementsResponse, SetCounterRequest, SetCounterResponse,
    SumCountersRequest, SumCountersResponse, WatchCountersRequest, WatchCountersResponse,
};
use crate::replies::ReplyStream;

/// The service, over the counters of a node.
pub struct CounterApi(pub Counters);

type Answer<T> = Result<Response<T>, Status>;

/// The answers to a watch.
type WatchReplies =
    MapOk<ErrInto<ReplyStream<Changes, Error>, Status>, fn(Changes) -> WatchCountersResponse>;

/// The answers on a bulk stream.
pub type RecordReplies =
    MapOk<ReplyStream<RecordReply, Status>, fn(RecordReply) -> RecordIncrementsResponse>;

impl CounterApi {
    /// Serves a stream of a bulk session, as [`Counters::record`] does.
    pub fn record<M>(&self, messages: M, draining: CancellationToken) -> RecordReplies
    where
        M: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
    {
        let replies = self.0.record(messages, draining);
        replies.map_ok(record::response as fn(RecordReply) -> RecordIncrementsResponse)
    }
}

#[tonic::async_trait]
impl counter_service_server::CounterService for CounterApi {
    async fn increment_counter(
        &self,
        request: Request<IncrementCounterRequest>,
    ) -> Answer<IncrementCounterResponse> {
        let deadline = deadline(&request);
        let answer = self.0.increment(request.into_inner(), deadline).await?;
        Ok(Response::new(answer))
    }

    async fn batch_increment_counters(
        &self,
        request: Request<BatchIncrementCountersRequest>,
    ) -> Answer<BatchIncrementCountersResponse> {
        let deadline = deadline(&request);
        let answer = self
            .0
            .batch_increment(request.into_inner(), deadline)
            .await?;
        Ok(Response::new(answer))
    }

    async fn set_counter(&self, request: Request<SetCounterRequest>) -> Answer<SetCounterResponse> {
        let deadline = deadline(&request);
        let answer = self.0.set(request.into_inner(), deadline).await?;
        Ok(Response::new(answer))
    }

    async fn delete_counter(
        &self,
        request: Request<DeleteCounterRequest>,
    ) -> Answer<DeleteCounterResponse> {
        let deadline = deadline(&request);
        let answer = self.0.delete(request.into_inner(), deadline).await?;
        Ok(Response::new(answer))
    }

    async fn get_counter(&self, request: Request<GetCounterRequest>) -> Answer<GetCounterResponse> {
        let answer = reads::get(&self.0, request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn batch_get_counters(
        &self,
        request: Request<BatchGetCountersRequest>,
    ) -> Answer<BatchGetCountersResponse> {
        let answer = reads::batch_get(&self.0, request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn list_counters(
        &self,
        request: Request<ListCountersRequest>,
    ) -> Answer<ListCountersResponse> {
        let answer = reads::list(&self.0, request.into_inner()).await;
        answer.map(Response::new)
    }

    async fn sum_counters(
        &self,
        request: Request<SumCountersRequest>,
    ) -> Answer<SumCountersResponse> {
        let answer = reads::sum(&self.0, request.into_inner()).await;
        answer.map(Response::new)
    }

    type WatchCountersStream = WatchReplies;

    async fn watch_counters(
        &self,
        request: Request<WatchCountersRequest>,
    ) -> Answer<Self::WatchCountersStream> {
        let (watched, revision) = reads::watched(request.into_inner())?;
        let replies = self.0.watch(watched, revision).err_into::<Status>();
        let answers = replies.map_ok(reads::changes as fn(Changes) -> WatchCountersResponse);
        Ok(Response::new(answers))
    }

    type RecordIncrementsStream = RecordReplies;

    async fn record_increments(
        &self,
        request: Request<Streaming<Encoded>>,
    ) -> Answer<Self::RecordIncrementsStream> {
        let call = CallContext::of(request.extensions());
        let draining = call.connection.draining.clone();
        let messages = Messages(request.into_inner());
        Ok(Response::new(self.record(messages, draining)))
    }
}

fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    CallContext::of(request.extensions()).deadline
}

/// The undecoded messages of a bulk stream.
struct Messages(Streaming<Encoded>);

impl Stream for Messages {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.0).poll_next(cx);
        next.map_ok(|Encoded(message)| message)
    }
}
