//! The life of a lane, batch after batch, and the decisions in each.

mod collect;
mod commit;

use std::iter;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::error;

use super::clock;
use super::completions::CompletionBatch;
use super::error::{Decided, LaneError, Result, StartError};
use super::job::Job;
use super::memory_budget::Usage;
use super::refusals;
use super::reorder::ReorderBuffer;
use super::shared::Shared;
use crate::model::{Bounds, Decision, Millis, State};
use crate::store::{LaneNumber, Store, StoreError, damaged_counter};
use collect::{Next, next};
use commit::COMMIT_TIMEOUT;

/// Approximate maximum of rows that one batch changes.
const MAX_ROWS: usize = 16 * 1024;

/// Approximate number of increments that are decided together. They are applied while the counters that were located
/// are still in the processor's cache, and counters that no longer fit into a commit are not looked for.
const MAX_CHUNK: usize = 1024;

pub(super) struct LaneWorker {
    lane: LaneNumber,
    state: State,
    jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
    usage: Usage,
    /// The job that the lane was loaded for.
    first: Option<Job>,
    started: Instant,
    /// When the last batch began.
    begun: Instant,
    reorder: ReorderBuffer,
    /// Whether the head has moved since the last commit although there was nothing new.
    followed_nothing: bool,
}

/// The reason that a lane is not served any more.
pub(super) enum End {
    /// It was stopped, and no job is pending.
    Stopped,
    /// Another node owns it, and it is idle here. The next request loads it again.
    Idle(mpsc::UnboundedReceiver<Job>),
}

/// Loads the state of a lane from its rows.
pub(super) async fn load(
    store: &dyn Store,
    lane: LaneNumber,
    bounds: Bounds,
) -> std::result::Result<State, StartError> {
    let loaded = store.load(lane).await.map_err(StartError::Store)?;
    let state = State::new(bounds, loaded.head, loaded.packs, loaded.sessions);
    let state = state.map_err(StartError::Corrupt)?;
    Ok(state.moved_here(store.hasher(), loaded.before))
}

