//! Bulk parts of a lane that changes its owner while another node has some of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastrand::Rng;
use sumd::api;
use sumd::cluster::{Call, Executor, Reply, View};
use sumd::counters::{Counters, Forwarder};
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{Increment, IncrementCounterRequest, RecordIncrementsRequest};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::doubt::open;
use super::{node, serve_counters, serve_peers};
use crate::simulation::network::World;
use crate::simulation::nodes::BEGAN;
use crate::simulation::rows;
use crate::support::{eventually, soon};

const LANES: u16 = 1;
const COUNTER: &str = "a/b";

/// Executes calls while a gate is open, and counts those that have come.
#[derive(Clone)]
struct Gated {
    inner: Arc<dyn Executor>,
    gate: watch::Receiver<bool>,
    calls: Arc<AtomicUsize>,
}

impl Executor for Gated {
    fn execute(&self, call: Call, reply: Reply) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (inner, mut gate) = (self.inner.clone(), self.gate.clone());
        tokio::spawn(async move {
            // If the test has ended, nobody waits for the reply.
            let _ = gate.wait_for(|is_open| *is_open).await;
            inner.execute(call, reply);
        });
    }

    fn for_this_runtime(&self) -> Arc<dyn Executor> {
        Arc::new(Self {
            inner: self.inner.for_this_runtime(),
            ..self.clone()
        })
    }
}

fn message(sequence: u64) -> RecordIncrementsRequest {
    let increment = Increment {
        counter: COUNTER.to_owned(),
        delta: 1,
        ..Increment::default()
    };
    RecordIncrementsRequest {
        session_id: "a session".to_owned(),
        session_time: Some(prost_types::Timestamp {
            seconds: BEGAN / 1000,
            nanos: 0,
        }),
        sequence,
        increments: vec![increment; usize::from(sequence > 0)],
        ..RecordIncrementsRequest::default()
    }
}

/// A part of a lane waits as long as another node has an earlier one, even if the lane is this node's by now. It is executed
/// once that one is answered.
#[tokio::test]
async fn a_part_waits_for_the_node_that_has_the_one_before() {
    let world = World::new(Rng::with_seed(1), None);
    world.lock().healed = true;
    rows::begin(&mut world.lock().etcd, LANES.into());
    let (owner, stored, _) = open(&world).await;
    let (asked, _, _) = open(&world).await;
    let (gate, is_open) = watch::channel(true);
    let calls = Arc::<AtomicUsize>::default();
    let executor = Gated {
        inner: Arc::new(api::Executor::new(&Counters::new(owner.lanes.clone()))),
        gate: is_open,
        calls: calls.clone(),
    };
    let owners = serve_peers(executor).await;
    let mut nodes = vec![node("owner", &owners.address)];
    let (view, seen) = watch::channel(Arc::new(View::new(1, nodes.clone(), LANES)));
    let counters = Counters::new(asked.lanes.clone()).among(Forwarder::new("asked", seen));
    let server = serve_counters(counters).await;
    let mut client = CounterServiceClient::new(server.channel().await);
    soon(async {
        while calls.load(Ordering::Relaxed) == 0 {
            // Until there is a connection, the asked node executes it itself.
            let first = IncrementCounterRequest {
                counter: "first".to_owned(),
                delta: 1,
                ..IncrementCounterRequest::default()
            };
            let _ = client.increment_counter(first).await;
        }
    })
    .await;

    let (messages, received) = mpsc::unbounded_channel();
    messages.send(message(0)).expect("a stream");
    let answers = client.record_increments(UnboundedReceiverStream::new(received));
    let mut answers = soon(answers).await.expect("a stream").into_inner();
    let resumed = soon(answers.message()).await.expect("an answer");
    assert_eq!(resumed.expect("an answer").acknowledged, 0);

    gate.send_replace(false);
    let before = calls.load(Ordering::Relaxed);
    messages.send(message(1)).expect("a stream");
    eventually("the owner gets the part", || {
        calls.load(Ordering::Relaxed) > before
    })
    .await;
    nodes[0].draining = true;
    nodes.push(node("asked", "asked.example:1"));
    view.send_replace(Arc::new(View::new(2, nodes, LANES)));
    messages.send(message(2)).expect("a stream");
    gate.send_replace(true);

    let mut acknowledged = 0;
    while acknowledged < 2 {
        let answer = soon(answers.message()).await.expect("the stream goes on");
        acknowledged = answer.expect("an answer").acknowledged;
    }
    let read = soon(stored.read(vec![COUNTER.into()])).await.expect("rows");
    let value = read.rows[0].as_ref().and_then(|row| row.value);
    assert_eq!(value, Some(2));
}
