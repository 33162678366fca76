//! Threads that each serve their connections by themselves: a call never moves between threads.

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
use super::context::{Local, Node};
use super::listener::Socket;

/// A connection on its way to a worker, counted as one of the server and one of the worker.
struct Handover {
    socket: Socket,
    admission: Admission,
    _of_server: TaskTrackerToken,
    _of_worker: Load,
}

/// One connection of a worker, for as long as it is held.
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to one worker.
#[derive(Clone)]
struct Queue {
    // Not bounded by itself: `--max-connections` bounds what is in all queues together.
    sockets: mpsc::UnboundedSender<Handover>,
    load: Arc<AtomicUsize>,
}

/// The ways to all workers.
#[derive(Clone)]
pub(super) struct Queues(Vec<Queue>);

impl Queues {
    /// Gives a connection to the worker that has the fewest.
    pub(super) fn push(&self, socket: Socket, admission: Admission, of_server: TaskTrackerToken) {
        let least = |queue: &&Queue| queue.load.load(Ordering::Relaxed);
        let Some(queue) = self.0.iter().min_by_key(least) else {
            return;
        };
        queue.load.fetch_add(1, Ordering::Relaxed);
        // It fails where the worker is gone, and then the server ends and this connection with it.
        let _ = queue.sockets.send(Handover {
            socket,
            admission,
            _of_server: of_server,
            _of_worker: Load(queue.load.clone()),
        });
    }
}

/// The threads.
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
                    // Its tasks are dropped. A look-up of a host name cannot be stopped, and is not waited for.
                    runtime.shutdown_background();
                    // Nobody listens where the server was dropped.
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

    /// Resolves when a thread has ended, which none may before all are joined.
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

    /// Waits until all threads have ended, as they do once the node drops its connections.
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
