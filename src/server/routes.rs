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
use crate::sum::{self, SumService};

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

/// A request, as far as it was read.
pub(super) struct Call {
    target: Target,
    deadline: Option<Instant>,
    body: RequestBody<Incoming>,
}

enum Target {
    Sum(sum::Method),
    Counter(counter::Method),
    Cluster(cluster::Method),
    Peer,
    /// Which one, and what it is asked.
    Tonic(usize, Box<http::request::Parts>),
}

/// The answer to a request that is no call. In a box, for it is rare, and all calls would be as large.
pub(super) type Refusal = Box<Response<ResponseBody>>;

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

    /// Finds out what a request asks for: what is over with here takes no room in the future of its call.
    pub(super) fn accept(
        &self,
        request: Request<Incoming>,
        local: &Local,
    ) -> Result<Call, Refusal> {
        if let Some(refusal) = refuse(&request) {
            return Err(Box::new(refusal));
        }
        let call = self.find(request, local);
        call.map_err(|status| Box::new(refused(status)))
    }

    fn find(&self, request: Request<Incoming>, local: &Local) -> Result<Call, Status> {
        let timeout = call::timeout(request.headers())?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();

        let target = if let Some(target) = ours(path, local) {
            check_encoding(&parts.headers)?;
            target
        } else if let Some(route) = self.tonic.iter().position(|r| path.starts_with(&r.prefix)) {
            Target::Tonic(route, Box::new(parts))
        } else {
            let message = format!("there is no method {path}");
            return Err(status::with_reason(
                Code::Unimplemented,
                message,
                "UNKNOWN_METHOD",
                &[],
            ));
        };
        Ok(Call {
            target,
            deadline,
            body: RequestBody::new(body, self.idle_timeout),
        })
    }

    /// Answers a call. Once `closing` is cancelled, its connection takes no new ones.
    pub(super) async fn answer(
        &self,
        call: Call,
        local: &Local,
        closing: &CancellationToken,
    ) -> Response<ResponseBody> {
        let phase = &local.phase;
        let Call {
            target,
            deadline,
            body,
        } = call;
        let within = |shutdown| Bounds { deadline, shutdown };
        let response = match target {
            Target::Sum(method) => {
                // Pinned here, since what is handed on by value takes its room in each future on the way.
                let answer = pin!(self.sum.call(method, body));
                self.answer_ours(answer, within(&phase.ending)).await
            }
            Target::Counter(method) => {
                let Some(counters) = local.counters() else {
                    return no_store().into_http();
                };
                let shutdown = match method {
                    // It has no end of its own.
                    counter::Method::Watch => &phase.draining,
                    _ => &phase.ending,
                };
                let answer = pin!(counters.call(method, body, deadline, &phase.draining));
                self.answer_ours(answer, within(shutdown)).await
            }
            Target::Cluster(method) => {
                let shutdown = match method {
                    cluster::Method::Watch => &phase.draining,
                    cluster::Method::List => &phase.ending,
                };
                // In a box, for it is rarely called.
                let answer = Box::pin(async { local.node.cluster().call(method, body).await });
                self.answer_ours(answer, within(shutdown)).await
            }
            Target::Peer => {
                let peers = local.peers().expect("one is not taken away again");
                let answer = pin!(async { peers.call(body, closing) });
                self.answer_ours(answer, within(&phase.ending)).await
            }
            Target::Tonic(route, parts) => {
                let request = Request::from_parts(*parts, body);
                // These calls have no end of their own (a health watch), so they end where draining begins. In a box, for
                // it is large, and rarely called.
                let route = &self.tonic[route];
                Box::pin(self.answer_tonic(route, request, within(&phase.draining))).await
            }
        };
        response.unwrap_or_else(refused)
    }

    async fn answer_ours(
        &self,
        answer: impl Future<Output = Response<grpc::ResponseBody>>,
        bounds: Bounds<'_>,
    ) -> Result<Response<ResponseBody>, Status> {
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

/// The method of a service of ours that a path asks for.
fn ours(path: &str, local: &Local) -> Option<Target> {
    let sum = || SumService::method(path).map(Target::Sum);
    let counter = || CounterService::method(path).map(Target::Counter);
    let cluster = || ClusterService::method(path).map(Target::Cluster);
    let peer = || (PeerService::is_method(path) && local.peers().is_some()).then_some(Target::Peer);
    sum().or_else(counter).or_else(cluster).or_else(peer)
}

fn refused(status: Status) -> Response<ResponseBody> {
    debug!(code = ?status.code(), "refused");
    status.into_http()
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
