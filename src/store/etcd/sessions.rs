//! Sessions in a lane's log. Of most sessions a batch stores only its additions: a session may take a few KiB, and a
//! batch adds a few bytes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::rows::Layout;
use crate::model::{Corrupt, Session, SessionChange, SessionId};
use crate::proto::sumd::store::v1 as stored;

/// The changes of a session, applied once it is asked for.
#[derive(Clone, Default)]
pub(crate) struct Told {
    /// A state at some time; empty if it was forgotten. `None` stands for the state in the row.
    state: Option<Bytes>,
    /// Additions since then, and maybe from before: applying them twice changes nothing.
    added: Vec<Bytes>,
    /// The damage of its row. It does not matter if the log has had the whole session since.
    damage: Option<Corrupt>,
}

impl Told {
    /// Takes in the change of the next batch.
    pub(crate) fn take(&mut self, change: &stored::SessionChange) {
        if change.added.is_empty() {
            self.state = Some(change.state.clone());
            self.added.clear();
        } else {
            // A copy, so that the large message around it can be freed.
            self.added.push(Bytes::copy_from_slice(&change.added));
        }
    }

    /// Takes in the row, which has everything that is folded, and maybe more.
    pub(crate) fn set_row(&mut self, row: Result<stored::Session, Corrupt>) {
        match row {
            Ok(row) => {
                self.state.get_or_insert(row.state);
            }
            Err(damage) => self.damage = Some(damage),
        }
    }

    /// Whether its row is needed to know it.
    pub(crate) fn needs_row(&self) -> bool {
        self.state.is_none()
    }

    /// The session; `None` if it was forgotten.
    pub(crate) fn session(&self) -> Result<Option<Session>, Corrupt> {
        let state = self.state.as_ref().filter(|state| !state.is_empty());
        let Some(state) = state else {
            let is_forgotten = self.state.is_some() && self.added.is_empty();
            let missing = Corrupt("additions to a session exist, but the session does not");
            return if is_forgotten {
                Ok(None)
            } else {
                Err(self.damage.clone().unwrap_or(missing))
            };
        };
        self.put_on(Session::decode(state)?).map(Some)
    }

    /// Applies the additions to a session that is no older than the first of them.
    pub(crate) fn put_on(&self, mut session: Session) -> Result<Session, Corrupt> {
        for added in &self.added {
            session.add(&Session::decode(added)?);
        }
        Ok(session)
    }
}

/// Takes in a batch's changes of sessions.
pub(crate) fn tell(batch: &stored::Batch, told: &mut BTreeMap<SessionId, Told>) {
    for change in &batch.sessions {
        let told = told.entry(change.id.as_str().into());
        told.or_default().take(change);
    }
}

/// The stored form of a change: only the additions, if the data's format has them.
pub(crate) fn to_stored(
    id: &SessionId,
    change: &SessionChange,
    layout: &Layout,
) -> stored::SessionChange {
    let SessionChange { before, after } = change;
    let before = before.as_ref().filter(|_| !layout.whole_sessions());
    let added = before
        .zip(after.as_ref())
        .and_then(|(before, after)| after.since(before));
    let mut stored = stored::SessionChange {
        id: id.to_string(),
        ..stored::SessionChange::default()
    };
    match (added, after) {
        (Some(added), _) => stored.added = layout.encode(&added),
        (None, Some(after)) => stored.state = layout.encode(after),
        (None, None) => {}
    }
    stored
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A session whose last messages are these.
    pub fn session(acknowledged: u8, messages: &[u8]) -> Arc<Session> {
        let last = messages.last().copied().unwrap_or(0);
        let count = u8::try_from(messages.len()).expect("few");
        let mut bytes = vec![2, 2 * last, last, acknowledged, count];
        let mut before = 0;
        for message in messages {
            bytes.extend([message - before, 1]);
            bytes.extend([*message; 8]);
            before = *message;
        }
        Arc::new(Session::decode(&bytes).expect("a session"))
    }

    fn row_of(session: &Session) -> stored::Session {
        let state = session.encode().into();
        stored::Session { state }
    }

    fn stored(
        before: Option<&Arc<Session>>,
        after: Option<&Arc<Session>>,
        whole: bool,
    ) -> stored::SessionChange {
        let change = SessionChange {
            before: before.cloned(),
            after: after.cloned(),
        };
        let layout = super::super::rows::tests::layout(if whole { 2 } else { 4 }, 1);
        to_stored(&"meter-7".into(), &change, &layout)
    }

    /// Additions are applied to the row, which may be newer. Older versions get the whole session.
    #[test]
    fn a_session_is_what_its_row_and_the_log_make() {
        let before = session(1, &[2, 3, 4, 5]);
        let after = session(3, &[4, 5, 6]);
        let added = stored(Some(&before), Some(&after), false);
        assert!(
            added.state.is_empty() && added.added.len() < 20,
            "{added:?}"
        );
        for row in [&before, &after] {
            let mut told = Told::default();
            told.take(&added);
            assert!(told.needs_row());
            told.set_row(Ok(row_of(row)));
            assert_eq!(told.session(), Ok(Some(Session::clone(&after))));
        }
        let whole = stored(Some(&before), Some(&after), true);
        let state = after.encode_without_extras();
        assert_eq!((&*whole.state, whole.added.len()), (&*state, 0));
    }

    /// A forgotten session stays forgotten whatever its row has. Later additions belong to a new one.
    #[test]
    fn what_is_forgotten_does_not_come_back() {
        let old = session(1, &[2]);
        let new = session(0, &[1]);
        let mut told = Told::default();
        told.take(&stored(None, Some(&old), false));
        told.take(&stored(Some(&old), None, false));
        told.set_row(Ok(row_of(&old)));
        assert_eq!(told.session(), Ok(None));
        told.take(&stored(None, Some(&new), false));
        assert!(!told.needs_row());
        let later = session(0, &[1, 2]);
        told.take(&stored(Some(&new), Some(&later), false));
        assert_eq!(told.session(), Ok(Some(Session::clone(&later))));
    }

    /// Additions to a session that is nowhere are damage, and not a session.
    #[test]
    fn a_session_without_its_beginning_is_corrupt() {
        let mut told = Told::default();
        let (before, after) = (session(0, &[1]), session(0, &[1, 2]));
        told.take(&stored(Some(&before), Some(&after), false));
        assert!(told.session().is_err());
    }

    /// A damaged row is an error, unless the log has the whole session.
    #[test]
    fn a_damaged_row_is_of_no_matter_once_all_is_told_again() {
        let (before, after) = (session(0, &[1]), session(0, &[1, 2]));
        let damage = || Corrupt("a row's check sum is wrong");
        let mut told = Told::default();
        told.set_row(Err(damage()));
        assert_eq!(told.session(), Err(damage()));
        told.take(&stored(Some(&before), Some(&after), false));
        assert_eq!(told.session(), Err(damage()));
        told.take(&stored(None, Some(&after), false));
        assert_eq!(told.session(), Ok(Some(Session::clone(&after))));
    }
}
