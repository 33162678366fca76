//! The sessions of a lane.

use std::sync::Arc;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::commit::SessionChange;
use super::request::{Millis, SessionId};
use super::session::Session;

/// All sessions of a lane.
#[derive(Default)]
pub(super) struct Sessions {
    all: HashMap<SessionId, Arc<Session>>,
    /// Those that the batch changes.
    changed: HashMap<SessionId, Changed>,
    /// What these take in the batch, about.
    changed_bytes: usize,
    bytes: usize,
    /// The lane's time when unused ones were last looked for.
    swept: Millis,
    /// When the one that was not used for the longest was used, as it was then.
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

impl Sessions {
    pub(super) fn load(&mut self, id: SessionId, session: Arc<Session>) {
        self.bytes += id.len() + session.bytes();
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
        match self.changed.entry(id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Changed {
                    before: (counted > 0).then(|| session.clone()),
                    is_same: true,
                });
                // A store may keep all of it.
                self.changed_bytes += counted.max(id.len());
            }
            Entry::Occupied(mut entry) => entry.get_mut().is_same &= counted > 0,
        }
        let session = Arc::make_mut(session);
        let before = session.bytes();
        change(session);
        let after = session.bytes();
        self.changed_bytes += after.saturating_sub(before);
        self.bytes = self.bytes + id.len() + after - counted;
    }

    /// Forgets sessions that were last used before a time, but not at every turn.
    pub(super) fn forget(&mut self, up_to: Millis, now: Millis) {
        if now - self.swept < SWEEP_INTERVAL {
            return;
        }
        self.swept = now;
        // Those that are made until the next look are used after this.
        let mut oldest = now;
        let old = self.all.extract_if(|_, session| {
            let is_old = session.used <= up_to;
            if !is_old {
                oldest = oldest.min(session.used);
            }
            is_old
        });
        for (id, session) in old {
            self.bytes -= id.len() + session.bytes();
            self.changed_bytes += id.len();
            let forgotten = Changed {
                before: Some(session),
                is_same: false,
            };
            self.changed.insert(id, forgotten);
        }
        self.oldest = oldest;
    }

    /// When the first of them is forgotten, if none of them is used and each is remembered for so long after it was.
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
            self.replace(id, changed.before);
        }
        self.changed_bytes = 0;
    }

    /// Takes in a session as another node has left it.
    pub(super) fn replace(&mut self, id: SessionId, session: Option<Arc<Session>>) {
        if let Some(before) = self.all.remove(&id) {
            self.bytes -= id.len() + before.bytes();
        }
        if let Some(session) = session {
            self.load(id, session);
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
