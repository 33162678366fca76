//! Takes calls from other nodes.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::MAX_CALLS;
use super::call::{Call, Kind, PeerRefusal};
use super::response_queue::{Reply, ResponseQueue};
use crate::proto::sumd::cluster::v1 as proto;
use crate::status;

/// Executes calls of other nodes. Forwarding is one hop: it executes a call itself, even if it believes that another
/// node owns the lane.
pub trait Executor: Send + Sync {
    /// Begins a call and returns at once. The answer may come later, from any thread.
    fn execute(&self, call: Call, reply: Reply);

    /// The same executor for calls on the current runtime.
    fn for_this_runtime(&self) -> Arc<dyn Executor>;
}

/// Hands the calls of other nodes to an executor.
#[derive(Clone)]
pub struct IncomingCalls {
    executor: Arc<dyn Executor>,
}

impl IncomingCalls {
    /// Hands calls to `executor`.
    #[must_use]
    pub fn new(executor: Arc<dyn Executor>) -> Self {
        Self { executor }
    }

    /// The same for callers on the current runtime.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self::new(self.executor.for_this_runtime())
    }

    /// Answers one stream of calls. When `closing` is cancelled, the other node is asked to end the stream. A call that
    /// has begun is completed even if the stream breaks.
    pub fn answer<R>(&self, requests: R, closing: CancellationToken) -> Answers
    where
        R: Stream<Item = Result<proto::ForwardRequest, Status>> + Send + Unpin + 'static,
    {
        let outgoing = ResponseQueue::new();
        let reader = Reader {
            requests,
            outgoing: outgoing.clone(),
            executor: self.executor.clone(),
            closing,
        };
        Answers {
            outgoing,
            _reader: AbortOnDropHandle::new(tokio::spawn(reader.run())),
        }
    }
}

/// Reads calls, and passes them to the executor.
struct Reader<R> {
    requests: R,
    outgoing: Arc<ResponseQueue>,
    executor: Arc<dyn Executor>,
    closing: CancellationToken,
}

impl<R> Reader<R>
where
    R: Stream<Item = Result<proto::ForwardRequest, Status>> + Unpin,
{
    async fn run(mut self) {
        // If the executor panics, the other node is told so.
        let mut end = EndOnDrop {
            outgoing: self.outgoing.clone(),
            end: Err(status::panicked()),
        };
        end.end = self.read().await;
    }

    async fn read(&mut self) -> Result<(), Status> {
        let mut told = false;
        loop {
            poll_fn(|cx| self.outgoing.poll_room(cx)).await;
            let message = tokio::select! {
                biased;
                message = self.requests.next() => message.transpose()?,
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
                    let calls = message.calls.len();
                    let problem =
                        format!("the message has {calls} calls, over the limit of {MAX_CALLS}");
                    return Err(Status::resource_exhausted(problem));
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
    end: Result<(), Status>,
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.outgoing.end(self.end.clone());
    }
}

/// The answers to a stream of calls, which keep the reader of the stream running.
pub struct Answers {
    outgoing: Arc<ResponseQueue>,
    _reader: AbortOnDropHandle<()>,
}

impl Stream for Answers {
    type Item = Result<proto::ForwardResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outgoing.poll_message(cx)
    }
}
