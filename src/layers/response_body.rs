//! The body of a response, which outlives its headers. It ends at its deadline, at shutdown, and if its reader stalls. A
//! panic ends it with an error. It holds the permits of its call until its reader has room for its last byte.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::Status;
use tower::Service;

use super::calls::Permits;
use super::connection::CallContext;
use super::panics::panicked;
use super::policy::{Messages, Order};
use super::stall;
use crate::status;

/// Size of the data that are handed over whole: about what HTTP/2 keeps for a stream in any case.
const SMALL_BYTES: usize = 1 << 10;
/// Maximum size of the pieces of larger data. Each piece that a reader takes is progress.
const PIECE_BYTES: usize = 32 << 10;

/// The layer's service.
#[derive(Clone)]
pub struct Bodies<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Bodies<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>, Error = Status>,
{
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = CallContext::of(request.extensions()).clone();
        ResponseFuture {
            inner: self.0.call(request),
            call: Some(call),
        }
    }
}

pin_project_lite::pin_project! {
    /// A response with the body of this layer.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // Taken when the response is ready.
        call: Option<Arc<CallContext>>,
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<tonic::body::Body>, Status>>,
{
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let call = this.call.take().expect("a response is ready once");
        let order = (call.policy.answers == Messages::Many).then_some(call.policy.order);
        // A single answer is complete, and can only wait for its reader.
        stall::bound(call, order.is_none());
        Poll::Ready(Ok(response.map(|inner| ResponseBody {
            inner,
            order,
            ..ResponseBody::default()
        })))
    }
}

/// The body of a response.
#[derive(Default)]
pub struct ResponseBody {
    inner: tonic::body::Body,
    /// Data of `inner` that are not handed out yet.
    rest: Bytes,
    /// Set for a stream of answers.
    order: Option<Order>,
    permits: Permits,
}

impl ResponseBody {
    /// Holds permits until the response ends.
    pub(super) fn hold(&mut self, permits: Permits) {
        self.permits = permits;
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let poll = AssertUnwindSafe(|| Pin::new(&mut self.inner).poll_frame(cx));
        let mut frame = catch_unwind(poll).unwrap_or_else(|_| self.end(&panicked()));
        if let Poll::Ready(Some(Ok(frame))) = &mut frame {
            self.cut(frame);
        }
        frame
    }

    /// Shortens a frame: the data of a large single answer to a piece, and the message in trailers, because services of other
    /// libraries may quote a client's request at any length.
    fn cut(&mut self, frame: &mut Frame<Bytes>) {
        if let Some(data) = frame.data_mut() {
            if self.order.is_none() && data.len() > SMALL_BYTES {
                self.rest = data.split_off(piece_bytes(data.len()));
            }
        } else if let Some(trailers) = frame.trailers_mut() {
            status::cut_message(trailers);
        }
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        *self = Self::default();
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(status)))))
    }
}

/// The size of the next piece of data.
///
/// hyper passes data on to HTTP/2, whatever their size, once the reader has room for one byte of them. The last byte is a
/// piece of its own, so that it is passed on only once the reader has room for all bytes before it.
fn piece_bytes(data: usize) -> usize {
    (data - 1).clamp(1, PIECE_BYTES)
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if !this.rest.is_empty() {
            let piece = this.rest.split_to(piece_bytes(this.rest.len()));
            let frame = Poll::Ready(Some(Ok(Frame::data(piece))));
            stall::note(&frame);
            return frame;
        }
        let Some(order) = this.order else {
            return this.poll_inner(cx);
        };
        if order == Order::EndFirst
            && let Poll::Ready(status) = stall::poll_end(cx)
        {
            return this.end(&status);
        }
        let frame = this.poll_inner(cx);
        stall::note(&frame);
        if order == Order::AnswersFirst
            && frame.is_pending()
            && let Poll::Ready(status) = stall::poll_end(cx)
        {
            return this.end(&status);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() {
            return self.inner.size_hint();
        }
        SizeHint::default()
    }
}
