//! Stores batches, on top of the commits of other nodes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{LaneWorker, answer, load};
use crate::lane::error::{LaneError, StartError};
use crate::lane::job::Job;
use crate::model::Commit;
use crate::store::{After, Committed, StoreError};

/// How long callers wait for a commit before its outcome is reported as unknown. An election in etcd takes a second or
/// more.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node that has committed lets others commit next, as a multiple of its own commit's duration. Another node
/// learns of its conflict, reads the new batches, and commits; each of its transactions waits for the previous one,
/// which serves other lanes.
const TURN: u32 = 6;
/// Maximum of that time: callers must be answered in between.
const MAX_TURN: Duration = Duration::from_secs(3);

impl LaneWorker {
    /// Stores the decided batch; `None` if it has to be decided again, on top of another node's commit.
    pub(super) async fn store(
        &mut self,
        batch: &mut Vec<Job>,
        decided: usize,
    ) -> std::result::Result<Option<Committed>, StartError> {
        let Some(commit) = self.state.commit() else {
            // The answers then depend on stored data, which may have changed.
            let is_newest = self.catch_up().await?;
            return Ok(is_newest.then(|| Committed::alone(self.state.head().revision)));
        };
        let commit = Arc::new(commit);
        match self.commit(commit.clone(), batch, decided).await {
            Ok(committed) => {
                self.state.committed(&commit, committed.base);
                self.followed_nothing = false;
                Ok(Some(committed))
            }
            Err(StoreError::Conflict) => {
                debug!(lane = self.lane, "another node has committed");
                self.state.undo(&commit);
                if self.is_elsewhere() {
                    let moved = batch.extract_if(.., |job| job.if_owner);
                    answer(
                        &self.shared,
                        moved.map(|job| (job, Err(LaneError::NotOwner))),
                    );
                }
                self.follow().await?;
                Ok(None)
            }
            Err(StoreError::Lost) => {
                self.state.undo(&commit);
                let is_lost = |job: &mut Job| {
                    let operation = &job.request.operation;
                    job.request.id.is_none() && !operation.is_bulk()
                };
                let decided = decided.min(batch.len());
                for job in &mut batch[..decided] {
                    job.in_doubt = true;
                }
                // Operations with an id, and messages of sessions, happen once however often they are decided.
                let lost = batch.extract_if(..decided, is_lost);
                let unknown = |job| (job, Err(LaneError::Unknown(StoreError::Lost)));
                answer(&self.shared, lost.map(unknown));
                self.follow().await?;
                Ok(None)
            }
            Err(refused @ (StoreError::Unavailable(_) | StoreError::Full(_))) => {
                self.state.undo(&commit);
                Err(StartError::Store(refused))
            }
            Err(failed) => Err(StartError::Store(failed)),
        }
    }

    /// Commits a batch. If that takes too long, its callers get an unknown outcome, and new jobs are refused until the
    /// outcome is known.
    async fn commit(
        &mut self,
        commit: Arc<Commit>,
        batch: &mut Vec<Job>,
        decided: usize,
    ) -> std::result::Result<Committed, StoreError> {
        let mut stored = self.shared.store.commit(self.lane, commit);
        if !self.shared.store.capabilities().is_shared {
            // A local disk needs no timeout: it answers.
            return stored.await;
        }
        if let Ok(result) = timeout(COMMIT_TIMEOUT, &mut stored).await {
            return result;
        }
        warn!(lane = self.lane, "the store does not answer");
        let problem = || StoreError::Unavailable("no answer in time".into());
        let unknown = batch.drain(..decided);
        answer(
            &self.shared,
            unknown.map(|job| (job, Err(LaneError::Unknown(problem())))),
        );
        let refuse = |job| (job, Err(LaneError::Unavailable(problem())));
        answer(&self.shared, batch.drain(..).map(refuse));
        loop {
            tokio::select! {
                biased;
                result = &mut stored => return result,
                () = self.shared.stop.cancelled() => return Err(problem()),
                Some(job) = self.jobs.recv() => answer(&self.shared, [refuse(job)]),
            }
        }
    }

    /// Replays the batches that have moved the head. If there are none, the state here is inconsistent, and the lane is
    /// loaded again. If there are none once more before a commit, the store contradicts itself, and another try would
    /// loop.
    async fn follow(&mut self) -> std::result::Result<(), StartError> {
        if !self.catch_up().await? {
            return Ok(());
        }
        if std::mem::replace(&mut self.followed_nothing, true) {
            let problem = "another node is reported to have committed, but no new batch is found";
            return Err(StartError::Store(StoreError::Unavailable(problem.into())));
        }
        warn!(
            lane = self.lane,
            "the lane's head has changed, but no new batch is found: loading the lane again"
        );
        self.reload().await
    }

    /// Lets other nodes commit, and replays their batches. A node that has committed is the first to know the new head,
    /// and would be the first to commit again while it has requests. `took` is the duration of its own commit.
    pub(super) async fn give_way(&mut self, took: Duration) -> std::result::Result<(), StartError> {
        tokio::select! {
            biased;
            () = sleep((took * TURN).min(MAX_TURN)) => {}
            () = self.shared.stop.cancelled() => return Ok(()),
        }
        match self.catch_up().await {
            // The next commit reports the failure.
            Ok(_) | Err(StartError::Store(_)) => Ok(()),
            Err(corrupt) => Err(corrupt),
        }
    }

    async fn reload(&mut self) -> std::result::Result<(), StartError> {
        let bounds = self.shared.memory.bounds();
        self.state = load(&*self.shared.store, self.lane, bounds).await?;
        self.started = Instant::now();
        Ok(())
    }

    /// Replays the batches of other nodes; `true` if there are none.
    async fn catch_up(&mut self) -> std::result::Result<bool, StartError> {
        let (lane, seq) = (self.lane, self.state.head().seq);
        let after = self.shared.store.after(lane, seq).await;
        match after.map_err(StartError::Store)? {
            After::Batches(batches) if batches.is_empty() => return Ok(true),
            After::Batches(batches) => {
                let elapsed = self.elapsed();
                for batch in batches {
                    let usage = self.state.catch_up(batch, elapsed);
                    usage.map_err(StartError::Corrupt)?;
                }
            }
            After::TooMany => self.reload().await?,
        }
        Ok(false)
    }
}
