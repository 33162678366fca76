//! The body of a request, with its ways to go wrong told apart.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use super::idle::Idle;
use crate::status::Reason;

/// The layer's service.
#[derive(Clone)]
pub struct RequestBodies<S>(pub(super) S);

impl<S, B> Service<Request<B>> for RequestBodies<S>
where
    S: Service<Request<RequestBody<B>>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        let idle_timeout = CallContext::of(request.extensions())
            .connection
            .stream_idle_timeout;
        let with_idle = |body| RequestBody {
            body,
            idle: Idle::new(idle_timeout),
        };
        self.0.call(request.map(with_idle))
    }
}

/// A request's body. A client that cancels, or that sends nothing for too long, is an error here: in hyper a stream that was
/// reset and one that has ended look the same.
pub struct RequestBody<B> {
    body: B,
    idle: Idle,
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.idle.moved();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) if self.body.is_end_stream() => Poll::Ready(None),
            Poll::Ready(_) => Poll::Ready(Some(Err(cancelled()))),
            Poll::Pending => self.idle.poll(cx).map(|time| Some(Err(idle(time)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The end of a call that its client has reset, or lost with the connection. Nobody is there to be told, but handlers must not
/// take it for the end of the request, as they would a CANCELLED: tonic makes a clean end of that.
fn cancelled() -> Status {
    Status::aborted("the client cancelled the call or its connection broke")
}

fn idle(timeout: Duration) -> Status {
    let message = format!("the client has sent nothing for {timeout:?} (--stream-idle-timeout)");
    Reason::StreamIdle.error(message).into()
}
