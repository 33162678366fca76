//! Counters in an etcd cluster: any number of nodes, each of which may commit to any lane.
//!
//! `proto/sumd/store/v1/etcd.proto` describes the stored rows.

mod committer;
mod compactor;
mod hold;
pub(crate) mod imported;
pub(crate) mod kv;
mod load;
mod log;
pub(crate) mod meta;
mod reader;
pub(crate) mod rows;
pub(crate) mod sessions;
mod tuning;
mod watch_feed;

pub use hold::Hold;
pub use kv::Kv;
pub use meta::{OpenError, check_not_moved, raise_format};
pub use rows::FORMAT;
pub use tuning::Tuning;

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    After, Capabilities, ChangeFeed, Committed, LaneNumber, Loaded, Page, Reply, Rows, Scan,
    SessionRows, Store, StoreError, Sum,
};
use crate::etcd::{Client, VersionError};
use crate::model::{Commit, ImportedIds, KeyedHasher, Millis, SessionId};
use committer::{Committer, Failure, Room};
use load::Found;
use log::Log;
use reader::Reader;
use rows::Layout;
use watch_feed::WatchFeed;

/// Operations that a lane's batch may need beside its checkpoint: a transaction has to allow more.
pub const MIN_TXN_OPS: usize = 64;
/// The default number of lanes of new data. Each lane commits on its own: fewer lanes make fewer, larger commits of the
/// same load. Three nodes have 3, 3 and 2 of these lanes, five nodes at most 2. Twice as many lanes would not make the
/// largest share smaller.
pub const DEFAULT_LANES: u32 = 8;
/// The maximum number of lanes.
pub const MAX_LANES: u32 = 4096;
/// How far a lane's horizon has to be past the last imported id, in milliseconds, for the lane to load without the
/// imported ids. A lane that has them in memory forgets them earlier. This bound is for later loads: a clock that
/// jumped by up to a day may have moved their horizon.
const BEFORE_LATEST: Millis = 2 * 24 * 3_600_000;
/// Bytes of a batch. With one more message and the rows of a checkpoint, it fits into the 1.5 MiB of one request.
const BATCH_BYTES: usize = 768 << 10;
/// How long a start waits for etcd's version.
const PATIENCE: Duration = Duration::from_secs(5);

/// The location of data in etcd.
#[derive(Clone)]
pub struct Location<K = Client> {
    /// The client that reaches it.
    pub client: K,
    /// The prefix of all keys.
    pub prefix: String,
    /// Operations that etcd accepts in one transaction.
    pub max_operations: usize,
    /// The number of lanes of data that are created there.
    pub lanes: u32,
}

/// Counters under a key prefix in etcd.
pub struct EtcdStore<K = Client>(Arc<Inner<K>>);

struct Inner<K> {
    kv: K,
    layout: Layout,
    /// Each lane's log, once it is loaded.
    logs: Box<[Mutex<Option<Log>>]>,
    /// The imported ids, while a lane needs them.
    before: Mutex<Weak<ImportedIds>>,
    commits: committer::Queue,
    reader: Reader<K>,
    watch_feed: WatchFeed,
    /// Aborted when the store is dropped.
    _upkeep: Option<AbortOnDropHandle<()>>,
}

impl EtcdStore {
    /// Opens the data at a location, which are created if there are none. The store's tasks run on the calling runtime.
    ///
    /// # Errors
    /// Returns an error if etcd cannot be reached or refuses, or if the data are damaged, incomplete, moved or of
    /// another version.
    pub async fn open(place: Location) -> Result<Self, OpenError> {
        let Location { client, prefix, .. } = place;
        let versions = client.check_versions(Instant::now() + PATIENCE).await;
        versions.map_err(unfit)?;
        let layout = meta::open(&client, &prefix, place.lanes).await?;
        let watch_feed = WatchFeed::new(Some((client.clone(), layout.clone())));
        let compactor = AbortOnDropHandle::new(tokio::spawn(compactor::keep(
            client.clone(),
            layout.clone(),
        )));
        Ok(Self::start(
            client,
            layout,
            place.max_operations,
            watch_feed,
            Some(compactor),
        ))
    }
}

