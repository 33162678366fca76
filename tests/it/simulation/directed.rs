//! Nodes of a simulation without random faults, with a single fault at a chosen moment.

mod contention;
mod damaged;
mod full;
mod gaps;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use sumd::etcd::{Doubt, Error, Outcome, Refusal, put};
use sumd::lane::{Clock, Decided, LaneError, LaneRuntime};
use sumd::model::{
    Bounds, Effect, Increments, Limits, Operation, Part, Predecessor, Record, Request,
};
use sumd::proto::etcd::etcdserverpb::request_op::Request as Op;
use sumd::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use sumd::proto::sumd::store::v1::Meta;
use sumd::store::etcd::{EtcdStore, FORMAT, Hold, Kv, Tuning};
use sumd::store::{LaneNumber, Scan, Store as _, StoreError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::network::{Link, World, error};
use super::nodes::BEGAN;
use super::{paused_runtime, rows};

/// Long after every bounded wait has ended.
const FOR_EVER: Duration = Duration::from_mins(2);
const LANES: u32 = 2;

/// A connection to etcd on which reads of sessions' rows, and writes, can be blocked.
#[derive(Clone)]
struct Switch {
    link: Link,
    no_sessions: Arc<AtomicBool>,
    no_writes: Arc<AtomicBool>,
    /// Reads of the first lane's packs get no answer.
    no_packs: Arc<AtomicBool>,
    /// Reads of lanes' heads get no answer.
    no_heads: Arc<AtomicBool>,
    /// The answering member of etcd has damaged rows of the session "bad"; other members have them as they were
    /// written.
    bad_member: Arc<AtomicBool>,
    room: Arc<Mutex<Room>>,
}

/// The remaining space in etcd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    /// For one transaction, which brings etcd over its quota.
    OneMore,
    Nothing,
}

impl Switch {
    fn new(world: &World) -> Self {
        Self {
            link: Link::calm(world),
            no_sessions: Arc::default(),
            no_writes: Arc::default(),
            no_packs: Arc::default(),
            no_heads: Arc::default(),
            bad_member: Arc::default(),
            room: Arc::new(Mutex::new(Room::Enough)),
        }
    }

    fn set_room(&self, room: Room) {
        *self.room.lock().expect("no panic") = room;
    }
}

impl Kv for Switch {
    async fn txn(&self, request: TxnRequest, deadline: Instant) -> Result<TxnResponse, Error> {
        let reads_a_session = request.success.iter().any(|op| match &op.request {
            Some(Op::RequestRange(range)) => {
                range.range_end.is_empty() && range.key.starts_with(b"/sumd/sessions/")
            }
            _ => false,
        });
        if reads_a_session && self.no_sessions.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20)).await;
            return Err(error(Outcome::Definite(Refusal::NoLeader)));
        }
        let reads_heads = request.success.iter().any(|op| match &op.request {
            Some(Op::RequestRange(range)) => range.key.starts_with(b"/sumd/log/head/"),
            _ => false,
        });
        if reads_heads && self.no_heads.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(20)).await;
            return Err(error(Outcome::Definite(Refusal::NoLeader)));
        }
        let reads_packs = request.success.iter().any(|op| match &op.request {
            Some(Op::RequestRange(range)) => range.key.starts_with(b"/sumd/log/pack/0000/"),
            _ => false,
        });
        if reads_packs && self.no_packs.load(Ordering::Relaxed) {
            sleep_until(deadline).await;
            return Err(error(Outcome::Unknown(Doubt::Deadline)));
        }
        if !request.compare.is_empty() && self.no_writes.load(Ordering::Relaxed) {
            sleep_until(deadline).await;
            return Err(error(Outcome::Unknown(Doubt::Deadline)));
        }
        let room = *self.room.lock().expect("no panic");
        if !request.compare.is_empty() && room != Room::Enough {
            if room == Room::OneMore {
                self.link.txn(request, deadline).await?;
            }
            return Err(error(Outcome::Unknown(Doubt::NoSpace)));
        }
        let mut answer = self.link.txn(request, deadline).await?;
        if self.bad_member.load(Ordering::Relaxed) {
            damaged::spoil(&mut answer);
        }
        Ok(answer)
    }

    async fn hold(&self, _prefix: &str) -> Result<Option<Hold>, Error> {
        Ok(None)
    }
}

