//! The store: durable rows of lanes, on SQLite or etcd.

mod change_feed;
pub mod etcd;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
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

/// The future answer of a store. Dropping it undoes nothing: a commit may still be stored.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// The rows of lanes. A lane is a sequence of batches; on each node one writer makes them, beside any number of
/// readers.
pub trait Store: Send + Sync {
    /// The hasher of the digests and check sums in this store's rows.
    fn hasher(&self) -> KeyedHasher;

    /// The store's capabilities, which never change.
    fn capabilities(&self) -> Capabilities;

    /// The number of lanes.
    fn lanes(&self) -> u32 {
        self.capabilities().lanes
    }

    /// Loads the state that a lane needs in memory before its first batch.
    fn load(&self, lane: LaneNumber) -> Reply<Loaded>;

    /// Reads the batches committed to a lane after batch `seq`, as of a moment after the call.
    fn after(&self, lane: LaneNumber, seq: u64) -> Reply<After>;

    /// Stores a batch on top of its predecessor, or not at all ([`StoreError::Conflict`]). `Ok` means that the batch is
    /// durable. At most one commit of a lane is in flight.
    fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed>;

    /// Reads a session in all lanes, as of a moment after the call.
    fn session(&self, id: SessionId) -> Reply<SessionRows>;

    /// Reads counters, all as of one moment after the call.
    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows>;

    /// Reads counters in name order, all as of one moment after the call.
    fn scan(&self, scan: Scan) -> Reply<Page>;

    /// Sums the counters with a name prefix, as of one moment after the call.
    fn sum(&self, prefix: Arc<str>) -> Reply<Sum>;

    /// Releases the memory kept for a lane, which is not served for now.
    fn unload(&self, _lane: LaneNumber) {}

    /// The feed of committed changes. It may lag behind the other methods.
    fn changes(&self) -> &ChangeFeed;
}

/// The capabilities of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether other nodes may commit to the store, which is then reached over the network. A store that is not shared
    /// belongs to this process alone and is on a local disk.
    pub is_shared: bool,
    /// The number of lanes.
    pub lanes: u32,
    /// The approximate size in bytes at which a batch takes no more decisions. The last decision may exceed it by one
    /// message of at most 300 KiB, and a store has to accept that.
    pub batch_bytes: usize,
}

/// A lane's number, from 0.
pub type LaneNumber = u32;

/// A session's rows in all lanes.
#[derive(Default)]
pub struct SessionRows {
    /// One session for each lane that has a row. A damaged row yields a session that [is damaged](Session::is_damaged).
    pub lanes: Vec<Session>,
    /// The snapshot's revision: nothing in these rows is later.
    pub revision: i64,
    /// The largest session horizon among the lanes: sessions with a lower bound up to this may be forgotten.
    pub horizon: Millis,
}

/// The batches committed to a lane after a known one.
pub enum After {
    /// These batches, which may be none.
    Batches(Vec<Batch>),
    /// Too many to list, or they cannot be listed: the lane has to be loaded again.
    TooMany,
}

/// A stored batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision before the batch's first position.
    pub base: i64,
    /// Since the previous batch another commit to the lane came too late, usually another node's. That node goes next.
    pub is_contended: bool,
}

impl Committed {
    /// A batch without contention.
    #[must_use]
    pub fn alone(base: i64) -> Self {
        Self {
            base,
            is_contended: false,
        }
    }
}

/// The state that a lane starts from.
pub struct Loaded {
    /// The last batch.
    pub head: Head,
    /// The remembered request ids up to the head, in the order of their batches.
    pub packs: Vec<Pack>,
    /// All sessions, including those whose rows are [damaged](Session::is_damaged).
    pub sessions: Vec<(SessionId, Arc<Session>)>,
    /// The ids remembered before the data were moved here, of all lanes together.
    pub before: Option<Arc<ImportedIds>>,
}

