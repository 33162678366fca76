//! The cache, beside a store that is ahead of its change feed.

use std::collections::BTreeMap;

use super::*;
use crate::model::CounterChange;

/// A store whose reads are ahead of its change feed, by as much as a test wants.
struct Ahead {
    changes: ChangeFeed,
    /// `None` while it cannot be reached.
    stored: Mutex<Option<Stored>>,
}

/// The counters and their revision.
type Stored = (BTreeMap<Arc<str>, Row>, i64);

impl Ahead {
    /// A store that has published everything up to a revision.
    fn new(revision: i64) -> Self {
        Self {
            changes: ChangeFeed::new(revision),
            stored: Mutex::new(Some((BTreeMap::new(), revision))),
        }
    }

    /// Sets or deletes counters at a revision, without publishing it.
    fn store(&self, names: &[&str], value: Option<i64>, revision: i64) {
        let mut stored = self.stored.lock().expect("no panic");
        let (rows, moment) = stored.as_mut().expect("it can be reached");
        for name in names {
            let name = Arc::from(*name);
            match value {
                Some(_) => rows.insert(Arc::clone(&name), row(&name, value, revision)),
                None => rows.remove(&name),
            };
        }
        *moment = revision;
    }

    fn fail(&self) {
        *self.stored.lock().expect("no panic") = None;
    }

    fn read(&self, names: Vec<Arc<str>>) -> Reply<Rows> {
        let stored = self.stored.lock().expect("no panic").clone();
        Box::pin(async move {
            let unreachable = || StoreError::Unavailable("it is down".into());
            let (rows, revision) = stored.ok_or_else(unreachable)?;
            Ok(Rows {
                rows: names.iter().map(|name| rows.get(name).cloned()).collect(),
                revision,
            })
        })
    }

    /// Publishes a change at a revision.
    fn tell(&self, names: &[&str], value: Option<i64>, revision: i64) {
        let change = |name: &&str| CounterChange {
            name: (*name).into(),
            value,
            place: 1,
            is_new: false,
        };
        let counters: Vec<_> = names.iter().map(change).collect();
        self.changes
            .publish(counters.into(), revision - 1, revision);
    }
}

fn row(name: &Arc<str>, value: Option<i64>, revision: i64) -> Row {
    Row {
        name: name.clone(),
        value,
        revision,
    }
}

/// Reads the values of counters; `None` for one that does not exist.
async fn read(stale: &Stale, store: &Ahead, names: &[&str]) -> Vec<Option<i64>> {
    let found = try_read(stale, store, names).await.expect("it is there");
    let value = |row: Option<Row>| row.and_then(|row| row.value);
    found.rows.into_iter().map(value).collect()
}

async fn try_read(stale: &Stale, store: &Ahead, names: &[&str]) -> Result<Rows, StoreError> {
    let names = names.iter().map(|name| Arc::from(*name)).collect();
    stale.read(names, 0, |names| store.read(names)).await
}

/// Waits until the cache has reached a revision.
async fn reached(stale: &Stale, revision: i64) {
    while stale.known().revision < revision {
        tokio::task::yield_now().await;
    }
}

/// Rows are cached even if the feed was in use before, and nothing has changed since.
#[tokio::test]
async fn what_was_read_is_in_memory_although_nothing_changes() {
    let store = Ahead::new(10);
    let stale = Stale::new(store.changes.clone());
    assert_eq!(read(&stale, &store, &["a"]).await, [None]);
    store.fail();
    assert_eq!(read(&stale, &store, &["a"]).await, [None]);
    let unknown = try_read(&stale, &store, &["b"]).await;
    assert!(unknown.is_err(), "it was not read before");
}

/// Several counters are as of one moment, even if some were read before a change of all, and the others after it and
/// ahead of the feed.
#[tokio::test]
async fn several_counters_are_of_one_moment() {
    let store = Ahead::new(10);
    let stale = Stale::new(store.changes.clone());
    assert_eq!(read(&stale, &store, &["a"]).await, [None]);
    for (value, revision) in [(Some(1), 20), (None, 30), (Some(2), 40)] {
        let both = ["a", "b"];
        store.store(&both, value, revision);
        assert_eq!(read(&stale, &store, &["c", "b"]).await, [None, value]);
        assert_eq!(read(&stale, &store, &both).await, [value, value]);
        store.tell(&both, value, revision);
        reached(&stale, revision).await;
        assert_eq!(read(&stale, &store, &both).await, [value, value]);
        // Evicted for the next round.
        stale.known().counters.remove("b");
        stale.known().counters.remove("c");
    }
}

/// A counter that was read as deleted does not come back when its earlier creation is published late.
#[tokio::test]
async fn what_is_told_late_brings_nothing_back() {
    let store = Ahead::new(10);
    let stale = Stale::new(store.changes.clone());
    store.store(&["a"], Some(1), 20);
    store.store(&["a"], None, 30);
    assert_eq!(read(&stale, &store, &["a"]).await, [None]);
    store.tell(&["a"], Some(1), 20);
    reached(&stale, 20).await;
    assert_eq!(read(&stale, &store, &["a"]).await, [None]);
    store.tell(&["a"], None, 30);
    store.tell(&["a"], Some(2), 40);
    reached(&stale, 40).await;
    assert_eq!(read(&stale, &store, &["a"]).await, [Some(2)]);
}