/// A calm world with data whose batches record sessions by their changes.
fn world(lanes: u32) -> World {
    let world = World::new(Rng::with_seed(1), None);
    let mut inner = world.lock();
    inner.healed = true;
    drop(inner);
    describe(&world, &meta(lanes));
    world
}

/// The `meta` row of data that were created before rows had extras.
fn meta(lanes: u32) -> Meta {
    Meta {
        format: 3,
        lanes,
        key: rows::hasher().key().to_vec().into(),
        ..Meta::default()
    }
}

/// Writes the `meta` row.
fn describe(world: &World, meta: &Meta) {
    let (key, value) = rows::meta(meta);
    let request = TxnRequest {
        success: vec![put(key, value)],
        ..TxnRequest::default()
    };
    world.lock().etcd.txn(&request).expect("it fits");
}

async fn open(kv: impl Kv, sizes: Tuning) -> LaneRuntime {
    let store = EtcdStore::over(kv, rows::PREFIX, 128, sizes).await;
    let began = Instant::now();
    let clock = Clock::new(move || {
        BEGAN + i64::try_from(began.elapsed().as_millis()).expect("a short time")
    });
    let bounds = Bounds {
        id_bytes: 256 << 20,
        counter_bytes: 1 << 20,
        id_horizon: 600_000,
        session_horizon: 86_400_000,
    };
    let running = LaneRuntime::here(Arc::new(store.expect("a store")), bounds, clock).await;
    running.expect("lanes")
}

fn lane() -> LaneNumber {
    rows::hasher().lane("na", LANES)
}

fn message(session: &str, sequence: u64, increments: Increments) -> Request {
    let part = Part {
        previous: Some(sequence - 1).filter(|previous| *previous > 0),
        parts: 1,
        above: None,
        whole: 0,
        indices: Vec::new(),
    };
    Request {
        id: None,
        operation: Operation::Record(Record {
            session: session.into(),
            time: BEGAN,
            sequence,
            acknowledged: 0,
            follows: Predecessor::InLane(part),
            contents: rows::hasher().message(&increments),
            increments,
        }),
    }
}

fn one() -> Increments {
    Increments::one("na/0".to_owned(), 1, Limits::default())
}

fn plain() -> Request {
    Request {
        id: None,
        operation: Operation::Increment(one()),
    }
}

fn value(decided: &Decided) -> i64 {
    match &decided.answer.done {
        Effect::Incremented(added) => added.value,
        other => panic!("{other:?}"),
    }
}

/// A node learns that another one has committed, and cannot read everything for longer than a reader waits. Afterwards
/// it counts on top of the other node's changes.
#[test]
fn a_lane_goes_on_after_an_outage_while_it_caught_up() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let sizes = Tuning {
            recent_sessions: 0,
            ..Tuning::default()
        };
        let kv = Switch::new(&world);
        let a = open(kv.clone(), sizes).await;
        let b = open(Switch::new(&world), sizes).await;
        let by_a = a.lanes.execute(lane(), message("s", 1, one())).await;
        by_a.expect("by the first");
        for sequence in 2..6 {
            let by_b = b.lanes.execute(lane(), message("s", sequence, one()));
            by_b.await.expect("by the second");
        }
        kv.no_sessions.store(true, Ordering::Relaxed);
        let during = a.lanes.execute(lane(), plain()).await;
        assert!(
            matches!(during, Err(LaneError::Unavailable(_))),
            "{during:?}"
        );
        kv.no_sessions.store(false, Ordering::Relaxed);
        let after = timeout(FOR_EVER, a.lanes.execute(lane(), plain())).await;
        let after = after.expect("an answer").expect("it is counted");
        assert_eq!(value(&after), 6);
    });
}

