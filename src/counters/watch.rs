//! Streams of changes: first the state, from the store, then the changes that the lanes commit.
//!
//! An answer is made only when there is capacity for it. So a watcher that reads nothing holds its names, its position,
//! and the waiting answers, at most two beside those that HTTP/2 buffers: 140 KiB with the longest names, 20 KiB with
//! names of twenty bytes. Changes in the meantime are looked up when it reads again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::service::Counters;
use crate::model::CounterChange;
use crate::replies::{self, Replies, ReplyStream, Room};
use crate::store::{CatchUp, ChangeFeed, CommittedChanges, Row, Scan};

/// Every watcher gets the changes within this time together.
const INTERVAL: Duration = Duration::from_millis(10);
/// Maximum number of counters in an answer: 70 KiB with the longest names, held until the watcher reads it.
const MAX_COUNTERS: usize = 250;

/// The counters that a watch selects.
pub enum Watched {
    /// These counters, whether they exist or not.
    Names(BTreeSet<Arc<str>>),
    /// All counters with this prefix.
    Prefix(Arc<str>),
}

/// An answer to a watch: the latest state of some counters.
pub struct Changes {
    /// Counters with their values. In a state of named counters, those that do not exist have no value.
    pub counters: Vec<Row>,
    /// The names of deleted counters.
    pub deleted: Vec<Arc<str>>,
    /// All changes up to this revision were sent.
    pub revision: i64,
    /// This answer completes the state for the first time.
    pub synced: bool,
    /// The state begins anew, and replaces what was sent before.
    pub restarted: bool,
}

struct Watch {
    service: Counters,
    watched: Watched,
    replies: Replies<Changes>,
    /// Everything up to this revision was sent.
    revision: i64,
    synced: bool,
}

impl Counters {
    /// Watches counters: sends their changes after a revision, or from revision 0 their state and then their changes.
    #[must_use]
    pub fn watch(&self, watched: Watched, revision: i64) -> ReplyStream<Changes, Error> {
        let service = self.clone();
        replies::spawn(move |replies| {
            let watch = Watch {
                service,
                watched,
                replies,
                revision,
                synced: false,
            };
            watch.run()
        })
    }
}

