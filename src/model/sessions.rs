//! The sessions of bulk clients.

use std::collections::{HashMap, VecDeque};

use super::answer::Failure;
use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::request::{Millis, SessionId};

/// How many messages a client may be ahead of what it knows acknowledged. Eight bytes are kept for each.
pub const SESSION_WINDOW: u64 = 256;

/// What a session takes in memory beside its id, messages and failures.
const SESSION_BYTES: usize = 256;
const FAILURE_BYTES: usize = size_of::<(u64, Failure)>();
/// Failures of a session that are kept for a client that does not say it knows them; a message adds a thousand at most.
pub const MAX_FAILURES: usize = 4000;
/// How a session is stored.
const FORMAT: u8 = 1;

/// A session as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// The lane's time at the last message.
    pub(super) used: Millis,
    /// The last message that was applied.
    pub(super) applied: u64,
    /// The last message that the client has said it knows acknowledged.
    pub(super) acknowledged: u64,
    /// The contents of the messages after that.
    messages: VecDeque<u64>,
    /// Their failures, each with its message's sequence.
    failures: VecDeque<(u64, Failure)>,
}

impl Session {
    /// The contents of a message that was applied and is not known to be acknowledged.
    pub(super) fn contents(&self, sequence: u64) -> Option<u64> {
        let index = sequence.checked_sub(self.acknowledged + 1)?;
        self.messages.get(usize::try_from(index).ok()?).copied()
    }

    pub(super) fn failures(&self, of: impl Fn(u64) -> bool) -> Vec<(u64, Failure)> {
        let failures = self.failures.iter();
        failures.filter(|(at, _)| of(*at)).copied().collect()
    }

    /// How many failures there are where there is no room for more.
    pub(super) fn too_many_failures(&self, acknowledged: u64) -> Option<usize> {
        let failures = self.failures.iter();
        let left = failures.filter(|(at, _)| *at > acknowledged).count();
        (left > MAX_FAILURES).then_some(left)
    }

    /// The next message is applied.
    pub(super) fn advance(&mut self, contents: u64, failures: &[(u64, Failure)], now: Millis) {
        self.used = now;
        self.applied += 1;
        self.messages.push_back(contents);
        self.failures.extend(failures);
    }

    /// The client knows of these messages and their failures.
    pub(super) fn acknowledge(&mut self, acknowledged: u64) {
        while self.acknowledged < acknowledged && self.messages.pop_front().is_some() {
            self.acknowledged += 1;
        }
        let known = self.acknowledged;
        while self.failures.front().is_some_and(|(at, _)| *at <= known) {
            self.failures.pop_front();
        }
    }

    fn bytes(&self) -> usize {
        SESSION_BYTES + 8 * self.messages.len() + FAILURE_BYTES * self.failures.len()
    }

    /// The bytes to store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        put_i64(&mut out, self.used);
        put_u64(&mut out, self.applied);
        put_u64(&mut out, self.acknowledged);
        for contents in &self.messages {
            out.extend_from_slice(&contents.to_le_bytes());
        }
        for (sequence, failure) in &self.failures {
            put_u64(&mut out, *sequence);
            failure.put(&mut out);
        }
        out
    }

    /// A session from its bytes.
    ///
    /// # Errors
    /// Where they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader(bytes);
        if reader.u8()? != FORMAT {
            return Err(Corrupt("a session of an unknown format"));
        }
        let (used, applied, acknowledged) = (reader.i64()?, reader.u64()?, reader.u64()?);
        let count = applied.checked_sub(acknowledged);
        let Some(count @ ..=SESSION_WINDOW) = count else {
            return Err(Corrupt("a session that is ahead of itself"));
        };
        let messages: Result<_, Corrupt> = (0..count)
            .map(|_| Ok(u64::from_le_bytes(reader.bytes()?)))
            .collect();
        let mut session = Self {
            used,
            applied,
            acknowledged,
            messages: messages?,
            failures: VecDeque::new(),
        };
        while !reader.is_empty() {
            let sequence = reader.u64()?;
            session
                .failures
                .push_back((sequence, Failure::read(&mut reader)?));
        }
        Ok(session)
    }
}

/// All sessions of a lane.
#[derive(Default)]
pub(super) struct Sessions {
    all: HashMap<SessionId, Session>,
    /// Those that the batch changes.
    changed: Vec<SessionId>,
    bytes: usize,
    /// The lane's time when unused ones were last looked for.
    swept: Millis,
    /// When the one that was not used for the longest was used, as it was then.
    oldest: Millis,
}

/// How often unused sessions are looked for.
const SWEEP_INTERVAL: Millis = 60_000;

impl Sessions {
    pub(super) fn load(&mut self, id: SessionId, session: Session) {
        self.bytes += id.len() + session.bytes();
        self.all.insert(id, session);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Session> {
        self.all.get(id)
    }

    /// Changes a session, which is made where there is none.
    pub(super) fn change(&mut self, id: &SessionId, change: impl FnOnce(&mut Session)) {
        let session = self.all.entry(id.clone()).or_default();
        let before = match session.applied {
            0 => 0,
            _ => id.len() + session.bytes(),
        };
        change(session);
        self.bytes = self.bytes + id.len() + session.bytes() - before;
        self.changed.push(id.clone());
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
            self.changed.push(id);
        }
        self.oldest = oldest;
    }

    /// When the first of them is forgotten, if none of them is used and each is remembered for so long after it was.
    pub(super) fn forgotten_at(&self, remembered: Millis) -> Option<Millis> {
        let forgotten_at = (self.oldest + remembered).max(self.swept + SWEEP_INTERVAL);
        (!self.all.is_empty()).then_some(forgotten_at)
    }

    /// Ends the batch: what has changed, encoded.
    pub(super) fn take_changes(&mut self) -> Vec<(SessionId, Option<Vec<u8>>)> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        let encode = |id: SessionId| {
            let session = self.all.get(&id).map(Session::encode);
            (id, session)
        };
        changed.into_iter().map(encode).collect()
    }

    pub(super) fn changes(&self) -> usize {
        self.changed.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