/// A counter that exists or was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: Arc<str>,
    /// Its value; `None` if it was deleted.
    pub value: Option<i64>,
    /// The revision of its last change.
    pub revision: i64,
}

/// The result of a read by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// One for each name, in the order of the request; `None` if the counter does not exist.
    pub rows: Vec<Option<Row>>,
    /// The snapshot's revision: it includes every change up to this one, and none after it.
    pub revision: i64,
}

/// The selection of a scan.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The prefix of the names.
    pub prefix: Arc<str>,
    /// Only names after this one.
    pub after: Option<Arc<str>>,
    /// Only counters changed after this revision, including deleted ones; 0 selects all that exist.
    pub since: i64,
    /// The maximum number of counters. A page may have fewer although there are more.
    pub limit: usize,
}

/// The result of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The counters.
    pub rows: Vec<Row>,
    /// The name to resume after, if there may be more.
    pub next: Option<Arc<str>>,
    /// The snapshot's revision.
    pub revision: i64,
    /// Counters deleted up to this revision may have no row any more.
    pub forgotten: i64,
}

/// A sum over counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The sum of their values.
    pub sum: i128,
    /// The number of counters.
    pub count: i64,
    /// The snapshot's revision.
    pub revision: i64,
}

/// The error of a store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another node has committed to the lane. This batch was not stored and never will be.
    #[error("another node has committed")]
    Conflict,
    /// Nobody can tell any more whether the batch was stored. Ids and sessions make that harmless: a stored batch
    /// remembers those that it had.
    #[error("the outcome is unknown")]
    Lost,
    /// The store cannot be reached at present. Nothing was changed.
    #[error("the store cannot be reached: {0}")]
    Unavailable(Arc<str>),
    /// The store has no room. Nothing was changed, and callers are given this reason.
    #[error("{0}")]
    Full(Arc<str>),
    /// The row of a counter is damaged. Nothing was changed, and other rows may be intact.
    #[error("{problem}")]
    Damaged {
        /// The counter: the one that the call named, or else the one that the row names.
        counter: Option<Arc<str>>,
        /// The damage.
        problem: Arc<str>,
    },
    /// The store must not be used any more: its last request may have been carried out or not. Loading the rows again
    /// shows which.
    #[error("the store has failed: {0}")]
    Failed(Arc<str>),
}

impl StoreError {
    /// Whether the batch of a failed commit may have been stored.
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

/// Reports a counter's damaged row to the operator, then is silent for a while: callers may ask for the row as often as
/// they like. `problem` names the counter.
pub(crate) fn damaged_counter(problem: &dyn fmt::Display) {
    static NOTICE: Rarely = Rarely::new();
    tell_of_counter(&NOTICE, problem);
}

fn tell_of_counter(notice: &Rarely, problem: &dyn fmt::Display) {
    if notice.is_due() {
        tracing::error!(
            "{problem}: calls that need this counter are refused (COUNTER_DAMAGED), and all others are served. \
             `sumd check` lists all damage, and `sumd restore` makes a database from a backup"
        );
    }
}

/// Reports a session's damaged row to the operator. `problem` names the session.
fn damaged_session(problem: &dyn fmt::Display) {
    tracing::error!(
        "{problem}: messages of this session are refused (SESSION_DAMAGED), and all others are served. `sumd check` \
         lists all damage, and `sumd restore` makes a database from a backup"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::tests::logged;

    /// Damage is logged, but not at each call that meets it.
    #[test]
    fn damage_is_told_once_in_a_while() {
        // The notice of the process may be used up by other tests.
        let notice = Rarely::new();
        let counter = logged(|| tell_of_counter(&notice, &"counter a is damaged"));
        assert!(counter.contains("counter a is damaged") && counter.contains("COUNTER_DAMAGED"));
        assert_eq!(logged(|| tell_of_counter(&notice, &"again")), "");
        let session = logged(|| damaged_session(&"session b is damaged"));
        assert!(session.contains("session b is damaged"), "{session}");
    }
}
