//! Data are moved from etcd to a file and back, over a network that loses, delays and repeats messages, by attempts
//! that are interrupted at any await and repeated. `transfer` tests processes that are killed.

use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use sumd::etcd::{Error, put};
use sumd::lane::{Decided, LaneRuntime};
use sumd::maintenance::{self, Tally, ToolError, transfer};
use sumd::model::Request;
use sumd::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use sumd::store::etcd::{EtcdStore, Hold, Kv, Location, Tuning};
use sumd::store::sqlite::{OpenError, SqliteStore};
use tokio::time::{Instant, sleep, timeout};

use super::history::What;
use super::network::{Link, Weather, World};
use super::nodes::{Cluster, Node};
use super::plan::Plan;
use super::rows::{self, PREFIX};
use super::scenes::{add, cluster_in, node};
use super::sessions::stream::{Stream, request};

const SEEDS: u64 = 30;
/// Maximum attempts at a move, many of which make progress.
const ATTEMPTS: usize = 1000;
/// The address of the file, as etcd names it.
const FILE: &str = "sqlite:somewhere";
const ETCD: &str = "etcd://somewhere";
/// Number of messages of the session.
const MESSAGES: u64 = 5;

fn place<K>(client: K, lanes: u32) -> Location<K> {
    Location {
        client,
        prefix: PREFIX.to_owned(),
        max_operations: 16,
        lanes,
    }
}

/// Operations, each with an id of its own.
fn operations() -> Vec<What> {
    let mut all: Vec<_> = (0..40)
        .map(|at| What::Add(add(&format!("g{}/{at}", at % 10), 3, None)))
        .collect();
    all.push(What::Set("g1/set".to_owned(), 7));
    all.push(What::Add(add("g2/full", 3, Some(1))));
    all.push(What::Delete("g3/3".to_owned()));
    all
}

async fn ask(cluster: &Cluster, node: &Node, at: usize, what: &What) -> Decided {
    let operation = what.operation();
    let id = rows::hasher().id(&format!("id-{at}"), None, &operation);
    let lane = cluster.lane(operation.group());
    let request = Request {
        id: Some(id),
        operation,
    };
    node.lanes.execute(lane, request).await.expect("an answer")
}

/// Sends a message of the session, and waits for its answer.
async fn record(node: &Node, began: i64, sequence: u64, acknowledged: u64) {
    let adds = (0..10).map(|at| add(&format!("g{at}/bulk"), 1, None));
    let adds: Vec<_> = adds.collect();
    let mut stream = Stream::open(node);
    stream.send(&request("meter-7", began, sequence, acknowledged, &adds));
    while stream.next().await.expect("an answer").acknowledged < sequence {}
}

async fn values(node: &Node) -> Vec<Option<i64>> {
    let mut names: Vec<_> = (0..40).map(|at| format!("g{}/{at}", at % 10)).collect();
    names.extend((0..10).map(|at| format!("g{at}/bulk")));
    names.extend(["g1/set".to_owned(), "g2/full".to_owned()]);
    let names = names.iter().map(|name| name.as_str().into()).collect();
    let found = node.store.read(names).await.expect("it is well");
    let value = |row: Option<sumd::store::Row>| row.and_then(|row| row.value);
    found.rows.into_iter().map(value).collect()
}

/// Repeats a move until it is complete. The network is bad, and some attempts are interrupted.
async fn insist(
    world: &World,
    rng: &mut Rng,
    attempt: impl AsyncFn(Link) -> Result<Tally, ToolError>,
    is_done: impl AsyncFn() -> bool,
) -> usize {
    for attempts in 1..=ATTEMPTS {
        let link = Link::calm(world);
        *link.weather.lock().expect("no panic") = Weather::Flaky(rng.u32(2..20));
        let end = Duration::from_millis([20, 100, 500, 20_000][rng.usize(..4)]);
        let end = end.mul_f64(rng.f64());
        let done = timeout(end, attempt(link)).await;
        match done {
            Ok(Ok(_)) => return attempts,
            Ok(Err(error)) => {
                if is_done().await {
                    return attempts;
                }
                let error = error.to_string();
                assert!(!error.contains("damaged"), "{error}");
            }
            Err(_) => {}
        }
        // Messages in flight land, or are lost.
        sleep(Duration::from_millis(rng.u64(..100_000))).await;
    }
    panic!("it comes to no end");
}

