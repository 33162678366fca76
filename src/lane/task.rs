//! Batch after batch.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use humantime::FormattedDuration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::changes::Changes;
use super::desk::{Desks, Outbox, Waiter};
use super::{Decided, LaneError, Result, Room};
use crate::model::{Head, Millis, Outcome, Request, State};
use crate::store::{Store, StoreError};

/// Requests in one batch: what one commit is spread over, and how long the next one may have to wait.
const MAX_REQUESTS: usize = 8192;
/// Increments in one batch, beyond which no further message is taken in.
const MAX_INCREMENTS: usize = 128 * 1024;
/// Rows that one batch changes, about.
const MAX_ROWS: usize = 16 * 1024;

/// How far the clock may be behind at a start without a word, in milliseconds: what is corrected all the time.
const MAX_BEHIND: Millis = 60_000;

/// Something to do, and who is told.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) waiter: Waiter,
    pub(super) desk: usize,
    /// How much of the lane's room it takes.
    pub(super) weight: usize,
}

pub(super) struct Task {
    pub(super) state: State,
    pub(super) store: Arc<dyn Store>,
    pub(super) jobs: mpsc::UnboundedReceiver<Job>,
    pub(super) room: Arc<Room>,
    pub(super) desks: Desks,
    pub(super) changes: Changes,
    pub(super) stop: CancellationToken,
    pub(super) started: Instant,
    /// The clock is further ahead than the lane believes.
    pub(super) clock_is_ahead: bool,
}

impl Task {
    /// Serves until it is stopped, or the store fails. Nothing that waits then is left without an answer.
    pub(super) async fn run(mut self) -> std::result::Result<(), StoreError> {
        let mut batch = Vec::new();
        while self.gather(&mut batch).await {
            let result = self.carry_out(&mut batch).await;
            if let Err(failure) = result {
                error!("{failure}; nothing is counted any more");
                let unknown = Err(LaneError::Unknown(failure.clone()));
                self.answer(batch.drain(..).map(|job| (job, unknown.clone())));
                self.jobs.close();
                while let Some(job) = self.jobs.recv().await {
                    self.answer([(job, Err(LaneError::Closed))]);
                }
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Waits for something to do and takes what there is, up to a batch; `false` once stopped with nothing left.
    async fn gather(&mut self, batch: &mut Vec<Job>) -> bool {
        let first = tokio::select! {
            biased;
            job = self.jobs.recv() => job,
            () = self.stop.cancelled() => {
                // What was queued before is carried out, and nothing after.
                self.jobs.close();
                self.jobs.recv().await
            }
        };
        let Some(first) = first else { return false };
        // Where there are fewer processors than threads with something to do, those who are about to hand something in do so
        // now, and it shares this commit: on two, this saves a tenth of the price of a call. Elsewhere it takes no time.
        thread::yield_now();
        let mut increments = first.request.operation.weight();
        batch.push(first);
        while batch.len() < MAX_REQUESTS
            && increments < MAX_INCREMENTS
            && let Ok(job) = self.jobs.try_recv()
        {
            increments += job.request.operation.weight();
            batch.push(job);
        }
        true
    }

    /// Decides, stores and answers a batch. Where it fails, the jobs that are left in it have no answer.
    async fn carry_out(&mut self, batch: &mut Vec<Job>) -> std::result::Result<(), StoreError> {
        self.state.make_room();
        self.load_missing(batch).await?;
        while !batch.is_empty() {
            // Those that are not decided follow in a commit of their own.
            let outcomes = self.decide(batch);
            let base = self.store().await?;
            let decided = outcomes.into_iter().map(|outcome| {
                let decided = outcome.map(|answer| Decided {
                    revision: answer.revision(base),
                    answer,
                });
                decided.map_err(LaneError::Refused)
            });
            self.answer(batch.drain(..decided.len()).zip(decided));
        }
        Ok(())
    }

    fn answer(&self, jobs: impl IntoIterator<Item = (Job, Result<Decided>)>) {
        let mut outbox = Outbox::default();
        let (mut bulk, mut singles) = (0, 0);
        for (job, answer) in jobs {
            match job.waiter {
                Waiter::Bulk(_) => bulk += job.weight,
                Waiter::Single(_) => singles += job.weight,
            }
            outbox.put(job.desk, job.waiter, answer);
        }
        outbox.send(&self.desks);
        self.room.bulk.add_permits(bulk);
        self.room.singles.add_permits(singles);
    }

    async fn load_missing(&mut self, batch: &mut [Job]) -> std::result::Result<(), StoreError> {
        let mut missing = Vec::new();
        for job in batch {
            let operation = &mut job.request.operation;
            self.state.locate(operation, &mut missing);
        }
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        let found = self.store.read(missing.clone()).await?;
        for (name, row) in missing.into_iter().zip(found.rows) {
            self.state.load(name, row.and_then(|row| row.value));
        }
        Ok(())
    }

    /// Decides as many jobs as one commit takes, one at least.
    fn decide(&mut self, jobs: &[Job]) -> Vec<Outcome> {
        let elapsed = Millis::try_from(self.started.elapsed().as_millis());
        let ahead = self.state.begin(now(), elapsed.unwrap_or(0));
        self.tell_of_clock(ahead);
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            outcomes.push(self.state.apply(&job.request));
            if self.state.changes() >= MAX_ROWS {
                break;
            }
        }
        outcomes
    }

    /// Says so when the clock is not believed any more, and when it is again.
    fn tell_of_clock(&mut self, ahead: Option<Millis>) {
        if std::mem::replace(&mut self.clock_is_ahead, ahead.is_some()) == ahead.is_some() {
            return;
        }
        let Some(ahead) = ahead else {
            info!("the clock is believed again");
            return;
        };
        warn!(
            "the clock was set forward by {}, which is not believed: ids of that time are refused \
             (REQUEST_FROM_FUTURE). If it is right, as after the machine was suspended, start sumd again",
            duration(ahead)
        );
    }

    /// Stores what was decided, if it changes anything, and gives the revision before it.
    async fn store(&mut self) -> std::result::Result<i64, StoreError> {
        let Some(commit) = self.state.commit() else {
            return Ok(self.state.head().revision);
        };
        let commit = Arc::new(commit);
        let base = self.store.commit(commit.clone()).await?;
        self.state.committed(&commit, base);
        let revision = self.state.head().revision;
        let counters = commit.changes.counters.clone();
        self.changes.publish(counters, base, revision);
        Ok(base)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Also after a panic: who waits for room would wait for ever.
        self.room.bulk.close();
    }
}

/// Says so where the clock is behind what it was when the lane was here before: it was wrong then, or is now.
pub(super) fn compare_clock(head: Head) {
    let now = now();
    if head.time - now > MAX_BEHIND {
        warn!(
            "the clock is {} behind that of the last batch. What was forgotten by that one stays forgotten: for the \
             next {} ids with a time are refused (REQUEST_TOO_OLD), and others are remembered. If it is wrong now, \
             mend it",
            duration(head.time - now),
            duration(head.horizon - now)
        );
    }
}

fn duration(millis: Millis) -> FormattedDuration {
    let seconds = u64::try_from(millis / 1000).unwrap_or(0);
    humantime::format_duration(Duration::from_secs(seconds))
}

fn now() -> Millis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since_1970.map_or(0, |time| time.as_millis());
    Millis::try_from(millis).unwrap_or(Millis::MAX)
}
