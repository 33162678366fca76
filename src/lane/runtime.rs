//! Starts the lanes on a thread, and ends them.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::clock::Clock;
use super::completions::CompletionQueues;
use super::error::{StartError, ended_by};
use super::handle::Lanes;
use super::job::Job;
use super::memory_budget::MemoryBudget;
use super::shared::{Capacity, Shared};
use super::worker::{self, LaneWorker};
use crate::model::Bounds;
use crate::store::{LaneNumber, Store};

/// Maximum wait for the last user to drop the store, once the lanes have ended. Without a bug, all have dropped it by
/// then; and a store that is not closed loses nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of serving lanes.
type Served = std::result::Result<(), StartError>;

/// Running lanes.
pub struct LaneRuntime {
    /// The handle of the lanes.
    pub lanes: Lanes,
    end: oneshot::Receiver<Served>,
    /// Resolves once the store is closed.
    closed: oneshot::Receiver<()>,
}

impl LaneRuntime {
    /// Starts the lanes on a thread of their own, since a store may block on the disk. The lane of a store that is not
    /// shared is loaded at once, and each lane of a shared store at its first request.
    ///
    /// # Errors
    /// Returns [`StartError`] if the store cannot be read, or the thread cannot be made.
    pub async fn start(
        store: Arc<dyn Store>,
        bounds: Bounds,
    ) -> std::result::Result<Self, StartError> {
        let mut runtime = runtime::Builder::new_current_thread();
        // Idle lanes wake up from time to time.
        runtime.enable_time();
        if store.capabilities().is_shared {
            // A shared store is reached over the network.
            runtime.enable_all();
        }
        let runtime = runtime.build().map_err(StartError::Thread)?;
        Self::open(runtime, async move { Ok(store) }, bounds).await
    }

    /// Starts the lanes as [`LaneRuntime::start`] does, for a store that works on their thread, and is opened and
    /// closed there.
    ///
    /// # Errors
    /// Returns an error if the store cannot be opened or read.
    pub async fn open<E>(
        runtime: runtime::Runtime,
        store: impl Future<Output = std::result::Result<Arc<dyn Store>, E>> + Send + 'static,
        bounds: Bounds,
    ) -> std::result::Result<Self, E>
    where
        E: From<StartError> + Send + 'static,
    {
        let (opened, opening) = oneshot::channel();
        let (ended, end) = oneshot::channel();
        let (closing, closed) = oneshot::channel();
        let work = move || {
            let store = runtime.block_on(async {
                let (shared, serve, unused) = match begin(store, bounds, Clock::default()).await {
                    Ok(begun) => begun,
                    Err(error) => {
                        let _ = opened.send(Err(error));
                        return None;
                    }
                };
                let store = shared.store.clone();
                let _ = opened.send(Ok(shared));
                let _ = ended.send(serve.await);
                if timeout(CLOSE_TIMEOUT, unused.cancelled()).await.is_err() {
                    warn!("the store is still in use, and is left open");
                }
                Some(store)
            });
            // The last reference, so that no other thread waits for a store that takes long to close.
            drop(store);
            // Drops the tasks. A look-up of a host name cannot be stopped, so it is not waited for.
            runtime.shutdown_background();
            let _ = closing.send(());
        };
        let thread = thread::Builder::new().name("lane".to_owned());
        // The thread is not joined: `closed` resolves at its end.
        let _thread = thread.spawn(work).map_err(StartError::Thread)?;
        let panicked = |_| Err(StartError::Store(ended_by("has panicked")).into());
        let shared = opening.await.unwrap_or_else(panicked)?;
        Ok(Self::new(shared, end, closed))
    }

    /// Starts the lanes on the current runtime, with a clock of the caller's: for a simulation, in which many nodes
    /// share one thread and one time.
    ///
    /// # Errors
    /// Returns [`StartError`] if the store cannot be read.
    pub async fn here(
        store: Arc<dyn Store>,
        bounds: Bounds,
        clock: Clock,
    ) -> std::result::Result<Self, StartError> {
        let store = async move { Ok::<_, StartError>(store) };
        let (shared, serve, _) = begin(store, bounds, clock).await?;
        let (ended, end) = oneshot::channel();
        // The task is not joined: `end` resolves at its end.
        let _task = tokio::spawn(async move {
            let _ = ended.send(serve.await);
        });
        // The caller holds the store, too, so its close is not waited for.
        let (_, closed) = oneshot::channel();
        Ok(Self::new(shared, end, closed))
    }