impl<K: Kv> EtcdStore<K> {
    /// Opens data in a model of etcd, which has no watches.
    ///
    /// # Errors
    /// Returns the errors of [`EtcdStore::open`].
    pub async fn over(
        kv: K,
        prefix: &str,
        max_operations: usize,
        tuning: Tuning,
    ) -> Result<Self, OpenError> {
        let mut layout = meta::open(&kv, prefix, DEFAULT_LANES).await?;
        layout.tuning = tuning;
        Ok(Self::start(
            kv,
            layout,
            max_operations,
            WatchFeed::new(None),
            None,
        ))
    }

    fn start(
        kv: K,
        layout: Layout,
        max_operations: usize,
        watch_feed: WatchFeed,
        compactor: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let (commits, queue) = mpsc::unbounded_channel();
        let committer = Committer {
            kv: kv.clone(),
            layout: layout.clone(),
            max_operations,
            room: Room::default(),
        };
        // It ends once its queue has no sender left.
        let _task = tokio::spawn(committer.run(queue));
        let reader = Reader::start(kv.clone(), layout.clone());
        Self(Arc::new(Inner {
            logs: (0..layout.lanes).map(|_| Mutex::default()).collect(),
            before: Mutex::default(),
            kv,
            layout,
            commits,
            reader,
            watch_feed,
            _upkeep: compactor,
        }))
    }

    fn on<T, F>(&self, work: impl FnOnce(Arc<Inner<K>>) -> F) -> Reply<T>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        Box::pin(work(self.0.clone()))
    }
}

/// The error of an etcd that is not used, for now or at all.
fn unfit(error: VersionError) -> OpenError {
    match error {
        VersionError::Unknown(error) if error.is_passing() => {
            OpenError::Unavailable(error.to_string())
        }
        error => OpenError::Etcd(error.to_string()),
    }
}

/// Whether a lane with this horizon may need imported ids of this time.
pub(crate) fn is_before_needed(time: Millis, horizon: Millis) -> bool {
    horizon < time + BEFORE_LATEST
}

impl<K: Kv> Inner<K> {
    async fn load(&self, lane: LaneNumber) -> Result<Loaded, StoreError> {
        let mut known = self.logs[lane as usize].lock().await;
        let (log, mut loaded) = load::load(&self.kv, &self.layout, lane).await?;
        let until = self.layout.before_until;
        if until.is_some_and(|until| is_before_needed(until, loaded.head.horizon)) {
            loaded.before = Some(self.before().await?);
        }
        // Nothing can fail any more: the caller begins with the state of this log.
        *known = Some(log);
        Ok(loaded)
    }

    /// The imported ids. They are read once, and again after no lane has needed them for a while.
    async fn before(&self) -> Result<Arc<ImportedIds>, StoreError> {
        let mut known = self.before.lock().await;
        if let Some(before) = known.upgrade() {
            return Ok(before);
        }
        let before = Arc::new(imported::before(&self.kv, &self.layout).await?);
        *known = Arc::downgrade(&before);
        Ok(before)
    }

    async fn after(&self, lane: LaneNumber, seq: u64) -> Result<After, StoreError> {
        let mut known = self.logs[lane as usize].lock().await;
        let Some(log) = known.as_ref().filter(|log| log.head().seq == seq) else {
            return Ok(After::TooMany);
        };
        Ok(match load::after(&self.kv, &self.layout, log).await? {
            Found::Nothing => After::Batches(Vec::new()),
            Found::TooMany => After::TooMany,
            Found::Batches(batches, newer) => {
                let log = known.take();
                *known = log.map(|log| log.and(newer)).transpose()?;
                After::Batches(batches)
            }
        })
    }

