//! `sum.v1.ClusterService`: the nodes of the cluster.

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::cluster_service_server;
use crate::cluster::{ClockState, Node, Nodes, View};
use crate::proto::sum::v1::{
    self as proto, ListNodesRequest, ListNodesResponse, NodeClock, NodeHealth, WatchNodesRequest,
    WatchNodesResponse,
};
use crate::replies::{self, Replies, ReplyStream};

/// The service, over the nodes known to this one.
pub struct ClusterApi(pub Nodes);

#[tonic::async_trait]
impl cluster_service_server::ClusterService for ClusterApi {
    async fn list_nodes(
        &self,
        _: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let view = self.0.view().borrow().clone();
        Ok(Response::new(ListNodesResponse {
            nodes: nodes(&view),
            total_lanes: view.lanes().into(),
            revision: view.revision(),
        }))
    }

    type WatchNodesStream = ReplyStream<WatchNodesResponse, Status>;

    async fn watch_nodes(
        &self,
        _: Request<WatchNodesRequest>,
    ) -> Result<Response<Self::WatchNodesStream>, Status> {
        let view = self.0.view();
        Ok(Response::new(replies::spawn(|replies| tell(view, replies))))
    }
}

/// Sends all nodes at first and after changes, once there is capacity for an answer.
async fn tell(
    mut view: watch::Receiver<std::sync::Arc<View>>,
    replies: Replies<WatchNodesResponse>,
) -> Result<(), Status> {
    loop {
        let room = replies.room().await;
        let now = view.borrow_and_update().clone();
        room.send(WatchNodesResponse {
            nodes: nodes(&now),
            total_lanes: now.lanes().into(),
            revision: now.revision(),
        });
        if view.changed().await.is_err() {
            // There will be no more changes.
            std::future::pending::<()>().await;
        }
    }
}

fn nodes(view: &View) -> Vec<proto::Node> {
    let nodes = view.nodes().iter();
    nodes.map(|node| to_proto(node, view)).collect()
}

fn to_proto(node: &Node, view: &View) -> proto::Node {
    let lanes = view.lanes_of(&node.id).count();
    let health = if node.draining {
        NodeHealth::Draining
    } else {
        NodeHealth::Serving
    };
    let clock = match node.clock {
        ClockState::Unknown => NodeClock::Unspecified,
        ClockState::Agrees => NodeClock::Agrees,
        ClockState::BehindHorizon => NodeClock::BehindHorizon,
        ClockState::Off => NodeClock::Off,
    };
    proto::Node {
        id: node.id.clone(),
        address: node.address.clone(),
        version: node.version.clone(),
        start_time: Some(node.started),
        lanes: u32::try_from(lanes).expect("lanes are numbered with sixteen bits"),
        health: health.into(),
        clock: clock.into(),
    }
}