/// However a move was interrupted, and however often it is repeated, in the end all data are there once, the ids and
/// the session are known, and the source is unusable.
#[test]
fn a_move_loses_nothing_however_it_goes() {
    let seeds = super::seed().map_or(0..SEEDS, |seed| seed..seed + 1);
    let moves = 2 * (seeds.end - seeds.start);
    let mut attempts = 0;
    for seed in seeds {
        eprintln!("SUMD_SIMULATION_SEED={seed}");
        attempts += super::paused_runtime().block_on(there_and_back(seed));
    }
    eprintln!("{attempts} attempts at {moves} moves");
    let is_whole = super::seed().is_none();
    assert!(
        !is_whole || attempts as u64 > 3 * moves,
        "few are broken off"
    );
}

/// Returns the number of attempts.
async fn there_and_back(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sumd.db");
    let lanes = [1, 2, 8];
    let (before, after) = (
        *rng.choice(&lanes).expect("one"),
        *rng.choice(&lanes).expect("one"),
    );
    let world = World::new(Rng::with_seed(seed), None);
    rows::begin(&mut world.lock().etcd, before);
    let cluster = cluster_in(world.clone(), before, |_| {});
    let (running, first) = node(&cluster, Link::calm(&cluster.world)).await;
    let began = cluster.now();
    let mut answers = Vec::new();
    for (at, what) in operations().iter().enumerate() {
        answers.push(ask(&cluster, &first, at, what).await);
    }
    for sequence in 1..=MESSAGES {
        record(&first, began, sequence, sequence - 1).await;
    }
    let expected = values(&first).await;
    drop(first);
    running.close().await.expect("it is well");

    let mut attempts = insist(
        &world,
        &mut rng,
        async |link| transfer::move_to_sqlite(&place(link, before), &file, FILE, false).await,
        async || false,
    )
    .await;
    let report = maintenance::sqlite::check(&file).expect("it is there");
    assert_eq!(report.problems, [""; 0]);
    let opened = EtcdStore::over(Link::calm(&world), PREFIX, 128, Tuning::default()).await;
    let closed = opened.err().expect("there are two of them").to_string();
    assert!(closed.contains("the move is complete"), "{closed}");

    let world = World::new(Rng::with_seed(seed + 1), None);
    attempts += insist(
        &world,
        &mut rng,
        async |link| transfer::move_to_etcd(&file, &place(link, after), ETCD, false).await,
        async || is_open(&world).await,
    )
    .await;
    assert!(is_moved(&file), "there are two of them");
    let report = transfer::check(Link::calm(&world), PREFIX).await;
    assert_eq!(report.expect("it is there").problems, [""; 0]);

    let cluster = cluster_in(world, after, |_| {});
    let (running, second) = node(&cluster, Link::calm(&cluster.world)).await;
    assert_eq!(values(&second).await, expected);
    for (at, what) in operations().iter().enumerate() {
        let again = ask(&cluster, &second, at, what).await;
        assert!(again.answer.replayed, "{what:?}");
        assert_eq!(again.answer.done, answers[at].answer.done, "{what:?}");
    }
    record(&second, began, MESSAGES, MESSAGES - 1).await;
    assert_eq!(values(&second).await, expected, "counted twice");
    record(&second, began, MESSAGES + 1, MESSAGES).await;
    assert_ne!(values(&second).await, expected, "not counted");
    drop(second);
    running.close().await.expect("it is well");
    attempts
}

/// Whether there are data that a node may use.
async fn is_open(world: &World) -> bool {
    let key = format!("{PREFIX}/meta");
    let is_there = world.lock().etcd.changed(key.as_bytes()) > 0;
    let open = async || EtcdStore::over(Link::calm(world), PREFIX, 128, Tuning::default()).await;
    is_there && open().await.is_ok()
}

