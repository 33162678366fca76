//! The handle of the lanes: requests are queued, and their callers get the answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::clock::Clock;
use super::completions::{ReplyTo, StreamReplies};
use super::error::{Decided, LaneError, Result, ended_by};
use super::job::Job;
use super::shared::Shared;
use crate::model::{Millis, Rejection, Request};
use crate::store::{LaneNumber, Store};

/// Divisor of the memory for ids. Ids that nodes make for requests without one are admitted only while less than that
/// part is in use. Callers' own ids are a promise, and have the rest for themselves.
pub(super) const OWN_IDS_PART: usize = 8;
/// Maximum time for which a node may resend a request under an id of its own making: as long as it takes to reach
/// another node, and at most half the time that ids are remembered.
const MAX_OWN_ID_AGE: Duration = Duration::from_secs(20);
/// Retry delay of a node that has no memory for ids of other nodes' making.
const OWN_IDS_RETRY: Millis = 1000;

/// A handle of the lanes.
#[derive(Clone)]
pub struct Lanes {
    pub(super) shared: Arc<Shared>,
    /// The queue for the answers to the callers of this handle.
    pub(super) completion_queue: usize,
}

impl Lanes {
    /// The store of the lanes. It is borrowed: a caller that held it after the lanes would have to wait until it is
    /// closed.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    /// The wall-clock time, as the lanes see it.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.shared.clock.now()
    }

    /// The clock of the lanes, which may outlive them.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    /// How long unused sessions are remembered.
    #[must_use]
    pub fn session_horizon(&self) -> Millis {
        self.shared.memory.bounds().session_horizon
    }

    /// Checks that there is memory for an id that another node has made for a caller without one.
    ///
    /// # Errors
    /// Returns [`Rejection::Full`] if callers' own ids need the memory.
    pub fn admit_own_id(&self) -> std::result::Result<(), Rejection> {
        let memory = &self.shared.memory;
        let max_bytes = memory.bounds().id_bytes / OWN_IDS_PART;
        if memory.id_bytes() < max_bytes {
            return Ok(());
        }
        Err(Rejection::Full {
            max_bytes: max_bytes as u64,
            retry_in: OWN_IDS_RETRY,
        })
    }

    /// How long an operation may be resent under an id that this node has made.
    #[must_use]
    pub fn own_id_age(&self) -> Duration {
        let horizon = u64::try_from(self.shared.memory.bounds().id_horizon).unwrap_or(0);
        MAX_OWN_ID_AGE.min(Duration::from_millis(horizon / 2))
    }

    /// Sets the check for the owner of a lane: `is_remote` says whether another node owns it. Once another node has
    /// committed to such a lane, requests of [`Lanes::execute_if_owner`] are refused with [`LaneError::NotOwner`]. A
    /// node that went on trying beside a busy owner would be too late again and again.
    pub fn set_owner_check(&self, is_remote: impl Fn(LaneNumber) -> bool + Send + Sync + 'static) {
        // The first call is enough: the check is evaluated anew each time.
        let _ = self.shared.is_remote.set(Box::new(is_remote));
    }

    /// A handle of the same lanes, for callers on the current runtime: they get their answers together.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            completion_queue: self.shared.completion_queues.open(),
            ..self.clone()
        }
    }

    /// Executes a request in a lane. The request is queued at once, and is executed even if the caller stops waiting.
    ///
    /// # Errors
    /// Returns [`LaneError`] if the request is refused, or its outcome is not known.
    pub fn execute(
        &self,
        lane: LaneNumber,
        request: Request,
    ) -> impl Future<Output = Result<Decided>> + use<> {
        self.submit(lane, request, false)
    }

    /// Executes a request that another node may execute instead; otherwise as [`Lanes::execute`].
    ///
    /// # Errors
    /// Returns [`LaneError`] as [`Lanes::execute`] does, and [`LaneError::NotOwner`] if another node owns the lane.
    pub fn execute_if_owner(
        &self,
        lane: LaneNumber,
        request: Request,
    ) -> impl Future<Output = Result<Decided>> + use<> {
        self.submit(lane, request, true)
    }

    /// Executes a request as [`Lanes::execute_if_owner`] does, for a caller that goes on meanwhile. `done` gets the
    /// answer on this handle's runtime, in the order of the handle's requests in this lane.
    pub fn execute_then(
        &self,
        lane: LaneNumber,
        request: Request,
        done: impl FnOnce(Result<Decided>) + Send + 'static,
    ) {
        let weight = request.operation.weight();
        match take(&self.shared.room.singles, weight) {
            Ok(()) => self.send_then(lane, request, weight, true, done),
            Err(error) => done(Err(error)),
        }
    }

    /// Queues a request. The future is no larger than the answer that it waits for, since each call has one.
    fn submit(
        &self,
        lane: LaneNumber,
        request: Request,
        if_owner: bool,
    ) -> impl Future<Output = Result<Decided>> + use<> {
        let (reply, answer) = oneshot::channel();
        let weight = request.operation.weight();
        let queued = take(&self.shared.room.singles, weight).and_then(|()| {
            let sent = self.send(lane, request, ReplyTo::Single(reply), weight, if_owner);
            sent.map_err(|(_, error)| error)
        });
        async move {
            queued?;
            // A lane's task that died has dropped its requests.
            let lost = || Err(LaneError::Unknown(ended_by("has ended")));
            answer.await.unwrap_or_else(|_| lost())
        }
    }

    /// Queues the parts of a message, each for its lane, once there is capacity for all of them. Messages stay in order
    /// if the caller waits for this before the next one. `done` gets each part's answer with its index, as in
    /// [`Lanes::execute_then`].
    pub async fn enqueue_all(
        &self,
        parts: Vec<(LaneNumber, Request)>,
        done: impl FnOnce(usize, Result<Decided>) + Clone + Send + 'static,
    ) {
        let weight = |request: &Request| request.operation.weight() + 1;
        let all = parts.iter().map(|(_, request)| weight(request)).sum();
        let room = self.reserve(all).await;
        for (index, (lane, request)) in parts.into_iter().enumerate() {
            let done = done.clone();
            let done = move |decided| done(index, decided);
            let weight = weight(&request);
            match &room {
                Ok(()) => self.send_then(lane, request, weight, false, done),
                Err(error) => done(Err(error.clone())),
            }
        }
    }

    fn send_then(
        &self,
        lane: LaneNumber,
        request: Request,
        weight: usize,
        if_owner: bool,
        done: impl FnOnce(Result<Decided>) + Send + 'static,
    ) {
        let reply_to = ReplyTo::Then(Box::new(done));
        let sent = self.send(lane, request, reply_to, weight, if_owner);
        if let Err((ReplyTo::Then(done), error)) = sent {
            done(Err(error));
        }
    }

    /// Queues a request whose answer goes to `replies`, in the order in which the requests of one sender were queued in
    /// this lane.
    ///
    /// # Errors
    /// Returns [`LaneError::Closed`] if the lane has ended.
    pub async fn enqueue(
        &self,
        lane: LaneNumber,
        request: Request,
        increments: usize,
        replies: mpsc::UnboundedSender<Result<Decided>>,
    ) -> Result<()> {
        let weight = increments + 1;
        self.reserve(weight).await?;
        let reply_to = ReplyTo::Stream(StreamReplies::new(replies));
        let sent = self.send(lane, request, reply_to, weight, false);
        sent.map_err(|(reply_to, error)| {
            if let ReplyTo::Stream(reply_to) = reply_to {
                reply_to.forget();
            }
            error
        })
    }

    /// Waits for bulk capacity, and takes it until the request is answered.
    async fn reserve(&self, weight: usize) -> Result<()> {
        let permit = self.shared.room.bulk.acquire_many(permits(weight)).await;
        permit.map_err(|_| LaneError::Closed)?.forget();
        Ok(())
    }

    fn send(
        &self,
        lane: LaneNumber,
        request: Request,
        reply_to: ReplyTo,
        weight: usize,
        if_owner: bool,
    ) -> std::result::Result<(), (ReplyTo, LaneError)> {
        let shared = &self.shared;
        let queue = shared.queues[lane as usize].get_or_init(|| {
            let (queue, jobs) = mpsc::unbounded_channel();
            // If the lanes have ended, the queue is closed, and the send below fails.
            let _ = shared.beginning.send((lane, jobs));
            queue
        });
        let job = Job {
            request: Box::new(request),
            reply_to,
            completion_queue: self.completion_queue,
            weight,
            if_owner,
            parked_since: None,
            in_doubt: false,
        };
        let sent = queue.send(job);
        sent.map_err(|unsent| (unsent.0.reply_to, LaneError::Closed))
    }
}

/// Takes capacity, if there is any, until the request is answered.
fn take(room: &Semaphore, weight: usize) -> Result<()> {
    let permit = room.try_acquire_many(permits(weight));
    permit.map_err(|_| LaneError::Overloaded)?.forget();
    Ok(())
}

fn permits(weight: usize) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}
