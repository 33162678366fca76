//! The latest committed changes, for watchers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::CounterChange;

/// Rows kept in memory, some 10 MiB at most. A watcher that is further behind reads the store again.
const MAX_ROWS: usize = 64 * 1024;
/// Commits kept in memory.
const MAX_COMMITS: usize = 4096;

/// The feed of committed changes. The latest are in memory.
#[derive(Clone)]
pub struct ChangeFeed {
    recent: Arc<Mutex<Recent>>,
    /// Everything committed up to this revision was published.
    revision: Arc<watch::Sender<i64>>,
}

struct Recent {
    commits: VecDeque<CommittedChanges>,
    rows: usize,
    /// All commits after this revision are in `commits`.
    after: i64,
}

/// The counters that a commit has changed.
#[derive(Clone)]
pub struct CommittedChanges {
    /// In name order.
    pub counters: Arc<[CounterChange]>,
    /// The revision before the commit's first position.
    pub base: i64,
    /// The revision of its last position.
    end: i64,
}

/// The changes since a revision.
pub enum CatchUp {
    /// The commits, and the revision up to which they are complete.
    Changes(Vec<CommittedChanges>, i64),
    /// They are not all in memory, or the revision is in the future.
    TooMuch,
}

impl ChangeFeed {
    /// An empty feed after a revision.
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

    /// Appends a commit.
    pub fn publish(&self, counters: Arc<[CounterChange]>, base: i64, end: i64) {
        let mut recent = self.recent();
        recent.rows += counters.len();
        recent.commits.push_back(CommittedChanges {
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

    /// Records that nothing more was committed up to a revision.
    pub(super) fn advance(&self, revision: i64) {
        self.revision.send_if_modified(|end| {
            let is_later = revision > *end;
            *end = revision.max(*end);
            is_later
        });
    }

    /// Starts anew after a revision: commits up to it may be missing.
    pub(super) fn restart(&self, revision: i64) {
        let mut recent = self.recent();
        recent.commits.clear();
        recent.rows = 0;
        recent.after = revision;
        drop(recent);
        self.advance(revision);
    }

    /// The commits after a revision.
    #[must_use]
    pub fn since(&self, revision: i64) -> CatchUp {
        let recent = self.recent();
        let end = *self.revision.borrow();
        if revision < recent.after || revision > end {
            return CatchUp::TooMuch;
        }
        let first = recent
            .commits
            .partition_point(|commit| commit.end <= revision);
        let commits = recent.commits.range(first..).cloned().collect();
        CatchUp::Changes(commits, end)
    }

    /// The revision up to which every commit was published.
    #[must_use]
    pub fn revision(&self) -> i64 {
        *self.revision.borrow()
    }

    /// Waits until everything up to a revision was published.
    pub async fn reach(&self, revision: i64) {
        let mut revisions = self.revision.subscribe();
        // The wait fails only without a sender, and `self` holds one.
        let _ = revisions.wait_for(|now| *now >= revision).await;
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // The state is valid at every point where a panic may leave it.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes a commit of `rows` rows, each with a position.
    fn publish(changes: &ChangeFeed, base: i64, rows: usize) {
        let change = |at| CounterChange {
            name: format!("group/{at}").into(),
            value: Some(1),
            place: at,
            is_new: false,
        };
        let counters = (1..).take(rows).map(change).collect();
        let end = base + i64::try_from(rows).expect("few");
        changes.publish(counters, base, end);
    }

    /// The bases of the commits after a revision, and the revision up to which they are complete; `None` if not all are
    /// in memory.
    fn since(changes: &ChangeFeed, revision: i64) -> Option<(Vec<i64>, i64)> {
        match changes.since(revision) {
            CatchUp::Changes(commits, end) => {
                Some((commits.iter().map(|commit| commit.base).collect(), end))
            }
            CatchUp::TooMuch => None,
        }
    }

    #[test]
    fn a_watcher_is_told_what_came_after_a_revision() {
        let changes = ChangeFeed::new(10);
        publish(&changes, 10, 3);
        publish(&changes, 13, 2);
        assert_eq!(since(&changes, 9), None);
        assert_eq!(since(&changes, 10), Some((vec![10, 13], 15)));
        // A commit is delivered as a whole.
        assert_eq!(since(&changes, 12), Some((vec![10, 13], 15)));
        assert_eq!(since(&changes, 13), Some((vec![13], 15)));
        assert_eq!(since(&changes, 15), Some((vec![], 15)));
        assert_eq!(since(&changes, 16), None, "a revision of the future");

        changes.advance(20);
        changes.advance(18);
        assert_eq!(changes.revision(), 20);
        assert_eq!(since(&changes, 15), Some((vec![], 20)));
        changes.restart(30);
        assert_eq!(since(&changes, 29), None);
        assert_eq!(since(&changes, 30), Some((vec![], 30)));
        // Rows from before the restart no longer count.
        publish(&changes, 30, MAX_ROWS);
        assert_eq!(since(&changes, 30), Some((vec![30], 30 + 65_536)));
    }

    /// The commits in memory are bounded by their rows and by their number.
    #[test]
    fn the_oldest_are_forgotten() {
        let changes = ChangeFeed::new(0);
        publish(&changes, 0, 10);
        publish(&changes, 10, MAX_ROWS - 10);
        assert!(since(&changes, 0).is_some());
        let end = changes.revision();
        publish(&changes, end, 1);
        assert_eq!(since(&changes, 9), None);
        assert_eq!(since(&changes, 10), Some((vec![10, end], end + 1)));
        // The remaining commits leave room for 9 rows.
        publish(&changes, end + 1, 9);
        assert!(since(&changes, 10).is_some());
        publish(&changes, end + 10, 1);
        assert_eq!(since(&changes, 10), None);

        let changes = ChangeFeed::new(0);
        for base in 0..4096 {
            publish(&changes, base, 1);
        }
        assert!(since(&changes, 0).is_some());
        publish(&changes, 4096, 1);
        assert_eq!(since(&changes, 0), None);
        assert!(since(&changes, 1).is_some());
    }

    /// Only a later revision wakes a waiter.
    #[test]
    fn waiters_are_woken_by_later_revisions() {
        let changes = ChangeFeed::new(10);
        let mut waiter = changes.revision.subscribe();
        for (revision, is_told, now) in [(9, false, 10), (10, false, 10), (12, true, 12)] {
            changes.advance(revision);
            assert_eq!(waiter.has_changed().ok(), Some(is_told), "{revision}");
            assert_eq!(*waiter.borrow_and_update(), now);
        }
    }
}
