//! The way to the lanes: requests are queued, and answered to their callers.

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

/// Of the memory for ids, this part is for those that nodes make for requests without one: callers' own are a promise, and have
/// the rest for themselves.
pub(super) const OWN_IDS_PART: usize = 8;
/// How long a node may send a request again under an id of its own making: half the time that ids are remembered for, and no
/// longer than it takes to reach another node.
const MAX_OWN_ID_AGE: Duration = Duration::from_secs(20);
/// How long a node without memory for ids of other nodes' making is not asked for any.
const OWN_IDS_RETRY: Millis = 1000;

/// The way to the lanes.
#[derive(Clone)]
pub struct Lanes {
    pub(super) shared: Arc<Shared>,
    /// The queue for the answers to this one's callers.
    pub(super) completion_queue: usize,
}

impl Lanes {
    /// The store that they are in. It is lent: whoever had it after the lanes would have to wait until it is closed.
    #[must_use]
    pub fn store(&self) -> &dyn Store {
        &*self.shared.store
    }

    /// The time of day, as the lanes have it.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.shared.clock.now()
    }

    /// Their clock, which may be kept for longer than they are.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    /// How long sessions are remembered that are not used.
    #[must_use]
    pub fn session_horizon(&self) -> Millis {
        self.shared.memory.bounds().session_horizon
    }

    /// Whether there is memory for an id that another node has made for a caller without one.
    ///
    /// # Errors
    /// Returns [`Rejection::Full`] if callers' own ids need it.
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

    /// How long an operation may be sent again under an id that this node has made.
    #[must_use]
    pub fn own_id_age(&self) -> Duration {
        let horizon = u64::try_from(self.shared.memory.bounds().id_horizon).unwrap_or(0);
        MAX_OWN_ID_AGE.min(Duration::from_millis(horizon / 2))
    }

    /// Refuses requests with [`LaneError::NotOwner`] that are to be executed by the lane's owner ([`Lanes::execute_if_owner`]), once
    /// another node has committed to the lane, if `is_remote` says that the owner is another one: a node that goes on trying
    /// beside a busy owner would come too late again and again.
    pub fn set_owner_check(&self, is_remote: impl Fn(LaneNumber) -> bool + Send + Sync + 'static) {
        // Once is enough: it is asked again each time.
        let _ = self.shared.is_remote.set(Box::new(is_remote));
    }

    /// The way to the same lanes, for callers on the runtime that this is called on: their answers come together.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            completion_queue: self.shared.completion_queues.open(),
            ..self.clone()
        }
    }

    /// Carries out a request in a lane, where it waits from now on. It is carried out also where the caller stops waiting.
    ///
    /// # Errors
    /// Returns an error if it was refused, or its outcome is not known.
    pub fn execute(
        &self,
        lane: LaneNumber,
        request: Request,
    ) -> impl Future<Output = Result<Decided>> + use<> {
        self.submit(lane, request, false)
    }

    /// The same for a request that may be carried out by another node.
    ///
    /// # Errors
    /// The same, and [`LaneError::NotOwner`].
    pub fn execute_if_owner(
        &self,
        lane: LaneNumber,
        request: Request,
    ) -> impl Future<Output = Result<Decided>> + use<> {
        self.submit(lane, request, true)
    }

    /// The same for a caller that goes on meanwhile: `done` is told, on this one's runtime, in the order in which its requests
    /// were made in this lane.
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

    /// The future is no larger than what it waits for, since each call has one.
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
            // A task that died has taken what it was asked with it.
            let lost = || Err(LaneError::Unknown(ended_by("has ended")));
            answer.await.unwrap_or_else(|_| lost())
        }
    }

    /// Queues parts of a message, each for its lane, once there is room for all of them: who asks for the next ones only then has
    /// them in the order in which they came. `done` is told of each, by its place, as [`Lanes::execute_then`] does.
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

    /// Queues a request that is answered to `replies`, in the order in which those of one sender were queued in this lane.
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

    /// Takes room for bulk once there is some, until what takes it is answered.
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
            // Where that is over the queue is closed, which is told below.
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

/// Takes room, if there is any, until what takes it is answered.
fn take(room: &Semaphore, weight: usize) -> Result<()> {
    let permit = room.try_acquire_many(permits(weight));
    permit.map_err(|_| LaneError::Overloaded)?.forget();
    Ok(())
}

fn permits(weight: usize) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}
