//! Forwarded requests whose answer is lost or unusable: the outcome that the caller gets is always true.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use prost::Message as _;
use sumd::api;
use sumd::cluster::{Call, Executor, PeerRefusal, Reply, View};
use sumd::counters::{Counters, Forwarder};
use sumd::etcd::{Error, Outcome, Refusal};
use sumd::lane::{Clock, LaneRuntime};
use sumd::model::Bounds;
use sumd::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use sumd::proto::sum::v1::counter_service_client::CounterServiceClient;
use sumd::proto::sum::v1::{IncrementCounterRequest, IncrementCounterResponse};
use sumd::proto::sumd::cluster::v1::{Full, Plain, refusal::Why};
use sumd::store::Store;
use sumd::store::etcd::{EtcdStore, Hold, Kv, Tuning};
use sumd::store::sqlite::SqliteStore;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{node, serve_counters, serve_peers};
use crate::etcd::proxy::{Proxy, Way};
use crate::simulation::network::{Link, World};
use crate::simulation::nodes::BEGAN;
use crate::simulation::rows;
use crate::support::{TestServer, eventually, reason, soon};

const BOUNDS: Bounds = Bounds {
    id_bytes: 1 << 20,
    counter_bytes: 1 << 20,
    id_horizon: 600_000,
    session_horizon: 86_400_000,
};

/// How the other node handles a call.
type Behaviour = fn(&Call, Reply);

/// The counter of the first request, which finds out whether there is a connection.
const FIRST: &str = "first/x";

/// A node that handles each call with `behaviour`, and records the calls.
#[derive(Clone)]
struct Other {
    behaviour: Behaviour,
    connected: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Executor for Other {
    fn execute(&self, call: Call, reply: Reply) {
        let request = IncrementCounterRequest::decode(call.payload.clone());
        if request.is_ok_and(|request| request.counter == FIRST) {
            self.connected.store(true, Ordering::Relaxed);
            return reply.send(Ok(Bytes::new()));
        }
        self.calls.lock().expect("no panic").push(call.clone());
        (self.behaviour)(&call, reply);
    }

    fn for_this_runtime(&self) -> Arc<dyn Executor> {
        Arc::new(self.clone())
    }
}

/// A node with a store of its own, beside another node that owns all lanes.
struct Pair {
    calls: Arc<Mutex<Vec<Call>>>,
    client: CounterServiceClient<Channel>,
    _servers: [TestServer; 2],
    _view: watch::Sender<Arc<View>>,
    _running: LaneRuntime,
    _data: TempDir,
}

impl Pair {
    async fn start(behaviour: Behaviour, id_bytes: usize) -> Self {
        let other = Other {
            behaviour,
            connected: Arc::default(),
            calls: Arc::default(),
        };
        let (connected, calls) = (other.connected.clone(), other.calls.clone());
        let owner = serve_peers(other).await;
        let nodes = vec![node("owner", &owner.address)];
        let (view, seen) = watch::channel(Arc::new(View::new(1, nodes, 1)));
        let data = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&data.path().join("sumd.db"), 1 << 20);
        let store: Arc<dyn Store> = Arc::new(store.expect("a new database"));
        let bounds = Bounds { id_bytes, ..BOUNDS };
        let running = LaneRuntime::start(store, bounds).await.expect("lanes");
        let counters = Counters::new(running.lanes.clone());
        let counters = counters.among(Forwarder::new("asked", seen));
        let asked = serve_counters(counters).await;
        let mut client = CounterServiceClient::new(asked.channel().await);
        soon(async {
            while !connected.load(Ordering::Relaxed) {
                // Until then, the asked node executes it itself.
                let _ = client.increment_counter(increment(FIRST, "")).await;
            }
        })
        .await;
        Self {
            calls,
            client,
            _servers: [owner, asked],
            _view: view,
            _running: running,
            _data: data,
        }
    }

