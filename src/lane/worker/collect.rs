//! Waiting: for the next batch of jobs, or until something is due in a lane that nobody asks for anything.

use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::LaneWorker;
use crate::lane::error::StartError;
use crate::lane::job::Job;
use crate::lane::shared::Shared;

/// Requests in one batch: what one commit is spread over, and how long the next one may have to wait.
const MAX_REQUESTS: usize = 8192;
/// Increments in one batch, and bulk messages, beyond which no further request is taken in.
const MAX_WEIGHT: usize = 128 * 1024;

/// How often a lane is looked after that has something to forget, and that nobody asks for anything.
const TICK: Duration = Duration::from_secs(1);
/// How long a lane that another node commits is kept in memory for nothing.
const IDLE: Duration = Duration::from_mins(1);

/// The next step of a lane.
pub(super) enum Next {
    Batch,
    /// Something may be due.
    Look,
    Stop,
}

/// The next job; `None` if the lane is stopped and none is left.
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
    /// When the lane is to be looked after although nobody asks for anything.
    fn look_at(&self) -> Option<Instant> {
        let due = self.state.due_in().filter(|_| !self.is_elsewhere());
        let due = due.map(|due| TICK.max(Duration::from_millis(due.unsigned_abs())));
        // A lane may become another node's at any time.
        let is_shared = self.shared.is_remote.get().is_some();
        let due = due.into_iter().chain(is_shared.then_some(IDLE)).min();
        due.map(|due| self.begun + due)
    }

    /// The lane may be let go of: another node commits to it, and nobody here has asked for anything for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.is_elsewhere() && self.begun.elapsed() >= IDLE
    }

    /// Forgets what is due, if this node commits to the lane, so that an idle lane gives its memory back.
    pub(super) async fn look_after(
        &mut self,
        nothing: &mut Vec<Job>,
    ) -> std::result::Result<(), StartError> {
        // The owner forgets. Here the lane is let go of, which a batch that is begun would only put off.
        if self.is_elsewhere() {
            return Ok(());
        }
        self.begin();
        self.store(nothing, 0).await?;
        self.shared.memory.share(&mut self.usage, &mut self.state);
        Ok(())
    }

    /// Waits for something to do and takes what there is, up to a batch.
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
                    // Jobs that were queued before are carried out, and none after.
                    self.jobs.close();
                    self.jobs.recv().await
                }
                () = self.reorder.pause(), if waits => None,
                // Made only when it is waited for.
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
        // Where there are fewer processors than threads with something to do, those who are about to hand something in do so
        // now, and it shares this commit: on two, this saves a tenth of the price of a call. Elsewhere it takes no time.
        if !self.shared.store.capabilities().is_shared {
            thread::yield_now();
        }
        // What each asks for is looked at later, in one go: another core has written it, and each look from in between
        // waits for that.
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
