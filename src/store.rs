//! Where a lane's rows are kept.

pub mod etcd;
pub mod sqlite;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::model::{Commit, Digests, Head, Pack, Session, SessionId};

/// What a store answers, later. Dropping it changes nothing about what was asked for.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// The rows of one lane. Only one writer makes batches of a lane; readers are many.
///
/// An error of any method means that the store is not to be used any more: what it was asked for last may have
/// been done or not. The rows tell, once they are loaded again.
pub trait Store: Send + Sync {
    /// Makes the digests in this store's rows.
    fn digests(&self) -> Digests;

    /// What a lane has to have in memory to begin.
    fn load(&self) -> Reply<Loaded>;

    /// Stores a batch on top of the one before it. When it answers, the batch is durable. Gives the revision before
    /// the batch's first place.
    fn commit(&self, batch: Arc<Commit>) -> Reply<i64>;

    /// Reads counters, all as they were at one moment after this was called.
    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows>;

    /// Reads counters in the order of their names, all as they were at one moment after this was called.
    fn scan(&self, scan: Scan) -> Reply<Page>;

    /// Adds up the counters whose names begin with a prefix, as they were at one moment after this was called.
    fn sum(&self, prefix: Arc<str>) -> Reply<Sum>;
}

/// What a lane begins with.
pub struct Loaded {
    /// The last batch.
    pub head: Head,
    /// What is remembered of it and those before it, in their order.
    pub packs: Vec<Pack>,
    /// All sessions.
    pub sessions: Vec<(SessionId, Session)>,
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

/// The store cannot be used any more.
#[derive(Clone, Debug)]
pub struct StoreError(pub Arc<str>);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store has failed: {}", self.0)
    }
}

impl std::error::Error for StoreError {}