    async fn commit(&self, lane: LaneNumber, commit: Arc<Commit>) -> Result<Committed, StoreError> {
        let mut known = self.logs[lane as usize].lock().await;
        let Some(log) = known
            .as_mut()
            .filter(|log| log.head().seq + 1 == commit.seq)
        else {
            return Err(StoreError::Conflict);
        };
        let attempt = Bytes::copy_from_slice(Uuid::new_v4().as_bytes());
        let mut may_fold = true;
        loop {
            let plan = log.plan(&commit, attempt.clone(), may_fold);
            match committer::commit(&self.commits, plan).await {
                Ok((plan, landed)) => {
                    log.landed(plan, &commit.changes, landed);
                    return Ok(Committed {
                        base: self.layout.base(landed.etcd_revision, landed.offset),
                        is_contended: landed.is_contended,
                    });
                }
                Err(Failure::TooLarge(_)) if may_fold => {
                    log.fold_less();
                    may_fold = false;
                }
                Err(Failure::TooLarge(error)) => {
                    let problem = format!(
                        "etcd accepts less in one request than sumd needs: set its --max-request-bytes and \
                         --max-txn-ops to their defaults or more ({error})"
                    );
                    return Err(StoreError::Unavailable(problem.into()));
                }
                Err(Failure::Store(error)) => return Err(error),
            }
        }
    }
}

impl<K: Kv> Store for EtcdStore<K> {
    fn hasher(&self) -> KeyedHasher {
        self.0.layout.hasher
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_shared: true,
            lanes: self.0.layout.lanes,
            batch_bytes: BATCH_BYTES,
        }
    }

    fn load(&self, lane: LaneNumber) -> Reply<Loaded> {
        self.on(async move |inner| inner.load(lane).await)
    }

    fn after(&self, lane: LaneNumber, seq: u64) -> Reply<After> {
        self.on(async move |inner| inner.after(lane, seq).await)
    }

    fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed> {
        self.on(async move |inner| inner.commit(lane, batch).await)
    }

    fn session(&self, id: SessionId) -> Reply<SessionRows> {
        self.on(async move |inner| inner.reader.session(&id).await)
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        self.on(async move |inner| inner.reader.read(names).await)
    }

    fn scan(&self, scan: Scan) -> Reply<Page> {
        self.on(async move |inner| inner.reader.scan(scan).await)
    }

    fn sum(&self, prefix: Arc<str>) -> Reply<Sum> {
        self.on(async move |inner| inner.reader.sum(&prefix).await)
    }

    fn unload(&self, lane: LaneNumber) {
        // A locked log is in use.
        if let Ok(mut log) = self.0.logs[lane as usize].try_lock() {
            *log = None;
        }
    }

    fn changes(&self) -> &ChangeFeed {
        self.0.watch_feed.changes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::{Error, Outcome, Refusal};

    /// The store waits for an etcd that cannot be reached, and not for one that refuses.
    #[test]
    fn an_etcd_that_refuses_is_not_waited_for() {
        for (refusal, is_waited_for) in [(Refusal::NotConnected, true), (Refusal::Denied, false)] {
            let error = Error::new(Outcome::Definite(refusal), String::new());
            let told = unfit(VersionError::Unknown(error));
            assert_eq!(matches!(told, OpenError::Unavailable(_)), is_waited_for);
        }
    }

    /// Imported ids are read and backed up until a clock that was wrong by a day cannot ask for them.
    #[test]
    fn ids_from_elsewhere_are_needed_for_two_days() {
        const DAY: Millis = 24 * 3_600_000;
        let time = 1_700_000_000_000;
        assert!(is_before_needed(time, 0));
        assert!(is_before_needed(time, time + 2 * DAY - 1));
        assert!(!is_before_needed(time, time + 2 * DAY));
    }
}
