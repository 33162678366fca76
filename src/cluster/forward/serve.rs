//! `sumd.cluster.v1.PeerService`: takes calls from other nodes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::call::{Call, Kind, PeerRefusal};
use super::response_queue::{self, Reply, ResponseQueue};
use super::{MAX_CALLS, MAX_MESSAGE_BYTES};
use crate::grpc::{self, Messages, ResponseBody};
use crate::proto::sumd::cluster::v1 as proto;
use crate::status::Reason;

/// Executes calls of other nodes. Forwarding is one hop: it executes a call itself, even if it believes that another
/// node owns the lane.
pub trait Executor: Send + Sync {
    /// Begins a call and returns at once. The answer may come later, from any thread.
    fn execute(&self, call: Call, reply: Reply);

    /// The same executor for calls on the current runtime.
    fn for_this_runtime(&self) -> Arc<dyn Executor>;
}

/// The service. It has one method, `Forward`.
#[derive(Clone)]
pub struct PeerService {
    executor: Arc<dyn Executor>,
}

impl PeerService {
    /// The service's full name.
    pub const NAME: &str = "sumd.cluster.v1.PeerService";

    /// A service that hands calls to `executor`.
    #[must_use]
    pub fn new(executor: Arc<dyn Executor>) -> Self {
        Self { executor }
    }

    /// The same service for callers on the current runtime.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self::new(self.executor.for_this_runtime())
    }

    /// Whether the path is that of the service's method.
    #[must_use]
    pub fn is_method(path: &str) -> bool {
        path == "/sumd.cluster.v1.PeerService/Forward"
    }

    /// Answers one stream of calls. When `closing` is cancelled, the other node is asked to end the stream. A call that
    /// has begun is completed even if the stream breaks.
    pub fn call<B>(&self, request: B, closing: &CancellationToken) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        let outgoing = ResponseQueue::new();
        let reader = Reader {
            messages: Messages::new(request, MAX_MESSAGE_BYTES),
            outgoing: outgoing.clone(),
            executor: self.executor.clone(),
            closing: closing.clone(),
        };
        grpc::stream_body(Answers {
            outgoing,
            _reader: AbortOnDropHandle::new(tokio::spawn(reader.run())),
        })
    }
}

/// Reads calls, and passes them to the executor.
struct Reader<B> {
    messages: Messages<B>,
    outgoing: Arc<ResponseQueue>,
    executor: Arc<dyn Executor>,
    closing: CancellationToken,
}

impl<B> Reader<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    async fn run(mut self) {
        // If the executor panics, this status ends the other node's stream.
        let mut end = EndOnDrop {
            outgoing: self.outgoing.clone(),
            end: Reason::Panic
                .error("the server failed on a call; its log says where")
                .into(),
        };
        end.end = match self.read().await {
            Ok(()) => Status::ok(""),
            Err(status) => status,
        };
    }

    async fn read(&mut self) -> Result<(), Status> {
        let mut told = false;
        loop {
            poll_fn(|cx| self.outgoing.poll_room(cx)).await;
            let message = tokio::select! {
                biased;
                message = self.messages.next::<proto::ForwardRequest>() => message?,
                () = self.closing.cancelled(), if !told => {
                    told = true;
                    self.outgoing.say_draining();
                    continue;
                }
            };
            match message {
                Some(message) if message.calls.is_empty() => self.outgoing.keepalive(),
                // A node within its own bounds never has more unanswered calls.
                Some(message) if message.calls.len() > MAX_CALLS => {
                    return Err(Status::resource_exhausted("too many calls at once"));
                }
                Some(message) => self.execute(message.calls),
                None => return Ok(()),
            }
        }
    }

    fn execute(&self, calls: Vec<proto::Call>) {
        let now = Instant::now();
        for call in calls {
            let reply = self.outgoing.reply(call.id, call.payload.len());
            let Some(kind) = Kind::from_number(call.kind) else {
                reply.send(Err(PeerRefusal::unknown_kind(call.kind)));
                continue;
            };
            let timeout = Duration::from_millis(call.timeout_ms.into());
            let call = Call {
                kind,
                payload: call.payload,
                deadline: (!timeout.is_zero()).then(|| now + timeout),
                own_id: call.own_id,
            };
            self.executor.execute(call, reply);
        }
    }
}

struct EndOnDrop {
    outgoing: Arc<ResponseQueue>,
    end: Status,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.outgoing.end(self.end.clone());
    }
}

/// The response, which keeps the reader of the request running.
struct Answers {
    outgoing: Arc<ResponseQueue>,
    _reader: AbortOnDropHandle<()>,
}

impl Body for Answers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        response_queue::poll_frame(&self.outgoing, cx).map(|frame| Some(Ok(frame)))
    }
}
