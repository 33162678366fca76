//! From a request to the service that answers it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt as _};
use tracing::debug;

use super::body::{Inner, ResponseBody};
use super::call::{self, Bounds, Calls};
use super::health::Health;
use super::limits::Limits;
use super::request::RequestBody;
use super::stream;
use super::worker::Local;
use crate::cluster::{self, ClusterService, PeerService};
use crate::counter::{self, CounterService};
use crate::grpc;
use crate::proto;
use crate::status;
use crate::sum::SumService;

const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

type RequestOf<B> = Request<RequestBody<B>>;
type TonicService =
    BoxCloneSyncService<RequestOf<Incoming>, Response<tonic::body::Body>, Infallible>;

/// A service by tonic.
struct TonicRoute {
    /// What the paths of its methods begin with.
    prefix: String,
    service: TonicService,
    /// Its calls count as calls in flight.
    counted: bool,
}

pub(super) struct Routes {
    sum: SumService,
    tonic: Vec<TonicRoute>,
    calls: Arc<Calls>,
    idle_timeout: std::time::Duration,
}

impl Routes {
    pub(super) fn new(limits: &Limits, health: &Health) -> Self {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // Error details: clients show them by these.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let broken = "the descriptors were made by this build";
        Self {
            sum: SumService {
                max_message_bytes: limits.max_message_size as usize,
            },
            tonic: vec![
                // A server that is busy is healthy.
                TonicRoute::new(health.service(), false),
                TonicRoute::new(reflection().build_v1().expect(broken), true),
                TonicRoute::new(reflection().build_v1alpha().expect(broken), true),
            ],
            calls: Calls::new(limits.max_calls),
            idle_timeout: limits.stream_idle_timeout,
        }
    }

    /// Answers a request. Once `closing` is cancelled, its connection takes no new ones.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        local: &Local,
        closing: &CancellationToken,
    ) -> Response<ResponseBody> {
        if let Some(refusal) = refuse(&request) {
            return refusal;
        }
        let phase = &local.phase;
        let timeout = match call::timeout(request.headers()) {
            Ok(timeout) => timeout,
            Err(status) => return status.into_http(),
        };
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(body, self.idle_timeout);
        let path = parts.uri.path();

        let response = if let Some(method) = SumService::method(path) {
            let bounds = Bounds {
                deadline,
                shutdown: &phase.ending,
            };
            // Pinned here, since what is handed on by value takes its room in each future on the way.
            let answer = pin!(self.sum.call(method, body));
            self.answer_ours(&parts.headers, answer, bounds).await
        } else if let Some(method) = CounterService::method(path) {
            let Some(counters) = local.counters() else {
                return no_store().into_http();
            };
            let shutdown = match method {
                // It has no end of its own.
                counter::Method::Watch => &phase.draining,
                _ => &phase.ending,
            };
            let bounds = Bounds { deadline, shutdown };
            let answer = pin!(counters.call(method, body, deadline, &phase.draining));
            self.answer_ours(&parts.headers, answer, bounds).await
        } else if let Some(method) = ClusterService::method(path) {
            let shutdown = match method {
                cluster::Method::Watch => &phase.draining,
                cluster::Method::List => &phase.ending,
            };
            let bounds = Bounds { deadline, shutdown };
            // In a box, for it is rarely called.
            let answer = Box::pin(async { local.node.cluster().call(method, body).await });
            self.answer_ours(&parts.headers, answer, bounds).await
        } else if let (true, Some(peers)) = (PeerService::is_method(path), local.peers()) {
            let bounds = Bounds {
                deadline,
                shutdown: &phase.ending,
            };
            let answer = pin!(async { peers.call(body, closing) });
            self.answer_ours(&parts.headers, answer, bounds).await
        } else if let Some(route) = self.tonic.iter().find(|r| path.starts_with(&r.prefix)) {
            // These calls have no end of their own (a health watch), so they end where draining begins.
            let bounds = Bounds {
                deadline,
                shutdown: &phase.draining,
            };
            let request = Request::from_parts(parts, body);
            // In a box, for it is large, and rarely called.
            Box::pin(self.answer_tonic(route, request, bounds)).await
        } else {
            let message = format!("there is no method {path}");
            Err(status::with_reason(
                Code::Unimplemented,
                message,
                "UNKNOWN_METHOD",
                &[],
            ))
        };
        response.unwrap_or_else(|status| {
            debug!(code = ?status.code(), "refused");
            status.into_http()
        })
    }

    async fn answer_ours(
        &self,
        headers: &HeaderMap,
        answer: impl Future<Output = Response<grpc::ResponseBody>>,
        bounds: Bounds<'_>,
    ) -> Result<Response<ResponseBody>, Status> {
        check_encoding(headers)?;
        let permit = self.calls.admit()?;
        let response = bounds.run(answer).await?;
        Ok(response.map(|body| match body {
            body @ grpc::ResponseBody::Stream(_) => {
                stream::bound(bounds.watch(), self.idle_timeout);
                ResponseBody::bounded(Inner::Ours(body), Some(permit))
            }
            body => ResponseBody::whole(Inner::Ours(body)),
        }))
    }

    async fn answer_tonic(
        &self,
        route: &TonicRoute,
        request: RequestOf<Incoming>,
        bounds: Bounds<'_>,
    ) -> Result<Response<ResponseBody>, Status> {
        let permit = route.counted.then(|| self.calls.admit()).transpose()?;
        let mut service = route.service.clone();
        let answer = async {
            let Ok(ready) = service.ready().await;
            let Ok(response) = ready.call(request).await;
            response
        };
        let response = bounds.run(answer).await?;
        stream::bound(bounds.watch(), self.idle_timeout);
        Ok(response.map(|body| ResponseBody::bounded(Inner::Tonic(body), permit)))
    }
}

impl TonicRoute {
    fn new<S>(service: S, counted: bool) -> Self
    where
        S: tonic::server::NamedService + Clone + Send + Sync + 'static,
        S: tower::Service<
                RequestOf<Incoming>,
                Response = Response<tonic::body::Body>,
                Error = Infallible,
                Future: Send,
            >,
    {
        Self {
            prefix: format!("/{}/", S::NAME),
            service: BoxCloneSyncService::new(service),
            counted,
        }
    }
}

/// There are no counters yet.
fn no_store() -> Status {
    status::retriable(
        Code::Unavailable,
        "the store has not been reached yet",
        "STORE_UNAVAILABLE",
        &[status::not_applied()],
        Duration::from_secs(1),
    )
}

/// Answers what is HTTP/2 and not gRPC as HTTP does, as the protocol asks for.
fn refuse(request: &Request<Incoming>) -> Option<Response<ResponseBody>> {
    let refusal = |code, name, value| {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = code;
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        Some(response)
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, ALLOW, "POST");
    }
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_grpc) {
        return refusal(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            http::header::ACCEPT,
            "application/grpc",
        );
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

/// Refuses a compressed request, and says what is understood.
fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(GRPC_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(encoding) => {
            let mut refusal = status::with_reason(
                Code::Unimplemented,
                format!("grpc-encoding is {encoding:?}, and this service takes only identity"),
                "COMPRESSED_MESSAGE",
                &[status::not_applied()],
            );
            refusal.metadata_mut().insert(
                "grpc-accept-encoding",
                tonic::metadata::MetadataValue::from_static("identity"),
            );
            Err(refusal)
        }
    }
}
