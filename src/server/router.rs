//! Routes a request to the service that answers it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::{Either, MapErr, Ready, ready};
use http::Response;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::BoxFuture;
use tonic::server::NamedService as _;
use tower::Service;

use super::node::Local;
use super::stateless::RequestOf;
use crate::api::{
    ClusterApi, ClusterServiceServer, CounterApi, CounterServiceServer, PeerApi, PeerServiceServer,
    SumApi, SumServiceServer,
};
use crate::layers::unknown_method;
use crate::status::{Outcome, Reason};

type Answer = BoxFuture<Response<Body>, Infallible>;

/// Finds the service of a request by the request's path.
#[derive(Clone)]
pub(super) struct Router(pub(super) Arc<Local>);

impl Router {
    fn route(&self, request: RequestOf) -> Result<Answer, Status> {
        let Self(local) = self;
        let stateless = &local.node.stateless;
        let path = request.uri().path();
        let service = path
            .strip_prefix('/')
            .and_then(|path| path.split('/').next());
        Ok(match service.unwrap_or_default() {
            SumServiceServer::<SumApi>::NAME => local.sums.clone().call(request),
            CounterServiceServer::<CounterApi>::NAME => {
                local.counters().ok_or_else(no_store)?.clone().call(request)
            }
            ClusterServiceServer::<ClusterApi>::NAME => {
                let nodes = local.node.nodes().ok_or_else(no_store)?;
                ClusterServiceServer::new(ClusterApi(nodes)).call(request)
            }
            PeerServiceServer::<PeerApi>::NAME => match local.peers() {
                Some(peers) => peers.clone().call(request),
                None => return Err(unknown_method(path)),
            },
            name if name == tonic_health::pb::health_server::SERVICE_NAME => {
                stateless.health.clone().call(request)
            }
            name => {
                let mut others = stateless.others.iter();
                let found = others.find(|(other, _)| *other == name);
                let (_, service) = found.ok_or_else(|| unknown_method(path))?;
                service.clone().call(request)
            }
        })
    }
}

impl Service<RequestOf> for Router {
    type Response = Response<Body>;
    type Error = Status;
    type Future =
        Either<Ready<Result<Response<Body>, Status>>, MapErr<Answer, fn(Infallible) -> Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestOf) -> Self::Future {
        match self.route(request) {
            Ok(answer) => Either::Right(answer.map_err(|never| match never {})),
            Err(refusal) => Either::Left(ready(Err(refusal))),
        }
    }
}

/// The refusal of a call before the node has reached its store and joined its cluster.
fn no_store() -> Status {
    Reason::StoreUnavailable
        .error(
            "the node is starting: it has not reached its store yet, or has not joined the other nodes; nothing was \
             changed: retry",
        )
        .outcome(Outcome::NotApplied)
        .retry_in(Duration::from_secs(1))
        .into()
}
