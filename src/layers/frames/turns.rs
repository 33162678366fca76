//! The turns of requests that are decompressed. Few bytes may become many, and a worker serves all of its connections by one
//! thread: between two such messages it looks at its sockets and its other tasks.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

thread_local! {
    /// The turn of a worker.
    static WORKER: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// A request's place among those of its worker, first come, first served.
pub(super) struct Turns(PollSemaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(PollSemaphore::new(WORKER.with(Arc::clone)))
    }
}

impl Turns {
    pub(super) fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<OwnedSemaphorePermit> {
        let turn = ready!(self.0.poll_acquire(cx));
        Poll::Ready(turn.expect("it is never closed"))
    }
}

/// Ends a turn that took long, once the worker has looked at its sockets. A task of its own waits for that, since nobody may
/// poll this request for a while.
pub(super) fn end(turn: OwnedSemaphorePermit) {
    let Ok(worker) = Handle::try_current() else {
        return;
    };
    worker.spawn(async move {
        // The runtime resumes a task that yields after it has looked at its sockets.
        tokio::task::yield_now().await;
        drop(turn);
    });
}
