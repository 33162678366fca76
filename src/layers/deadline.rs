//! Ends a call at its deadline.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Request;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tower::Service;

use super::connection::CallContext;
use crate::status::Reason;

/// The layer's service.
#[derive(Clone)]
pub struct Deadline<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Deadline<S>
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
        let deadline = CallContext::of(request.extensions()).deadline;
        ResponseFuture {
            inner: self.0.call(request),
            timer: Timer::new(deadline),
        }
    }
}

pin_project_lite::pin_project! {
    /// A response, or the deadline's error.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        timer: Timer,
    }
}

impl<F, R> Future for ResponseFuture<F>
where
    F: Future<Output = Result<R, Status>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // A response that is ready is sent even after the deadline.
        match this.inner.poll(cx) {
            Poll::Ready(response) => Poll::Ready(response),
            Poll::Pending => this.timer.poll(cx).map(Err),
        }
    }
}

/// Resolves at a deadline, if there is one.
pub struct Timer {
    deadline: Option<Instant>,
    /// Created at the first wait: most responses are ready at once.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    pub(super) fn new(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            sleep: None,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        sleep.as_mut().poll(cx).map(|()| exceeded())
    }
}

fn exceeded() -> Status {
    let message = "the deadline of the call has passed";
    Reason::DeadlineExceeded.error(message).into()
}
