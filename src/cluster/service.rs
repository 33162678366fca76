//! `sum.v1.ClusterService`: lists the nodes.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::sync::watch;
use tonic::Status;

use super::{ClockState, Node, View};
use crate::grpc::{self, Messages, Replies, ResponseBody};
use crate::proto::sum::v1::{
    self as proto, ListNodesRequest, ListNodesResponse, NodeClock, NodeHealth, WatchNodesRequest,
    WatchNodesResponse,
};

/// Requests are empty, except for fields that later versions may add.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Lists all nodes.
    List,
    /// Lists all nodes, and again after each change.
    Watch,
}

/// The service, which answers from the view of this node.
#[derive(Clone)]
pub struct ClusterService {
    view: watch::Receiver<Arc<View>>,
    /// The sender of the view of a standalone node.
    own: Option<watch::Sender<Arc<View>>>,
}

impl ClusterService {
    /// The service's full name, as health checks and reflection know it.
    pub const NAME: &str = "sum.v1.ClusterService";

    /// A service that lists the nodes of a cluster.
    #[must_use]
    pub fn new(view: watch::Receiver<Arc<View>>) -> Self {
        Self { view, own: None }
    }

    /// A service that lists a standalone node, which owns the only lane.
    #[must_use]
    pub fn alone(node: Node) -> Self {
        let (own, view) = watch::channel(Arc::new(View::new(1, vec![node], 1)));
        let own = Some(own);
        Self { view, own }
    }

    /// Marks a standalone node as draining. A member of a cluster has [announced it](super::Members::announce_draining)
    /// before.
    pub fn announce_draining(&self) {
        self.change(|node| node.draining = true);
    }

    /// Sets the state of a standalone node's clock.
    pub fn tell_clock(&self, clock: ClockState) {
        self.change(|node| node.clock = clock);
    }

    fn change(&self, change: impl Fn(&mut Node)) {
        let Some(own) = &self.own else { return };
        own.send_if_modified(|view| {
            let mut nodes = view.nodes().to_vec();
            nodes.iter_mut().for_each(change);
            let is_changed = nodes != view.nodes();
            if is_changed {
                *view = Arc::new(View::new(view.revision() + 1, nodes, view.lanes()));
            }
            is_changed
        });
    }

    /// The method of this service with a request's path, if there is one.
    #[must_use]
    pub fn method(path: &str) -> Option<Method> {
        match path.strip_prefix("/sum.v1.ClusterService/")? {
            "ListNodes" => Some(Method::List),
            "WatchNodes" => Some(Method::Watch),
            _ => None,
        }
    }

    /// Answers a call. An error of `request` becomes the status of the call.
    pub async fn call<B>(&self, method: Method, request: B) -> Response<ResponseBody>
    where
        B: Body<Data = Bytes, Error = Status> + Send + Unpin + 'static,
    {
        let mut messages = Messages::new(request, MAX_MESSAGE_BYTES);
        let answer = match method {
            Method::List => messages.only().await.map(|ListNodesRequest {}| self.list()),
            Method::Watch => messages.only().await.map(|WatchNodesRequest {}| {
                let view = self.view.clone();
                grpc::stream(move |replies| tell(view, replies))
            }),
        };
        answer.unwrap_or_else(Status::into_http)
    }

    fn list(&self) -> Response<ResponseBody> {
        let view = self.view.borrow().clone();
        grpc::unary(&ListNodesResponse {
            nodes: nodes(&view),
            total_lanes: view.lanes().into(),
            revision: view.revision(),
        })
    }
}

/// Sends all nodes after each change, as fast as the reader takes them.
async fn tell(mut view: watch::Receiver<Arc<View>>, replies: Replies) -> Result<(), Status> {
    loop {
        let room = replies.room().await;
        let now = view.borrow_and_update().clone();
        room.send(&WatchNodesResponse {
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
