//! Batch after batch.

use std::sync::Arc;
use std::time::Duration;
use std::{iter, thread};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, warn};

use super::clock;
use super::desk::{Outbox, Waiter};
use super::overtaking::Overtaking;
use super::share::Taken;
use super::{Decided, LaneError, Result, Shared, StartError};
use crate::model::{Bounds, Commit, Millis, Outcome, Refused, Request, State};
use crate::store::{After, LaneNumber, Store, StoreError};

/// Requests in one batch: what one commit is spread over, and how long the next one may have to wait.
const MAX_REQUESTS: usize = 8192;
/// Increments in one batch, and bulk messages, beyond which no further request is taken in.
const MAX_WEIGHT: usize = 128 * 1024;
/// Rows that one batch changes, about.
const MAX_ROWS: usize = 16 * 1024;

/// A batch is decided so many increments at a time: they are made before their counters, once found, have left the
/// processor's cache, and those that no longer fit into a commit are not looked for.
const MAX_PORTION: usize = 1024;

/// How long those who wait for a batch wait before they are told that nobody knows what becomes of it. An election takes etcd
/// a second or some.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a lane is looked after that has something to forget, and that nobody asks for anything.
const TICK: Duration = Duration::from_secs(1);
/// How long a lane that another node commits is kept in memory for nothing.
const IDLE: Duration = Duration::from_mins(1);

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
    /// It was in a batch that may have been stored, and nobody can tell any more.
    pub(super) in_doubt: bool,
}

impl Job {
    /// The answer that its caller gets. Once it is in doubt, nothing but a decision that holds for it whenever it was made ends that.
    fn told(&self, answer: Result<Decided>) -> Result<Decided> {
        match answer {
            Ok(_) | Err(LaneError::Unknown(_) | LaneError::Refused(Refused::IdReused)) => answer,
            Err(_) if self.in_doubt => Err(LaneError::Unknown(StoreError::Lost)),
            Err(_) => answer,
        }
    }
}

pub(super) struct Task {
    lane: LaneNumber,
    state: State,
    jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
    taken: Taken,
    /// Asked for before the lane was loaded.
    first: Option<Job>,
    started: Instant,
    /// When the last batch was begun.
    begun: Instant,
    overtaking: Overtaking,
    /// The head had moved, and nothing new was there, since the last commit.
    followed_nothing: bool,
}

/// Why a lane is served no more.
pub(super) enum End {
    /// It was stopped, and nothing waits.
    Stopped,
    /// Another node commits to it, and nobody here asks for anything: it is loaded again when somebody does.
    Idle(mpsc::UnboundedReceiver<Job>),
}

