//! Confines a panic to its call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::Request;
use tonic::Status;
use tower::Service;
use tracing::error;

use crate::status;

/// The layer's service.
#[derive(Clone)]
pub struct Panics<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Panics<S>
where
    S: Service<Request<B>, Error = Status>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = Either<Ready<Result<S::Response, Status>>, ResponseFuture<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match catch_unwind(AssertUnwindSafe(|| self.0.call(request))) {
            Ok(inner) => Either::Right(ResponseFuture { inner }),
            Err(_) => Either::Left(ready(Err(panicked()))),
        }
    }
}

pin_project_lite::pin_project! {
    /// A response, or the error of a panic.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, Status>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let inner = self.project().inner;
        let poll = AssertUnwindSafe(|| inner.poll(cx));
        catch_unwind(poll).unwrap_or_else(|_| Poll::Ready(Err(panicked())))
    }
}

/// Logs a panic, and makes its status. The panic hook has logged the location.
pub(super) fn panicked() -> Status {
    error!("a call has panicked");
    status::panicked()
}
