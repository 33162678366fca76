//! Batch after batch.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, warn};

use super::clock::{self, Trust};
use super::desk::{Outbox, Waiter};
use super::overtaking::Overtaking;
use super::share::Taken;
use super::{Decided, LaneError, Result, Shared, StartError};
use crate::model::{Bounds, Commit, Millis, Outcome, Request, State};
use crate::store::{After, LaneNumber, Store, StoreError};

/// Requests in one batch: what one commit is spread over, and how long the next one may have to wait.
const MAX_REQUESTS: usize = 8192;
/// Increments in one batch, and bulk messages, beyond which no further request is taken in.
const MAX_WEIGHT: usize = 128 * 1024;
/// Rows that one batch changes, about.
const MAX_ROWS: usize = 16 * 1024;
/// Bytes that one batch takes, about, beyond which no further request is decided: etcd takes 1.5 MiB in one transaction, and
/// one message is 300 KiB at the most.
const MAX_BYTES: usize = 768 * 1024;

/// A batch is decided so many increments at a time: they are made before their counters, once found, have left the
/// processor's cache, and those that no longer fit into a commit are not looked for.
const MAX_PORTION: usize = 1024;

/// How long those who wait for a batch wait before they are told that nobody knows what becomes of it. An election takes etcd
/// a second or some.
const PATIENCE: Duration = Duration::from_secs(5);

/// Something to do, and who is told.
pub(super) struct Job {
    /// In a box, since it is moved several times, and goes back to the thread that made it.
    pub(super) request: Box<Request>,
    pub(super) waiter: Waiter,
    pub(super) desk: usize,
    /// How much of the lanes' room it takes.
    pub(super) weight: usize,
    /// It may be carried out by another node.
    pub(super) may_move: bool,
    /// It is a part that has overtaken the one before it, since then.
    pub(super) overtaking: Option<Instant>,
}

pub(super) struct Task {
    lane: LaneNumber,
    state: State,
    jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
    taken: Taken,
    started: Instant,
    trust: Trust,
    overtaking: Overtaking,
}

/// What the rows of a lane make.
pub(super) async fn load(
    store: &dyn Store,
    lane: LaneNumber,
    bounds: Bounds,
) -> std::result::Result<State, StartError> {
    let loaded = store.load(lane).await.map_err(StartError::Store)?;
    let state = State::new(bounds, loaded.head, loaded.packs, loaded.sessions);
    let state = state.map_err(StartError::Corrupt)?;
    Ok(state.moved_here(store.digests(), loaded.before))
}

