//! The sessions of a lane.

use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::commit::SessionChange;
use super::request::{MAX_SKEW, SessionId};
use super::session::Session;
use super::time::Millis;

/// All sessions of a lane, and the changes of the open batch to them.
#[derive(Default)]
pub(super) struct Sessions {
    all: HashMap<SessionId, Arc<Session>>,
    /// Sessions that the open batch changes.
    changed: HashMap<SessionId, Changed>,
    /// Approximate size of these changes in the batch.
    changed_bytes: usize,
    bytes: usize,
    /// The lane's age at the last sweep for unused sessions.
    swept: Millis,
    /// Lower bound on the lane's age at the last use of any session; exact at the last sweep.
    oldest: Millis,
}

/// The change of a session by the open batch.
struct Changed {
    /// The session before the batch.
    before: Option<Arc<Session>>,
    /// Whether it is still that session, and not another one of its name.
    is_same: bool,
}

/// Interval between sweeps for unused sessions.
const SWEEP_INTERVAL: Millis = 60_000;
/// Maximum number of sessions forgotten in one batch. The batch has to fit into one request to etcd with all else that
/// it holds; an id of 128 bytes for each makes 256 kB.
const MAX_FORGOTTEN: usize = 2_000;

impl Sessions {
    /// Loads a stored session at the lane's age `age`. Its last use was not after that.
    pub(super) fn load(&mut self, id: SessionId, mut session: Arc<Session>, age: Millis) {
        if session.age.is_none_or(|used_at| used_at > age) {
            Arc::make_mut(&mut session).age = Some(age);
        }
        self.bytes += id.len() + session.bytes();
        // An undone batch brings back the sessions that it had forgotten.
        self.oldest = self.oldest.min(session.age.unwrap_or(age));
        self.all.insert(id, session);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Session> {
        self.all.get(id).map(|session| &**session)
    }

    /// Changes a session. It is created if there is none.
    pub(super) fn change(&mut self, id: &SessionId, change: impl FnOnce(&mut Session)) {
        let (session, counted) = match self.all.entry(id.clone()) {
            Entry::Vacant(entry) => (entry.insert(Arc::default()), 0),
            Entry::Occupied(entry) => {
                let session = entry.into_mut();
                let bytes = id.len() + session.bytes();
                (session, bytes)
            }
        };
        let before = session.bytes();
        // If the batch has forgotten a session of this name, this one stays a different session.
        if let Entry::Vacant(entry) = self.changed.entry(id.clone()) {
            entry.insert(Changed {
                before: (counted > 0).then(|| session.clone()),
                is_same: true,
            });
            // A store may write the whole session.
            self.changed_bytes += id.len() + before;
        }
        let session = Arc::make_mut(session);
        change(session);
        let after = session.bytes();
        self.changed_bytes += after.saturating_sub(before);
        self.bytes = self.bytes + id.len() + after - counted;
    }

    /// Forgets sessions whose last use was at the lane's age `up_to` or before; the lane's age is now `age`. Sweeps
    /// once per interval, or at once if the last sweep left some, and forgets a bounded number in one batch. Returns a
    /// wall-clock time at or after the bounds of all their messages, if any was forgotten.
    pub(super) fn forget(&mut self, up_to: Millis, age: Millis) -> Option<Millis> {
        if age - self.swept < SWEEP_INTERVAL {
            return None;
        }
        self.swept = age;
        // Sessions that are created before the next sweep are used after this.
        let mut oldest = age;
        // A batch that could not be decided begins again, with the sessions that it forgot.
        let mut room = MAX_FORGOTTEN.saturating_sub(self.changed.len());
        let old = self.all.extract_if(|_, session| {
            let used_at = session.age.unwrap_or(age);
            let is_forgotten = used_at <= up_to && room > 0;
            if is_forgotten {
                room -= 1;
            } else {
                oldest = oldest.min(used_at);
            }
            is_forgotten
        });
        let mut newest = None;
        for (id, session) in old {
            // The clocks of nodes may be this far apart.
            newest = newest.max(Some(session.used.saturating_add(MAX_SKEW)));
            self.bytes -= id.len() + session.bytes();
            self.changed_bytes += id.len();
            let forgotten = Changed {
                before: Some(session),
                is_same: false,
            };
            self.changed.insert(id, forgotten);
        }
        self.oldest = oldest;
        if oldest <= up_to {
            // More are due: the next batch sweeps at once.
            self.swept = age - SWEEP_INTERVAL;
        }
        newest
    }

    /// The lane's age at which the first session is forgotten if none is used. `remembered` is how long an unused
    /// session is remembered.
    pub(super) fn forgotten_at(&self, remembered: Millis) -> Option<Millis> {
        let forgotten_at = (self.oldest + remembered).max(self.swept + SWEEP_INTERVAL);
        (!self.all.is_empty()).then_some(forgotten_at)
    }

    /// The changes of the open batch, in the order of ids. The batch can still be undone.
    pub(super) fn changed(&self) -> Vec<(SessionId, SessionChange)> {
        let change = |(id, changed): (&SessionId, &Changed)| {
            let change = SessionChange {
                before: changed.before.clone().filter(|_| changed.is_same),
                after: self.all.get(id).cloned(),
            };
            (id.clone(), change)
        };
        let mut changes: Vec<_> = self.changed.iter().map(change).collect();
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }

    /// Ends a committed batch.
    pub(super) fn close(&mut self) {
        self.changed.clear();
        self.changed_bytes = 0;
    }

    /// Reverts a batch that was not committed.
    pub(super) fn undo(&mut self) {
        for (id, changed) in std::mem::take(&mut self.changed) {
            // `Millis::MAX` keeps the age that the session had.
            self.replace(id, changed.before, Millis::MAX);
        }
        self.changed_bytes = 0;
    }

    /// Replaces a session by another state of it, or removes it.
    pub(super) fn replace(&mut self, id: SessionId, session: Option<Arc<Session>>, age: Millis) {
        if let Some(before) = self.all.remove(&id) {
            self.bytes -= id.len() + before.bytes();
        }
        if let Some(session) = session {
            self.load(id, session, age);
        }
    }

    pub(super) fn changes(&self) -> usize {
        self.changed.len()
    }

    pub(super) fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::Message;
    use super::*;

    fn session(number: usize) -> SessionId {
        format!("meter-{number}").as_str().into()
    }

    fn used_at(age: Millis) -> impl FnOnce(&mut Session) {
        move |session| session.use_at(1_700_000_000_000 + age, age)
    }

    /// One batch forgets as many sessions as fit into a request. The others are due in the next batch, not an interval
    /// later.
    #[test]
    fn many_sessions_are_forgotten_batch_by_batch() {
        let mut sessions = Sessions::default();
        let count = 2 * MAX_FORGOTTEN + 10;
        for number in 0..count {
            sessions.change(&session(number), used_at(0));
        }
        sessions.close();
        let age = SWEEP_INTERVAL;
        let mut batches = Vec::new();
        while sessions.get("meter-0").is_some() || batches.len() < 3 {
            assert!(sessions.forget(0, age).is_some(), "some are due");
            batches.push(sessions.changes());
            sessions.close();
        }
        assert_eq!(batches, [MAX_FORGOTTEN, MAX_FORGOTTEN, 10]);
        assert_eq!(sessions.bytes(), 0);
        // Nothing more is due, and the next sweep waits for its interval.
        sessions.change(&session(1), used_at(age));
        sessions.close();
        assert_eq!(sessions.forget(age, age + SWEEP_INTERVAL - 1), None);
        assert!(sessions.forget(age, age + SWEEP_INTERVAL).is_some());
    }

    /// Every session counts for memory. A changed session counts for its batch with its id, its state, and its growth.
    #[test]
    fn sessions_take_the_room_that_they_have() {
        let mut sessions = Sessions::default();
        let id = session(1);
        sessions.change(&id, used_at(0));
        let bytes = sessions.get(&id).expect("it is there").bytes();
        let all = id.len() + bytes;
        assert_eq!((sessions.bytes(), sessions.changed_bytes()), (all, all));
        sessions.close();
        assert_eq!((sessions.bytes(), sessions.changed_bytes()), (all, 0));

        let message = |sequence| Message {
            sequence,
            contents: 7,
            parts: 1,
        };
        for sequence in 1..4 {
            sessions.change(&id, |session| session.advance(message(sequence), &[]));
        }
        let after = sessions.get(&id).expect("it is there").bytes();
        assert!(after > bytes);
        let now = id.len() + after;
        assert_eq!((sessions.bytes(), sessions.changed_bytes()), (now, now));
        sessions.undo();
        assert_eq!((sessions.bytes(), sessions.changed_bytes()), (all, 0));
        sessions.replace(id, None, 0);
        assert_eq!(sessions.bytes(), 0);
    }

    /// A loaded session was last used at the age in its row, but not after the lane's age.
    #[test]
    fn a_session_that_is_loaded_was_used_by_then() {
        for (used, counted) in [(Some(3), 3), (Some(10), 10), (Some(11), 10), (None, 10)] {
            let mut sessions = Sessions::default();
            let stored = Session {
                age: used,
                ..Session::default()
            };
            sessions.load(session(1), Arc::new(stored), 10);
            let age = sessions.get("meter-1").and_then(|session| session.age);
            assert_eq!(age, Some(counted));
        }
    }
}
