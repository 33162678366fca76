//! `sumd.cluster.v1.PeerService`: calls from other nodes.

use tonic::{Request, Response, Status, Streaming};

use super::peer_service_server;
use crate::cluster::{Answers, IncomingCalls};
use crate::layers::CallContext;
use crate::proto::sumd::cluster::v1::ForwardRequest;

/// The service, over the calls that this node executes for others.
pub struct PeerApi(pub IncomingCalls);

#[tonic::async_trait]
impl peer_service_server::PeerService for PeerApi {
    type ForwardStream = Answers;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let closing = CallContext::of(request.extensions())
            .connection
            .closing
            .clone();
        Ok(Response::new(self.0.answer(request.into_inner(), closing)))
    }
}
