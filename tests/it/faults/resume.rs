//! A session that is resumed.

use std::time::Duration;

use sumd::proto::sum::v1::{RecordIncrementsRequest, RecordIncrementsResponse};
use tokio::time::sleep;
use tonic::{Code, Status};
use uuid::Uuid;

use super::clock::Shim;
use super::node::Node;
use crate::crash::operation::{Add, Client};
use crate::etcd::cluster::Cluster;
use crate::support::soon;

/// A stream's first answer acknowledges the messages of an earlier stream, with a revision that is not before theirs.
#[tokio::test]
#[ignore = "make test runs it"]
async fn a_session_goes_on_at_a_revision() {
    let cluster = Cluster::guarded(1).await;
    let (shim, hosts) = (Shim::compile().await, cluster.address().hosts);
    let mut node = Node::new("n0".to_owned(), &hosts, &shim, &[]).await;
    node.start().await;
    let connected = Client::connect(format!("http://{}", node.clients.host)).await;
    let mut client = connected.expect("it listens");
    let session_id = Uuid::now_v7().to_string();
    let first = RecordIncrementsRequest {
        session_id: session_id.clone(),
        sequence: 1,
        // The counters are of different lanes.
        increments: ["a/1", "b/1", "c/1"]
            .map(|name| Add::new(name.into(), 1).to_proto())
            .into(),
        ..RecordIncrementsRequest::default()
    };
    // The node serves counters once it has reached etcd.
    let recorded = soon(async {
        loop {
            match last_answer(&mut client, &first).await {
                Ok(answer) => break answer,
                Err(early) => assert_eq!(early.code(), Code::Unavailable, "{early:?}"),
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    let recorded = recorded.await;
    assert_eq!(recorded.acknowledged, 1);
    let hello = RecordIncrementsRequest {
        session_id,
        ..RecordIncrementsRequest::default()
    };
    let resumed = soon(last_answer(&mut client, &hello)).await;
    let resumed = resumed.expect("it serves");
    assert_eq!(resumed.acknowledged, 1);
    let (then, now) = (recorded.revision, resumed.revision);
    assert!(now >= then, "{now} is before {then}");
}

/// The last answer to a stream of one message.
async fn last_answer(
    client: &mut Client,
    message: &RecordIncrementsRequest,
) -> Result<RecordIncrementsResponse, Status> {
    let answers = client.record_increments(tokio_stream::once(message.clone()));
    let mut answers = answers.await?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await? {
        last = Some(answer);
    }
    Ok(last.expect("an answer"))
}
