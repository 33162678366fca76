//! Converts errors into responses. No other layer does.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tonic::Status;
use tower::Service;
use tracing::debug;

use crate::status;

/// The layer's service.
#[derive(Clone)]
pub struct Errors<S>(pub(super) S);

impl<S, B, R> Service<Request<B>> for Errors<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = Status>,
    R: Default,
{
    type Response = Response<R>;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The inner services are always ready.
        let _ = self.0.poll_ready(cx);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ResponseFuture {
            inner: self.0.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    /// A response, made from the error if there is one.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, Status>>,
    R: Default,
{
    type Output = Result<Response<R>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match ready!(self.project().inner.poll(cx)) {
            Ok(response) => response,
            Err(status) => {
                debug!(code = ?status.code(), "refused");
                status.into_http()
            }
        };
        // Services of other libraries may quote a client's request at any length.
        status::cut_message(response.headers_mut());
        Poll::Ready(Ok(response))
    }
}