    fn new(
        shared: Arc<Shared>,
        end: oneshot::Receiver<Served>,
        closed: oneshot::Receiver<()>,
    ) -> Self {
        let lanes = Lanes {
            completion_queue: shared.completion_queues.open(),
            shared,
        };
        Self { lanes, end, closed }
    }

    /// Resolves once the lanes have ended without a stop, as they do if the store fails.
    pub async fn failure(&mut self) -> StartError {
        let end = self.end().await;
        end.err()
            .unwrap_or_else(|| StartError::Store(ended_by("has ended")))
    }

    /// Executes the queued requests, ends the lanes, and closes the store once all other [`Lanes`] are dropped, at most
    /// a few seconds later.
    ///
    /// # Errors
    /// Returns [`StartError`] if the store fails meanwhile, or has failed before.
    ///
    /// # Panics
    /// Panics if [`LaneRuntime::failure`] has resolved already.
    pub async fn close(mut self) -> Served {
        self.lanes.shared.stop.cancel();
        let end = self.end().await;
        let Self { lanes, closed, .. } = self;
        drop(lanes);
        // A thread that has panicked has dropped the store, too.
        let _ = closed.await;
        end
    }

    async fn end(&mut self) -> Served {
        let panicked = |_| Err(StartError::Store(ended_by("has panicked")));
        (&mut self.end).await.unwrap_or_else(panicked)
    }
}

/// Opens a store. Returns the shared state, a future that serves the lanes, and a token that is cancelled once the
/// shared state is dropped.
async fn begin<E: From<StartError>>(
    store: impl Future<Output = std::result::Result<Arc<dyn Store>, E>>,
    bounds: Bounds,
    clock: Clock,
) -> std::result::Result<(Arc<Shared>, impl Future<Output = Served>, CancellationToken), E> {
    let store = store.await?;
    let only = if store.capabilities().is_shared {
        None
    } else {
        Some(worker::load(&*store, 0, bounds).await?)
    };
    let (beginning, begun) = mpsc::unbounded_channel();
    let unused = CancellationToken::new();
    let shared = Arc::new(Shared {
        room: Capacity::new(),
        completion_queues: CompletionQueues::default(),
        memory: MemoryBudget::new(bounds),
        clock,
        stop: CancellationToken::new(),
        is_remote: OnceLock::new(),
        queues: (0..store.lanes()).map(|_| OnceLock::new()).collect(),
        beginning,
        store,
        _in_use: unused.clone().drop_guard(),
    });
    let mut tasks = JoinSet::new();
    if let Some(state) = only {
        let (queue, jobs) = mpsc::unbounded_channel();
        let _ = shared.queues[0].set(queue);
        let worker = LaneWorker::new(0, state, jobs, None, shared.clone());
        tasks.spawn(async move { worker.run().await.map(drop) });
    }
    let serve = {
        let shared = shared.clone();
        async move {
            let end = serve(&shared, begun, tasks).await;
            // Otherwise, callers that wait for capacity would wait for ever.
            shared.room.bulk.close();
            end
        }
    };
    Ok((shared, serve, unused))
}

/// Serves the lanes that begin, until all have ended after a stop, or one has failed.
async fn serve(
    shared: &Arc<Shared>,
    mut begun: mpsc::UnboundedReceiver<(LaneNumber, mpsc::UnboundedReceiver<Job>)>,
    mut tasks: JoinSet<Served>,
) -> Served {
    loop {
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next() => {
                // A lane that has failed ends the others: the process has to be restarted.
                let panicked = |_| Err(StartError::Store(ended_by("has panicked")));
                ended.unwrap_or_else(panicked)?;
            }
            Some((lane, jobs)) = begun.recv() => {
                tasks.spawn(worker::begin(lane, jobs, shared.clone()));
            }
            () = shared.stop.cancelled(), if !begun.is_closed() => begun.close(),
            else => return Ok(()),
        }
    }
}
