//! From a request to the service that answers it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::Status;
use tower::util::BoxCloneSyncService;
use tower::{Service as _, ServiceExt as _};
use tracing::debug;

use super::body::{Inner, ResponseBody};
use super::call::{self, Bounds, Calls, Permit};
use super::connection::{Admission, Shared};
use super::headers;
use super::health::Health;
use super::limits::Limits;
use super::request::RequestBody;
use super::stream;
use super::worker::Local;
use crate::cluster::{self, ClusterService, PeerService};
use crate::counter::{self, CounterService};
use crate::grpc;
use crate::proto;
use crate::status::{self, Outcome, Reason};
use crate::sum::{self, SumService};

type RequestOf<B> = Request<RequestBody<B>>;
type TonicService =
    BoxCloneSyncService<RequestOf<Incoming>, Response<tonic::body::Body>, Infallible>;

/// A service by tonic.
struct TonicRoute {
    /// What the paths of its methods begin with.
    prefix: String,
    service: TonicService,
    /// It is health: a server that is busy is healthy, so these calls do not count as calls in flight.
    is_health: bool,
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
    limits: Limits,
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
                TonicRoute::new(health.service(), true),
                TonicRoute::new(reflection().build_v1().expect(broken), false),
                TonicRoute::new(reflection().build_v1alpha().expect(broken), false),
            ],
            calls: Calls::new(limits.max_calls),
            limits: limits.clone(),
        }
    }

    /// Finds out what a request asks for: what is over with here takes no room in the future of its call.
    pub(super) fn accept(
        &self,
        request: Request<Incoming>,
        connection: &Shared,
    ) -> Result<Call, Refusal> {
        if let Some(refusal) = headers::refuse(&request) {
            return Err(Box::new(refusal));
        }
        let call = self.find(request, connection);
        call.map_err(|status| Box::new(refused(status)))
    }

    fn find(&self, request: Request<Incoming>, connection: &Shared) -> Result<Call, Status> {
        headers::check_size(&request, self.limits.max_header_list_size)?;
        let timeout = call::timeout(request.headers())?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();

        let target = if let Some(target) = ours(path, &connection.local) {
            headers::check_encoding(&parts.headers)?;
            target
        } else if let Some(route) = self.tonic.iter().position(|r| path.starts_with(&r.prefix)) {
            Target::Tonic(route, Box::new(parts))
        } else {
            let message = format!("there is no method {}", status::quoted(path));
            return Err(Reason::UnknownMethod.error(message).into());
        };
        if connection.admission == Admission::HealthChecks && !self.is_health(&target) {
            // It makes room for health checks.
            connection.closing.cancel();
            return Err(call::too_many_connections(self.limits.max_connections));
        }
        Ok(Call {
            target,
            deadline,
            body: RequestBody::new(body, self.limits.stream_idle_timeout),
        })
    }

    fn is_health(&self, target: &Target) -> bool {
        matches!(target, Target::Tonic(route, _) if self.tonic[*route].is_health)
    }

    /// The call has no end of its own.
    fn is_watch(&self, target: &Target) -> bool {
        match target {
            Target::Counter(method) => *method == counter::Method::Watch,
            Target::Cluster(method) => *method == cluster::Method::Watch,
            Target::Tonic(_, parts) => {
                self.is_health(target) && parts.uri.path().ends_with("/Watch")
            }
            Target::Sum(_) | Target::Peer => false,
        }
    }

    /// Answers a call of a connection.
    pub(super) async fn answer(&self, call: Call, connection: &Shared) -> Response<ResponseBody> {
        let Shared {
            local,
            closing,
            watches,
            ..
        } = connection;
        let phase = &local.phase;
        let watch = self.is_watch(&call.target).then(|| watches.admit_watch());
        let watch = match watch.transpose() {
            Ok(watch) => watch,
            Err(status) => return refused(status),
        };
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
                self.answer_ours(answer, within(&phase.ending), None).await
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
                self.answer_ours(answer, within(shutdown), watch).await
            }
            Target::Cluster(method) => {
                let Some(cluster) = local.node.cluster() else {
                    return no_store().into_http();
                };
                let shutdown = match method {
                    cluster::Method::Watch => &phase.draining,
                    cluster::Method::List => &phase.ending,
                };
                // In a box, for it is rarely called.
                let answer = Box::pin(cluster.call(method, body));
                self.answer_ours(answer, within(shutdown), watch).await
            }
            Target::Peer => {
                let peers = local.peers().expect("one is not taken away again");
                let answer = pin!(async { peers.call(body, closing) });
                self.answer_ours(answer, within(&phase.ending), None).await
            }
            Target::Tonic(route, parts) => {
                let request = Request::from_parts(*parts, body);
                // These calls have no end of their own (a health watch), so they end where draining begins. In a box, for
                // it is large, and rarely called.
                let route = &self.tonic[route];
                Box::pin(self.answer_tonic(route, request, within(&phase.draining), watch)).await
            }
        };
        response.unwrap_or_else(refused)
    }

    async fn answer_ours(
        &self,
        answer: impl Future<Output = Response<grpc::ResponseBody>>,
        bounds: Bounds<'_>,
        watch: Option<Permit>,
    ) -> Result<Response<ResponseBody>, Status> {
        let call = Some(self.calls.admit()?);
        let response = bounds.run(answer).await?;
        Ok(response.map(|body| match body {
            body @ grpc::ResponseBody::Stream(_) => {
                stream::bound(bounds.watch(), self.limits.stream_idle_timeout);
                ResponseBody::bounded(Inner::Ours(body), [call, watch])
            }
            body => ResponseBody::whole(Inner::Ours(body)),
        }))
    }

    async fn answer_tonic(
        &self,
        route: &TonicRoute,
        request: RequestOf<Incoming>,
        bounds: Bounds<'_>,
        watch: Option<Permit>,
    ) -> Result<Response<ResponseBody>, Status> {
        let call = (!route.is_health).then(|| self.calls.admit()).transpose()?;
        let mut service = route.service.clone();
        let answer = async {
            let Ok(ready) = service.ready().await;
            let Ok(response) = ready.call(request).await;
            response
        };
        let mut response = bounds.run(answer).await?;
        status::cut_message(response.headers_mut());
        stream::bound(bounds.watch(), self.limits.stream_idle_timeout);
        Ok(response.map(|body| ResponseBody::bounded(Inner::Tonic(body), [call, watch])))
    }
}

impl TonicRoute {
    fn new<S>(service: S, is_health: bool) -> Self
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
            is_health,
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
    Reason::StoreUnavailable
        .error(
            "the node is starting: it has not reached its store yet, or not joined the other nodes",
        )
        .outcome(Outcome::NotApplied)
        .retry_in(Duration::from_secs(1))
        .into()
}