/// Serves a lane, which is loaded at the first request.
pub(super) async fn begin(
    lane: LaneNumber,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
) -> std::result::Result<(), StartError> {
    while let Some(first) = next(&mut jobs, &shared).await {
        match load(&*shared.store, lane, shared.memory.bounds()).await {
            Ok(state) => {
                let worker = LaneWorker::new(lane, state, jobs, Some(first), shared.clone());
                match worker.run().await? {
                    End::Stopped => break,
                    End::Idle(rest) => jobs = rest,
                }
                shared.store.unload(lane);
            }
            Err(StartError::Store(StoreError::Unavailable(problem))) => {
                let refusal = LaneError::Unavailable(StoreError::Unavailable(problem));
                // Callers that have waited for the load. The next request tries it again.
                let collect = iter::once(first).chain(iter::from_fn(|| jobs.try_recv().ok()));
                answer(&shared, collect.map(|job| (job, Err(refusal.clone()))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn answer(shared: &Shared, jobs: impl IntoIterator<Item = (Job, Result<Decided>)>) {
    let mut completions = CompletionBatch::default();
    let (mut bulk, mut singles) = (0, 0);
    for (job, answer) in jobs {
        if job.request.operation.is_bulk() {
            bulk += job.weight;
        } else {
            singles += job.weight;
        }
        let answer = job.told(answer);
        completions.put(job.completion_queue, (job.reply_to, answer, job.request));
    }
    completions.send(&shared.completion_queues);
    shared.room.bulk.add_permits(bulk);
    shared.room.singles.add_permits(singles);
}

impl LaneWorker {
    pub(super) fn new(
        lane: LaneNumber,
        state: State,
        jobs: mpsc::UnboundedReceiver<Job>,
        first: Option<Job>,
        shared: Arc<Shared>,
    ) -> Self {
        clock::compare(state.head(), shared.clock.now());
        shared.clock.note(state.head());
        Self {
            lane,
            state,
            jobs,
            usage: shared.memory.join(),
            first,
            shared,
            started: Instant::now(),
            begun: Instant::now(),
            reorder: ReorderBuffer::default(),
            followed_nothing: false,
        }
    }

    /// Serves the lane until it is stopped, is idle, or the store fails. Every pending job is answered by then.
    pub(super) async fn run(mut self) -> std::result::Result<End, StartError> {
        let mut batch = Vec::new();
        loop {
            let result = match self.collect_batch(&mut batch).await {
                Next::Batch => self.commit_batch(&mut batch).await,
                Next::Look if self.is_idle() => {
                    self.shared.memory.leave(self.usage);
                    return Ok(End::Idle(self.jobs));
                }
                Next::Look => self.look_after(&mut batch).await,
                Next::Stop => return Ok(End::Stopped),
            };
            match result {
                Ok(()) => {}
                Err(StartError::Store(
                    refused @ (StoreError::Unavailable(_) | StoreError::Full(_)),
                )) => {
                    let refusal = LaneError::Unavailable(refused);
                    answer(
                        &self.shared,
                        batch.drain(..).map(|job| (job, Err(refusal.clone()))),
                    );
                }
                Err(failure) => {
                    error!("{failure}; counting has stopped");
                    let told = StoreError::Failed(failure.to_string().into());
                    let unknown = Err(LaneError::Unknown(told));
                    answer(
                        &self.shared,
                        batch.drain(..).map(|job| (job, unknown.clone())),
                    );
                    self.jobs.close();
                    while let Some(job) = self.jobs.recv().await {
                        answer(&self.shared, [(job, Err(LaneError::Closed))]);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Whether another node owns the lane.
    fn is_elsewhere(&self) -> bool {
        let is_remote = self.shared.is_remote.get();
        is_remote.is_some_and(|is_remote| is_remote(self.lane))
    }

    /// The time since the lane was loaded.
    fn elapsed(&self) -> Millis {
        Millis::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    fn begin(&mut self) {
        self.begun = Instant::now();
        self.state.begin(self.shared.clock.now(), self.elapsed());
        self.shared.clock.note(self.state.head());
    }

    /// Decides, stores and answers a batch. If it fails, the jobs that are left in it have no answer.
    async fn commit_batch(&mut self, batch: &mut Vec<Job>) -> std::result::Result<(), StartError> {
        let mut since = Instant::now();
        while !batch.is_empty() {
            self.shared.memory.share(&mut self.usage, &mut self.state);
            self.state.make_room();
            // Jobs that are not decided now follow in a later commit.
            let outcomes = match self.decide(batch).await {
                Ok(outcomes) => outcomes,
                // Remembered answers need no rows.
                Err(_) if self.answer_remembered(batch) => continue,
                Err(damaged) if self.refuse_damaged(batch, &damaged) => continue,
                Err(error) => return Err(StartError::Store(error)),
            };
            let begun = Instant::now();
            let Some(stored) = self.store(batch, outcomes.len()).await? else {
                // The batch is decided again, on top of the other node's commits. It would never end if reading these
                // took longer than the other node takes for the next one.
                if since.elapsed() >= COMMIT_TIMEOUT {
                    let problem = "another node commits faster than this one can follow";
                    return Err(StartError::Store(StoreError::Unavailable(problem.into())));
                }
                continue;
            };
            let took = begun.elapsed();
            let lane = self.lane;
            let decided = outcomes.into_iter();
            let decided = decided.map(|outcome| decided_on(stored.base, lane, outcome));
            // Jobs whose outcome was reported as unknown have left the batch.
            let here = decided.len().min(batch.len());
            let reorder = &mut self.reorder;
            let jobs = batch.drain(..here).zip(decided);
            let jobs = jobs.filter_map(|(job, decided)| reorder.park(job, decided));
            answer(&self.shared, jobs);
            if stored.is_contended {
                self.give_way(took).await?;
            }
            since = Instant::now();
        }
        Ok(())
    }

    /// Answers the jobs whose ids were remembered when the batch began: unreadable rows do not matter to them. Returns
    /// `false` if there are none.
    fn answer_remembered(&self, batch: &mut Vec<Job>) -> bool {
        let remembered = |job: &Job| self.state.remembered(job.request.id.as_ref()?);
        let is_remembered = |job: &mut Job| remembered(job).is_some();
        let jobs: Vec<_> = batch.extract_if(.., is_remembered).collect();
        let any = !jobs.is_empty();
        let answers = jobs.into_iter().filter_map(|job| {
            let outcome = remembered(&job)?;
            // No job of this batch is decided: the answers are those of earlier batches.
            Some((job, decided_on(0, self.lane, outcome)))
        });
        answer(&self.shared, answers);
        any
    }

    /// Refuses the jobs that name a counter whose row is damaged, so that the others can be executed. Returns `false`
    /// if there are none.
    fn refuse_damaged(&self, batch: &mut Vec<Job>, error: &StoreError) -> bool {
        let StoreError::Damaged {
            counter: Some(counter),
            problem,
        } = error
        else {
            return false;
        };
        let before = batch.len();
        let needs_it = |job: &mut Job| job.request.operation.names(counter);
        let refuse = |job| (job, Err(LaneError::Unavailable(error.clone())));
        answer(&self.shared, batch.extract_if(.., needs_it).map(refuse));
        damaged_counter(problem);
        batch.len() < before
    }

    /// Decides as many jobs as one commit takes, at least one.
    async fn decide(
        &mut self,
        batch: &mut [Job],
    ) -> std::result::Result<Vec<Decision>, StoreError> {
        self.begin();
        let max_bytes = self.shared.store.capabilities().batch_bytes;
        let mut outcomes = Vec::with_capacity(batch.len());
        while outcomes.len() < batch.len() {
            let next = match self.locate(&mut batch[outcomes.len()..]).await {
                Ok(next) => next,
                Err(error) if outcomes.is_empty() => return Err(error),
                // The decided jobs are committed, and the others are tried again after that.
                Err(_) => break,
            };
            for job in next {
                let outcome = self.state.apply(&job.request);
                if let Err(refused) = &outcome {
                    refusals::tell(refused, job.request.operation.is_bulk());
                }
                outcomes.push(outcome);
                if self.state.changes() >= MAX_ROWS || self.state.bytes() >= max_bytes {
                    return Ok(outcomes);
                }
            }
        }
        Ok(outcomes)
    }

    /// Locates the counters of the jobs to decide next, at least one.
    async fn locate<'a>(
        &mut self,
        jobs: &'a mut [Job],
    ) -> std::result::Result<&'a [Job], StoreError> {
        let mut missing = Vec::new();
        let mut locate = |jobs: &mut [Job]| {
            for job in jobs {
                self.state.locate(&mut job.request.operation, &mut missing);
            }
            missing.is_empty()
        };
        let next = chunk(jobs);
        if locate(&mut jobs[..next]) {
            return Ok(&jobs[..next]);
        }
        // A read is a round trip, or a walk over the disk in the order of names, so it has all missing counters.
        locate(&mut jobs[next..]);
        missing.sort_unstable();
        missing.dedup();
        let found = self.shared.store.read(missing.clone()).await?;
        for (name, row) in missing.into_iter().zip(found.rows) {
            self.state.load(name, row.and_then(|row| row.value));
        }
        Ok(jobs)
    }
}

/// The answer for the caller, once the batch is committed on the revision `base`.
fn decided_on(base: i64, lane: LaneNumber, outcome: Decision) -> Result<Decided> {
    let decided = outcome.map(|answer| Decided {
        revision: answer.revision(base),
        answer,
        lane,
    });
    decided.map_err(LaneError::Refused)
}

/// Number of jobs to decide next, at least one.
fn chunk(jobs: &[Job]) -> usize {
    let mut weight = 0;
    let fits = |job: &&Job| {
        let fits = weight < MAX_CHUNK;
        weight += job.weight;
        fits
    };
    jobs.iter().take_while(fits).count()
}
