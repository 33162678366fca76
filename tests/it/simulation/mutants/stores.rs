//! Mistakes that a node makes apart from its messages: a wrapper around a correct store.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sumd::model::{Commit, KeyedHasher, SessionId};
use sumd::store::{
    After, Capabilities, ChangeFeed, Committed, LaneNumber, Loaded, Page, Reply, Rows, Scan,
    SessionRows, Store, StoreError, Sum,
};

use super::Mutant;

/// The number of the catch-up that is interrupted.
const INTERRUPTED: usize = 5;

/// The same store, with the mistake if it is one of these.
pub fn mutated(store: Arc<dyn Store>, mutant: Option<Mutant>) -> Arc<dyn Store> {
    match mutant {
        Some(Mutant::ForgetfulLoads | Mutant::LostSessions | Mutant::StuckLanes) => {
            Arc::new(Flawed(Arc::new(Inner {
                store,
                mutant,
                stuck: Mutex::default(),
                caught_up: AtomicUsize::new(0),
            })))
        }
        _ => store,
    }
}

struct Flawed(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    mutant: Option<Mutant>,
    /// Lanes that know of a new head, but not of the changes that came with it.
    stuck: Mutex<BTreeSet<LaneNumber>>,
    /// How often a lane of the node has caught up.
    caught_up: AtomicUsize,
}

impl Inner {
    fn is_stuck(&self, lane: LaneNumber) -> bool {
        self.stuck.lock().expect("no panic").contains(&lane)
    }

    async fn load(&self, lane: LaneNumber) -> Result<Loaded, StoreError> {
        // A lane is reloaded if it gets no changes although its head has moved.
        if self.is_stuck(lane) {
            return Err(StoreError::Unavailable("stuck".into()));
        }
        let mut loaded = self.store.load(lane).await?;
        match self.mutant {
            Some(Mutant::ForgetfulLoads) => {
                let old = loaded.packs.len().saturating_sub(1);
                loaded.packs.drain(..old);
            }
            Some(Mutant::LostSessions) => loaded.sessions.clear(),
            _ => {}
        }
        Ok(loaded)
    }

    async fn after(&self, lane: LaneNumber, seq: u64) -> Result<After, StoreError> {
        let after = self.store.after(lane, seq).await;
        if self.is_stuck(lane) {
            return Ok(After::Batches(Vec::new()));
        }
        let is_behind = match &after {
            Ok(After::Batches(batches)) => !batches.is_empty(),
            Ok(After::TooMany) => false,
            Err(_) => true,
        };
        if self.mutant == Some(Mutant::StuckLanes) && is_behind {
            let mut stuck = self.stuck.lock().expect("no panic");
            let count = self.caught_up.fetch_add(1, Ordering::Relaxed) + 1;
            if after.is_err() || count == INTERRUPTED {
                stuck.insert(lane);
                return Err(StoreError::Unavailable("interrupted".into()));
            }
        }
        after
    }

    async fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Result<Committed, StoreError> {
        if self.is_stuck(lane) {
            return Err(StoreError::Conflict);
        }
        self.store.commit(lane, batch).await
    }
}

impl Store for Flawed {
    fn hasher(&self) -> KeyedHasher {
        self.0.store.hasher()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.store.capabilities()
    }

    fn unload(&self, lane: LaneNumber) {
        self.0.store.unload(lane);
    }

    fn load(&self, lane: LaneNumber) -> Reply<Loaded> {
        let inner = self.0.clone();
        Box::pin(async move { inner.load(lane).await })
    }

    fn after(&self, lane: LaneNumber, seq: u64) -> Reply<After> {
        let inner = self.0.clone();
        Box::pin(async move { inner.after(lane, seq).await })
    }

    fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Reply<Committed> {
        let inner = self.0.clone();
        Box::pin(async move { inner.commit(lane, batch).await })
    }

    fn session(&self, id: SessionId) -> Reply<SessionRows> {
        self.0.store.session(id)
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        self.0.store.read(names)
    }

    fn scan(&self, scan: Scan) -> Reply<Page> {
        self.0.store.scan(scan)
    }

    fn sum(&self, prefix: Arc<str>) -> Reply<Sum> {
        self.0.store.sum(prefix)
    }

    fn changes(&self) -> &ChangeFeed {
        self.0.store.changes()
    }
}
