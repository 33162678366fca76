//! The body of a response, which outlives its headers. A stream of answers ends at its deadline, at shutdown, and if
//! its reader stalls. A panic ends it with an error. It holds the permits of its call until it ends.

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
use super::stall::{self, Bounds};
use crate::status;

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
        let call = CallContext::of(request.extensions());
        let stream = (call.policy.answers == Messages::Many).then(|| call.clone());
        ResponseFuture {
            inner: self.0.call(request),
            stream,
        }
    }
}

pin_project_lite::pin_project! {
    /// A response with the body of this layer.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // The call, if its response is a stream.
        stream: Option<Arc<CallContext>>,
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
        let Some(call) = this.stream else {
            return Poll::Ready(Ok(response.map(ResponseBody::whole)));
        };
        let bounds = Bounds::new(call.deadline, call.shutdown());
        stall::bound(bounds, call.connection.stream_idle_timeout);
        Poll::Ready(Ok(response.map(|inner| ResponseBody {
            inner,
            order: Some(call.policy.order),
            permits: Permits::default(),
        })))
    }
}

/// The body of a response.
#[derive(Default)]
pub struct ResponseBody {
    inner: tonic::body::Body,
    /// Set for a stream, whose task has bounds.
    order: Option<Order>,
    permits: Permits,
}

impl ResponseBody {
    /// Holds permits until the response ends. A complete response has no use for them.
    pub(super) fn hold(&mut self, permits: Permits) {
        if self.order.is_some() {
            self.permits = permits;
        }
    }

    /// The body of a complete response, which needs no bounds.
    fn whole(inner: tonic::body::Body) -> Self {
        Self {
            inner,
            ..Self::default()
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let poll = AssertUnwindSafe(|| Pin::new(&mut self.inner).poll_frame(cx).map_ok(cut));
        catch_unwind(poll).unwrap_or_else(|_| self.end(&panicked()))
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        *self = Self::default();
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(status)))))
    }
}

/// Shortens the message in trailers: services of other libraries may quote a client's request at any length.
fn cut(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        status::cut_message(trailers);
    }
    frame
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
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
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
