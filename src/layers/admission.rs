//! Bounds on calls: those of the server in flight, and those of a connection that have no end of their own. A
//! connection past the limit serves health checks only.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tonic::Status;
use tower::Service;

use super::calls::{Permits, overloaded};
use super::connection::CallContext;
use super::response_body::ResponseBody;

fn admit(call: &CallContext) -> Result<Permits, Status> {
    let (policy, connection) = (call.policy, &call.connection);
    if let Some(max) = connection.probes_only
        && policy.is_counted
    {
        // Closing this connection makes room for health checks.
        connection.closing.cancel();
        return Err(overloaded(format!(
            "{max} connections are open, which is the limit (--max-connections); this one accepts only health checks"
        )));
    }
    let watch = policy.is_watch.then(|| connection.watches.admit_watch());
    let counted = policy.is_counted.then(|| connection.calls.admit());
    Ok([watch.transpose()?, counted.transpose()?])
}

/// The layer's service.
#[derive(Clone)]
pub struct Admission<S>(pub(super) S);

impl<S, B> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<ResponseBody>, Error = Status>,
{
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = Either<Ready<Result<Response<ResponseBody>, Status>>, ResponseFuture<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = CallContext::of(request.extensions());
        match admit(call) {
            Ok(permits) => Either::Right(ResponseFuture {
                inner: self.0.call(request),
                permits,
            }),
            Err(refusal) => Either::Left(ready(Err(refusal))),
        }
    }
}

pin_project_lite::pin_project! {
    /// The response of an admitted call.
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        permits: Permits,
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<ResponseBody>, Status>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        response.body_mut().hold(std::mem::take(this.permits));
        Poll::Ready(Ok(response))
    }
}
