//! Lanes over a store in memory that can be frozen, in paused time.

mod capacity;
mod doubt;
mod store;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use self::store::{MemoryStore, TURN};
use super::completions::{ReplyTo, StreamReplies};
use super::handle::OWN_IDS_PART;
use super::job::Job;
use super::reorder::ReorderBuffer;
use super::shared::{MAX_WAITING_INCREMENTS, MAX_WAITING_SINGLES};
use super::*;
use crate::model::{
    Bounds, Effect, Increments, Limits, Operation, Part, Predecessor, Record, Rejection, Request,
};
use crate::store::{LaneNumber, Store as _, StoreError};

/// The lane of all requests in these tests.
const LANE: LaneNumber = 1;
/// Far longer than any operation here takes. Time is paused, so nobody waits for it.
const LONG: Duration = Duration::from_hours(1);

async fn lanes(store: &MemoryStore) -> LaneRuntime {
    lanes_with(store, 1 << 20).await
}

async fn lanes_with(store: &MemoryStore, id_bytes: usize) -> LaneRuntime {
    let bounds = Bounds {
        id_bytes,
        counter_bytes: 1 << 20,
        id_horizon: 600_000,
        session_horizon: 600_000,
    };
    let clock = Clock::new(|| 1_700_000_000_000);
    let running = LaneRuntime::here(Arc::new(store.clone()), bounds, clock).await;
    running.expect("a new store")
}

fn increments(count: usize) -> Increments {
    let mut increments = Increments::default();
    for _ in 0..count {
        increments.push("g/a", 1, Limits::default());
    }
    increments
}

fn batch(count: usize) -> Request {
    Request {
        id: None,
        operation: Operation::Batch(increments(count)),
    }
}

/// A message that follows another one in the lane.
fn part(session: &str, sequence: u64, previous: Option<u64>, count: usize) -> Request {
    let increments = increments(count);
    Request {
        id: None,
        operation: Operation::Record(Record {
            session: session.into(),
            time: 1_700_000_000_000,
            sequence,
            acknowledged: 0,
            follows: Predecessor::InLane(Part {
                previous,
                parts: 1,
                above: None,
                whole: 0,
                indices: Vec::new(),
            }),
            contents: sequence,
            increments,
        }),
    }
}

fn is_overtaken(answer: &Result<Decided>) -> bool {
    matches!(answer, Err(LaneError::Refused(Rejection::Overtaken { .. })))
}

/// A part whose predecessor never arrives is refused after some seconds. It is not refused at once, and does not wait
/// for ever.
#[tokio::test(start_paused = true)]
async fn a_part_waits_for_its_predecessor_for_some_seconds() {
    let running = lanes(&MemoryStore::default()).await;
    let (replies, mut answers) = mpsc::unbounded_channel();
    let asked = Instant::now();
    let early = part("s", 6, Some(5), 1);
    let queued = running.lanes.enqueue(LANE, early, 1, replies);
    queued.await.expect("the lane is there");
    let answer = timeout(LONG, answers.recv()).await.expect("it is answered");
    assert!(is_overtaken(&answer.expect("an answer")));
    let waited = asked.elapsed();
    assert!(
        waited >= Duration::from_secs(3) && waited < Duration::from_secs(6),
        "{waited:?}"
    );
}

