//! Reads that may be behind: from memory, which is kept up to date by what the store tells of changes.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::store::{CatchUp, ChangeFeed, CommittedChanges, Reply, Row, Rows, StoreError};

/// Counters in memory: those that were asked for of late. Some 10 MiB.
const MAX_COUNTERS: usize = 64 * 1024;
/// How long a reader waits for what it has to see; then the store is asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Counters as they were a moment ago.
pub(super) struct Stale {
    changes: ChangeFeed,
    known: Arc<Mutex<Known>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Known {
    /// A counter that is not there is known, too, with the moment when it was not.
    counters: HashMap<Arc<str>, Row>,
    /// They are as they were at this revision, or later.
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
    /// Begins to follow the changes of a store.
    pub(super) fn new(changes: ChangeFeed) -> Self {
        // Others may have followed it before: nothing that is read from now on lacks what they were told.
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

    /// Counters, all as they were at one moment, which is not before a revision. `read` asks that store for what is not known.
    pub(super) async fn read(
        &self,
        names: Vec<Arc<str>>,
        min_revision: i64,
        read: impl FnOnce(Vec<Arc<str>>) -> Reply<Rows>,
    ) -> Result<Rows, StoreError> {
        if min_revision > 0 {
            // Where it is late, the store has it.
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
        // What was read may be ahead of what was told, and of the others.
        let is_ahead = rows.iter().any(|row| row.revision > known.revision);
        (rows.len() == 1 || !is_ahead).then(|| Rows {
            rows: rows.into_iter().cloned().map(Some).collect(),
            revision: known.revision,
        })
    }

    /// Takes in what was read after a revision. What has changed since then is told by the changes, or nothing is taken in.
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
    // It holds in every state that a panic could leave it in.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps up to date what is known as it was at a revision. After a gap nothing is known.
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