    async fn increment(&mut self, id: &str) -> Result<IncrementCounterResponse, Status> {
        let answer = soon(self.client.increment_counter(increment("a/b", id))).await;
        answer.map(tonic::Response::into_inner)
    }

    /// The ids of the calls that the other node got, and whether the asked node had made them.
    fn ids(&self) -> Vec<(String, bool)> {
        let calls = self.calls.lock().expect("no panic");
        let id = |call: &Call| {
            let request = IncrementCounterRequest::decode(call.payload.clone());
            (request.expect("a request").request_id, call.own_id)
        };
        calls.iter().map(id).collect()
    }
}

fn increment(counter: &str, id: &str) -> IncrementCounterRequest {
    IncrementCounterRequest {
        counter: counter.to_owned(),
        delta: 1,
        request_id: id.to_owned(),
        ..IncrementCounterRequest::default()
    }
}

fn told(status: &Status) -> (Code, String, String) {
    let (reason, metadata) = reason(status);
    (status.code(), reason, metadata["outcome"].clone())
}

fn expected(code: Code, reason: &str, outcome: &str) -> (Code, String, String) {
    (code, reason.to_owned(), outcome.to_owned())
}

fn refuse(reply: Reply, why: Why) {
    let status = Status::internal("for earlier versions");
    reply.send(Err(PeerRefusal { why, status }));
}

/// Behaviours after which a call may have been carried out.
const DOUBTFUL: [(&str, Behaviour); 6] = [
    ("lost", |_, reply| drop(reply)),
    ("too large", |_, reply| {
        reply.send(Ok(vec![0; 3 << 20].into()));
    }),
    ("unreadable", |_, reply| {
        reply.send(Ok(Bytes::from_static(b"\xff")));
    }),
    ("unknown", |_, reply| {
        refuse(reply, Why::Plain(Plain::Unknown.into()));
    }),
    ("of a later version", |_, reply| {
        refuse(reply, Why::Plain(99));
    }),
    ("a panic", |_, _| panic!("a fault of the other node")),
];

/// A copy may have been applied elsewhere. If the asked node has no memory for another id, that tells nothing about the
/// copy.
#[tokio::test]
async fn a_refusal_here_does_not_settle_a_copy_elsewhere() {
    for (name, behaviour) in DOUBTFUL {
        for id in ["one", ""] {
            let mut pair = Pair::start(behaviour, 0).await;
            let refused = pair.increment(id).await.expect_err("no memory for ids");
            let unknown = expected(Code::Unavailable, "ANSWER_LOST", "UNKNOWN");
            assert_eq!(told(&refused), unknown, "{name}, id {id:?}");
            let [(sent, own_id)] = &pair.ids()[..] else {
                panic!("{:?} is not one call", pair.ids());
            };
            assert_eq!((*own_id, sent == id), (id.is_empty(), !id.is_empty()));
        }
    }
}

/// With memory for its id, the asked node carries out the operation and remembers it.
#[tokio::test]
async fn a_lost_answer_is_made_up_for() {
    for (name, behaviour) in DOUBTFUL {
        let mut pair = Pair::start(behaviour, 1 << 20).await;
        let first = pair.increment("one").await.expect("an answer");
        assert_eq!((first.value, first.replayed), (1, false), "{name}");
        let again = pair.increment("one").await.expect("an answer");
        assert_eq!((again.value, again.replayed), (1, true), "{name}");
        let without = pair.increment("").await.expect("an answer");
        assert_eq!((without.value, without.replayed), (2, false), "{name}");
    }
}

