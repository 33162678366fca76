//! The sessions of a lane.

use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::commit::SessionChange;
use super::request::{MAX_SKEW, SessionId};
use super::session::Session;
use super::time::Millis;

/// All sessions of a lane.
#[derive(Default)]
pub(super) struct Sessions {
    all: HashMap<SessionId, Arc<Session>>,
    /// Those that the batch changes.
    changed: HashMap<SessionId, Changed>,
    /// What these take in the batch, about.
    changed_bytes: usize,
    bytes: usize,
    /// The lane's age when unused ones were last looked for.
    swept: Millis,
    /// Its age at the last use of the one that was not used for the longest, as it was then.
    oldest: Millis,
}

/// What a batch has done to a session.
struct Changed {
    /// As it was before.
    before: Option<Arc<Session>>,
    /// It was not replaced by another one of its name.
    is_same: bool,
}

/// How often unused sessions are looked for.
const SWEEP_INTERVAL: Millis = 60_000;
/// How many sessions are forgotten in one batch, which has to fit into one request to etcd with all else that it holds: an id
/// of 128 bytes each makes 256 KiB.
const MAX_FORGOTTEN: usize = 2_000;

impl Sessions {
    /// Takes in a session that is stored, by a lane of some age: it was used then at the latest.
    pub(super) fn load(&mut self, id: SessionId, mut session: Arc<Session>, age: Millis) {
        if session.age.is_none_or(|used_at| used_at > age) {
            Arc::make_mut(&mut session).age = Some(age);
        }
        self.bytes += id.len() + session.bytes();
        // One that was forgotten may be back, if that batch was not made.
        self.oldest = self.oldest.min(session.age.unwrap_or(age));
        self.all.insert(id, session);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Session> {
        self.all.get(id).map(|session| &**session)
    }

    /// Changes a session, which is made where there is none.
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
        // A session that was forgotten earlier in this batch stays another one.
        if let Entry::Vacant(entry) = self.changed.entry(id.clone()) {
            entry.insert(Changed {
                before: (counted > 0).then(|| session.clone()),
                is_same: true,
            });
            // A store may keep all of it.
            self.changed_bytes += id.len() + before;
        }
        let session = Arc::make_mut(session);
        change(session);
        let after = session.bytes();
        self.changed_bytes += after.saturating_sub(before);
        self.bytes = self.bytes + id.len() + after - counted;
    }

    /// Forgets sessions that were last used up to an age of the lane, which is `age` now, but not at every turn, and a bounded
    /// number in one batch. Gives the latest time of day that nothing of them can have a bound after, if there were any.
    pub(super) fn forget(&mut self, up_to: Millis, age: Millis) -> Option<Millis> {
        if age - self.swept < SWEEP_INTERVAL {
            return None;
        }
        self.swept = age;
        // Those that are made until the next look are used after this.
        let mut oldest = age;
        // A batch that could not be decided is begun again, and has what it forgot before.
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
            // Clocks of nodes are so far apart.
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
            // More are due: the next batch looks at once.
            self.swept = age - SWEEP_INTERVAL;
        }
        newest
    }

    /// The age of the lane at which the first of them is forgotten, if none of them is used and each is remembered for so long
    /// after it was.
    pub(super) fn forgotten_at(&self, remembered: Millis) -> Option<Millis> {
        let forgotten_at = (self.oldest + remembered).max(self.swept + SWEEP_INTERVAL);
        (!self.all.is_empty()).then_some(forgotten_at)
    }

    /// Gives the batch away. Until the next one begins it can be undone.
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

    /// The batch is over.
    pub(super) fn close(&mut self) {
        self.changed.clear();
        self.changed_bytes = 0;
    }

    /// The batch was not made.
    pub(super) fn undo(&mut self) {
        for (id, changed) in std::mem::take(&mut self.changed) {
            // As it was here before, its age among it.
            self.replace(id, changed.before, Millis::MAX);
        }
        self.changed_bytes = 0;
    }

    /// Takes in a session as another node has left it.
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

    /// As many sessions are forgotten in a batch as fit into a request. The others are due in the next one, and not only after a while.
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
        // Nothing is due any more, and nobody looks before it is time.
        sessions.change(&session(1), used_at(age));
        sessions.close();
        assert_eq!(sessions.forget(age, age + SWEEP_INTERVAL - 1), None);
        assert!(sessions.forget(age, age + SWEEP_INTERVAL).is_some());
    }

    /// Room is taken for what there is, and what a batch has changed takes room in its request: its name and its state, and what is
    /// added to that.
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

    /// A session that is loaded was used when its row says, and not after the lane was.
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
