//! The cluster service: the nodes that it lists to clients.

use std::sync::Arc;

use sumd::cluster::{Call, Executor, IncomingCalls, Nodes, Reply, View};
use sumd::proto::sum::v1::cluster_service_client::ClusterServiceClient;
use sumd::proto::sum::v1::{
    ListNodesRequest, Node, NodeHealth, WatchNodesRequest, WatchNodesResponse,
};
use sumd::server::Services;
use tokio::sync::watch;
use tonic::Code;

use super::node;
use crate::support::process::{Process, run};
use crate::support::{TestServer, reason, soon};

/// An executor for tests that forward nothing.
struct Nobody;

impl Executor for Nobody {
    fn execute(&self, _: Call, _: Reply) {}

    fn for_this_runtime(&self) -> Arc<dyn Executor> {
        Arc::new(Self)
    }
}

async fn serve(view: watch::Receiver<Arc<View>>) -> TestServer {
    let cluster = Nodes::new(view);
    let peers = IncomingCalls::new(Arc::new(Nobody));
    TestServer::start_with(&[], |services| Services {
        nodes: Some(cluster),
        peers: Some(peers),
        ..services
    })
    .await
}

fn ids(nodes: &[Node]) -> Vec<&str> {
    nodes.iter().map(|node| node.id.as_str()).collect()
}

/// A starting node lists no nodes, not even itself.
#[tokio::test]
async fn a_node_that_is_starting_tells_of_no_nodes() {
    let flags = ["--store", "etcd://127.0.0.1:1", "--drain-delay", "0s"];
    let server = Process::serve(&flags).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.address));
    let channel = channel.expect("a URI").connect().await.expect("it listens");
    let mut client = ClusterServiceClient::new(channel);
    let listed = soon(client.list_nodes(ListNodesRequest {})).await.err();
    let watched = soon(client.watch_nodes(WatchNodesRequest {})).await.err();
    for status in [listed, watched] {
        let status = status.expect("etcd was never reached");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(reason(&status).0, "STORE_UNAVAILABLE");
    }
}

/// A server with its own database is a cluster of one node, and reports that it is draining.
#[tokio::test]
async fn a_server_alone_owns_its_lane() {
    let mut server = Process::serve(&["--drain-delay", "1s"]).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", server.address));
    let channel = channel.expect("a URI").connect().await.expect("it listens");
    let mut client = ClusterServiceClient::new(channel);
    let answer = soon(client.list_nodes(ListNodesRequest {})).await;
    let answer = answer.expect("an answer").into_inner();
    assert_eq!((answer.total_lanes, answer.revision), (1, 1));
    let [only] = &answer.nodes[..] else {
        panic!("{:?} are not one", answer.nodes);
    };
    assert_eq!((only.lanes, only.health()), (1, NodeHealth::Serving));
    assert_eq!(only.address, server.address);
    assert_eq!(only.version, env!("CARGO_PKG_VERSION"));
    let age = std::time::SystemTime::now().duration_since(
        only.start_time
            .expect("a time")
            .try_into()
            .expect("after 1970"),
    );
    assert!(age.expect("in the past") < crate::support::PATIENCE);

    let printed = run(&["cluster", "status", "--address", &server.address]).await;
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).expect("text");
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines[0].starts_with("ID "), "{printed}");
    assert!(lines[1].contains(&server.address), "{printed}");
    assert_eq!(lines[2], "1 of 1 lanes are owned, at revision 1");

    let answers = soon(client.watch_nodes(WatchNodesRequest {})).await;
    let mut answers = answers.expect("it is taken").into_inner();
    let mut next = async || soon(answers.message()).await;
    let now = next().await.expect("a message").expect("at once");
    assert_eq!(now.nodes, answer.nodes);
    server.signal("TERM");
    let draining = next().await.expect("a message").expect("before the end");
    assert_eq!(draining.nodes[0].health(), NodeHealth::Draining);
    let end = next().await.expect_err("it stops");
    assert_eq!(reason(&end).0, "SHUTTING_DOWN");
    drop((client, answers));
    assert!(server.exit().await.success());
}

/// Every change is sent to present and to new watchers, and the drain ends their streams.
#[tokio::test]
async fn watchers_are_told_of_every_change() {
    let nodes = vec![node("a", "a:1"), node("b", "b:1")];
    let (view, seen) = watch::channel(Arc::new(View::new(7, nodes.clone(), 256)));
    let mut server = serve(seen).await;
    let mut client = ClusterServiceClient::new(server.channel().await);
    let answers = soon(client.watch_nodes(WatchNodesRequest {})).await;
    let mut answers = answers.expect("it is taken").into_inner();
    let mut next = async || -> Result<WatchNodesResponse, tonic::Status> {
        let answer = soon(answers.message()).await?;
        Ok(answer.expect("it has no end of its own"))
    };
    let first = next().await.expect("at once");
    assert_eq!(ids(&first.nodes), ["a", "b"]);
    assert_eq!((first.total_lanes, first.revision), (256, 7));
    let lanes: u32 = first.nodes.iter().map(|node| node.lanes).sum();
    assert_eq!(lanes, 256);

    let mut draining = nodes;
    draining[0].draining = true;
    view.send_replace(Arc::new(View::new(8, draining, 256)));
    let second = next().await.expect("it has changed");
    let [a, b] = &second.nodes[..] else {
        panic!("{:?} are not two", second.nodes);
    };
    assert_eq!((a.health(), a.lanes), (NodeHealth::Draining, 0));
    assert_eq!((b.health(), b.lanes), (NodeHealth::Serving, 256));

    view.send_replace(Arc::new(View::new(9, vec![node("b", "b:1")], 256)));
    let third = next().await.expect("it has changed");
    assert_eq!((ids(&third.nodes), third.revision), (vec!["b"], 9));
    let listed = soon(client.list_nodes(ListNodesRequest {})).await;
    assert_eq!(listed.expect("an answer").into_inner().nodes, third.nodes);

    server.stop();
    let end = next().await.expect_err("it drains");
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(reason(&end).0, "SHUTTING_DOWN");
    drop(client);
    drop(answers);
    server.ended().await;
}
