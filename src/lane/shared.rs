//! State that all lanes of a node share.

use std::sync::{Arc, OnceLock};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::clock::Clock;
use super::completions::CompletionQueues;
use super::job::Job;
use super::memory_budget::MemoryBudget;
use crate::store::{LaneNumber, Store};

/// Increments of bulk messages that wait in all lanes together, or are being stored: beyond that their streams are not read.
/// A few batches' worth; each takes some 50 bytes.
pub(super) const MAX_WAITING_INCREMENTS: usize = 512 * 1024;
/// Increments of single requests that wait: beyond that they are refused. The calls that the server admits do not bound
/// them, since a call that is given up leaves its request behind.
pub(super) const MAX_WAITING_SINGLES: usize = 64 * 1024;

/// State that all lanes share. Beside it, only the thread that closes the store has the store.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) room: Capacity,
    pub(super) completion_queues: CompletionQueues,
    pub(super) memory: MemoryBudget,
    pub(super) clock: Clock,
    pub(super) stop: CancellationToken,
    /// Which lanes another node commits best, where there are other nodes.
    pub(super) is_remote: OnceLock<Box<dyn Fn(LaneNumber) -> bool + Send + Sync>>,
    /// The ways to those that have begun.
    pub(super) queues: Box<[OnceLock<mpsc::UnboundedSender<Job>>]>,
    pub(super) beginning: mpsc::UnboundedSender<(LaneNumber, mpsc::UnboundedReceiver<Job>)>,
    /// Dropped last, so that the thread that closes the store is the last to have it.
    pub(super) _in_use: DropGuard,
}

/// Bounds what is in the queues: each permit is an increment more that may be. Permits are given back by the batch, since
/// that is a matter of two threads.
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
