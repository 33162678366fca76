//! The body of a request, with an error for each way in which it breaks off.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame};
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

/// A request body. A client that cancels, or sends nothing for too long, is an error here. hyper's body ends in the
/// same way after a reset as after the last message; only `is_end_stream` differs.
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
}

/// The error of a call that its client has reset, or whose connection broke. No client gets it, but it must not be
/// CANCELLED: tonic turns that into a clean end of the request.
fn cancelled() -> Status {
    Status::aborted("the client cancelled the call or its connection broke")
}

fn idle(timeout: Duration) -> Status {
    let message = format!("the client has sent nothing for {timeout:?} (--stream-idle-timeout)");
    Reason::StreamIdle.error(message).into()
}