/// A call that the other node has certainly not carried out leaves no doubt.
#[tokio::test]
async fn a_refusal_elsewhere_leaves_no_doubt() {
    let declines: [Behaviour; 2] = [
        |_, reply| reply.send(Err(PeerRefusal::declined("not now".to_owned()))),
        |_, reply| refuse(reply, Why::Plain(Plain::UnknownKind.into())),
    ];
    for behaviour in declines {
        let mut pair = Pair::start(behaviour, 0).await;
        let refused = pair.increment("one").await.expect_err("no memory for ids");
        let not_applied = expected(Code::ResourceExhausted, "REQUEST_IDS_FULL", "NOT_APPLIED");
        assert_eq!(told(&refused), not_applied);
        let answer = pair.increment("").await.expect("it needs no memory");
        assert_eq!(answer.value, 1);
    }
    let overloaded: Behaviour = |_, reply| refuse(reply, Why::Plain(Plain::Overloaded.into()));
    let mut pair = Pair::start(overloaded, 1 << 20).await;
    let refused = pair.increment("one").await.expect_err("too much waits");
    let not_applied = expected(Code::Unavailable, "OVERLOADED", "NOT_APPLIED");
    assert_eq!(told(&refused), not_applied);
}

/// A request without an id is not refused for lack of memory for ids: it is sent again without an id, and only once.
#[tokio::test]
async fn requests_without_an_id_need_no_memory() {
    let full: Behaviour = |call, reply| {
        let request = IncrementCounterRequest::decode(call.payload.clone()).expect("a request");
        if call.own_id {
            let full = Full {
                max_bytes: 1,
                retry_in_ms: 1,
            };
            return refuse(reply, Why::Full(full));
        }
        assert_eq!(request.request_id, "", "no caller has sent one");
        let answer = IncrementCounterResponse {
            value: 7,
            ..IncrementCounterResponse::default()
        };
        if request.counter != "a/lost" {
            reply.send(Ok(answer.encode_to_vec().into()));
        }
    };
    let mut pair = Pair::start(full, 1 << 20).await;
    for _ in 0..2 {
        assert_eq!(pair.increment("").await.expect("an answer").value, 7);
    }
    let ids = pair.ids();
    assert!(ids[0].1 && !ids[0].0.is_empty(), "{ids:?}");
    // For a while, the node does not try its own ids again.
    assert_eq!(ids[1..], [(String::new(), false), (String::new(), false)]);
    let lost = soon(pair.client.increment_counter(increment("a/lost", ""))).await;
    let lost = lost.expect_err("nobody has answered");
    let unknown = expected(Code::Unavailable, "ANSWER_LOST", "UNKNOWN");
    assert_eq!(told(&lost), unknown);
    assert_eq!(pair.ids().len(), 4, "a second copy would count twice");
}

/// Memory for ids that nodes make themselves is bounded, and callers have the rest.
#[tokio::test]
async fn callers_have_their_room_beside_ids_of_nodes() {
    let data = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(&data.path().join("sumd.db"), 1 << 20);
    let bounds = Bounds {
        id_bytes: 64 << 10,
        ..BOUNDS
    };
    let running = LaneRuntime::start(Arc::new(store.expect("a new database")), bounds);
    let running = running.await.expect("lanes");
    let counters = Counters::new(running.lanes.clone());
    let server = {
        let executor = api::Executor::new(&counters);
        serve_peers(executor).await
    };
    let owner = node("owner", &server.address);
    let (_view, seen) = watch::channel(Arc::new(View::new(1, vec![owner.clone()], 1)));
    let peers = sumd::cluster::Peers::new("asked".to_owned(), seen);
    eventually("a connection", || peers.is_reachable(&owner)).await;
    let ask = async |id: String, own_id: bool| {
        let call = Call {
            kind: sumd::cluster::Kind::Increment,
            payload: increment("a/b", &id).encode_to_vec().into(),
            deadline: None,
            own_id,
        };
        soon(peers.call(&owner, call)).await.expect("it is sent")
    };
    let mut own = 0;
    let refused = loop {
        match ask(format!("own-{own}"), true).await {
            Ok(_) => own += 1,
            Err(why) => break why,
        }
    };
    assert!(matches!(refused, Why::Full(_)), "{refused:?}");
    let mut callers = 0;
    while ask(format!("caller-{callers}"), false).await.is_ok() {
        callers += 1;
    }
    assert!(own > 10, "{own} ids of nodes");
    assert!(
        callers > 5 * own,
        "{callers} ids of callers, {own} of nodes"
    );
}

