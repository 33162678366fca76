//! The contents of a store except its counters, as they are copied to a store with a different number of lanes.

use std::fmt;

use crate::model::{Corrupt, KeyedHasher, Millis, PackEntry, Session, SessionId};
use crate::store::Remembered;

/// The contents of a store at one moment, without its counters.
#[derive(Debug)]
pub(super) struct Dump {
    /// The source's hash key, copied so that the digests of request ids stay valid.
    pub(super) hasher: KeyedHasher,
    /// The number of lanes in the source.
    pub(super) lanes: u32,
    /// The last revision: no change has a higher one.
    pub(super) revision: i64,
    /// Deletions up to this revision may have left no row.
    pub(super) forgotten: i64,
    /// The time of the lane that is furthest ahead; the two horizons are likewise the maximum over all lanes.
    pub(super) time: Millis,
    pub(super) horizon: Millis,
    pub(super) session_horizon: Millis,
    /// Packs of request ids, ordered by revision.
    pub(super) packs: Vec<Remembered>,
    /// Sessions merged over all lanes, ordered by id.
    pub(super) sessions: Vec<(SessionId, Session)>,
}

/// Counts and a check sum that must be equal on both sides of a move. Counters are added in the order of their names,
/// then the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Counters that exist.
    pub counters: u64,
    /// The sum of all values.
    pub sum: i128,
    /// Remembered request ids.
    pub ids: u64,
    /// Remembered sessions.
    pub sessions: u64,
    /// A check sum over every name, value, revision, answer and session.
    pub check: u32,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            counters: 0,
            sum: 0,
            ids: 0,
            sessions: 0,
            check: 0,
        }
    }

    pub(super) fn counter(&mut self, hasher: KeyedHasher, name: &str, value: i64, revision: i64) {
        self.counters += 1;
        self.sum += i128::from(value);
        let numbers = [value, revision].map(i64::to_le_bytes);
        self.add(hasher, &[name.as_bytes(), numbers.as_flattened()]);
    }

    /// Adds the request ids and sessions of a dump.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if a pack cannot be decoded.
    pub(super) fn rest(&mut self, dump: &Dump) -> Result<(), Corrupt> {
        for pack in &dump.packs {
            self.ids += PackEntry::read_all(&pack.ids)?.len() as u64;
            self.add(dump.hasher, &[&pack.base.to_le_bytes(), &pack.ids]);
        }
        for (id, session) in &dump.sessions {
            self.sessions += 1;
            self.add(dump.hasher, &[id.as_bytes(), &session.fingerprint()]);
        }
        Ok(())
    }

    fn add(&mut self, hasher: KeyedHasher, parts: &[&[u8]]) {
        let before = self.check.to_le_bytes();
        let parts: Vec<_> = std::iter::once(&before[..])
            .chain(parts.iter().copied())
            .collect();
        self.check = hasher.check(&parts);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "counters={} sum={} ids={} sessions={} check={:08x}",
            self.counters, self.sum, self.ids, self.sessions, self.check
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check sum depends on each name, value and revision, and on their order.
    #[test]
    fn tallies_of_other_counters_differ() {
        let tally = |counters: &[(&str, i64, i64)]| {
            let mut tally = Tally::new();
            for (name, value, revision) in counters {
                tally.counter(KeyedHasher::new([7; 16]), name, *value, *revision);
            }
            tally
        };
        let whole = tally(&[("a", 1, 10), ("b", 2, 11)]);
        assert_eq!((whole.counters, whole.sum), (2, 3));
        assert_eq!(whole, tally(&[("a", 1, 10), ("b", 2, 11)]));
        for other in [
            [("a", 1, 10), ("c", 2, 11)],
            [("a", 2, 10), ("b", 1, 11)],
            [("a", 1, 10), ("b", 2, 12)],
            [("b", 2, 11), ("a", 1, 10)],
        ] {
            assert_ne!(whole.check, tally(&other).check, "{other:?}");
        }
    }

    /// Ids and sessions are counted, and the check sum depends on each of their revisions, answers and states.
    #[test]
    fn tallies_of_other_ids_and_sessions_differ() {
        type Packs<'a> = &'a [(i64, &'a [(u64, u32)])];
        let dump = |packs: Packs<'_>, sessions: &[(&str, u8)]| Dump {
            hasher: KeyedHasher::new([7; 16]),
            lanes: 8,
            revision: 100,
            forgotten: 30,
            time: 2000,
            horizon: 500,
            session_horizon: 600,
            packs: packs
                .iter()
                .map(|(base, ids)| Remembered {
                    time: 1000,
                    newest: None,
                    base: *base,
                    places: 7,
                    ids: crate::model::pack(ids).into(),
                })
                .collect(),
            sessions: sessions
                .iter()
                .map(|(id, applied)| {
                    let row = [2, 6, *applied, *applied, 0];
                    ((*id).into(), Session::decode(&row).expect("a session"))
                })
                .collect(),
        };
        let tally = |packs: Packs<'_>, sessions: &[(&str, u8)]| {
            let mut tally = Tally::new();
            tally.rest(&dump(packs, sessions)).expect("packs");
            tally
        };
        let packs: Packs<'_> = &[(10, &[(1, 1), (2, 2)]), (20, &[(3, 1)])];
        let sessions = &[("meter-7", 3), ("meter-8", 1)];
        let whole = tally(packs, sessions);
        assert_eq!((whole.ids, whole.sessions), (3, 2));
        assert_eq!((whole.counters, whole.sum), (0, 0));
        assert_eq!(whole, tally(packs, sessions));
        let others: [Packs<'_>; 3] = [
            &[(11, &[(1, 1), (2, 2)]), (20, &[(3, 1)])],
            &[(10, &[(1, 1), (2, 3)]), (20, &[(3, 1)])],
            &[(10, &[(1, 1), (2, 2)]), (20, &[(4, 1)])],
        ];
        for other in others {
            assert_ne!(whole.check, tally(other, sessions).check, "{other:?}");
        }
        for other in [
            [("meter-7", 4), ("meter-8", 1)],
            [("meter-7", 3), ("meter-9", 1)],
        ] {
            assert_ne!(whole.check, tally(packs, &other).check, "{other:?}");
        }
        let mut damaged = dump(packs, sessions);
        damaged.packs[1].ids = [0; 3].into();
        assert!(Tally::new().rest(&damaged).is_err());
    }
}
