//! The data that a lane keeps in its store.

use std::sync::Arc;

use super::codec::{Corrupt, Reader, put_i64, put_u64};
use super::extras;
use super::name::shared_bytes;
use super::request::{MAX_SKEW, SessionId};
use super::session::Session;
use super::time::Millis;

/// The head of a lane: its last committed batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The batch's number, from 1; 0 before the first.
    pub seq: u64,
    /// The revision of the last operation.
    pub revision: i64,
    /// The wall-clock time of the committing node. It never decreases.
    pub time: Millis,
    /// The lane's age: the time that has passed between its batches, by monotonic clocks. It tells how long ago an id
    /// was counted; neither the wall clock nor a restart advances it. `None` if the last batch is of a version that did
    /// not store it.
    pub age: Option<Millis>,
    /// Request ids with times up to this may be forgotten: those that are not remembered are refused. It never
    /// decreases, and rises to the newest time of the ids that are forgotten.
    pub horizon: Millis,
    /// The corresponding horizon of sessions.
    pub session_horizon: Millis,
}

/// The request ids of one committed batch, with their answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// The batch's number.
    pub seq: u64,
    /// The batch's time.
    pub time: Millis,
    /// The age of the batch, and the latest time of its ids.
    pub stamp: Stamp,
    /// The revision before the batch's first operation.
    pub base: i64,
    /// The entries, concatenated.
    pub ids: Arc<[u8]>,
}

/// The stored fields of a batch that decide when its ids may be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The lane's age at the batch; `None` if the batch is of a version that did not store it.
    pub age: Option<Millis>,
    /// The latest time of the batch's ids; `None` if none of them has a time.
    pub newest: Option<Millis>,
}

const AGE: u64 = 1;
const NEWEST: u64 = 3;

impl Stamp {
    /// The stamp of a batch of an earlier version, which stored only the batch's time. No id was later than
    /// [`MAX_SKEW`] after that.
    #[must_use]
    pub fn of_time(time: Millis) -> Self {
        Self {
            age: None,
            newest: Some(time.saturating_add(MAX_SKEW)),
        }
    }

    /// The bytes to store. Later versions may add to them.
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

    /// Decodes a stamp.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if the bytes are not a stamp.
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

/// A committed batch, as it is read back.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The lane's head after the batch.
    pub head: Head,
    /// The batch's request ids.
    pub pack: Pack,
    /// The counters that the batch changed, with their new values; `None` if deleted.
    pub counters: Vec<(Arc<str>, Option<i64>)>,
    /// The sessions that the batch changed, with their new states; `None` if forgotten.
    pub sessions: Vec<(SessionId, Option<Arc<Session>>)>,
}

/// A batch to commit, as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The batch's number: that of the head below it, plus 1.
    pub seq: u64,
    /// As in [`Head`].
    pub time: Millis,
    /// The lane's age, and the latest time of the batch's ids.
    pub stamp: Stamp,
    /// As in [`Head`].
    pub horizon: Millis,
    /// As in [`Head`].
    pub session_horizon: Millis,
    /// Number of revisions that the batch takes.
    pub places: u32,
    /// The ids of the batch's requests, as in [`Pack`].
    pub ids: Arc<[u8]>,
    /// No ids of batches before this one are remembered.
    pub forget_before: u64,
    /// Deletions up to this age of the lane may be forgotten: watchers need not be told of them any more.
    pub deletions_up_to: Millis,
    /// The changed rows.
    pub changes: Changes,
}

/// The rows that a batch changes, each once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Counters, in the order of their names.
    pub counters: Arc<[CounterChange]>,
    /// Sessions, in the order of their ids.
    pub sessions: Vec<(SessionId, SessionChange)>,
}

/// A counter after a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterChange {
    /// The counter's name.
    pub name: Arc<str>,
    /// The counter's value; `None` if it is deleted.
    pub value: Option<i64>,
    /// The position in the batch, from 1, of the last operation on the counter.
    pub place: u32,
    /// Whether the counter did not exist before the batch.
    pub is_new: bool,
}

/// A session before and after a batch.
#[derive(Clone, Debug)]
pub struct SessionChange {
    /// The state before the batch, if it is still the same session. A store may then write only the additions.
    pub before: Option<Arc<Session>>,
    /// The state after the batch; `None` if the session is forgotten.
    pub after: Option<Arc<Session>>,
}

const IS_NEW: u8 = 1;
const IS_DELETED: u8 = 2;
/// Fields of a later version follow the value.
const HAS_EXTRAS: u8 = 4;

impl CounterChange {
    /// Appends the bytes of changes, which are in the order of their names. Each name is written without the prefix
    /// that it shares with the previous one.
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

    /// Decodes changes. `each` gets the name, the value, the position, and whether the counter is new.
    ///
    /// # Errors
    /// Returns [`Corrupt`] if the bytes are not changes.
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
                return Err(Corrupt(
                    "a name shares more bytes than the name before it has",
                ));
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

    /// A name is written without the prefix that it shares with the previous one.
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
