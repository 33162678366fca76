//! Where a lane's rows are kept.

mod change_feed;
pub mod etcd;
mod memtable;
mod remembered;
pub mod sqlite;

pub use change_feed::{CatchUp, ChangeFeed, CommittedChanges};
pub(crate) use remembered::Remembered;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::model::{
    Batch, Commit, Head, ImportedIds, KeyedHasher, Millis, Outcome, Pack, Session, SessionId,
};
use crate::notice::Rarely;

/// What a store answers, later. Dropping it changes nothing about what was asked for.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// The rows of lanes, each of which is a sequence of batches. On one node one writer makes the batches of a lane; readers
/// are many.
pub trait Store: Send + Sync {
    /// Makes the digests in this store's rows.
    fn hasher(&self) -> KeyedHasher;

    /// Its capabilities. They never change.
    fn capabilities(&self) -> Capabilities;

    /// How many lanes there are.
    fn lanes(&self) -> u32 {
        self.capabilities().lanes
    }

    /// What a lane has to have in memory to begin.
    fn load(&self, lane: LaneNumber) -> Reply<Loaded>;

    /// What was committed to a lane after a batch, as it is at a moment after this was called.
    fn after(&self, lane: LaneNumber, seq: u64) -> Reply<After>;

    /// Stores a batch on top of the one before it, or not at all ([`StoreError::Conflict`]). When it answers, the batch is
    /// durable. One batch of a lane is stored at a time.
    fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed>;

    /// What each lane has of a session, as it is at a moment after this was called.
    fn session(&self, id: SessionId) -> Reply<SessionRows>;

    /// Reads counters, all as they were at one moment after this was called.
    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows>;

    /// Reads counters in the order of their names, all as they were at one moment after this was called.
    fn scan(&self, scan: Scan) -> Reply<Page>;

    /// Adds up the counters whose names begin with a prefix, as they were at one moment after this was called.
    fn sum(&self, prefix: Arc<str>) -> Reply<Sum>;

    /// A lane is served no more, for now: memory that is kept for it may go.
    fn unload(&self, _lane: LaneNumber) {}

    /// What is committed, as it is. It may be behind what the other methods tell.
    fn changes(&self) -> &ChangeFeed;
}

/// The capabilities of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Other nodes may commit to it, and it is reached by the network. One that is not shared is this process's alone, and on
    /// this machine's disk.
    pub is_shared: bool,
    /// How many lanes there are.
    pub lanes: u32,
    /// Bytes of a batch, about, beyond which nothing more is decided for it. The last decision may go beyond by the size of
    /// one message, which is at most 300 KiB, and a store has to take that.
    pub batch_bytes: usize,
}

/// Which lane, from 0.
pub type LaneNumber = u32;

/// The rows of a session.
#[derive(Default)]
pub struct SessionRows {
    /// What lanes have of it; one whose row is damaged is [such](Session::is_damaged).
    pub lanes: Vec<Session>,
    /// Everything that these have is of this revision or before it.
    pub revision: i64,
    /// That of the lane that has forgotten most: sessions with a bound up to this may be forgotten.
    pub horizon: Millis,
}

/// What was committed to a lane.
pub enum After {
    /// These batches, which may be none.
    Batches(Vec<Batch>),
    /// More than is worth telling: the lane is to be loaded again.
    TooMany,
}

/// A batch that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision before the batch's first place.
    pub base: i64,
    /// A batch came too late since the one before it, mostly another node's: now it is that node's turn.
    pub is_contended: bool,
}

impl Committed {
    /// Nobody came too late.
    #[must_use]
    pub fn alone(base: i64) -> Self {
        Self {
            base,
            is_contended: false,
        }
    }
}

/// What a lane begins with.
pub struct Loaded {
    /// The last batch.
    pub head: Head,
    /// What is remembered of it and those before it, in their order.
    pub packs: Vec<Pack>,
    /// All sessions, those too whose rows are [damaged](Session::is_damaged).
    pub sessions: Vec<(SessionId, Arc<Session>)>,
    /// The ids that were remembered before the data were moved here, by all lanes together.
    pub before: Option<Arc<ImportedIds>>,
}