/// Whether a file refuses to be served, because its data were moved.
fn is_moved(file: &Path) -> bool {
    let opened = SqliteStore::open(file, 0);
    matches!(opened, Err(OpenError::Migrated { .. }))
}

/// A connection to etcd on which a node registers right after the data are sealed: too late for the first check of the
/// move, and in time for the second.
#[derive(Clone)]
struct Crowded(Link);

impl Kv for Crowded {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        let closes = !request.compare.is_empty();
        let answer = self.0.txn(request, deadline).await;
        if closes {
            let come = TxnRequest {
                success: vec![put(format!("{PREFIX}/nodes/late"), "")],
                ..TxnRequest::default()
            };
            let mut world = self.0.world.lock();
            world.etcd.txn(&come).expect("a request that etcd takes");
        }
        answer
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

/// A node that starts while the data are being sealed is found, and keeps using them.
#[test]
fn data_that_a_node_has_come_to_are_not_moved() {
    super::paused_runtime().block_on(async {
        let world = World::new(Rng::with_seed(1), None);
        rows::begin(&mut world.lock().etcd, 2);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sumd.db");
        let place = place(Crowded(Link::calm(&world)), 2);
        let moved = transfer::move_to_sqlite(&place, &file, FILE, false).await;
        let error = moved.expect_err("it is in use").to_string();
        assert!(error.contains("in use by late"), "{error}");
        assert!(is_open(&world).await, "it is closed to the node");
        assert!(!file.exists());
    });
}

async fn filled(path: &Path) {
    let store = SqliteStore::open(path, 0).expect("a new file");
    let (bounds, clock) = (Plan::new(1).bounds, sumd::lane::Clock::default());
    let running = LaneRuntime::here(std::sync::Arc::new(store), bounds, clock).await;
    let running = running.expect("it is well");
    for at in 0..100 {
        let request = Request {
            id: None,
            operation: What::Add(add(&format!("g/{at}"), 1, None)).operation(),
        };
        running.lanes.execute(0, request).await.expect("an answer");
    }
    running.close().await.expect("it is well");
}

/// If etcd can no longer be reached, a move waits for a minute at any of its steps, and then reports that. The file is
/// closed only once everything is in etcd, and a repeated move continues.
#[test]
fn a_move_waits_for_etcd_for_a_minute() {
    super::paused_runtime().block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sumd.db");
        filled(&file).await;
        let mut waited = 0;
        for until in 0.. {
            let world = World::new(Rng::with_seed(1), None);
            let copy = folder.path().join(format!("{until}.db"));
            std::fs::copy(&file, &copy).expect("a copy");
            let link = Link::calm(&world);
            let cut = async {
                while world.lock().transactions < until {
                    tokio::task::yield_now().await;
                    sleep(Duration::from_micros(10)).await;
                }
                *link.weather.lock().expect("no panic") = Weather::Cut;
                std::future::pending::<()>().await;
            };
            let place = place(link.clone(), 2);
            let began = Instant::now();
            let moved = tokio::select! {
                moved = transfer::move_to_etcd(&copy, &place, ETCD, false) => moved,
                () = cut => unreachable!("it does not end"),
            };
            let took = began.elapsed();
            let Err(error) = moved else {
                break;
            };
            let error = error.to_string();
            assert!(took < Duration::from_secs(75), "{took:?}: {error}");
            if took >= Duration::from_mins(1) {
                waited += 1;
            }
            *link.weather.lock().expect("no panic") = Weather::Calm;
            if is_moved(&copy) {
                let report = transfer::check(link.clone(), PREFIX).await;
                let report = report.expect("something is there");
                let is_whole = |problem: &String| problem.contains("it is not complete");
                assert!(report.problems.iter().all(is_whole), "{report:?}");
                assert_eq!(report.counters, 100);
            }
            match transfer::move_to_etcd(&copy, &place, ETCD, false).await {
                // In the latter case, the earlier attempt had completed.
                Ok(_) | Err(ToolError::Open(OpenError::Migrated { .. })) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(is_moved(&copy) && is_open(&world).await);
        }
        assert!(waited > 3, "{waited}");
    });
}
