//! A rolling upgrade: nodes are replaced one after another while clients are served. `SUMD_UPGRADE_TO` names the
//! program that they are upgraded to; by default it is the same program.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sumd::etcd::get;
use sumd::proto::etcd::etcdserverpb::{DeleteRangeRequest, PutRequest};
use sumd::proto::sum::v1::cluster_service_client::ClusterServiceClient;
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{
    GetCounterRequest, IncrementCounterRequest, IncrementCounterResponse, NodeHealth,
    WatchNodesRequest, WatchNodesResponse,
};
use sumd::proto::sumd::store::v1::Meta;
use sumd::store::etcd::FORMAT;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use uuid::Uuid;

use super::in_time;
use super::process::Node;
use crate::etcd::cluster::Cluster;
use crate::simulation::rows;
use crate::support::process::{SUMD, command};
use crate::support::{eventually, soon};

const IDS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 6;
/// The counters are of as many groups, so that every node owns some.
const COUNTERS: usize = 24;
/// Answered increments before the next step.
const PROGRESS: usize = 200;
/// Pause of a client before it asks the next node.
const PAUSE: Duration = Duration::from_millis(10);
/// By this many attempts, a client has asked each node a few times, so one of the present nodes must have answered.
const MAX_ATTEMPTS: u32 = 50;

/// The state that the clients share.
#[derive(Clone, Default)]
struct Load {
    /// The addresses of the nodes, as a name service would have them.
    addresses: Arc<Mutex<BTreeMap<&'static str, String>>>,
    answered: Arc<AtomicUsize>,
    retried: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Load {
    /// Waits until the clients have made progress.
    async fn progress(&self) {
        let enough = self.answered.load(Ordering::Relaxed) + PROGRESS;
        let is_enough = || self.answered.load(Ordering::Relaxed) >= enough;
        eventually("progress", is_enough).await;
    }
}

/// Makes increments with ids. If a node is unavailable, repeats the increment at the next node; any other error fails
/// the test. Returns the answered values of each counter.
async fn count(load: Load, who: usize) -> Vec<(usize, i64)> {
    let mut rng = fastrand::Rng::new();
    let (mut at, mut client) = (who, None);
    let mut values = Vec::new();
    while !load.stop.is_cancelled() {
        let counter = rng.usize(..COUNTERS);
        let request = IncrementCounterRequest {
            counter: name(counter),
            delta: 1,
            request_id: Uuid::now_v7().to_string(),
            ..IncrementCounterRequest::default()
        };
        for attempt in 1.. {
            match attempt_at(&load, at, &mut client, &request).await {
                Ok(answer) => {
                    values.push((counter, answer.value));
                    break;
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    assert!(attempt < MAX_ATTEMPTS, "never again: {status:?}");
                    load.retried.fetch_add(1, Ordering::Relaxed);
                    (at, client) = (at + 1, None);
                    sleep(PAUSE).await;
                }
            }
        }
        load.answered.fetch_add(1, Ordering::Relaxed);
    }
    values
}

async fn attempt_at(
    load: &Load,
    at: usize,
    client: &mut Option<CounterServiceClient<Channel>>,
    request: &IncrementCounterRequest,
) -> Result<IncrementCounterResponse, Status> {
    if client.is_none() {
        let id = IDS[at % IDS.len()];
        let address = load.addresses.lock().expect("no panic")[id].clone();
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        *client = Some(CounterServiceClient::new(channel));
    }
    let client = client.as_mut().expect("it was made just now");
    let answer = soon(client.increment_counter(Request::new(request.clone()))).await;
    answer.map(tonic::Response::into_inner)
}

fn name(counter: usize) -> String {
    format!("group-{counter}/x")
}

/// A watch of the nodes, as one node sees them.
struct Nodes(Streaming<WatchNodesResponse>);

impl Nodes {
    async fn of(node: &Node) -> Self {
        let mut client = ClusterServiceClient::new(node.channel.clone());
        let answers = soon(client.watch_nodes(WatchNodesRequest {})).await;
        Self(answers.expect("a stream").into_inner())
    }

