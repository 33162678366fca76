//! What a lane keeps in its store.

use std::sync::Arc;

use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::extras;
use super::name::shared_bytes;
use super::request::{MAX_SKEW, SessionId};
use super::session::Session;
use super::time::Millis;

/// Where a lane is: the last batch that was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its number, from 1; 0 before the first.
    pub seq: u64,
    /// The revision of the last operation.
    pub revision: i64,
    /// The time of day that a node had, which never runs backwards.
    pub time: Millis,
    /// The lane's age: the time that has passed between its batches, by clocks that only tick. It is what says how long ago
    /// an id was counted: no time of day can hurry it, and a restart does not. `None` if the last batch is of a version that
    /// did not store it.
    pub age: Option<Millis>,
    /// Request ids of times up to this may be forgotten: those that are not remembered are refused. It only grows, and moves
    /// with what is forgotten: to the newest time that a forgotten id had.
    pub horizon: Millis,
    /// The same for sessions.
    pub session_horizon: Millis,
}

/// The request ids of one committed batch, with what they were answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The batch.
    pub seq: u64,
    /// Its time.
    pub time: Millis,
    /// How old the pack is, and which ids it has.
    pub stamp: Stamp,
    /// The revision before its first operation.
    pub base: i64,
    /// Entries, one behind the other.
    pub ids: Arc<[u8]>,
}

/// The stored data of a batch that tell when its ids may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The lane's age when the batch was made; `None` in data of a version that did not store it.
    pub age: Option<Millis>,
    /// The latest time that one of the batch's ids has; `None` if none of them has a time.
    pub newest: Option<Millis>,
}

const AGE: u64 = 1;
const NEWEST: u64 = 3;

impl Stamp {
    /// That of a batch of an earlier version, which stored its time alone: no id was later than [`MAX_SKEW`] after it.
    #[must_use]
    pub fn of_time(time: Millis) -> Self {
        Self {
            age: None,
            newest: Some(time.saturating_add(MAX_SKEW)),
        }
    }

    /// The bytes to store, which later versions add to.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, value) in [(AGE, self.age), (NEWEST, self.newest)] {
            if let Some(value) = value {
                let mut number = Vec::new();
                put_i64(&mut number, value);
                extras::put(&mut out, tag, &number);
            }
        }
        out
    }

    /// A stamp from its bytes.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if they are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut stamp = Self {
            age: None,
            newest: None,
        };
        extras::read(bytes, |tag, value| {
            match tag {
                AGE => stamp.age = Some(value.i64()?),
                NEWEST => stamp.newest = Some(value.i64()?),
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(stamp)
    }
}

/// A batch that was committed, as it is read back.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lane after it.
    pub head: Head,
    /// Its ids.
    pub pack: Pack,
    /// The counters that it changed, as it left them.
    pub counters: Vec<(Arc<str>, Option<i64>)>,
    /// The sessions that it changed, as it left them; `None` where it forgot one.
    pub sessions: Vec<(SessionId, Option<Arc<Session>>)>,
}

/// A batch, to be committed as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Its number: that of the head that it is made on, plus 1.
    pub seq: u64,
    /// As in [`Head`].
    pub time: Millis,
    /// The lane's age, and which ids the batch has.
    pub stamp: Stamp,
    /// As in [`Head`].
    pub horizon: Millis,
    /// As in [`Head`].
    pub session_horizon: Millis,
    /// How many places in the order it takes.
    pub places: u32,
    /// The ids of its requests, as in [`Pack`].
    pub ids: Arc<[u8]>,
    /// Nothing is remembered of the batches before this one.
    pub forget_before: u64,
    /// The age of the lane up to which watchers may have been told of deletions, and need not be any more.
    pub deletions_up_to: Millis,
    /// What changes.
    pub changes: Changes,
}

/// The rows that a batch changes, each row once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Counters, in the order of their names.
    pub counters: Arc<[CounterChange]>,
    /// Sessions, in the order of their ids.
    pub sessions: Vec<(SessionId, SessionChange)>,
}

/// A counter as a batch leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterChange {
    /// Its name.
    pub name: Arc<str>,
    /// Its value; `None` where it is deleted.
    pub value: Option<i64>,
    /// The place in the batch, from 1, of the last operation on it.
    pub place: u32,
    /// It was not there before this batch.
    pub is_new: bool,
}

