//! State that all lanes of a node share.

use std::sync::{Arc, OnceLock};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::Clock;
use super::completions::CompletionQueues;
use super::job::Job;
use super::memory_budget::MemoryBudget;
use crate::store::{LaneNumber, Store};

/// Maximum number of increments of bulk messages that are queued or being stored, in all lanes together. Beyond it,
/// their streams are not read. It is a few batches' worth, at some 50 bytes an increment.
pub(super) const MAX_WAITING_INCREMENTS: usize = 512 * 1024;
/// Maximum number of pending increments of single requests. Beyond it, requests are refused. The calls that the server
/// admits do not bound them, since an abandoned call leaves its request behind.
pub(super) const MAX_WAITING_SINGLES: usize = 64 * 1024;

/// State that all lanes share. Beside it, only the thread that closes the store holds the store.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) room: Capacity,
    pub(super) completion_queues: CompletionQueues,
    pub(super) memory: MemoryBudget,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
    /// Says which lanes another node owns. Unset if there are no other nodes.
    pub(super) is_remote: OnceLock<Box<dyn Fn(LaneNumber) -> bool + Send + Sync>>,
    /// The queues of the lanes that have begun.
    pub(super) queues: Box<[OnceLock<mpsc::UnboundedSender<Job>>]>,
    pub(super) beginning: mpsc::UnboundedSender<(LaneNumber, mpsc::UnboundedReceiver<Job>)>,
    /// Dropped last, so that the thread that closes the store is the last to hold it.
    pub(super) _in_use: DropGuard,
}

/// Bounds the queues: each permit is one increment more that may be queued. Permits are returned once per batch,
/// because a return involves two threads.
pub(super) struct Capacity {
    pub(super) bulk: Semaphore,
    pub(super) singles: Semaphore,
}

impl Capacity {
    pub(super) fn new() -> Self {
        Self {
            bulk: Semaphore::new(MAX_WAITING_INCREMENTS),
            singles: Semaphore::new(MAX_WAITING_SINGLES),
        }
    }
}
