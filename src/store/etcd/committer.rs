//! Transactions: the pending batches of several lanes share one, as far as etcd accepts it. It is sent until its
//! outcome is known.
//!
//! Every attempt at a batch compares its lane's head with the one that the batch was planned on, so at most one copy
//! ever lands. After a call with an unknown outcome the same writes are sent again. If it lands, no other copy can land
//! any more. If it does not, the head has moved, and the log shows whether by this batch. A read that does not find a
//! batch proves nothing, unless etcd has answered every copy of it, as it does for want of space.

mod outcome;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, error, info, warn};

use super::kv::Kv;
use super::log::{Landed, WritePlan};
use super::rows::{Layout, MAX_PLACES};
use crate::etcd::{Doubt, Error, Outcome, Refusal, at_revision, get};
use crate::proto::etcd::etcdserverpb::response_op::Response;
use crate::proto::etcd::etcdserverpb::{TxnRequest, TxnResponse};
use crate::store::StoreError;

/// Transactions of this node in flight. With two of them each is smaller, which costs a fifth of the throughput.
const MAX_IN_FLIGHT: usize = 1;
/// Bytes of one transaction. etcd accepts 1.5 MiB by default.
const MAX_BYTES: usize = 1 << 20;
/// Operations of one transaction, including nested ones. etcd does nothing else meanwhile.
const MAX_OPERATIONS: usize = 1024;
/// The timeout of the first attempt; later ones wait twice as long. A member that has lost its leader drops requests,
/// so this is also the longest time without commits after an election. If etcd is merely slow, the first copy lands all
/// the same.
const ATTEMPT: Duration = Duration::from_millis(750);
const MAX_ATTEMPT: Duration = Duration::from_millis(1500);
/// How long a batch that certainly was not sent is retried before its caller gets an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// The same if etcd is full: an operator has to act.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// The reason that callers get while etcd is full.
const OVER_QUOTA: &str = "etcd is over its quota (NOSPACE; to make room, compact and defragment it, or raise \
                          --quota-backend-bytes, and disarm the alarm)";

/// The outcome of a batch.
type Answer = Result<(WritePlan, Landed), Failure>;

/// A batch to be committed, and its caller.
pub(super) struct CommitAttempt {
    plan: WritePlan,
    reply: oneshot::Sender<Answer>,
    begun: Instant,
    tries: u32,
    /// A copy of it may be in flight.
    in_doubt: bool,
    /// Another node waits for its turn, according to the last answer.
    is_contended: bool,
    /// It goes in a transaction of its own, since with others it was more than etcd accepts.
    alone: bool,
}

/// The reason why a batch is not committed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is more than etcd accepts in one request, and certainly not committed.
    TooLarge(Error),
    /// The error for the lane.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl CommitAttempt {
    fn new(plan: WritePlan) -> (Self, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        let attempt = Self {
            plan,
            reply,
            begun: Instant::now(),
            tries: 0,
            in_doubt: false,
            is_contended: false,
            alone: false,
        };
        (attempt, answer)
    }

    fn refuse(self, error: StoreError) {
        // A caller that has stopped waiting finds out when it loads the lane again.
        let _ = self.reply.send(Err(error.into()));
    }
}

/// The queue of the committer.
pub(super) type Queue = mpsc::UnboundedSender<CommitAttempt>;

/// Queues a batch and waits for its outcome.
pub(super) async fn commit(queue: &Queue, plan: WritePlan) -> Answer {
    let (attempt, answer) = CommitAttempt::new(plan);
    let ended = || Failure::from(StoreError::Failed("its committer has ended".into()));
    queue.send(attempt).map_err(|_| ended())?;
    answer.await.unwrap_or_else(|_| Err(ended()))
}

pub(super) struct Committer<K> {
    pub(super) kv: K,
    pub(super) layout: Layout,
    /// Operations that etcd accepts in one transaction (`--max-txn-ops`).
    pub(super) max_operations: usize,
    pub(super) room: Room,
}

/// Whether etcd has room, according to its last answer to a transaction.
#[derive(Clone, Default)]
pub(super) struct Room {
    is_full: Arc<AtomicBool>,
}

impl Room {
    /// Records an answer, and returns whether it differs from the last one. Only then is it logged, since a full etcd
    /// is asked again and again.
    fn note(&self, is_full: bool) -> bool {
        let is_new = self.is_full.swap(is_full, Ordering::Relaxed) != is_full;
        match (is_new, is_full) {
            (true, true) => error!("{OVER_QUOTA}: increments are refused"),
            (true, false) => info!("etcd has room again: increments are accepted"),
            (false, _) => {}
        }
        is_new
    }
}