/// A session as a batch leaves it.
#[derive(Clone, Debug)]
pub struct SessionChange {
    /// As it was before, where it is still that session: it may do to store what was added.
    pub before: Option<Arc<Session>>,
    /// As it is now; `None` where it is forgotten.
    pub after: Option<Arc<Session>>,
}

const IS_NEW: u8 = 1;
const IS_DELETED: u8 = 2;
/// Behind the value are fields of a later version.
const HAS_EXTRAS: u8 = 4;

impl CounterChange {
    /// Appends the bytes of changes that are in the order of their names: of each name what it does not share with the
    /// one before.
    pub fn put_all(changes: &[Self], out: &mut Vec<u8>) {
        let mut before: &[u8] = &[];
        for change in changes {
            let name = change.name.as_bytes();
            let same = shared_bytes(before, name);
            put_u64(out, same as u64);
            put_u64(out, (name.len() - same) as u64);
            out.extend_from_slice(&name[same..]);
            put_u64(out, change.place.into());
            let flags = if change.is_new { IS_NEW } else { 0 };
            match change.value {
                Some(value) => {
                    out.push(flags);
                    put_i64(out, value);
                }
                None => out.push(flags | IS_DELETED),
            }
            before = name;
        }
    }

    /// Reads changes back: to `each` the name, the value, the place and whether it is new.
    ///
    /// # Errors
    /// Where the bytes are not what was written.
    pub fn read_all(
        bytes: &[u8],
        mut each: impl FnMut(&str, Option<i64>, u32, bool),
    ) -> Result<(), Corrupt> {
        let mut reader = Reader(bytes);
        let mut name = Vec::new();
        while !reader.is_empty() {
            let same = reader.u32()? as usize;
            let rest = reader.u32()? as usize;
            let rest = reader.slice(rest)?;
            if same > name.len() {
                return Err(Corrupt("a name shares more than there is"));
            }
            name.truncate(same);
            name.extend_from_slice(rest);
            let text = std::str::from_utf8(&name).map_err(|_| Corrupt("a name is not UTF-8"))?;
            let place = reader.u32()?;
            let flags = reader.u8()?;
            let deleted = flags & IS_DELETED != 0;
            let value = (!deleted).then(|| reader.i64()).transpose()?;
            if flags & HAS_EXTRAS != 0 {
                extras::skip(&mut reader)?;
            }
            each(text, value, place, flags & IS_NEW != 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_were_written() {
        let mut changes = Vec::new();
        for (at, name) in ["a", "a/1", "a/12", "b"].into_iter().enumerate() {
            for (value, is_new) in [
                (Some(i64::MIN), true),
                (None, false),
                (None, true),
                (Some(0), false),
            ] {
                let name = format!("{name}/{}", changes.len() % 4);
                changes.push((name, value, u32::try_from(at).expect("few"), is_new));
            }
        }
        let written: Vec<_> = changes
            .iter()
            .map(|(name, value, place, is_new)| CounterChange {
                name: (&**name).into(),
                value: *value,
                place: *place,
                is_new: *is_new,
            })
            .collect();
        let mut bytes = Vec::new();
        CounterChange::put_all(&written, &mut bytes);
        let mut read = Vec::new();
        CounterChange::read_all(&bytes, |name, value, place, is_new| {
            read.push((name.to_owned(), value, place, is_new));
        })
        .expect("it is whole");
        assert_eq!(read, changes);
        assert!(CounterChange::read_all(&bytes[..bytes.len() - 1], |_, _, _, _| ()).is_err());
    }

    /// Of a name only what differs from the one before it takes room.
    #[test]
    fn names_are_written_as_they_differ() {
        let change = |name: &str, value, place, is_new| CounterChange {
            name: name.into(),
            value,
            place,
            is_new,
        };
        let changes = [
            change("acme/calls", Some(1), 1, true),
            change("acme/cats", None, 2, false),
        ];
        let mut bytes = Vec::new();
        CounterChange::put_all(&changes, &mut bytes);
        let (first, second) = (b"\x00\x0aacme/calls\x01\x01\x02", b"\x07\x02ts\x02\x02");
        assert_eq!(bytes, [&first[..], second].concat());
    }
}
