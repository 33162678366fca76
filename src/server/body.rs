//! The body of a response, held to the bounds of its call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tonic::Status;

use super::call::{self, Permit, Watch};
use super::request::RequestBody;
use crate::status;
use crate::sum;

/// What the services answer with.
pub(super) enum Inner {
    Sum(sum::ResponseBody<RequestBody<hyper::body::Incoming>>),
    Tonic(tonic::body::Body),
}

pub(super) struct ResponseBody {
    inner: Inner,
    guard: Option<Box<Guard>>,
}

/// What a response that takes time is held by.
pub(super) struct Guard {
    pub(super) watch: Watch,
    pub(super) _permit: Option<Permit>,
}

impl ResponseBody {
    /// A response that is complete, so that nothing can happen to it.
    pub(super) fn whole(inner: Inner) -> Self {
        Self { inner, guard: None }
    }

    pub(super) fn guarded(inner: Inner, guard: Guard) -> Self {
        Self {
            inner,
            guard: Some(Box::new(guard)),
        }
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.inner = Inner::Sum(sum::ResponseBody::default());
        self.guard = None;
        Frame::trailers(status::trailers(status))
    }
}

impl Default for ResponseBody {
    fn default() -> Self {
        Self::whole(Inner::Sum(sum::ResponseBody::default()))
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
        if let Some(guard) = &mut this.guard
            && let Poll::Ready(status) = guard.watch.poll(cx)
        {
            return Poll::Ready(Some(Ok(this.end(&status))));
        }
        let poll = AssertUnwindSafe(|| match &mut this.inner {
            Inner::Sum(body) => Pin::new(body).poll_frame(cx),
            Inner::Tonic(body) => Pin::new(body).poll_frame(cx),
        });
        catch_unwind(poll).unwrap_or_else(|_| Poll::Ready(Some(Ok(this.end(&call::panicked())))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Sum(body) => body.is_end_stream(),
            Inner::Tonic(body) => body.is_end_stream(),
        }
    }
}
