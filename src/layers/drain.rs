//! Ends a call at the phase of a shutdown that the policy of its method names.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use crate::status::{Outcome, Reason};

/// Retry delay of a call ended by a shutdown: another server can answer at once.
const SHUTDOWN_RETRY_DELAY: Duration = Duration::from_millis(1);

/// The layer's service.
#[derive(Clone)]
pub struct Drain<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Drain<S>
where
    S: Service<Request<B>, Error = Status>,
{
    type Response = S::Response;
    type Error = Status;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = CallContext::of(request.extensions()).clone();
        ResponseFuture {
            inner: self.0.call(request),
            call,
            cancelled: None,
        }
    }
}

pin_project_lite::pin_project! {
    /// A response, or the error of the shutdown.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        call: Arc<CallContext>,
        // Created at the first wait: most responses are ready at once.
        #[pin]
        cancelled: Option<WaitForCancellationFutureOwned>,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, Status>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        // A response that is ready is sent even after the cancellation.
        if let Poll::Ready(response) = this.inner.poll(cx) {
            return Poll::Ready(response);
        }
        if this.cancelled.is_none() {
            let cancelled = this.call.shutdown().clone().cancelled_owned();
            this.cancelled.set(Some(cancelled));
        }
        if let Some(cancelled) = this.cancelled.as_pin_mut() {
            ready!(cancelled.poll(cx));
        }
        Poll::Ready(Err(shutting_down()))
    }
}

pub(super) fn shutting_down() -> Status {
    Reason::ShuttingDown
        .error("the server is shutting down; answers received so far are valid")
        .outcome(Outcome::Unknown)
        .retry_in(SHUTDOWN_RETRY_DELAY)
        .into()
}
