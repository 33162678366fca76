//! A store in memory: the heads of lanes, and unused sessions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::model::{Commit, Head, KeyedHasher, SessionId};
use crate::store::{
    After, Capabilities, ChangeFeed, Committed, LaneNumber, Loaded, Page, Reply, Rows, Scan,
    SessionRows, Store, StoreError, Sum,
};

/// The duration of a commit that another node waits for.
pub(super) const TURN: Duration = Duration::from_millis(100);

/// A store of two lanes, which keeps the head of each.
#[derive(Clone)]
pub(super) struct MemoryStore(Arc<Inner>);

struct Inner {
    heads: Mutex<HashMap<LaneNumber, Head>>,
    frozen: watch::Sender<bool>,
    /// Number of commits that were requested.
    asked: watch::Sender<usize>,
    /// Number of lanes that were loaded.
    loads: AtomicUsize,
    /// Number of sessions that each of them is loaded with.
    sessions: AtomicUsize,
    /// Commits are [`StoreError::Lost`], until one read of newer batches finds the store unavailable.
    loses: AtomicBool,
    /// The next commit is dropped, and reported as [`StoreError::Lost`].
    drops: AtomicBool,
    /// Another node always commits first.
    outrun: AtomicBool,
    /// The number of commits that come too late, although nobody has committed before.
    late: AtomicUsize,
    /// Each commit takes [`TURN`], and another node's came too late.
    contended: AtomicBool,
    /// The counter whose row all reads report as damaged.
    damaged: Mutex<Option<Arc<str>>>,
    /// No lane can be loaded, for good.
    fails: AtomicBool,
    batch_bytes: AtomicUsize,
    changes: ChangeFeed,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self(Arc::new(Inner {
            heads: Mutex::default(),
            frozen: watch::Sender::new(false),
            asked: watch::Sender::new(0),
            loads: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            loses: AtomicBool::new(false),
            drops: AtomicBool::new(false),
            outrun: AtomicBool::new(false),
            late: AtomicUsize::new(0),
            contended: AtomicBool::new(false),
            damaged: Mutex::default(),
            fails: AtomicBool::new(false),
            batch_bytes: AtomicUsize::new(usize::MAX),
            changes: ChangeFeed::new(0),
        }))
    }
}

impl MemoryStore {
    /// Commits begin, but do not end.
    pub(super) fn freeze(&self) {
        self.0.frozen.send_replace(true);
    }

    pub(super) fn thaw(&self) {
        self.0.frozen.send_replace(false);
    }

    /// Waits until a commit is requested.
    pub(super) async fn is_asked(&self) {
        let mut asked = self.0.asked.subscribe();
        asked
            .wait_for(|count| *count > 0)
            .await
            .expect("it is held");
    }

    pub(super) fn lose(&self) {
        self.0.loses.store(true, Ordering::Relaxed);
    }

    pub(super) fn drop_next(&self) {
        self.0.drops.store(true, Ordering::Relaxed);
    }

    pub(super) fn outrun(&self, is_outrun: bool) {
        self.0.outrun.store(is_outrun, Ordering::Relaxed);
    }

    pub(super) fn be_late(&self, commits: usize) {
        self.0.late.store(commits, Ordering::Relaxed);
    }

    pub(super) fn contend(&self) {
        self.0.contended.store(true, Ordering::Relaxed);
    }

    pub(super) fn damage(&self, counter: Option<&str>) {
        *self.0.damaged.lock().expect("no panic") = counter.map(Arc::from);
    }

    pub(super) fn fail(&self) {
        self.0.fails.store(true, Ordering::Relaxed);
    }

