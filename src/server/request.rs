//! The body of a request, with its ways to go wrong told apart.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use super::idle::Idle;
use crate::status::Reason;

/// A request's body. A client that cancels, or that sends nothing for too long, is an error here: in
/// hyper a stream that was reset and one that has ended look the same.
pub(super) struct RequestBody<B> {
    body: B,
    idle: Idle,
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, idle_timeout: Duration) -> Self {
        Self {
            body,
            idle: Idle::new(idle_timeout),
        }
    }
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
            Poll::Ready(_) => Poll::Ready(Some(Err(Status::cancelled(
                "the client cancelled the call or its connection broke",
            )))),
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

fn idle(timeout: Duration) -> Status {
    let message = format!("the client has sent nothing for {timeout:?} (--stream-idle-timeout)");
    Reason::StreamIdle.error(message).into()
}