impl Watch {
    async fn run(mut self) -> Result<(), Error> {
        let changes = self.service.store().changes().clone();
        loop {
            // A watch from revision 0 asks for the state.
            let told = (self.synced || self.revision > 0) && self.tell(&changes).await;
            if !told {
                self.tell_state().await?;
            }
            // Waiting comes last: a watcher that is far behind is not held up.
            changes.reach(self.revision + 1).await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Sends the latest change of each counter, in name order. Returns `false` if the changes are not all in memory.
    async fn tell(&mut self, changes: &ChangeFeed) -> bool {
        let (mut first, mut after) = (None, None);
        loop {
            let room = self.replies.room().await;
            let CatchUp::Changes(commits, end) = changes.since(self.revision) else {
                return false;
            };
            let (rows, next) = self.watched.latest(&commits, after.as_deref());
            // Names that were sent first may have changed since: they are sent again.
            let moment = *first.get_or_insert(end);
            // The first answer is sent at once, even if there is nothing new.
            if rows.is_empty() && self.synced {
                self.revision = moment;
                return true;
            }
            let end = next.is_none().then_some(moment);
            self.send(room, rows, false, end);
            if end.is_some() {
                return true;
            }
            after = next;
        }
    }

    /// Sends the state from the store; for a prefix, only the counters that have changed.
    async fn tell_state(&mut self) -> Result<(), Error> {
        let last = match &self.watched {
            Watched::Names(names) => {
                let room = self.replies.room().await;
                let names: Vec<_> = names.iter().cloned().collect();
                let found = self.service.store().read(names.clone()).await;
                let found = found.map_err(Error::of_read)?;
                let rows = names.into_iter().zip(found.rows).map(|(name, row)| {
                    let none = Row {
                        name,
                        value: None,
                        revision: 0,
                    };
                    row.unwrap_or(none)
                });
                // There are few names: all are sent, whether they have changed or not.
                let rows: Vec<_> = rows.collect();
                self.send(room, rows, true, Some(found.revision));
                found.revision
            }
            Watched::Prefix(prefix) => {
                let prefix = prefix.clone();
                let mut reset = self.revision == 0;
                let (mut first, mut after) = (None, None);
                loop {
                    let room = self.replies.room().await;
                    let since = if reset { 0 } else { self.revision };
                    let scan = Scan {
                        prefix: prefix.clone(),
                        after,
                        since,
                        limit: MAX_COUNTERS,
                    };
                    let page = self.service.store().scan(scan).await;
                    let page = page.map_err(Error::of_read)?;
                    let begins = first.is_none();
                    let forgotten = page.forgotten > since || page.revision < since;
                    if !reset && forgotten {
                        // Also in the middle of a scan: a deletion that was forgotten meanwhile would never be sent.
                        (reset, first, after) = (true, None, None);
                        self.revision = 0;
                        continue;
                    }
                    let moment = *first.get_or_insert(page.revision);
                    after = page.next;
                    let end = after.is_none().then_some(moment);
                    if end.is_some() || begins || !page.rows.is_empty() {
                        self.send(room, page.rows, reset && begins, end);
                    }
                    if end.is_some() {
                        break page.revision;
                    }
                }
            }
        };
        // The rows may be ahead of the feed. By waiting for it, no counter goes back.
        self.service.store().changes().reach(last).await;
        Ok(())
    }

    /// Sends counters. `end` is the new revision, set for the last answer of a state or of changes.
    fn send(&mut self, room: Room<Changes>, rows: Vec<Row>, reset: bool, end: Option<i64>) {
        self.synced &= !reset;
        let is_state_of_names = reset && matches!(self.watched, Watched::Names(_));
        let (mut counters, mut deleted) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            if row.value.is_none() && !is_state_of_names {
                deleted.push(row.name);
            } else {
                counters.push(row);
            }
        }
        let mut synced = false;
        if let Some(end) = end {
            synced = !std::mem::replace(&mut self.synced, true);
            self.revision = end;
        }
        room.send(Changes {
            counters,
            deleted,
            revision: self.revision,
            synced,
            restarted: reset,
        });
    }
}

impl Watched {
    /// The latest changes of watched counters in these commits, at most [`MAX_COUNTERS`], in name order after a name.
    /// If there are more, also the name to continue after.
    fn latest(
        &self,
        commits: &[CommittedChanges],
        after: Option<&str>,
    ) -> (Vec<Row>, Option<Arc<str>>) {
        let mut latest: BTreeMap<Arc<str>, Row> = BTreeMap::new();
        let mut is_all = true;
        for commit in commits {
            for change in self.of(commit, after) {
                let last = latest.last_key_value();
                if latest.len() == MAX_COUNTERS && last.is_some_and(|(last, _)| *last < change.name)
                {
                    is_all = false;
                    break;
                }
                let row = Row {
                    name: change.name.clone(),
                    value: change.value,
                    revision: commit.base + i64::from(change.place),
                };
                latest.insert(change.name.clone(), row);
                if latest.len() > MAX_COUNTERS {
                    is_all = false;
                    latest.pop_last();
                }
            }
        }
        let rows: Vec<_> = latest.into_values().collect();
        let next = rows.last().filter(|_| !is_all).map(|row| row.name.clone());
        (rows, next)
    }

    /// The changes of watched counters in a commit, in name order after a name.
    fn of<'a>(
        &'a self,
        commit: &'a CommittedChanges,
        after: Option<&'a str>,
    ) -> Box<dyn Iterator<Item = &'a CounterChange> + 'a> {
        let all = &commit.counters;
        match self {
            // There are few names: none is ever left for another answer.
            Self::Names(names) => Box::new(names.iter().filter_map(|name| {
                let found = all.binary_search_by(|change| change.name.cmp(name));
                found.ok().map(|at| &all[at])
            })),
            Self::Prefix(prefix) => {
                let is_before =
                    |name: &str| name < &**prefix || after.is_some_and(|after| name <= after);
                let from = all.partition_point(|change| is_before(&change.name));
                let rest = all[from..].iter();
                Box::new(rest.take_while(|change| change.name.starts_with(&**prefix)))
            }
        }
    }
}
