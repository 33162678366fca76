//! The life of a batch: it begins, is handed to the store, and is committed or undone. Also replays the batches of
//! other nodes.

use super::State;
use crate::model::codec::Corrupt;
use crate::model::commit::{Batch, Changes, Commit, Head, Pack, Stamp};
use crate::model::request::MAX_SKEW;
use crate::model::time::Millis;

/// Approximate number of ids forgotten in one batch: more than one batch adds, and few enough to take some ms.
const MAX_FORGOTTEN: usize = 20_000;

impl State {
    /// Begins a batch. `now` is the wall-clock time of this node, which may be corrected at any moment. `elapsed` is
    /// the time since the lane was loaded, by a monotonic clock.
    ///
    /// No wall-clock time makes anything count twice. Ids and sessions are forgotten by the lane's age, and the
    /// horizons rise to the latest time of anything forgotten.
    pub fn begin(&mut self, now: Millis, elapsed: Millis) {
        self.now = now;
        self.age += elapsed - self.counted;
        self.counted = elapsed;
        let head = &mut self.head;
        head.time = head.time.max(now);
        // An answer comes after its commit, which may be slow: the allowance for clock skew covers that, too.
        let remembered = self.bounds.id_horizon + MAX_SKEW;
        let forgotten = self.ids.forget(self.age - remembered, MAX_FORGOTTEN);
        self.forgot |= forgotten.any;
        head.horizon = head.horizon.max(forgotten.newest.unwrap_or(Millis::MIN));
        let waited = self.age - self.loaded >= remembered;
        if let Some(before) = self.before.take_if(|_| waited) {
            self.forgot = true;
            head.horizon = head.horizon.max(before.newest());
        }
        let remembered = self.bounds.session_horizon + MAX_SKEW;
        let newest = self.sessions.forget(self.age - remembered, self.age);
        head.session_horizon = head.session_horizon.max(newest.unwrap_or(Millis::MIN));
    }

    /// The changes of the batch to store; `None` if there are none, and every answer is about stored data.
    pub fn commit(&mut self) -> Option<Commit> {
        let changes = Changes {
            counters: self.counters.take_changes(),
            sessions: self.sessions.changed(),
        };
        if self.places == 0 && !self.forgot && changes.sessions.is_empty() {
            return None;
        }
        self.forgot = false;
        let seq = self.head.seq + 1;
        let (ids, newest) = self.ids.take_open();
        Some(Commit {
            seq,
            time: self.head.time,
            stamp: Stamp {
                age: Some(self.age),
                newest,
            },
            horizon: self.head.horizon,
            session_horizon: self.head.session_horizon,
            places: self.places,
            ids,
            forget_before: self.ids.oldest_seq().unwrap_or(seq),
            deletions_up_to: self.age - self.bounds.id_horizon,
            changes,
        })
    }

    /// Records that the batch is stored. `base` is the revision before its first operation.
    pub fn committed(&mut self, commit: &Commit, base: i64) {
        self.head.seq = commit.seq;
        self.head.revision = base + i64::from(commit.places);
        self.head.age = commit.stamp.age;
        self.places = 0;
        self.sessions.close();
        let pack = Pack {
            seq: commit.seq,
            time: commit.time,
            stamp: commit.stamp,
            base,
            ids: commit.ids.clone(),
        };
        self.ids.close(pack, self.age);
    }

    /// Reverts a batch that was not stored and never will be. Its time, its horizons and the ids that it forgot stay as
    /// they are. The counters that it changed have to be loaded again.
    pub fn undo(&mut self, commit: &Commit) {
        for change in &*commit.changes.counters {
            self.counters.forget(&change.name);
        }
        self.sessions.undo();
        self.ids.undo(&commit.ids);
        self.places = 0;
        // The store does not know yet that packs were forgotten.
        self.forgot = true;
    }

    /// Replays the next batch, which another node has committed. `elapsed` is as in [`State::begin`].
    ///
    /// # Errors
    /// Returns [`Corrupt`] if the batch does not follow the last one, or a row cannot be decoded.
    pub fn catch_up(&mut self, batch: Batch, elapsed: Millis) -> Result<(), Corrupt> {
        if batch.head.seq != self.head.seq + 1 {
            return Err(Corrupt("a batch does not follow the one before it"));
        }
        for (name, value) in batch.counters {
            self.counters.replace(&name, value);
        }
        // How long ago the batch was committed is not known, so its age counts from now.
        self.age = batch.head.age.unwrap_or(self.age);
        self.counted = elapsed;
        for (id, session) in batch.sessions {
            self.sessions.replace(id, session, self.age);
        }
        if !batch.pack.ids.is_empty() {
            self.ids.load(batch.pack, self.age)?;
        }
        let (before, after) = (self.head, batch.head);
        self.head = Head {
            time: before.time.max(after.time),
            horizon: before.horizon.max(after.horizon),
            session_horizon: before.session_horizon.max(after.session_horizon),
            ..after
        };
        Ok(())
    }
}