/// The next step of a lane.
enum Next {
    Batch,
    /// Something may be due.
    Look,
    Stop,
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

/// Serves a lane, which is loaded when something is asked of it.
pub(super) async fn begin(
    lane: LaneNumber,
    mut jobs: mpsc::UnboundedReceiver<Job>,
    shared: Arc<Shared>,
) -> std::result::Result<(), StartError> {
    while let Some(first) = next(&mut jobs, &shared).await {
        match load(&*shared.store, lane, shared.memory.bounds()).await {
            Ok(state) => {
                let task = Task::new(lane, state, jobs, Some(first), shared.clone());
                match task.run().await? {
                    End::Stopped => break,
                    End::Idle(rest) => jobs = rest,
                }
                shared.store.unload(lane);
            }
            Err(StartError::Store(StoreError::Unavailable(problem))) => {
                let refusal = LaneError::Unavailable(StoreError::Unavailable(problem));
                // Callers that have waited for it; at the next request it is tried again.
                let waiting = iter::once(first).chain(iter::from_fn(|| jobs.try_recv().ok()));
                answer(&shared, waiting.map(|job| (job, Err(refusal.clone()))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The next job; `None` if the lane is stopped and none is left.
async fn next(jobs: &mut mpsc::UnboundedReceiver<Job>, shared: &Shared) -> Option<Job> {
    tokio::select! {
        biased;
        job = jobs.recv() => job,
        () = shared.stop.cancelled() => {
            jobs.close();
            jobs.recv().await
        }
    }
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
        let answer = job.told(answer);
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
        first: Option<Job>,
        shared: Arc<Shared>,
    ) -> Self {
        clock::compare(state.head(), shared.clock.now());
        shared.clock.note(state.head());
        Self {
            lane,
            state,
            jobs,
            taken: shared.memory.join(),
            first,
            shared,
            started: Instant::now(),
            begun: Instant::now(),
            overtaking: Overtaking::default(),
            followed_nothing: false,
        }
    }

    /// Serves until it is stopped, idle, or the store fails. Nothing that waits then is left without an answer.
    pub(super) async fn run(mut self) -> std::result::Result<End, StartError> {
        let mut batch = Vec::new();
        loop {
            let result = match self.gather(&mut batch).await {
                Next::Batch => self.carry_out(&mut batch).await,
                Next::Look if self.is_elsewhere() && self.begun.elapsed() >= IDLE => {
                    self.shared.memory.leave(self.taken);
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
    }

    /// Another node commits to the lane, and does so best.
    fn is_elsewhere(&self) -> bool {
        let elsewhere = self.shared.elsewhere.get();
        elsewhere.is_some_and(|elsewhere| elsewhere(self.lane))
    }

    /// When the lane is to be looked after although nobody asks for anything.
    fn look_at(&self) -> Option<Instant> {
        let due = self.state.due_in().filter(|_| !self.is_elsewhere());
        let due = due.map(|due| TICK.max(Duration::from_millis(due.unsigned_abs())));
        // A lane may become another node's at any time.
        let is_shared = self.shared.elsewhere.get().is_some();
        let due = due.into_iter().chain(is_shared.then_some(IDLE)).min();
        due.map(|due| self.begun + due)
    }

    /// Forgets what is due, if this node commits to the lane, so that an idle lane gives its memory back.
    async fn look_after(&mut self, nothing: &mut Vec<Job>) -> std::result::Result<(), StartError> {
        // The owner forgets. Here the lane is let go of, which a batch that is begun would only put off.
        if self.is_elsewhere() {
            return Ok(());
        }
        self.begin();
        self.store(nothing, 0).await?;
        self.shared.memory.share(&mut self.taken, &mut self.state);
        Ok(())
    }

    /// Waits for something to do and takes what there is, up to a batch.
    async fn gather(&mut self, batch: &mut Vec<Job>) -> Next {
        let waits = !self.overtaking.is_empty();
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
                () = self.overtaking.pause(), if waits => None,
                // Made only when it is waited for.
                () = async { sleep_until(look_at.unwrap_or(self.begun)).await }, if look_at.is_some() => {
                    return Next::Look;
                }
            }
        };
        self.overtaking.give_to(batch);
        let Some(first) = first else {
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
        Next::Batch
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
        self.begin();
        let max_bytes = self.shared.store.capabilities().batch_bytes;
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
                if self.state.changes() >= MAX_ROWS || self.state.bytes() >= max_bytes {
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
                self.followed_nothing = false;
                Ok(Some(base))
            }
            Err(StoreError::Moved) => {
                debug!(lane = self.lane, "another node has committed");
                self.state.undo(&commit);
                if self.is_elsewhere() {
                    let moved = batch.extract_if(.., |job| job.may_move);
                    answer(&self.shared, moved.map(|job| (job, Err(LaneError::Moved))));
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
    ) -> std::result::Result<i64, StoreError> {
        let mut stored = self.shared.store.commit(self.lane, commit);
        if !self.shared.store.capabilities().is_shared {
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
                    let taken = self.state.catch_up(batch, elapsed);
                    taken.map_err(StartError::Corrupt)?;
                }
            }
            After::TooMany => self.reload().await?,
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