/// A connection to etcd that can be switched off.
#[derive(Clone)]
struct Switch {
    link: Link,
    off: Arc<AtomicBool>,
}

impl Kv for Switch {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        if self.off.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Err(Error {
                outcome: Outcome::Definite(Refusal::NoLeader),
                endpoint: None,
                code: None,
                message: "etcdserver: no leader".to_owned(),
            });
        }
        self.link.txn(request, deadline).await
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

pub(super) async fn open(world: &World) -> (LaneRuntime, Arc<dyn Store>, Arc<AtomicBool>) {
    let off = Arc::<AtomicBool>::default();
    let switch = Switch {
        link: Link::calm(world),
        off: off.clone(),
    };
    let store = EtcdStore::over(switch, rows::PREFIX, 128, Tuning::default()).await;
    let store: Arc<dyn Store> = Arc::new(store.expect("a store"));
    let began = Instant::now();
    let clock = Clock::new(move || {
        BEGAN + i64::try_from(began.elapsed().as_millis()).expect("a short time")
    });
    let running = LaneRuntime::here(store.clone(), BOUNDS, clock).await;
    (running.expect("lanes"), store, off)
}

/// A node that is cut off from a lane's owner and from etcd, right after it has forwarded a request, does not report it
/// as not applied.
#[tokio::test]
async fn a_request_that_was_handed_on_is_not_told_as_not_applied() {
    const LANES: u16 = 8;
    let world = World::new(Rng::with_seed(1), None);
    world.lock().healed = true;
    rows::begin(&mut world.lock().etcd, LANES.into());
    let (owner, stored, _) = open(&world).await;
    let (asked, _, off) = open(&world).await;
    let counters = Counters::new(owner.lanes.clone());
    let executor = api::Executor::new(&counters);
    let owners = serve_peers(executor).await;
    let proxy = Proxy::start(owners.address.parse().expect("a host")).await;
    let nodes = vec![
        node("owner", &proxy.host.to_string()),
        node("asked", "asked.example:1"),
    ];
    let view = Arc::new(View::new(1, nodes, LANES));
    let (_view, seen) = watch::channel(view.clone());
    let counters = Counters::new(asked.lanes.clone()).among(Forwarder::new("asked", seen));
    let server = serve_counters(counters).await;
    let mut client = CounterServiceClient::new(server.channel().await);
    // The asked node has nothing of the second lane in memory.
    let lane = |group: &String| rows::hasher().lane(group, LANES.into());
    let mut of_owner = (0..).map(|at| format!("g{at}")).filter(|group| {
        let lane = u16::try_from(lane(group)).expect("few lanes");
        view.owner(lane).is_some_and(|node| node.id == "owner")
    });
    let first = of_owner.next().expect("one");
    let second = of_owner.find(|group| lane(group) != lane(&first));
    let (first, second) = (
        format!("{first}/a"),
        format!("{}/a", second.expect("another")),
    );
    let answer = soon(client.increment_counter(increment(&first, ""))).await;
    answer.expect("all is well");

    // From here on, no answers come back from the owner or from etcd. Requests to the owner still arrive.
    off.store(true, Ordering::Relaxed);
    proxy.set(Way::Mute);
    let told = soon(client.increment_counter(increment(&second, ""))).await;
    let told = told.expect_err("there is nobody to ask");
    let read = soon(stored.read(vec![second.as_str().into()])).await;
    let value = read.expect("it is well").rows[0]
        .as_ref()
        .and_then(|row| row.value);
    assert_eq!(value, Some(1), "the owner has applied it");
    let (_, metadata) = reason(&told);
    assert_eq!(metadata["outcome"], "UNKNOWN", "{told:?}");
}
