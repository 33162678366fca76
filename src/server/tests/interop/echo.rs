//! Echoes metadata, which is a feature of the test service. tonic lets no handler set the trailers of a call that succeeds.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{HeaderName, Request, Response};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService;
use tower::Service;

const INITIAL: HeaderName = HeaderName::from_static("x-grpc-test-echo-initial");
const TRAILING: HeaderName = HeaderName::from_static("x-grpc-test-echo-trailing-bin");

/// A service whose responses have the metadata of the request that the cases name.
#[derive(Clone)]
pub struct EchoMetadata<S>(pub S);

impl<S: NamedService> NamedService for EchoMetadata<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for EchoMetadata<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let value = |name: HeaderName| {
            let value = request.headers().get(&name)?.clone();
            Some((name, value))
        };
        let (initial, trailing) = (value(INITIAL), value(TRAILING));
        let response = self.0.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            response.headers_mut().extend(initial);
            let with_trailing = |body: Body| {
                Body::new(body.map_frame(move |mut frame| {
                    if let Some(trailers) = frame.trailers_mut() {
                        trailers.extend(trailing.clone());
                    }
                    frame
                }))
            };
            Ok(response.map(with_trailing))
        })
    }
}
