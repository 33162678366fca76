//! The body of a response, held to the bounds of its call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use super::call::{self, Permits};
use super::stream;
use crate::grpc;
use crate::status;

/// What the services answer with.
pub(super) enum Inner {
    Ours(grpc::ResponseBody),
    Tonic(tonic::body::Body),
}

pub(super) struct ResponseBody {
    inner: Inner,
    /// It takes time, in which its stream is held to bounds.
    bounded: bool,
    _permits: Permits,
}

impl ResponseBody {
    /// A response that is complete, so that nothing can happen to it.
    pub(super) fn whole(inner: Inner) -> Self {
        Self {
            inner,
            bounded: false,
            _permits: Permits::default(),
        }
    }

    /// A response that goes on, in a stream that is held to bounds.
    pub(super) fn bounded(inner: Inner, permits: Permits) -> Self {
        Self {
            inner,
            bounded: true,
            _permits: permits,
        }
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let poll = AssertUnwindSafe(|| match &mut self.inner {
            Inner::Ours(body) => Pin::new(body).poll_frame(cx),
            Inner::Tonic(body) => Pin::new(body).poll_frame(cx).map_ok(cut),
        });
        catch_unwind(poll).unwrap_or_else(|_| self.end(&call::panicked()))
    }

    fn end(&mut self, status: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        *self = Self::default();
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(status)))))
    }
}

/// Texts of other services may quote a client's request at any length.
fn cut(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        status::cut_message(trailers);
    }
    frame
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::whole(Inner::Ours(grpc::ResponseBody::default()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if !this.bounded {
            return this.poll_inner(cx);
        }
        // Answers of ours may be ready without an end, so the bounds come first. The other services' come to
        // an end, and one that is ready is sent: health, above all, while the server drains.
        let ours = matches!(this.inner, Inner::Ours(_));
        if ours && let Poll::Ready(status) = stream::poll_end(cx) {
            return this.end(&status);
        }
        let frame = this.poll_inner(cx);
        stream::note(&frame);
        if !ours
            && frame.is_pending()
            && let Poll::Ready(status) = stream::poll_end(cx)
        {
            return this.end(&status);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Ours(body) => body.is_end_stream(),
            Inner::Tonic(body) => body.is_end_stream(),
        }
    }
}
