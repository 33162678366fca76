//! What was committed of late, for those who watch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::CounterChange;

/// Rows of the past that are kept: a watcher that is further behind reads the store again. Some 10 MiB at most.
const MAX_ROWS: usize = 64 * 1024;
/// The same in commits.
const MAX_COMMITS: usize = 4096;

/// What was committed, the latest of it in memory.
#[derive(Clone)]
pub struct Changes {
    recent: Arc<Mutex<Recent>>,
    /// Up to which revision everything is committed and in `recent`.
    revision: Arc<watch::Sender<i64>>,
}

struct Recent {
    commits: VecDeque<Changed>,
    rows: usize,
    /// All commits after this revision are here.
    after: i64,
}

/// The counters that a commit has changed.
#[derive(Clone)]
pub struct Changed {
    /// In the order of their names.
    pub counters: Arc<[CounterChange]>,
    /// The revision before the commit's first place.
    pub base: i64,
    /// The revision of its last.
    end: i64,
}

/// What has changed since some revision.
pub enum Seen {
    /// These commits, up to this revision.
    Changes(Vec<Changed>, i64),
    /// More than is in memory.
    TooMuch,
}

impl Changes {
    /// Nothing, after a revision.
    #[must_use]
    pub fn new(revision: i64) -> Self {
        let recent = Recent {
            commits: VecDeque::new(),
            rows: 0,
            after: revision,
        };
        Self {
            recent: Arc::new(Mutex::new(recent)),
            revision: Arc::new(watch::Sender::new(revision)),
        }
    }

    /// Takes in a commit.
    pub fn publish(&self, counters: Arc<[CounterChange]>, base: i64, end: i64) {
        let mut recent = self.recent();
        recent.rows += counters.len();
        recent.commits.push_back(Changed {
            counters,
            base,
            end,
        });
        while recent.rows > MAX_ROWS || recent.commits.len() > MAX_COMMITS {
            let Some(oldest) = recent.commits.pop_front() else {
                break;
            };
            recent.rows -= oldest.counters.len();
            recent.after = oldest.end;
        }
        drop(recent);
        self.revision.send_replace(end);
    }

    /// Nothing more was committed up to a revision.
    pub(super) fn advance(&self, revision: i64) {
        self.revision.send_if_modified(|end| {
            let is_later = revision > *end;
            *end = revision.max(*end);
            is_later
        });
    }

    /// What was committed up to a revision may not all have been told.
    pub(super) fn restart(&self, revision: i64) {
        let mut recent = self.recent();
        recent.commits.clear();
        recent.rows = 0;
        recent.after = revision;
        drop(recent);
        self.advance(revision);
    }

    /// What was committed after a revision.
    #[must_use]
    pub fn since(&self, revision: i64) -> Seen {
        let recent = self.recent();
        let end = *self.revision.borrow();
        if revision < recent.after || revision > end {
            return Seen::TooMuch;
        }
        let first = recent
            .commits
            .partition_point(|commit| commit.end <= revision);
        let commits = recent.commits.range(first..).cloned().collect();
        Seen::Changes(commits, end)
    }

    /// Up to where all that was committed was told.
    #[must_use]
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Waits until a revision is reached.
    pub async fn reach(&self, revision: i64) {
        let mut revisions = self.revision.subscribe();
        // It fails where the sender is gone, which is held here.
        let _ = revisions.wait_for(|now| *now >= revision).await;
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // It holds in every state that a panic could leave it in.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
