//! Starts the lanes on a thread, and sees to their end.

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

/// For the last user of the store to let go of it, once the lanes have ended. All of them have by then, but for a mistake; and a
/// store that is not closed loses nothing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How lanes have ended.
type Served = std::result::Result<(), StartError>;

/// Lanes at work.
pub struct LaneRuntime {
    /// The way to them.
    pub lanes: Lanes,
    end: oneshot::Receiver<Served>,
    /// Tells when the store is closed.
    closed: oneshot::Receiver<()>,
}

impl LaneRuntime {
    /// Begins to serve, on a thread of its own, since a store may make it wait for the disk. The lane of a store that
    /// is not shared is loaded at once; of others each is when something is asked of it.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        bounds: Bounds,
    ) -> std::result::Result<Self, StartError> {
        let mut runtime = runtime::Builder::new_current_thread();
        // Lanes look after themselves from time to time.
        runtime.enable_time();
        if store.capabilities().is_shared {
            // It is reached by the network.
            runtime.enable_all();
        }
        let runtime = runtime.build().map_err(StartError::Thread)?;
        Self::open(runtime, async move { Ok(store) }, bounds).await
    }

    /// The same for a store that works on the lanes' thread, and is opened and closed there.
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
                    warn!("the store is still in use, and is left as it is");
                }
                Some(store)
            });
            // The last one, so that no other thread waits for a store that takes long to close.
            drop(store);
            // Its tasks are dropped. A look-up of a host name cannot be stopped, and is not waited for.
            runtime.shutdown_background();
            let _ = closing.send(());
        };
        let thread = thread::Builder::new().name("lane".to_owned());
        // It is waited for by what it says in the end.
        let _thread = thread.spawn(work).map_err(StartError::Thread)?;
        let panicked = |_| Err(StartError::Store(ended_by("has panicked")).into());
        let shared = opening.await.unwrap_or_else(panicked)?;
        Ok(Self::new(shared, end, closed))
    }

    /// The same on the runtime that this is called on, by a clock of the caller's: for a simulation, where many nodes share
    /// one thread and one time.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub async fn here(
        store: Arc<dyn Store>,
        bounds: Bounds,
        clock: Clock,
    ) -> std::result::Result<Self, StartError> {
        let store = async move { Ok::<_, StartError>(store) };
        let (shared, serve, _) = begin(store, bounds, clock).await?;
        let (ended, end) = oneshot::channel();
        // It is waited for by what it says in the end.
        let _task = tokio::spawn(async move {
            let _ = ended.send(serve.await);
        });
        // The caller has the store, too.
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

    /// Resolves where the lanes have ended by themselves, as they do when the store fails.
    pub async fn failure(&mut self) -> StartError {
        let end = self.end().await;
        end.err()
            .unwrap_or_else(|| StartError::Store(ended_by("has ended")))
    }

    /// Carries out the queued requests, ends, and closes the store once all other [`Lanes`] are dropped: a few seconds later at the latest.
    ///
    /// # Errors
    /// Returns an error if the store fails under it, or has failed before.
    ///
    /// # Panics
    /// Panics if [`LaneRuntime::failure`] has resolved already.
    pub async fn close(mut self) -> Served {
        self.lanes.shared.stop.cancel();
        let end = self.end().await;
        let Self { lanes, closed, .. } = self;
        drop(lanes);
        // A thread that has panicked has let go of the store, too.
        let _ = closed.await;
        end
    }

    async fn end(&mut self) -> Served {
        let panicked = |_| Err(StartError::Store(ended_by("has panicked")));
        (&mut self.end).await.unwrap_or_else(panicked)
    }
}

/// Opens a store; gives a future that serves its lanes, and a token that is cancelled once nobody has their shared state.
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
            // Who waits for room would wait for ever.
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
                // One that has failed takes the others with it: the process is to be started again.
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