    /// Waits until a node is reported as expected: its number of lanes and its health, or `None` if it is not listed.
    /// All lanes have owners at any time.
    async fn until(&mut self, id: &str, expected: impl Fn(Option<(u32, NodeHealth)>) -> bool) {
        loop {
            let answer = soon(self.0.message()).await.expect("no error");
            let answer = answer.expect("it has no end");
            let owned: u32 = answer.nodes.iter().map(|node| node.lanes).sum();
            assert_eq!(owned, answer.total_lanes, "{answer:?}");
            let node = answer.nodes.iter().find(|node| node.id == id);
            if expected(node.map(|node| (node.lanes, node.health()))) {
                return;
            }
        }
    }
}

async fn start(etcd: &Cluster, program: &str, id: &'static str, load: &Load) -> Node {
    let address = etcd.address();
    let mut node = Node::begin_as(&mut command(program), &address, id, &[]).await;
    node.process.logged("counting").await;
    let at = node.process.address.clone();
    load.addresses.lock().expect("no panic").insert(id, at);
    node
}

/// Calls fail only with errors that ask for a retry, and the retries succeed. Every increment is counted once, and each
/// stopping node gives its lanes away first.
#[tokio::test]
#[ignore = "make test runs it"]
async fn an_upgrade_is_not_noticed() {
    let etcd = Cluster::guarded(3).await;
    let load = Load::default();
    let mut nodes = Vec::new();
    for id in IDS {
        nodes.push(start(&etcd, SUMD, id, &load).await);
    }
    let mut clients = JoinSet::new();
    for who in 0..CLIENTS {
        clients.spawn(count(load.clone(), who));
    }
    load.progress().await;

    let program = env::var("SUMD_UPGRADE_TO").unwrap_or_else(|_| SUMD.to_owned());
    for (i, id) in IDS.into_iter().enumerate() {
        let mut told = Nodes::of(&nodes[(i + 1) % IDS.len()]).await;
        told.until(id, |node| {
            node.is_some_and(|(lanes, health)| lanes > 0 && health == NodeHealth::Serving)
        })
        .await;
        nodes[i].process.signal("TERM");
        told.until(id, |node| node == Some((0, NodeHealth::Draining)))
            .await;
        told.until(id, |node| node.is_none()).await;
        assert!(nodes[i].process.exit().await.success());
        load.progress().await;

        nodes[i] = start(&etcd, &program, id, &load).await;
        told.until(id, |node| {
            node.is_some_and(|(lanes, health)| lanes > 0 && health == NodeHealth::Serving)
        })
        .await;
        load.progress().await;
    }

    load.stop.cancel();
    let mut values = vec![BTreeSet::new(); COUNTERS];
    let mut answered = vec![0; COUNTERS];
    while let Some(client) = soon(clients.join_next()).await {
        for (counter, value) in client.expect("every call got through") {
            values[counter].insert(value);
            answered[counter] += 1;
        }
    }
    let mut client = nodes[0].counters();
    for (counter, (values, answered)) in values.into_iter().zip(answered).enumerate() {
        // The answers are all values from 1 to the number of increments, each once.
        assert_eq!(values, (1..=answered).collect(), "{}", name(counter));
        let request = GetCounterRequest {
            counter: name(counter),
            ..GetCounterRequest::default()
        };
        let read = soon(client.get_counter(request)).await.expect("an answer");
        let read = read.into_inner().counter.expect("a counter");
        assert_eq!(read.value, answered, "{}", name(counter));
    }
    let (answered, retried) = (&load.answered, &load.retried);
    eprintln!("{answered:?} increments, {retried:?} sent again");
}

/// Data of an older format are served unchanged while a node is running that knows no newer format. Once the last such
/// node is gone, the format is raised, nodes keep counting, and an older node can no longer start.
#[tokio::test]
#[ignore = "make test runs it"]
async fn the_format_is_raised_once_all_nodes_know_it() {
    let etcd = Cluster::guarded(1).await;
    let client = etcd.client();
    let old = Meta {
        format: 1,
        lanes: 8,
        key: rows::hasher().key().to_vec().into(),
        ..Meta::default()
    };
    let (key, value) = rows::meta(&old);
    let put = |key: &str, value: bytes::Bytes| PutRequest {
        key: key.to_owned().into(),
        value,
        ..PutRequest::default()
    };
    let written = client.put(put(&key, value), in_time()).await;
    written.expect("written");
    // A value as written by nodes that did not tell their formats.
    let node = r#"{"Op":0,"Addr":"old:1","Metadata":null,"Node":{"id":"old","version":"0.1.0","protocol":1,
        "started":"2026-11-18T11:06:40Z","draining":true}}"#;
    let written = client.put(put("/sumd/nodes/old", node.into()), in_time());
    written.await.expect("written");

    let load = Load::default();
    let a = start(&etcd, SUMD, "a", &load).await;
    let b = start(&etcd, SUMD, "b", &load).await;
    let mut clients = JoinSet::new();
    clients.spawn(count(load.clone(), 0));
    load.progress().await;
    let meta = async || {
        let found = client.range(get(key.clone()), in_time()).await;
        let row = found.expect("an answer").kvs.remove(0);
        rows::open::<Meta>(rows::meta_digests(), key.as_bytes(), &row.value)
    };
    assert_eq!(meta().await, old);
    let gone = DeleteRangeRequest {
        key: "/sumd/nodes/old".into(),
        ..DeleteRangeRequest::default()
    };
    client.delete_range(gone, in_time()).await.expect("deleted");
    let raised = Meta {
        format: FORMAT,
        ..old
    };
    let is_raised = async {
        while meta().await != raised {
            sleep(PAUSE).await;
        }
    };
    soon(is_raised).await;
    load.progress().await;
    load.stop.cancel();
    let counted = soon(clients.join_next()).await.expect("a client");
    let counted = counted.expect("every call got through");
    assert_eq!(load.retried.load(Ordering::Relaxed), 0, "nobody noticed");
    let mut last = [0; COUNTERS];
    for (counter, value) in counted {
        assert_eq!(value, last[counter] + 1, "{}", name(counter));
        last[counter] = value;
    }
    drop((a, b));
}
