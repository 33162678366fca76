//! Worker threads. Each serves its own connections: a call never moves between workers.

use std::future::poll_fn;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::connection::{self, Admission};
use super::listener::Socket;
use super::node::{Local, Node};

/// A connection on its way to a worker, counted for the server and for the worker.
struct Handover {
    socket: Socket,
    admission: Admission,
    _of_server: TaskTrackerToken,
    _of_worker: Load,
}

/// Counts one connection of a worker until it is dropped.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The queue of one worker.
#[derive(Clone)]
struct Queue {
    // Unbounded: `--max-connections` bounds all queues together.
    sockets: mpsc::UnboundedSender<Handover>,
    load: Arc<AtomicUsize>,
}

/// The queues of all workers.
#[derive(Clone)]
pub(super) struct Queues(Vec<Queue>);

impl Queues {
    /// Gives a connection to the worker with the fewest connections.
    pub(super) fn push(&self, socket: Socket, admission: Admission, of_server: TaskTrackerToken) {
        let least = |queue: &&Queue| queue.load.load(Ordering::Relaxed);
        let Some(queue) = self.0.iter().min_by_key(least) else {
            return;
        };
        queue.load.fetch_add(1, Ordering::Relaxed);
        // It fails if the worker is gone; then the server ends, and this connection with it.
        let _ = queue.sockets.send(Handover {
            socket,
            admission,
            _of_server: of_server,
            _of_worker: Load(queue.load.clone()),
        });
    }
}

/// The worker threads.
pub(super) struct Workers {
    queues: Queues,
    /// Each resolves when its thread has ended.
    ended: Vec<oneshot::Receiver<()>>,
}

impl Workers {
    pub(super) fn start(count: NonZeroUsize, node: &Arc<Node>) -> io::Result<Self> {
        let mut workers = Self {
            queues: Queues(Vec::new()),
            ended: Vec::new(),
        };
        for i in 0..count.get() {
            let (sockets, received) = mpsc::unbounded_channel();
            let (ending, ended) = oneshot::channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let node = node.clone();
            thread::Builder::new()
                .name(format!("worker-{i}"))
                .spawn(move || {
                    runtime.block_on(work(received, node));
                    // Drops the remaining tasks. A look-up of a host name cannot be stopped, and is not awaited.
                    runtime.shutdown_background();
                    // It fails if the server was dropped.
                    let _ = ending.send(());
                })?;
            workers.ended.push(ended);
            workers.queues.0.push(Queue {
                sockets,
                load: Arc::default(),
            });
        }
        Ok(workers)
    }

    pub(super) fn queues(&self) -> Queues {
        self.queues.clone()
    }

    /// Resolves when a thread has ended. None may end before [`Workers::join`].
    pub(super) async fn failure(&mut self) -> io::Error {
        poll_fn(|cx| {
            let mut ended = self.ended.iter_mut();
            if ended.any(|ended| Pin::new(ended).poll(cx).is_ready()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        io::Error::other("a worker thread has died")
    }

    /// Waits until all threads have ended. They end once the node drops its connections.
    pub(super) async fn join(self) {
        for ended in self.ended {
            if !ended.is_terminated() {
                let _ = ended.await;
            }
        }
    }
}

async fn work(mut received: mpsc::UnboundedReceiver<Handover>, node: Arc<Node>) {
    let local = Arc::new(Local::new(node));
    let dropping = &local.phase.dropping;
    while let Some(Some(handover)) = dropping.run_until_cancelled(received.recv()).await {
        let local = local.clone();
        tokio::spawn(async move {
            let Handover {
                socket,
                admission,
                _of_server,
                _of_worker,
            } = handover;
            match socket.into_stream() {
                Ok(stream) => connection::serve(stream, admission, local).await,
                Err(error) => debug!(%error, "a connection cannot be used"),
            }
        });
    }
}
