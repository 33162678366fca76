//! Stale reads, from a cache that the store's change feed keeps up to date.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::store::{CatchUp, ChangeFeed, CommittedChanges, Reply, Row, Rows, StoreError};

/// Maximum number of cached counters, some 10 MiB. The cache is cleared before it would exceed this.
const MAX_COUNTERS: usize = 64 * 1024;
/// How long a reader waits for its minimum revision. After that, the store is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A cache of counters as they were a moment ago.
pub(super) struct Stale {
    changes: ChangeFeed,
    known: Arc<Mutex<Known>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Known {
    /// A counter that does not exist is cached, too, with a revision at which it did not.
    counters: HashMap<Arc<str>, Row>,
    /// The counters are as of this revision or later.
    revision: i64,
}

impl Known {
    fn take(&mut self, commits: &[CommittedChanges]) {
        for commit in commits {
            for change in &*commit.counters {
                if let Some(row) = self.counters.get_mut(&change.name) {
                    let revision = commit.base + i64::from(change.place);
                    if revision > row.revision {
                        (row.value, row.revision) = (change.value, revision);
                    }
                }
            }
        }
    }
}

impl Stale {
    /// Starts to follow the changes of a store.
    pub(super) fn new(changes: ChangeFeed) -> Self {
        // The feed may be in use already. Reads from now on include everything that it has published.
        let seen = changes.revision();
        let known = Arc::new(Mutex::new(Known {
            revision: seen,
            ..Known::default()
        }));
        let task = tokio::spawn(follow(changes.clone(), known.clone(), seen));
        Self {
            changes,
            known,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Reads counters, all as of one moment at or after `min_revision`, if the store has reached it. `read` asks the
    /// store for counters that are not cached.
    pub(super) async fn read(
        &self,
        names: Vec<Arc<str>>,
        min_revision: i64,
        read: impl FnOnce(Vec<Arc<str>>) -> Reply<Rows>,
    ) -> Result<Rows, StoreError> {
        if min_revision > 0 {
            // If the feed is late, the store has the revision.
            let _ = timeout(ANSWER_TIMEOUT, self.changes.reach(min_revision)).await;
        }
        if let Some(rows) = self.known_rows(&names, min_revision) {
            return Ok(rows);
        }
        let before = self.changes.revision();
        let found = read(names.clone()).await?;
        self.remember(names, &found, before);
        Ok(found)
    }

    fn known_rows(&self, names: &[Arc<str>], min_revision: i64) -> Option<Rows> {
        let known = self.known();
        if known.revision == 0 || known.revision < min_revision {
            return None;
        }
        let rows = names.iter().map(|name| known.counters.get(name));
        let rows: Vec<_> = rows.collect::<Option<_>>()?;
        // A row may be ahead of the feed, and so of the other rows.
        let is_ahead = rows.iter().any(|row| row.revision > known.revision);
        (rows.len() == 1 || !is_ahead).then(|| Rows {
            rows: rows.into_iter().cloned().map(Some).collect(),
            revision: known.revision,
        })
    }

    /// Caches rows that were read after the revision `before`. Changes since then are applied to them; if these are not
    /// all in memory, nothing is cached.
    fn remember(&self, names: Vec<Arc<str>>, found: &Rows, before: i64) {
        let mut known = self.known();
        let CatchUp::Changes(since, _) = self.changes.since(before) else {
            return;
        };
        if known.counters.len() + names.len() > MAX_COUNTERS {
            known.counters.clear();
        }
        for (name, row) in names.into_iter().zip(&found.rows) {
            let none = || Row {
                name: name.clone(),
                value: None,
                revision: found.revision,
            };
            let row = row.clone().unwrap_or_else(none);
            known.counters.insert(name, row);
        }
        known.take(&since);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    // The cache is valid in every state that a panic could leave it in.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Applies the changes after the revision `seen` to the cache. After a gap the cache is cleared.
async fn follow(changes: ChangeFeed, known: Arc<Mutex<Known>>, mut seen: i64) {
    loop {
        changes.reach(seen + 1).await;
        let news = changes.since(seen);
        let mut known = lock(&known);
        if let CatchUp::Changes(commits, end) = news {
            known.take(&commits);
            seen = end;
        } else {
            known.counters.clear();
            seen = changes.revision();
        }
        known.revision = seen;
    }
}
