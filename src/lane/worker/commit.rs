//! Storing batches, on top of what other nodes have committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{LaneWorker, answer, load};
use crate::lane::error::{LaneError, StartError};
use crate::lane::job::Job;
use crate::model::Commit;
use crate::store::{After, Committed, StoreError};

/// How long those who wait for a batch wait before they are told that nobody knows what becomes of it. An election takes etcd
/// a second or some.
pub(super) const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node that has committed lets others commit next, in times of what its own commit took: another one hears that it was
/// too late, reads what was committed, and commits, and each of its transactions waits for the one before with other lanes.
const TURN: u32 = 6;
/// The longest: callers have to be answered in between.
const MAX_TURN: Duration = Duration::from_secs(3);

impl LaneWorker {
    /// Stores what was decided; `None` where another node has committed before.
    pub(super) async fn store(
        &mut self,
        batch: &mut Vec<Job>,
        decided: usize,
    ) -> std::result::Result<Option<Committed>, StartError> {
        let Some(commit) = self.state.commit() else {
            // The answers are about stored state then, which may have changed.
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
                // The others happen once, however often they are decided.
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

    /// Has a batch stored. Where that takes too long those who wait for it are told so, and whoever comes is refused, until
    /// it is known what became of it.
    async fn commit(
        &mut self,
        commit: Arc<Commit>,
        batch: &mut Vec<Job>,
        decided: usize,
    ) -> std::result::Result<Committed, StoreError> {
        let mut stored = self.shared.store.commit(self.lane, commit);
        if !self.shared.store.capabilities().is_shared {
            // A disk answers.
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

    /// Takes in what has moved the head. If there is nothing, what is known here of the lane does not fit together, and it is
    /// loaded again; if there is nothing once more before anything is committed, the store contradicts itself, and to go on would
    /// be to go round in a circle.
    async fn follow(&mut self) -> std::result::Result<(), StartError> {
        if !self.catch_up().await? {
            return Ok(());
        }
        if std::mem::replace(&mut self.followed_nothing, true) {
            let problem = "another node is said to have committed, and nothing of it is there";
            return Err(StartError::Store(StoreError::Unavailable(problem.into())));
        }
        warn!(
            lane = self.lane,
            "the lane's head has moved, and there is nothing new: loading it again"
        );
        self.reload().await
    }

    /// Lets others commit, and takes in what they have: the node that has committed is the first to know the head, and would be the
    /// first to commit again, for as long as it is asked to. `took` is the time that its own commit took.
    pub(super) async fn give_way(&mut self, took: Duration) -> std::result::Result<(), StartError> {
        tokio::select! {
            biased;
            () = sleep((took * TURN).min(MAX_TURN)) => {}
            () = self.shared.stop.cancelled() => return Ok(()),
        }
        match self.catch_up().await {
            // The next commit tells.
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

    /// Takes in what other nodes have committed; `true` where that is nothing.
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