/// Messages of several sessions, all of whose increments fail at a limit.
async fn fail(running: &LaneRuntime, sessions: u64, messages: u64) {
    let limits = Limits {
        max: Some(1_000_000_000_000),
        ..Limits::default()
    };
    let set = Operation::Set("na/quota".into(), 1_000_000_000_000);
    let set = Request {
        id: None,
        operation: set,
    };
    running.lanes.execute(lane(), set).await.expect("it is set");
    let (replies, mut answers) = mpsc::unbounded_channel();
    for sequence in 1..=messages {
        for session in 0..sessions {
            let mut increments = Increments::default();
            for _ in 0..1000 {
                increments.push("na/quota", 1_000, limits);
            }
            let request = message(&format!("meter-{session}"), sequence, increments);
            let queued = running
                .lanes
                .enqueue(lane(), request, 1000, replies.clone());
            queued.await.expect("it is queued");
        }
        for _ in 0..sessions {
            let answer = timeout(FOR_EVER, answers.recv()).await;
            let answer = answer.expect("an answer").expect("an answer");
            answer.expect("it is recorded");
        }
    }
}

/// The number of sessions that have a row.
fn folded(world: &World, sessions: u64) -> usize {
    let world = world.lock();
    let prefix = format!("{}/sessions/{:04x}", rows::PREFIX, lane());
    let has_row = |session: &u64| {
        let key = format!("{prefix}/meter-{session}");
        world.etcd.changed(key.as_bytes()) > 0
    };
    (0..sessions).filter(has_row).count()
}

/// The rows of some hundred sessions, each with the failures of some messages that its client has not acknowledged, are
/// several MiB: they are folded in as many steps as needed.
#[test]
fn a_fold_of_sessions_fits_into_a_transaction() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let a = open(Switch::new(&world), Tuning::default()).await;
        fail(&a, 300, 4).await;
        for _ in 0..100 {
            a.lanes.execute(lane(), plain()).await.expect("it counts");
        }
        assert_eq!(folded(&world, 300), 300);
    });
}

/// A node does not end because etcd accepts smaller requests than by default: it folds less at a time, and refuses a
/// batch that is too large in itself, as not applied.
#[test]
fn an_etcd_that_takes_little_at_once_is_given_little() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let sizes = Tuning {
            recent_sessions: 1,
            ..Tuning::default()
        };
        let a = open(Switch::new(&world), sizes).await;
        world.lock().etcd.max_request_bytes = 250 << 10;
        fail(&a, 4, 4).await;
        for _ in 0..30 {
            a.lanes.execute(lane(), plain()).await.expect("it counts");
        }
        assert_eq!(folded(&world, 4), 4);

        let mut large = Increments::default();
        for at in 0..1000 {
            large.push(&format!("na/{at}/{:0400}", 0), 1, Limits::default());
        }
        let refused = a.lanes.execute(lane(), message("large", 1, large)).await;
        assert!(
            matches!(refused, Err(LaneError::Unavailable(_))),
            "{refused:?}"
        );
        let after = a.lanes.execute(lane(), plain()).await.expect("it counts");
        assert_eq!(value(&after), 31);
    });
}

/// Another node raises the format of the data: transactions in flight then fail, and are sent again.
#[test]
fn a_lane_goes_on_when_the_format_is_raised() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        let kv = Switch::new(&world);
        let a = open(kv.clone(), Tuning::default()).await;
        a.lanes.execute(lane(), plain()).await.expect("it counts");
        kv.no_writes.store(true, Ordering::Relaxed);
        let counted = a.lanes.execute(lane(), plain());
        // It is in doubt by now, and within its time limit.
        sleep(Duration::from_secs(2)).await;
        let raised = Meta {
            format: FORMAT,
            ..meta(LANES)
        };
        describe(&world, &raised);
        kv.no_writes.store(false, Ordering::Relaxed);
        let counted = timeout(FOR_EVER, counted).await.expect("an answer");
        assert_eq!(value(&counted.expect("it is counted")), 2);
        let b = open(Switch::new(&world), Tuning::default()).await;
        let counted = b.lanes.execute(lane(), plain()).await;
        assert_eq!(value(&counted.expect("it is counted")), 3);
        let counted = a.lanes.execute(lane(), plain()).await;
        assert_eq!(value(&counted.expect("it is counted")), 4);
    });
}