impl<K: Kv> Committer<K> {
    /// Commits until its queue is closed and nothing is left.
    pub(super) async fn run(self, mut queue: mpsc::UnboundedReceiver<CommitAttempt>) {
        let mut waiting = VecDeque::new();
        let mut flights = JoinSet::new();
        loop {
            tokio::select! {
                // This makes simulations repeatable. Neither branch can starve the other.
                biased;
                Some(attempt) = queue.recv() => waiting.push_back(attempt),
                Some(landed) = flights.join_next() => match landed {
                    Ok(again) => waiting.extend(again),
                    // Its callers get an unknown outcome.
                    Err(panic) => warn!("a transaction was lost: {panic}"),
                },
                else => return,
            }
            // Lanes that were answered together have their next batches ready together.
            tokio::task::yield_now().await;
            while let Ok(attempt) = queue.try_recv() {
                waiting.push_back(attempt);
            }
            while flights.len() < MAX_IN_FLIGHT && !waiting.is_empty() {
                let group = take_group(&mut waiting, self.max_operations);
                let flight = Flight {
                    kv: self.kv.clone(),
                    layout: self.layout.clone(),
                    room: self.room.clone(),
                };
                flights.spawn(flight.fly(group));
            }
        }
    }
}

/// Takes the batches of one transaction, at least one.
fn take_group(waiting: &mut VecDeque<CommitAttempt>, max_operations: usize) -> Vec<CommitAttempt> {
    let mut group = Vec::new();
    let (mut operations, mut most, mut bytes, mut places) = (0, 0, 0, 0);
    while let Some(attempt) = waiting.pop_front() {
        let plan = &attempt.plan;
        operations += plan.operations();
        most = plan.operations().max(most);
        bytes += plan.bytes;
        places += plan.places;
        // etcd counts the outer operations in each inner transaction as well, but not those of other inner ones.
        let nested = group.len() + 1 + most;
        let is_apart = attempt.alone
            || group
                .first()
                .is_some_and(|first: &CommitAttempt| first.alone);
        let fits = !is_apart
            && nested <= max_operations
            && operations <= MAX_OPERATIONS
            && bytes <= MAX_BYTES
            && places <= MAX_PLACES;
        if !fits && !group.is_empty() {
            waiting.push_front(attempt);
            break;
        }
        group.push(attempt);
    }
    group
}

struct Flight<K> {
    kv: K,
    layout: Layout,
    room: Room,
}

impl<K: Kv> Flight<K> {
    /// Sends a transaction. Returns the batches that have to be sent again.
    async fn fly(self, group: Vec<CommitAttempt>) -> Vec<CommitAttempt> {
        let (request, offsets) = self.request(&group);
        let tries = group.iter().map(|attempt| attempt.tries).max().unwrap_or(0);
        let patience = (ATTEMPT * 2_u32.saturating_pow(tries.min(8))).min(MAX_ATTEMPT);
        let deadline = Instant::now() + patience;
        match timeout_at(deadline, self.kv.txn(request, deadline)).await {
            Ok(Ok(response)) => {
                self.room.note(false);
                self.answered(group, &offsets, response).await
            }
            Ok(Err(error)) if error.outcome == Outcome::Unknown(Doubt::NoSpace) => {
                debug!("{error}");
                self.room.note(true);
                self.full(group).await
            }
            Ok(Err(error)) => failed(group, &error).await,
            Err(_) => {
                debug!("no answer to a transaction in time");
                again(group, PAUSE, |attempt| attempt.in_doubt = true).await
            }
        }
    }

    /// Builds a transaction with an inner one for each lane, so that a head that has moved affects its own lane only.
    fn request(&self, group: &[CommitAttempt]) -> (TxnRequest, Vec<u32>) {
        let mut request = TxnRequest {
            compare: vec![at_revision(self.layout.meta(), self.layout.meta_revision())],
            ..TxnRequest::default()
        };
        let (mut offset, mut offsets) = (0, Vec::with_capacity(group.len()));
        for CommitAttempt { plan, in_doubt, .. } in group {
            let mut lane = TxnRequest {
                compare: vec![plan.guard(&self.layout)],
                failure: plan.wait(&self.layout, *in_doubt),
                ..TxnRequest::default()
            };
            plan.write(&self.layout, offset, &mut lane.success);
            request.success.push(lane.into());
            request
                .failure
                .push(get(self.layout.head(plan.lane)).into());
            offsets.push(offset);
            offset += plan.places;
        }
        (request, offsets)
    }

