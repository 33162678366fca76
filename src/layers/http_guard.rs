//! Answers requests that are not gRPC with an HTTP status, as the protocol requires.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tower::Service;

/// The layer's service.
#[derive(Clone)]
pub struct HttpGuard<S>(pub(super) S);

impl<S, B, R> Service<Request<B>> for HttpGuard<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<R>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match refuse(&request) {
            Some(refusal) => Either::Left(ready(Ok(refusal))),
            None => Either::Right(self.0.call(request)),
        }
    }
}

fn refuse<B, R: Default>(request: &Request<B>) -> Option<Response<R>> {
    let refusal = |code, name, value| {
        let mut response = Response::new(R::default());
        *response.status_mut() = code;
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
        Some(response)
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, ALLOW, "POST");
    }
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        let code = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return refusal(code, ACCEPT, "application/grpc");
    }
    None
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    let Some(rest) = content_type.as_bytes().strip_prefix(b"application/grpc") else {
        return false;
    };
    rest.strip_prefix(b"+proto")
        .unwrap_or(rest)
        .first()
        .is_none_or(|&byte| byte == b';')
}