/// A node does not write to closed data or to data of an unknown format, and acknowledges nothing.
#[test]
fn a_lane_ends_when_the_data_are_not_its_any_more() {
    let closed = Meta {
        moved_to: "elsewhere".to_owned(),
        ..meta(LANES)
    };
    let newer = Meta {
        format: FORMAT + 1,
        ..meta(LANES)
    };
    for changed in [closed, newer] {
        paused_runtime().block_on(async {
            let world = world(LANES);
            let mut a = open(Switch::new(&world), Tuning::default()).await;
            a.lanes.execute(lane(), plain()).await.expect("it counts");
            describe(&world, &changed);
            let told = timeout(FOR_EVER, a.lanes.execute(lane(), plain())).await;
            told.expect("an answer").expect_err("it does not land");
            timeout(FOR_EVER, a.failure()).await.expect("it has ended");
        });
    }
}

/// Callers get UNKNOWN, and later ones are refused, even if all counters are in one lane: etcd is not a local disk.
#[test]
fn a_store_of_one_lane_that_is_shared_is_not_waited_for_without_end() {
    paused_runtime().block_on(async {
        let world = world(1);
        let kv = Switch::new(&world);
        let a = open(kv.clone(), Tuning::default()).await;
        a.lanes.execute(0, plain()).await.expect("it counts");
        kv.no_writes.store(true, Ordering::Relaxed);
        let told = timeout(FOR_EVER, a.lanes.execute(0, plain())).await;
        let told = told.expect("an answer");
        assert!(matches!(told, Err(LaneError::Unknown(_))), "{told:?}");
        let told = timeout(FOR_EVER, a.lanes.execute(0, plain())).await;
        let told = told.expect("an answer");
        assert!(matches!(told, Err(LaneError::Unavailable(_))), "{told:?}");
        kv.no_writes.store(false, Ordering::Relaxed);
        let counted = timeout(FOR_EVER, async {
            loop {
                match a.lanes.execute(0, plain()).await {
                    Ok(decided) => return value(&decided),
                    Err(LaneError::Unavailable(_)) => sleep(Duration::from_millis(10)).await,
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        // The increment of unknown outcome was counted once.
        assert_eq!(counted.await, Ok(3));
    });
}

fn increment(name: &str) -> Request {
    Request {
        id: None,
        operation: Operation::Increment(Increments::one(name.to_owned(), 1, Limits::default())),
    }
}

async fn store(kv: Switch) -> Arc<EtcdStore<Switch>> {
    let store = EtcdStore::over(kv, rows::PREFIX, 128, Tuning::default());
    Arc::new(store.await.expect("a store"))
}

/// A damaged row of a counter is an error for the calls that need it, and for no other: other counters of its lane are
/// changed and read, even in the same batch and the same round of reads.
#[test]
fn a_damaged_counter_is_an_error_and_no_answer() {
    paused_runtime().block_on(async {
        let world = world(LANES);
        // The log has nothing newer than this row.
        let name = "na/damaged";
        let (key, value_of_row) = (format!("{}/counters/{name}", rows::PREFIX), "no row");
        let request = TxnRequest {
            success: vec![put(key, value_of_row)],
            ..TxnRequest::default()
        };
        world.lock().etcd.txn(&request).expect("it fits");
        let mut a = open(Switch::new(&world), Tuning::default()).await;
        let all = ["na/0", name].repeat(20).into_iter().map(|name| {
            let counted = a.lanes.execute(lane(), increment(name));
            async move { (name, counted.await) }
        });
        let mut counted = 0;
        for (of, answer) in futures_util::future::join_all(all).await {
            match answer {
                Ok(_) => {
                    assert_eq!(of, "na/0");
                    counted += 1;
                }
                Err(LaneError::Unavailable(StoreError::Damaged { counter, problem })) => {
                    assert_eq!((of, counter.as_deref()), (name, Some(name)));
                    assert!(problem.contains(name), "{problem}");
                }
                Err(other) => panic!("{of}: {other:?}"),
            }
        }
        assert_eq!(counted, 20);
        let after = a.lanes.execute(lane(), plain()).await;
        assert_eq!(value(&after.expect("it is counted")), 21);
        let ended = timeout(Duration::from_secs(10), a.failure()).await;
        assert!(ended.is_err(), "the lane goes on");

        let store = store(Switch::new(&world)).await;
        let read = |name: &str| store.read(vec![name.into()]);
        let (damaged, well, none) = tokio::join!(read(name), read("na/0"), read("na/none"));
        let is_damaged = |error: &StoreError| {
            matches!(error, StoreError::Damaged { counter: Some(of), .. } if **of == *name)
        };
        assert!(damaged.is_err_and(|error| is_damaged(&error)));
        let well = well.expect("it is well").rows.remove(0);
        assert_eq!(well.expect("a row").value, Some(21));
        assert!(none.expect("nothing is damaged").rows[0].is_none());
        let sum = async |prefix: &str| store.sum(prefix.into()).await;
        assert!(sum("na/").await.is_err_and(|error| is_damaged(&error)));
        assert_eq!(sum("na/0").await.expect("it is well").sum, 21);
        let scan = async |prefix: &str| {
            let scan = Scan {
                prefix: prefix.into(),
                after: None,
                since: 0,
                limit: 100,
            };
            store.scan(scan).await
        };
        assert!(scan("na/").await.is_err_and(|error| is_damaged(&error)));
        assert_eq!(scan("na/0").await.expect("it is well").rows.len(), 1);
    });
}

/// A lane whose packs are slow to read delays only the calls that read it.
#[test]
fn a_lane_that_is_slow_to_read_holds_up_no_other() {
    const QUICK: Duration = Duration::from_millis(500);
    paused_runtime().block_on(async {
        let world = world(LANES);
        let sizes = Tuning {
            open_bytes: 0,
            ..Tuning::default()
        };
        let a = open(Switch::new(&world), sizes).await;
        let name_in = |lane| {
            let mut names = (0..).map(|group| format!("g{group}/0"));
            let name =
                names.find(|name| rows::hasher().lane(sumd::model::group(name), LANES) == lane);
            name.expect("there is one in each lane")
        };
        let (slow, quick) = (name_in(0), name_in(1));
        for (lane, name) in [(0, &slow), (1, &quick)] {
            for _ in 0..3 {
                let counted = a.lanes.execute(lane, increment(name)).await;
                counted.expect("it counts");
            }
        }
        let kv = Switch::new(&world);
        kv.no_packs.store(true, Ordering::Relaxed);
        let store = store(kv.clone()).await;
        let read = |name: &str| store.read(vec![name.into()]);
        // These reads need the first lane, alone or among others, and begin first.
        let held_up = [
            tokio::spawn(read(&slow)),
            tokio::spawn(store.read(vec![quick.as_str().into(), slow.as_str().into()])),
        ];
        let sum = tokio::spawn(store.sum("".into()));
        let session = tokio::spawn(store.session("s".into()));
        for _ in 0..20 {
            let found = timeout(QUICK, read(&quick)).await.expect("at once");
            let row = found.expect("it is read").rows.remove(0);
            assert_eq!(row.expect("a row").value, Some(3));
            let sum = timeout(QUICK, store.sum(quick.as_str().into())).await;
            assert_eq!(sum.expect("at once").expect("it is read").sum, 3);
        }
        assert!(!held_up.iter().any(tokio::task::JoinHandle::is_finished));
        // In the same round, and after it.
        let (of_slow, of_quick) = (
            tokio::spawn(read(&slow)),
            timeout(QUICK, read(&quick)).await,
        );
        of_quick.expect("at once").expect("it is read");
        kv.no_packs.store(false, Ordering::Relaxed);
        for read in held_up.into_iter().chain([of_slow]) {
            let found = timeout(FOR_EVER, read).await.expect("an answer");
            let row = found.expect("no panic").expect("it is read").rows.pop();
            assert_eq!(row.flatten().expect("a row").value, Some(3));
        }
        let sum = timeout(FOR_EVER, sum).await.expect("an answer");
        assert_eq!(sum.expect("no panic").expect("it is read").sum, 6);
        let session = timeout(FOR_EVER, session).await.expect("an answer");
        let session = session.expect("no panic").expect("it is read");
        assert!(session.lanes.is_empty());
    });
}