/// Parts that arrive in reverse order are applied as soon as the first one in order arrives.
#[tokio::test(start_paused = true)]
async fn parts_in_any_order_are_applied_at_once() {
    const PARTS: u64 = 200;
    let running = lanes(&MemoryStore::default()).await;
    let (replies, mut answers) = mpsc::unbounded_channel();
    for sequence in (1..=PARTS).rev() {
        let previous = (sequence > 1).then(|| sequence - 1);
        let part = part("s", sequence, previous, 1);
        let queued = running.lanes.enqueue(LANE, part, 1, replies.clone());
        queued.await.expect("the lane is there");
        // One batch for each part.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let all_there = Instant::now();
    for _ in 1..=PARTS {
        let answer = timeout(LONG, answers.recv()).await.expect("it is answered");
        answer.expect("an answer").expect("it is applied");
    }
    let waited = all_there.elapsed();
    assert!(waited < Duration::from_millis(500), "{waited:?}");
}

/// A part that has overtaken its predecessor is applied after it.
#[tokio::test(start_paused = true)]
async fn a_part_is_applied_when_its_predecessor_has_come() {
    let running = lanes(&MemoryStore::default()).await;
    let (replies, mut answers) = mpsc::unbounded_channel();
    for (sequence, previous) in [(3, Some(2)), (2, Some(1)), (1, None)] {
        let part = part("s", sequence, previous, 1);
        let queued = running.lanes.enqueue(LANE, part, 1, replies.clone());
        queued.await.expect("the lane is there");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for expected in 1..=3 {
        let answer = timeout(LONG, answers.recv()).await.expect("it is answered");
        let decided = answer.expect("an answer").expect("it is applied");
        let Effect::Recorded { acknowledged, .. } = decided.answer.done else {
            panic!("{decided:?} is no answer to a message");
        };
        assert_eq!(acknowledged, expected);
    }
}

fn job(sequence: u64) -> Job {
    let (replies, _) = mpsc::unbounded_channel();
    Job {
        request: Box::new(part("s", sequence, Some(sequence - 1), 0)),
        reply_to: ReplyTo::Stream(StreamReplies::new(replies)),
        completion_queue: 0,
        weight: 1,
        if_owner: false,
        parked_since: None,
        in_doubt: false,
    }
}

fn park(reorder: &mut ReorderBuffer, job: Job) -> Option<(Job, Result<Decided>)> {
    let refused = Rejection::Overtaken { applied: 0 };
    reorder.park(job, Err(LaneError::Refused(refused)))
}

/// Parked parts are tried together with those that have just arrived, in the order of their messages.
#[tokio::test(start_paused = true)]
async fn parts_that_wait_are_tried_with_those_that_come() {
    let mut reorder = ReorderBuffer::default();
    for sequence in [5, 3, 4] {
        assert!(park(&mut reorder, job(sequence)).is_none());
    }
    let mut batch = vec![job(2), job(6)];
    reorder.drain_into(&mut batch);
    let sequences = batch.iter().map(|job| match &job.request.operation {
        Operation::Record(record) => record.sequence,
        other => panic!("{other:?}"),
    });
    assert_eq!(sequences.collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    assert!(reorder.is_empty());
}

/// A part is tried again after 5 ms, and after a quarter of its wait once that is longer.
#[tokio::test(start_paused = true)]
async fn a_part_is_tried_again_ever_later() {
    let mut reorder = ReorderBuffer::default();
    assert!(park(&mut reorder, job(6)).is_none());
    for (waited, pause) in [(0, 5), (12, 5), (400, 100), (1600, 400)] {
        let mut parked = Vec::new();
        reorder.drain_into(&mut parked);
        for mut job in parked {
            job.parked_since = Some(
                Instant::now()
                    .checked_sub(Duration::from_millis(waited))
                    .expect("long ago"),
            );
            assert!(park(&mut reorder, job).is_none());
        }
        let begun = Instant::now();
        reorder.pause().await;
        assert_eq!(begun.elapsed().as_millis(), pause);
    }
}

/// The number of parked parts is bounded: the next one is refused at once.
#[tokio::test(start_paused = true)]
async fn parts_that_wait_are_bounded() {
    const MOST: usize = 4096;
    let mut reorder = ReorderBuffer::default();
    for _ in 0..MOST {
        assert!(park(&mut reorder, job(6)).is_none());
    }
    let refused = park(&mut reorder, job(6));
    assert!(refused.is_some_and(|(_, answer)| is_overtaken(&answer)));
    let mut again = Vec::new();
    reorder.drain_into(&mut again);
    assert_eq!(again.len(), MOST);
}

/// Ids of nodes' own making are admitted while all ids take less than a part of their memory.
#[tokio::test(start_paused = true)]
async fn own_ids_have_a_part_of_the_memory() {
    let usage = async |id_bytes| {
        let running = lanes_with(&MemoryStore::default(), id_bytes).await;
        let part = part("s", 1, None, 1);
        running.lanes.execute(LANE, part).await.expect("it is new");
        // A lane publishes its usage before it begins the next batch.
        let next = running.lanes.execute(LANE, batch(1)).await;
        next.expect("it is carried out");
        let usage = running.lanes.shared.memory.id_bytes();
        (usage, running.lanes.admit_own_id().is_ok())
    };
    let (needed, is_admitted) = usage(1 << 20).await;
    assert!(needed > 0 && is_admitted, "{needed}");
    assert_eq!(usage(needed * OWN_IDS_PART).await, (needed, false));
    let above = (needed + 1) * OWN_IDS_PART;
    assert_eq!(usage(above).await, (needed, true));
}

/// Messages that arrive while a batch is being stored share the next commits.
#[tokio::test(start_paused = true)]
async fn messages_that_wait_share_a_commit() {
    const MESSAGES: u64 = 60;
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    let (replies, mut answers) = mpsc::unbounded_channel();
    store.freeze();
    for sequence in 1..=MESSAGES {
        let previous = (sequence > 1).then(|| sequence - 1);
        let part = part("s", sequence, previous, 500);
        let queued = running.lanes.enqueue(LANE, part, 500, replies.clone());
        queued.await.expect("the lane is there");
        if sequence == 1 {
            store.is_asked().await;
        }
    }
    store.thaw();
    for _ in 0..MESSAGES {
        let answer = timeout(LONG, answers.recv()).await.expect("it is answered");
        answer.expect("an answer").expect("it is applied");
    }
    assert!(store.commits() <= 3, "{} commits", store.commits());
}

/// Pending single requests are bounded by their increments. The next request is refused at once, and the pending ones
/// are executed.
#[tokio::test(start_paused = true)]
async fn single_requests_wait_up_to_a_bound() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    store.freeze();
    let mut waiting = Vec::new();
    for _ in 0..MAX_WAITING_SINGLES / 1024 {
        let answer = running.lanes.execute(LANE, batch(1024));
        waiting.push(tokio::spawn(answer));
    }
    let refused = timeout(Duration::ZERO, running.lanes.execute(LANE, batch(1))).await;
    let refused = refused.expect("it is refused at once");
    assert!(matches!(refused, Err(LaneError::Overloaded)), "{refused:?}");
    store.thaw();
    for answer in waiting {
        let answer = timeout(LONG, answer).await.expect("it is answered");
        answer.expect("no panic").expect("it is carried out");
    }
    let again = running.lanes.execute(LANE, batch(1)).await;
    again.expect("there is room again");
}

/// An idle lane forgets ids when they are due, in an empty batch, and commits nothing more.
#[tokio::test(start_paused = true)]
async fn an_idle_lane_forgets_by_itself() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    let operation = Operation::Batch(increments(1));
    let id = Some(store.hasher().id("id", None, &operation));
    let asked = running.lanes.execute(LANE, Request { id, operation });
    asked.await.expect("it is counted");
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(store.commits(), 1, "not before its time");
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(store.commits(), 2, "in its time");
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(store.commits(), 2, "there is nothing left");
}

/// An idle lane that another node owns is unloaded, and is loaded again at the next request.
#[tokio::test(start_paused = true)]
async fn an_idle_lane_of_another_node_is_let_go_of() {
    let store = MemoryStore::default();
    let running = lanes(&store).await;
    running.lanes.set_owner_check(|_| true);
    let ask = || running.lanes.execute(LANE, batch(1));
    ask().await.expect("it is counted");
    tokio::time::sleep(Duration::from_secs(30)).await;
    ask().await.expect("it is counted");
    assert_eq!(store.loads(), 1, "it is in use");
    tokio::time::sleep(Duration::from_mins(3)).await;
    let decided = ask().await.expect("it is counted");
    assert_eq!((store.loads(), decided.revision), (2, 3));
    running.close().await.expect("a clean end");
}

/// An idle lane that another node owns is unloaded even if more sessions are due than a batch forgets: its owner
/// forgets them.
#[tokio::test(start_paused = true)]
async fn an_idle_lane_of_another_node_is_let_go_of_with_all_that_is_due() {
    let store = MemoryStore::default();
    store.have_sessions(10_000);
    let running = lanes(&store).await;
    running.lanes.set_owner_check(|_| true);
    let ask = || running.lanes.execute(LANE, batch(1));
    // The lane is in use until they are due.
    for _ in 0..24 {
        ask().await.expect("it is counted");
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    assert_eq!(store.loads(), 1, "it is in use");
    tokio::time::sleep(Duration::from_mins(3)).await;
    ask().await.expect("it is counted");
    assert_eq!(store.loads(), 2);
}

/// Answers are delivered on the runtime of the request.
#[test]
fn answers_come_back_to_the_runtime_that_has_asked() {
    let runtime = || {
        let runtime = runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime")
    };
    runtime().block_on(async {
        let running = lanes(&MemoryStore::default()).await;
        let lanes = running.lanes.clone();
        let (told, tells) = oneshot::channel();
        let other = thread::spawn(move || {
            runtime().block_on(async {
                let lanes = lanes.for_this_runtime();
                let (done, is_done) = oneshot::channel();
                lanes.execute_then(LANE, batch(1), move |answer| {
                    let _ = done.send((answer.is_ok(), thread::current().id()));
                });
                let _ = told.send((is_done.await, thread::current().id()));
            });
        });
        let (answered, asked_on) = tells.await.expect("it is answered");
        assert_eq!(answered, Ok((true, asked_on)));
        other.join().expect("no panic");
    });
}