    async fn answered(
        &self,
        group: Vec<CommitAttempt>,
        offsets: &[u32],
        response: TxnResponse,
    ) -> Vec<CommitAttempt> {
        let etcd_revision = response.header.map_or(0, |header| header.revision);
        let is_closed = !response.succeeded;
        let (mut left, mut behind) = (Vec::new(), Vec::new());
        for ((mut attempt, offset), response) in
            group.into_iter().zip(offsets).zip(response.responses)
        {
            let head = match response.response {
                Some(Response::ResponseTxn(lane)) if lane.succeeded => {
                    let landed = Landed {
                        etcd_revision,
                        offset: *offset,
                        is_contended: is_contended(&lane),
                    };
                    // A caller that has stopped waiting finds the batch when it loads the lane again.
                    let _ = attempt.reply.send(Ok((attempt.plan, landed)));
                    continue;
                }
                Some(Response::ResponseTxn(lane)) => {
                    attempt.is_contended = is_contended(&lane);
                    lane.responses.into_iter().next()
                }
                _ => Some(response),
            };
            let Some(Response::ResponseRange(range)) = head.and_then(|head| head.response) else {
                continue;
            };
            let head = range.kvs.first();
            let revision = head.map_or(0, |head| head.mod_revision);
            if is_closed && revision == attempt.plan.revision {
                // No copy can land any more: each compares the meta row, which has changed.
                attempt.in_doubt = false;
                behind.push(attempt);
                continue;
            }
            left.extend(self.settle(attempt, head).await);
        }
        if !behind.is_empty() {
            match self.adopt().await {
                // The same may be sent again, since it has certainly not landed.
                Ok(()) => left.extend(behind),
                Err(error) => {
                    for attempt in behind {
                        attempt.refuse(error.clone());
                    }
                }
            }
        }
        left
    }
}

/// Whether the last operation of a lane's transaction has found a node that waits for its turn.
fn is_contended(lane: &TxnResponse) -> bool {
    let last = lane.responses.last();
    match last.and_then(|response| response.response.as_ref()) {
        Some(Response::ResponseDeleteRange(waiting)) => waiting.deleted > 0,
        Some(Response::ResponseRange(waiting)) => !waiting.kvs.is_empty(),
        _ => false,
    }
}

/// Handles a failed transaction. Its batches are sent again after an unknown outcome or a passing error. Other errors
/// are reported to their callers, and so are passing ones after [`PATIENCE`] if no copy is in doubt.
async fn failed(group: Vec<CommitAttempt>, error: &Error) -> Vec<CommitAttempt> {
    match error.outcome {
        Outcome::Definite(_) if error.is_passing() => {
            debug!("{error}");
            let mut left = Vec::new();
            for attempt in group {
                if attempt.in_doubt || attempt.begun.elapsed() < PATIENCE {
                    left.push(attempt);
                    continue;
                }
                let problem = StoreError::Unavailable(error.to_string().into());
                attempt.refuse(problem);
            }
            again(left, PAUSE, |_| {}).await
        }
        Outcome::Definite(Refusal::TooLarge | Refusal::TooManyOperations) => {
            too_large(group, error)
        }
        Outcome::Definite(_) => {
            for attempt in group {
                attempt.refuse(StoreError::Failed(error.to_string().into()));
            }
            Vec::new()
        }
        Outcome::Unknown(_) => {
            debug!("{error}");
            again(group, PAUSE, |attempt| attempt.in_doubt = true).await
        }
    }
}

/// Sends each batch alone, or reports a single one as too large. This copy was refused; nobody can tell about an
/// earlier one in doubt, which another member may have accepted.
fn too_large(mut group: Vec<CommitAttempt>, error: &Error) -> Vec<CommitAttempt> {
    debug!("{error}");
    if group.len() > 1 {
        for attempt in &mut group {
            attempt.alone = true;
        }
        return group;
    }
    for attempt in group {
        let failure = if attempt.in_doubt {
            StoreError::Lost.into()
        } else {
            Failure::TooLarge(error.clone())
        };
        let _ = attempt.reply.send(Err(failure));
    }
    Vec::new()
}

async fn again(
    mut group: Vec<CommitAttempt>,
    pause: Duration,
    mut change: impl FnMut(&mut CommitAttempt),
) -> Vec<CommitAttempt> {
    sleep(pause).await;
    for attempt in &mut group {
        attempt.tries += 1;
        change(attempt);
    }
    group
}

#[cfg(test)]
mod tests;