/// A counter that is or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: Arc<str>,
    /// Its value; `None` where it was deleted.
    pub value: Option<i64>,
    /// The revision of its last change.
    pub revision: i64,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// One for each name, in their order; `None` where there is no row.
    pub rows: Vec<Option<Row>>,
    /// The moment: every change up to this revision is in it, and none after.
    pub revision: i64,
}

/// Which counters to read.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// What their names begin with.
    pub prefix: Arc<str>,
    /// Only names after this one.
    pub after: Option<Arc<str>>,
    /// Only those changed after this revision, and then those that were deleted, too; 0 for all that are there.
    pub since: i64,
    /// How many at most; fewer may come although there are more.
    pub limit: usize,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The counters.
    pub rows: Vec<Row>,
    /// Where there may be more: where to go on.
    pub next: Option<Arc<str>>,
    /// The moment of the page.
    pub revision: i64,
    /// Of the counters deleted up to this revision some may have no row any more.
    pub forgotten: i64,
}

/// A sum over counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Of their values.
    pub sum: i128,
    /// How many they are.
    pub count: i64,
    /// The moment of the sum.
    pub revision: i64,
}

/// Why there is no answer.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// Another node has committed to the lane: this batch was not stored, and never will be.
    Conflict,
    /// The same, but that it may have been stored before that, and nobody can tell any more. With ids and sessions that does
    /// not matter: those that it had would be remembered.
    Lost,
    /// It cannot be reached just now, and nothing was changed.
    Unavailable(Arc<str>),
    /// It has no room for more, and nothing was changed. Callers are told why.
    Full(Arc<str>),
    /// The row of a counter is damaged, and nothing was changed. Others may be well.
    Damaged {
        /// The counter, if it was asked for by its name.
        counter: Option<Arc<str>>,
        /// The damage.
        problem: Arc<str>,
    },
    /// It is not to be used any more: what it was asked for last may have been done or not. The rows tell, once they are
    /// loaded again.
    Failed(Arc<str>),
}

impl StoreError {
    /// Whether a batch that was to be stored may have been.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Conflict | Self::Unavailable(_) | Self::Full(_) | Self::Damaged { .. } => {
                Outcome::NotApplied
            }
            Self::Lost | Self::Failed(_) => Outcome::Unknown,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => f.write_str("another node has committed"),
            Self::Lost => f.write_str("nobody can tell what became of it"),
            Self::Unavailable(problem) => write!(f, "the store cannot be reached: {problem}"),
            Self::Full(problem) | Self::Damaged { problem, .. } => f.write_str(problem),
            Self::Failed(problem) => write!(f, "the store has failed: {problem}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Tells the operator of a counter's row that is damaged, and of no other one for a while, since callers may ask for it as often as
/// they like. `problem` names the counter.
pub(crate) fn damaged_counter(problem: &dyn fmt::Display) {
    static NOTICE: Rarely = Rarely::new();
    if NOTICE.is_due() {
        tracing::error!(
            "{problem}: calls that need this counter are refused (COUNTER_DAMAGED), and all others go on. `sumd check` lists all \
             damage, and `sumd restore` makes a database of a backup"
        );
    }
}

/// Tells the operator of a session's row that is damaged. `problem` names the session.
fn damaged_session(problem: &dyn fmt::Display) {
    tracing::error!(
        "{problem}: messages of this session are refused (SESSION_DAMAGED), and all others go on. `sumd check` lists all damage, \
         and `sumd restore` makes a database of a backup"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::logged;

    /// The operator is told of damage, and not at each call that meets it.
    #[test]
    fn damage_is_told_once_in_a_while() {
        let counter = logged(|| damaged_counter(&"counter a is damaged"));
        assert!(counter.contains("counter a is damaged") && counter.contains("COUNTER_DAMAGED"));
        assert_eq!(logged(|| damaged_counter(&"again")), "");
        let session = logged(|| damaged_session(&"session b is damaged"));
        assert!(session.contains("session b is damaged"), "{session}");
    }
}
