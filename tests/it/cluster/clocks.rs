//! Nodes whose clocks differ from the others'.

use std::time::Duration;

use sumd::proto::sum::v1::cluster_service_client::ClusterServiceClient;
use sumd::proto::sum::v1::{ListNodesRequest, Node as Told, NodeClock};
use tokio::time::timeout;

use super::process::Node;
use crate::etcd::cluster::Cluster;
use crate::faults::clock::{Clock, Shim};
use crate::support::process::{SUMD, command, run};
use crate::support::soon;

const HOUR: Duration = Duration::from_hours(1);
/// Far longer than a clock has to be off before its node reports it.
const LATE: Duration = Duration::from_mins(1);

async fn nodes(asked: &Node) -> Vec<Told> {
    let mut client = ClusterServiceClient::new(asked.channel.clone());
    let answer = soon(client.list_nodes(ListNodesRequest {})).await;
    answer.expect("an answer").into_inner().nodes
}

/// Increments counters in all lanes until the nodes are reported to be as expected.
async fn until(asked: &Node, is_so: impl Fn(&[Told]) -> bool) {
    let told = async {
        loop {
            for group in 0..20 {
                let counted = asked.increment(&format!("group-{group}/x"), "").await;
                counted.expect("whatever the clocks are");
            }
            if is_so(&nodes(asked).await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // A clock has to be off for some time before it is reported.
    let told = timeout(LATE, told).await;
    assert!(told.is_ok(), "{:?}", nodes(asked).await);
}

fn is_off(node: &Told) -> bool {
    assert!(
        (node.clock() == NodeClock::Off) == (node.lanes == 0),
        "{node:?}"
    );
    node.clock() == NodeClock::Off
}

/// Of three nodes, the one whose clock is an hour ahead owns no lanes and says why, until its clock is corrected. All
/// nodes count meanwhile.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_node_whose_clock_is_off_owns_no_lanes() {
    let etcd = Cluster::guarded(1).await;
    let address = etcd.address();
    let folder = tempfile::tempdir().expect("a folder");
    let (shim, clock) = (
        Shim::compile().await,
        Clock::new(folder.path().join("clock")),
    );
    clock.set(HOUR, true);
    let mut command = command(SUMD);
    command
        .env("LD_PRELOAD", shim.path())
        .env("CLOCK_FILE", clock.file());
    let flags = ["--drain-delay", "0s"];
    let mut a = Node::begin_as(&mut command, &address, "a", &flags).await;
    a.process.logged("counting").await;
    let b = Node::start(&address, "b").await;
    let c = Node::start(&address, "c").await;
    let off = |nodes: &[Told]| -> Vec<_> {
        let off = nodes.iter().filter(|node| is_off(node));
        off.map(|node| node.id.clone()).collect()
    };
    until(&b, |nodes| off(nodes) == ["a"]).await;
    let warned = a.process.logged("this node's clock is").await;
    assert_eq!(warned["level"], "WARN");
    let message = warned["message"].as_str().expect("a message");
    assert!(
        message.contains("59m 59s") || message.contains("1h"),
        "{message}"
    );
    let printed = run(&["cluster", "status", "--address", &c.process.address]).await;
    let printed = String::from_utf8(printed.stdout).expect("text");
    assert!(printed.contains("OFF"), "{printed}");

    clock.set(Duration::ZERO, true);
    until(&b, |nodes| off(nodes).is_empty()).await;
    a.process.logged("this node's clock agrees").await;
}
