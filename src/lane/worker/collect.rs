//! Waits for the next batch of jobs, or until something is due in an idle lane.

use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::LaneWorker;
use crate::lane::error::StartError;
use crate::lane::job::Job;
use crate::lane::shared::Shared;

/// Maximum number of requests in one batch. It spreads the cost of a commit, and bounds how long the next batch waits.
const MAX_REQUESTS: usize = 8192;
/// Number of increments and bulk messages in one batch beyond which it takes no more requests.
const MAX_WEIGHT: usize = 128 * 1024;

/// Minimum interval between looks at an idle lane that has something to forget.
const TICK: Duration = Duration::from_secs(1);
/// How long an idle lane that another node owns is kept in memory.
const IDLE: Duration = Duration::from_mins(1);

/// The next step of a lane.
pub(super) enum Next {
    Batch,
    /// Something may be due.
    Look,
    Stop,
}

/// The next job; `None` if the lane is stopped and no job is left.
pub(super) async fn next(jobs: &mut mpsc::UnboundedReceiver<Job>, shared: &Shared) -> Option<Job> {
    tokio::select! {
        biased;
        job = jobs.recv() => job,
        () = shared.stop.cancelled() => {
            jobs.close();
            jobs.recv().await
        }
    }
}

impl LaneWorker {
    /// When to look at the lane if it stays idle.
    fn look_at(&self) -> Option<Instant> {
        let due = self.state.due_in().filter(|_| !self.is_elsewhere());
        let due = due.map(|due| TICK.max(Duration::from_millis(due.unsigned_abs())));
        // Another node may become the owner of the lane at any time.
        let is_shared = self.shared.is_remote.get().is_some();
        let due = due.into_iter().chain(is_shared.then_some(IDLE)).min();
        due.map(|due| self.begun + due)
    }

    /// Whether the lane may be unloaded: another node owns it, and it has been idle here for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.is_elsewhere() && self.begun.elapsed() >= IDLE
    }

    /// Forgets ids and sessions that are due, if this node owns the lane, so that an idle lane frees its memory.
    pub(super) async fn look_after(
        &mut self,
        nothing: &mut Vec<Job>,
    ) -> std::result::Result<(), StartError> {
        // Forgetting is for the owner. Here the lane is unloaded, which a new batch would only delay.
        if self.is_elsewhere() {
            return Ok(());
        }
        self.begin();
        self.store(nothing, 0).await?;
        self.shared.memory.share(&mut self.usage, &mut self.state);
        Ok(())
    }

    /// Waits for a job, and takes all queued jobs up to the limits of a batch.
    pub(super) async fn collect_batch(&mut self, batch: &mut Vec<Job>) -> Next {
        let waits = !self.reorder.is_empty();
        let look_at = self.look_at().filter(|_| !waits);
        let first = if let Some(first) = self.first.take() {
            Some(first)
        } else {
            tokio::select! {
                biased;
                job = self.jobs.recv(), if !waits || !self.jobs.is_closed() || !self.jobs.is_empty() => job,
                () = self.shared.stop.cancelled(), if !self.jobs.is_closed() => {
                    // Jobs that were queued before the stop are executed, and none after it.
                    self.jobs.close();
                    self.jobs.recv().await
                }
                () = self.reorder.pause(), if waits => None,
                // The timer is made only when this is polled.
                () = async { sleep_until(look_at.unwrap_or(self.begun)).await }, if look_at.is_some() => {
                    return Next::Look;
                }
            }
        };
        let Some(first) = first else {
            self.reorder.drain_into(batch);
            return if batch.is_empty() {
                Next::Stop
            } else {
                Next::Batch
            };
        };
        // If there are fewer processors than busy threads, threads that are about to queue a job do so now, and share
        // this commit. On two processors, this saves a tenth of the cost of a call. Otherwise it takes no time.
        if !self.shared.store.capabilities().is_shared {
            thread::yield_now();
        }
        // The requests are looked at later, all together: another core has written them, and each look in between would
        // wait for that core's cache.
        let mut weight = first.weight;
        batch.push(first);
        while batch.len() < MAX_REQUESTS
            && weight < MAX_WEIGHT
            && let Ok(job) = self.jobs.try_recv()
        {
            weight += job.weight;
            batch.push(job);
        }
        self.reorder.drain_into(batch);
        Next::Batch
    }
}
