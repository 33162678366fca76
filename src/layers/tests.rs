//! The bounds of a call hold even if its handler misbehaves.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Full};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use tower::{Service, ServiceExt as _, service_fn};

use super::*;

type RequestOf<B> = Request<Box<RequestFrames<RequestBody<B>>>>;

fn request<B>(path: &str, body: B) -> Request<B> {
    Request::post(format!("http://sumd{path}"))
        .header("content-type", "application/grpc")
        .body(body)
        .expect("a request")
}

/// An empty message.
fn empty() -> Full<Bytes> {
    Full::new(Bytes::from_static(&[0; 5]))
}

/// Calls a handler through the layers.
async fn call<B, H, F>(
    connection: &Arc<Connection>,
    request: Request<B>,
    handler: H,
) -> Response<ResponseBody>
where
    H: FnMut(RequestOf<B>) -> F,
    F: Future<Output = Result<Response<tonic::body::Body>, Status>>,
{
    let stack = stack(service_fn(handler), connection);
    let answered: Result<_, Infallible> = stall::scope(stack.oneshot(request)).await;
    let Ok(response) = answered;
    response
}

fn status<B>(response: &Response<B>) -> Status {
    Status::from_header_map(response.headers()).expect("a status")
}

const ADD: &str = "/sum.v1.SumService/Add";

/// A panic ends its call with INTERNAL, and the error does not reveal the text of the panic.
#[tokio::test]
async fn a_panic_is_internal() {
    let connection = Arc::new(Connection::for_tests());
    let asynchronous = call(&connection, request(ADD, empty()), async |_| {
        panic!("the secret is 42")
    });
    let status = status(&asynchronous.await);
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("42"));
}

/// A deadline ends a running handler, not a finished one.
#[tokio::test(start_paused = true)]
async fn the_deadline_ends_a_call() {
    let connection = Arc::new(Connection::for_tests());
    let soon = || {
        let mut request = request(ADD, empty());
        let timeout = "1S".parse().expect("a value");
        request.headers_mut().insert("grpc-timeout", timeout);
        request
    };
    let late = call(&connection, soon(), |_| pending()).await;
    assert_eq!(status(&late).code(), Code::DeadlineExceeded);
    let done = call(&connection, soon(), async |_| Ok(Response::default())).await;
    assert!(Status::from_header_map(done.headers()).is_none());
}

/// A shutdown ends a call at the phase that its policy names, and asks the client to retry.
#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_call() {
    let connection = Arc::new(Connection::for_tests());
    connection.draining.cancel();
    let add = call(&connection, request(ADD, empty()), |_| pending());
    let still = tokio::time::timeout(Duration::from_secs(1), add).await;
    assert!(still.is_err(), "it may end by itself");
    let watch = request("/sum.v1.CounterService/WatchCounters", empty());
    let ended = status(&call(&connection, watch, |_| pending()).await);
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.get_details_retry_info().is_some());
    connection.ending.cancel();
    let ended = status(&call(&connection, request(ADD, empty()), |_| pending()).await);
    assert_eq!(ended.code(), Code::Unavailable);
}

/// A call holds its permit until its response has ended, which is after the headers.
#[tokio::test]
async fn a_response_keeps_its_place() {
    let connection = Arc::new(Connection::for_tests());
    let answer = async |_| Ok(Response::default());
    for path in ["/sum.v1.SumService/AddEach", ADD] {
        let response = call(&connection, request(path, empty()), answer).await;
        assert!(Status::from_header_map(response.headers()).is_none());
        let refused = status(&call(&connection, request(ADD, empty()), answer).await);
        assert_eq!(refused.code(), Code::Unavailable);
        drop(response);
    }
}

/// A large answer is handed out in pieces of which the last is one byte, so that hyper cannot end the call before the
/// reader has room for the others. A small one is handed out whole.
#[tokio::test]
async fn a_large_answer_comes_in_pieces() {
    let connection = Arc::new(Connection::for_tests());
    for (bytes, pieces) in [
        (1 << 10, &[1 << 10][..]),
        (1025, &[1024, 1]),
        ((32 << 10) + 1, &[32 << 10, 1]),
        (70 << 10, &[32 << 10, 32 << 10, (6 << 10) - 1, 1]),
    ] {
        let answer = |_| async move {
            let whole = Full::from(vec![7; bytes]);
            Ok(Response::new(tonic::body::Body::new(whole)))
        };
        let response = call(&connection, request(ADD, empty()), answer).await;
        let mut body = response.into_body();
        let mut handed_out = Vec::new();
        while let Some(frame) = stall::scope(body.frame()).await {
            let data = frame.expect("a frame").into_data().expect("data");
            assert!(data.iter().all(|&byte| byte == 7));
            handed_out.push(data.len());
            assert!(handed_out.len() == pieces.len() || !body.is_end_stream());
        }
        assert_eq!(handed_out, pieces);
    }
}

/// Health checks are answered while all other calls are refused.
#[tokio::test]
async fn health_is_not_counted() {
    let full = Connection {
        calls: Calls::new(0),
        ..Connection::for_tests()
    };
    let full = Arc::new(full);
    let answer = async |_| Ok(Response::default());
    let refused = status(&call(&full, request(ADD, empty()), answer).await);
    assert_eq!(refused.code(), Code::Unavailable);
    let check = request("/grpc.health.v1.Health/Check", empty());
    let checked = call(&full, check, answer).await;
    assert!(Status::from_header_map(checked.headers()).is_none());
}

/// A body cut off by a client's reset: as in hyper, it ends while `is_end_stream` is false.
struct Reset(Option<Bytes>);

impl Body for Reset {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
    }
}

/// A stream that its client resets between two messages is an error for the handler, which must not answer half a
/// request. A CANCELLED would be a clean end in tonic.
#[tokio::test]
async fn a_reset_is_not_an_end() {
    let connection = Arc::new(Connection::for_tests());
    let body = Reset(Some(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1])));
    let mut service = crate::api::SumServiceServer::new(crate::api::SumApi);
    let handler = |request| {
        let answer = service.call(request);
        async move {
            let Ok(response) = answer.await;
            Ok::<_, Status>(response)
        }
    };
    let response = call(
        &connection,
        request("/sum.v1.SumService/AddAll", body),
        handler,
    )
    .await;
    let ended = status(&response);
    assert_ne!(ended.code(), Code::Cancelled);
    let body = stall::scope(response.into_body().collect()).await;
    let body = body.expect("a body");
    assert!(body.to_bytes().is_empty(), "there is no sum");
}

/// The error of an unknown method names the method.
#[tokio::test]
async fn an_unknown_method_is_named() {
    let connection = Arc::new(Connection::for_tests());
    let unknown = call(&connection, request("/a.b.C/D", empty()), |_| pending()).await;
    let unknown = status(&unknown);
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert!(unknown.message().contains("/a.b.C/D"), "{unknown}");
    let info = unknown.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(info.reason, "UNKNOWN_METHOD");
}