/// Loads a lane and serves it.
pub(super) async fn begin(
    lane: LaneNumber,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
) -> std::result::Result<(), StartError> {
    loop {
        match load(&*shared.store, lane, shared.memory.bounds()).await {
            Ok(state) => return Task::new(lane, state, jobs, shared).run().await,
            Err(StartError::Store(StoreError::Unavailable(problem))) => {
                let refusal = LaneError::Unavailable(StoreError::Unavailable(problem));
                // Those who have waited for it; whoever comes now has it tried again.
                if !refuse_waiting(&mut jobs, &shared, &refusal).await {
                    return Ok(());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses what waits, one at the least; `false` where nobody can come any more.
async fn refuse_waiting(
    jobs: &mut mpsc::UnboundedReceiver<Job>,
    shared: &Shared,
    refusal: &LaneError,
) -> bool {
    let first = tokio::select! {
        biased;
        job = jobs.recv() => job,
        () = shared.stop.cancelled() => {
            jobs.close();
            jobs.recv().await
        }
    };
    let Some(first) = first else { return false };
    answer(shared, [(first, Err(refusal.clone()))]);
    while let Ok(job) = jobs.try_recv() {
        answer(shared, [(job, Err(refusal.clone()))]);
    }
    true
}

fn answer(shared: &Shared, jobs: impl IntoIterator<Item = (Job, Result<Decided>)>) {
    let mut outbox = Outbox::default();
    let (mut bulk, mut singles) = (0, 0);
    for (job, answer) in jobs {
        if job.request.operation.is_bulk() {
            bulk += job.weight;
        } else {
            singles += job.weight;
        }
        outbox.put(job.desk, (job.waiter, answer, job.request));
    }
    outbox.send(&shared.desks);
    shared.room.bulk.add_permits(bulk);
    shared.room.singles.add_permits(singles);
}

impl Task {
    pub(super) fn new(
        lane: LaneNumber,
        state: State,
        jobs: mpsc::UnboundedReceiver<Job>,
        shared: Arc<Shared>,
    ) -> Self {
        clock::compare(state.head(), shared.clock.now());
        Self {
            lane,
            state,
            jobs,
            taken: shared.memory.join(),
            shared,
            started: Instant::now(),
            trust: Trust::default(),
            overtaking: Overtaking::default(),
        }
    }

    /// Serves until it is stopped, or the store fails. Nothing that waits then is left without an answer.
    pub(super) async fn run(mut self) -> std::result::Result<(), StartError> {
        let mut batch = Vec::new();
        while self.gather(&mut batch).await {
            let result = self.carry_out(&mut batch).await;
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
                    error!("{failure}; nothing is counted any more");
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
        Ok(())
    }

    /// Waits for something to do and takes what there is, up to a batch; `false` once stopped with nothing left.
    async fn gather(&mut self, batch: &mut Vec<Job>) -> bool {
        let waits = !self.overtaking.is_empty();
        let first = tokio::select! {
            biased;
            job = self.jobs.recv(), if !waits || !self.jobs.is_closed() || !self.jobs.is_empty() => job,
            () = self.shared.stop.cancelled(), if !self.jobs.is_closed() => {
                // What was queued before is carried out, and nothing after.
                self.jobs.close();
                self.jobs.recv().await
            }
            () = self.overtaking.pause(), if waits => None,
        };
        self.overtaking.give_to(batch);
        let Some(first) = first else {
            return !batch.is_empty();
        };
        // Where there are fewer processors than threads with something to do, those who are about to hand something in do so
        // now, and it shares this commit: on two, this saves a tenth of the price of a call. Elsewhere it takes no time.
        if self.shared.queues.len() == 1 {
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
        true
    }

    /// Decides, stores and answers a batch. Where it fails, the jobs that are left in it have no answer.
    async fn carry_out(&mut self, batch: &mut Vec<Job>) -> std::result::Result<(), StartError> {
        while !batch.is_empty() {
            self.shared.memory.share(&mut self.taken, &mut self.state);
            self.state.make_room();
            // Those that are not decided follow in a commit of their own.
            let outcomes = match self.decide(batch).await {
                Ok(outcomes) => outcomes,
                Err(damaged) if self.refuse_damaged(batch, &damaged) => continue,
                Err(error) => return Err(StartError::Store(error)),
            };
            let Some(base) = self.store(batch, outcomes.len()).await? else {
                // All of it is to be decided again, on top of what another node has committed.
                continue;
            };
            let lane = self.lane;
            let decided = outcomes.into_iter().map(|outcome| {
                let decided = outcome.map(|answer| Decided {
                    revision: answer.revision(base),
                    answer,
                    lane,
                });
                decided.map_err(LaneError::Refused)
            });
            // Those who were told that nobody knows have left.
            let here = decided.len().min(batch.len());
            let overtaking = &mut self.overtaking;
            let jobs = batch.drain(..here).zip(decided);
            let jobs = jobs.filter_map(|(job, decided)| overtaking.put_off(job, decided));
            answer(&self.shared, jobs);
        }
        Ok(())
    }

    /// Refuses the jobs that name a counter whose row is damaged, so that the others can be carried out; `false` if there
    /// are none.
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
        error!("{problem}; it is not counted with");
        batch.len() < before
    }

    /// Decides as many jobs as one commit takes, one at least.
    async fn decide(&mut self, batch: &mut [Job]) -> std::result::Result<Vec<Outcome>, StoreError> {
        let elapsed = Millis::try_from(self.started.elapsed().as_millis());
        let ahead = self
            .state
            .begin(self.shared.clock.now(), elapsed.unwrap_or(0));
        self.trust.tell(ahead);
        let mut outcomes = Vec::with_capacity(batch.len());
        while outcomes.len() < batch.len() {
            let next = match self.locate(&mut batch[outcomes.len()..]).await {
                Ok(next) => next,
                Err(error) if outcomes.is_empty() => return Err(error),
                // What is decided is committed, and then it is tried again.
                Err(_) => break,
            };
            for job in next {
                outcomes.push(self.state.apply(&job.request));
                if self.state.changes() >= MAX_ROWS || self.state.bytes() >= MAX_BYTES {
                    return Ok(outcomes);
                }
            }
        }
        Ok(outcomes)
    }

    /// Finds the counters of as many of the jobs as are to be decided next, one at least.
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
        let next = portion(jobs);
        if locate(&mut jobs[..next]) {
            return Ok(&jobs[..next]);
        }
        // To read is a round trip, or a walk over the disk in the order of names: all that is missing comes along.
        locate(&mut jobs[next..]);
        missing.sort_unstable();
        missing.dedup();
        let found = self.shared.store.read(missing.clone()).await?;
        for (name, row) in missing.into_iter().zip(found.rows) {
            self.state.load(name, row.and_then(|row| row.value));
        }
        Ok(jobs)
    }

    /// Stores what was decided, and gives the revision before it; `None` where another node has committed before.
    async fn store(
        &mut self,
        batch: &mut Vec<Job>,
        decided: usize,
    ) -> std::result::Result<Option<i64>, StartError> {
        let Some(commit) = self.state.commit() else {
            // What is answered then is about what is stored, which may have changed.
            let is_newest = self.catch_up().await?;
            return Ok(is_newest.then(|| self.state.head().revision));
        };
        let commit = Arc::new(commit);
        match self.commit(commit.clone(), batch, decided).await {
            Ok(base) => {
                self.state.committed(&commit, base);
                Ok(Some(base))
            }
            Err(StoreError::Moved) => {
                debug!(lane = self.lane, "another node has committed");
                self.state.undo(&commit);
                let elsewhere = self.shared.elsewhere.get();
                if elsewhere.is_some_and(|elsewhere| elsewhere(self.lane)) {
                    let moved = batch.extract_if(.., |job| job.may_move);
                    answer(&self.shared, moved.map(|job| (job, Err(LaneError::Moved))));
                }
                self.catch_up().await?;
                Ok(None)
            }
            Err(StoreError::Lost) => {
                self.state.undo(&commit);
                let is_lost = |job: &mut Job| {
                    let operation = &job.request.operation;
                    job.request.id.is_none() && !operation.is_bulk()
                };
                // The others happen once, however often they are decided.
                let lost = batch.extract_if(.., is_lost);
                let unknown = |job| (job, Err(LaneError::Unknown(StoreError::Lost)));
                answer(&self.shared, lost.map(unknown));
                self.catch_up().await?;
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
    ) -> std::result::Result<i64, StoreError> {
        let mut stored = self.shared.store.commit(self.lane, commit);
        if self.shared.queues.len() == 1 {
            // A disk answers.
            return stored.await;
        }
        if let Ok(result) = timeout(PATIENCE, &mut stored).await {
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

    /// Takes in what other nodes have committed; `true` where that is nothing.
    async fn catch_up(&mut self) -> std::result::Result<bool, StartError> {
        let (lane, seq) = (self.lane, self.state.head().seq);
        let after = self.shared.store.after(lane, seq).await;
        match after.map_err(StartError::Store)? {
            After::Batches(batches) if batches.is_empty() => return Ok(true),
            After::Batches(batches) => {
                for batch in batches {
                    self.state.catch_up(batch).map_err(StartError::Corrupt)?;
                }
            }
            After::TooMany => {
                let bounds = self.shared.memory.bounds();
                self.state = load(&*self.shared.store, lane, bounds).await?;
                self.started = Instant::now();
            }
        }
        Ok(false)
    }
}

/// How many of the jobs are decided next, one at least.
fn portion(jobs: &[Job]) -> usize {
    let mut weight = 0;
    let fits = |job: &&Job| {
        let fits = weight < MAX_PORTION;
        weight += job.weight;
        fits
    };
    jobs.iter().take_while(fits).count()
}
