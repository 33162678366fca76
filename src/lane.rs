//! The task of a lane: it takes what waits, decides it, has it stored, and answers.
//!
//! While one batch is being stored the next one gathers: an idle lane answers at the speed of one commit, and a busy one
//! spreads it over thousands of operations.

mod changes;
mod desk;
mod task;

pub use changes::{Changed, Changes, Seen};

use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io, thread};

use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::model::{Answer, Bounds, Corrupt, Refused, Request, State};
use crate::store::{Store, StoreError};
use desk::{Desks, Waiter};
use task::{Job, Task};

/// Increments of bulk messages that wait in a lane, or are being stored: beyond that their streams are not read.
/// A few batches' worth; each takes some 50 bytes.
const MAX_WAITING_INCREMENTS: usize = 512 * 1024;
/// Increments of single requests that wait: beyond that they are refused. The calls that the server admits do not bound
/// them, since a call that is given up leaves its request behind.
const MAX_WAITING_SINGLES: usize = 64 * 1024;

/// What became of a request, its revision known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The answer.
    pub answer: Answer,
    /// Its place in the order.
    pub revision: i64,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum LaneError {
    /// It was not carried out.
    Refused(Refused),
    /// It may have been carried out, or not: the store failed under it.
    Unknown(StoreError),
    /// It was not carried out, for too much waits.
    Overloaded,
    /// It was not carried out, for the lane has ended.
    Closed,
}

impl fmt::Display for LaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => write!(f, "{refused:?}"),
            Self::Unknown(error) => error.fmt(f),
            Self::Overloaded => f.write_str("too much waits"),
            Self::Closed => f.write_str("the lane has ended"),
        }
    }
}

/// What a request gets.
pub type Result<T> = std::result::Result<T, LaneError>;

/// The way to a lane.
#[derive(Clone)]
pub struct Lane {
    queue: mpsc::UnboundedSender<Job>,
    room: Arc<Room>,
    changes: Changes,
    desks: Desks,
    /// Where the answers of this one's callers go.
    desk: usize,
}

/// Bounds what is in the queue: each permit is an increment more that may be. Permits are given back by the batch, since that
/// is a matter of two threads.
struct Room {
    bulk: Semaphore,
    singles: Semaphore,
}

/// A lane at work.
pub struct Running {
    /// The way to it.
    pub lane: Lane,
    stop: CancellationToken,
    end: oneshot::Receiver<std::result::Result<(), StoreError>>,
}

/// Why a lane cannot begin.
#[derive(Debug)]
pub enum StartError {
    /// Its rows cannot be read.
    Store(StoreError),
    /// They are not what was written.
    Corrupt(Corrupt),
    /// No thread can be had.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Corrupt(error) => error.fmt(f),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Running {
    /// Loads a lane and begins to serve it, on a thread of its own, since a store may make it wait for the disk.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        bounds: Bounds,
    ) -> std::result::Result<Self, StartError> {
        let loaded = store.load().await.map_err(StartError::Store)?;
        let state = State::new(bounds, loaded.head, loaded.packs, loaded.sessions)
            .map_err(StartError::Corrupt)?;
        task::compare_clock(state.head());
        let (queue, jobs) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (desks, changes) = (Desks::default(), Changes::new(state.head().revision));
        let room = Arc::new(Room {
            bulk: Semaphore::new(MAX_WAITING_INCREMENTS),
            singles: Semaphore::new(MAX_WAITING_SINGLES),
        });
        let task = Task {
            state,
            store,
            jobs,
            room: room.clone(),
            desks: desks.clone(),
            changes: changes.clone(),
            stop: stop.clone(),
            started: Instant::now(),
            clock_is_ahead: false,
        };
        let (ended, end) = oneshot::channel();
        let runtime = runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(StartError::Thread)?;
        let thread = thread::Builder::new().name("lane".to_owned());
        let work = move || drop(ended.send(runtime.block_on(task.run())));
        // It is waited for by what it says in the end.
        let _thread = thread.spawn(work).map_err(StartError::Thread)?;
        Ok(Self {
            lane: Lane {
                queue,
                room,
                changes,
                desk: desks.open(),
                desks,
            },
            stop,
            end,
        })
    }

    /// Resolves where the lane has ended by itself, as it does when its store fails.
    pub async fn failure(&mut self) -> StoreError {
        let end = self.end().await;
        end.err()
            .unwrap_or_else(|| StoreError("its lane has ended".into()))
    }

    /// Carries out what waits, and ends.
    ///
    /// # Errors
    /// Where the store fails under it, or has failed before.
    ///
    /// # Panics
    /// Where [`Running::failure`] has told so already.
    pub async fn close(mut self) -> std::result::Result<(), StoreError> {
        self.stop.cancel();
        self.end().await
    }

    async fn end(&mut self) -> std::result::Result<(), StoreError> {
        let panicked = |_| Err(StoreError("its lane has panicked".into()));
        (&mut self.end).await.unwrap_or_else(panicked)
    }
}

impl Lane {
    /// The way to the same lane, for callers on the runtime that this is called on: their answers come together.
    #[must_use]
    pub fn for_this_runtime(&self) -> Self {
        Self {
            desk: self.desks.open(),
            ..self.clone()
        }
    }

    /// Carries out a request. It is carried out also where the caller stops waiting.
    ///
    /// # Errors
    /// Where it was refused, or its outcome is not known.
    pub async fn execute(&self, request: Request) -> Result<Decided> {
        let (reply, answer) = oneshot::channel();
        let weight = request.operation.weight();
        let permit = self.room.singles.try_acquire_many(permits(weight));
        permit.map_err(|_| LaneError::Overloaded)?.forget();
        self.send(request, Waiter::Single(reply), weight)?;
        // A task that died has taken what it was asked with it.
        let lost = || Err(LaneError::Unknown(StoreError("its lane has ended".into())));
        answer.await.unwrap_or_else(|_| lost())
    }

    /// Queues a request that is answered to `replies`, in the order in which those of one sender were queued.
    ///
    /// # Errors
    /// Where the lane has ended.
    pub async fn enqueue(
        &self,
        request: Request,
        increments: usize,
        replies: mpsc::UnboundedSender<Result<Decided>>,
    ) -> Result<()> {
        let weight = increments + 1;
        let permit = self.room.bulk.acquire_many(permits(weight)).await;
        permit.map_err(|_| LaneError::Closed)?.forget();
        self.send(request, Waiter::Bulk(replies), weight)
    }

    fn send(&self, request: Request, waiter: Waiter, weight: usize) -> Result<()> {
        let job = Job {
            request,
            waiter,
            desk: self.desk,
            weight,
        };
        self.queue.send(job).map_err(|_| LaneError::Closed)
    }

    /// What is committed, as it is.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }
}

fn permits(weight: usize) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}
