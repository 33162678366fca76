//! Mistakes that a node makes beside what it sends: a store that does not do what it should, over one that does.

use std::sync::Arc;

use sumd::model::{Commit, Digests, SessionId};
use sumd::store::{
    After, Changes, LaneNumber, Loaded, Page, Reply, Rows, Scan, SessionRows, Store, StoreError,
    Sum,
};

use super::Mutant;

/// The same store, with the mistake if it is one of these.
pub fn mutated(store: Arc<dyn Store>, mutant: Option<Mutant>) -> Arc<dyn Store> {
    match mutant {
        Some(Mutant::ForgetfulLoads | Mutant::LostSessions) => {
            Arc::new(Flawed(Arc::new(Inner { store, mutant })))
        }
        _ => store,
    }
}

struct Flawed(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    mutant: Option<Mutant>,
}

impl Inner {
    async fn load(&self, lane: LaneNumber) -> Result<Loaded, StoreError> {
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
}

impl Store for Flawed {
    fn digests(&self) -> Digests {
        self.0.store.digests()
    }

    fn lanes(&self) -> u32 {
        self.0.store.lanes()
    }

    fn load(&self, lane: LaneNumber) -> Reply<Loaded> {
        let inner = self.0.clone();
        Box::pin(async move { inner.load(lane).await })
    }

    fn after(&self, lane: LaneNumber, seq: u64) -> Reply<After> {
        self.0.store.after(lane, seq)
    }

    fn commit(&self, lane: LaneNumber, batch: Arc<Commit>) -> Reply<i64> {
        self.0.store.commit(lane, batch)
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

    fn changes(&self) -> &Changes {
        self.0.store.changes()
    }
}