    /// Sets the maximum size of a batch.
    pub(super) fn take_bytes(&self, bytes: usize) {
        self.0.batch_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn have_sessions(&self, count: usize) {
        self.0.sessions.store(count, Ordering::Relaxed);
    }

    pub(super) fn loads(&self) -> usize {
        self.0.loads.load(Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> usize {
        *self.0.asked.borrow()
    }

    async fn try_commit(
        self,
        lane: LaneNumber,
        batch: Arc<Commit>,
    ) -> Result<Committed, StoreError> {
        self.0.asked.send_modify(|count| *count += 1);
        if self.0.loses.load(Ordering::Relaxed) || self.0.drops.swap(false, Ordering::Relaxed) {
            return Err(StoreError::Lost);
        }
        if self.0.outrun.load(Ordering::Relaxed) {
            return Err(StoreError::Conflict);
        }
        let remaining = self.0.late.load(Ordering::Relaxed);
        if remaining > 0 {
            self.0.late.store(remaining - 1, Ordering::Relaxed);
            return Err(StoreError::Conflict);
        }
        let is_contended = self.0.contended.load(Ordering::Relaxed);
        if is_contended {
            sleep(TURN).await;
        }
        let mut frozen = self.0.frozen.subscribe();
        frozen.wait_for(|frozen| !frozen).await.expect("it is held");
        let mut heads = self.0.heads.lock().expect("no panic");
        let head = heads.entry(lane).or_default();
        assert_eq!(batch.seq, head.seq + 1);
        let base = head.revision;
        *head = Head {
            seq: batch.seq,
            revision: base + i64::from(batch.places),
            time: batch.time,
            age: batch.stamp.age,
            ..*head
        };
        Ok(Committed { base, is_contended })
    }
}

fn at_once<T: Send + 'static>(answer: T) -> Reply<T> {
    Box::pin(async { Ok(answer) })
}

impl Store for MemoryStore {
    fn hasher(&self) -> KeyedHasher {
        KeyedHasher::new([7; 16])
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            is_shared: true,
            lanes: 2,
            batch_bytes: self.0.batch_bytes.load(Ordering::Relaxed),
        }
    }

    fn load(&self, lane: LaneNumber) -> Reply<Loaded> {
        self.0.loads.fetch_add(1, Ordering::Relaxed);
        if self.0.fails.load(Ordering::Relaxed) {
            let failed = StoreError::Failed("its rows are damaged".into());
            return Box::pin(async { Err(failed) });
        }
        let heads = self.0.heads.lock().expect("no panic");
        let sessions = 0..self.0.sessions.load(Ordering::Relaxed);
        let session = |number: usize| (number.to_string().into(), Arc::default());
        at_once(Loaded {
            head: heads.get(&lane).copied().unwrap_or_default(),
            packs: Vec::new(),
            sessions: sessions.map(session).collect(),
            before: None,
        })
    }

    fn after(&self, _lane: LaneNumber, _seq: u64) -> Reply<After> {
        if self.0.loses.swap(false, Ordering::Relaxed) {
            return Box::pin(async { Err(StoreError::Unavailable("away".into())) });
        }
        if self.0.outrun.load(Ordering::Relaxed) {
            // A read takes a while.
            return Box::pin(async {
                sleep(Duration::from_secs(1)).await;
                Ok(After::TooMany)
            });
        }
        at_once(After::Batches(Vec::new()))
    }

    fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed> {
        Box::pin(self.clone().try_commit(lane, batch))
    }

    fn session(&self, _id: SessionId) -> Reply<SessionRows> {
        at_once(SessionRows::default())
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        if let Some(counter) = self.0.damaged.lock().expect("no panic").clone() {
            let problem = format!("the row of counter {counter:?} is damaged").into();
            let counter = Some(counter);
            return Box::pin(async { Err(StoreError::Damaged { counter, problem }) });
        }
        at_once(Rows {
            rows: vec![None; names.len()],
            revision: 0,
        })
    }

    fn scan(&self, _scan: Scan) -> Reply<Page> {
        unreachable!("lanes do not scan")
    }

    fn sum(&self, _prefix: Arc<str>) -> Reply<Sum> {
        unreachable!("lanes do not add up")
    }

    fn changes(&self) -> &ChangeFeed {
        &self.0.changes
    }
}
