//! Stored rows: a row that is decoded, encoded and decoded again is the same, and takes memory in proportion to its
//! bytes. Requests: a lane gives a repeat the same answer.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use super::dedup::put_entry;
use super::{
    Bounds, CounterChange, Decision, Head, Id, ImportedIds, KeyedHasher, Millis, Pack, PackEntry,
    Request, Session, Stamp, State, check_extras,
};

/// The time at which all requests are decided.
pub(crate) const NOW: Millis = 1_795_000_000_000;
const HOUR: Millis = 3_600_000;
/// Memory of a session without messages, with room for its imported part.
const EMPTY_BYTES: usize = 512;
/// Memory for each stored byte: a failure takes 6 bytes at least, and the part of an imported message 12.
const BYTES_PER_BYTE: usize = 16;

/// The hasher of all targets.
#[must_use]
pub fn hasher() -> KeyedHasher {
    KeyedHasher::new(*b"a key to fuzz by")
}

/// The row of a session, in any format.
pub fn session(bytes: &[u8]) {
    let Ok(session) = Session::decode(bytes) else {
        return;
    };
    assert_eq!(Session::decode(&session.encode()).as_ref(), Ok(&session));
    let memory = session.bytes();
    assert!(memory <= EMPTY_BYTES + BYTES_PER_BYTE * bytes.len());
    let older = Session::decode(&session.encode_without_extras());
    let without_extras = Session {
        age: None,
        lower_bound: None,
        ..session
    };
    assert_eq!(older, Ok(without_extras));
}

/// A field of a batch's row. The first byte chooses the field.
pub fn batch(bytes: &[u8]) {
    let Some((field, bytes)) = bytes.split_first() else {
        return;
    };
    match field % 3 {
        0 => ids(bytes),
        1 => changes(bytes),
        _ => stamp(bytes),
    }
}

/// The index of a pack refuses the bytes that the list of its entries refuses, and finds every entry.
fn ids(bytes: &[u8]) {
    let pack = Pack {
        seq: 1,
        time: 0,
        stamp: Stamp::of_time(0),
        base: 0,
        ids: bytes.into(),
    };
    let (entries, index) = match (PackEntry::read_all(bytes), ImportedIds::new(vec![pack])) {
        (Ok(entries), Ok(index)) => (entries, index),
        (entries, index) => return assert_eq!(entries.err(), index.err()),
    };
    let mut again = Vec::new();
    for entry in &entries {
        let id = Id {
            digest: entry.digest,
            contents: entry.contents,
            time: None,
        };
        assert!(index.find(&id).is_some());
        put_entry(&mut again, &id, entry.place, &entry.done);
    }
    assert_eq!(PackEntry::read_all(&again), Ok(entries));
}

fn changes(bytes: &[u8]) {
    let read = |bytes: &[u8]| {
        let mut changes = Vec::new();
        let read = CounterChange::read_all(bytes, |name, value, place, is_new| {
            changes.push(CounterChange {
                name: name.into(),
                value,
                place,
                is_new,
            });
        });
        read.map(|()| changes)
    };
    let Ok(changes) = read(bytes) else { return };
    let mut again = Vec::new();
    CounterChange::put_all(&changes, &mut again);
    assert_eq!(read(&again), Ok(changes));
}

fn stamp(bytes: &[u8]) {
    let Ok(stamp) = Stamp::decode(bytes) else {
        return;
    };
    assert_eq!(Stamp::decode(&stamp.encode()), Ok(stamp));
    assert_eq!(check_extras(bytes), Ok(()));
}

/// Decides a request twice in a new lane. With an id or in a session, the second decision has to be the first. The
/// changed sessions are read as they are stored.
pub(crate) fn decide(mut request: Request) {
    let bounds = Bounds {
        id_bytes: 1 << 20,
        counter_bytes: 1 << 20,
        id_horizon: HOUR,
        session_horizon: HOUR,
    };
    let lane = State::new(bounds, Head::default(), Vec::new(), Vec::new());
    let mut lane = lane.expect("no row is damaged");
    let mut missing = Vec::new();
    lane.locate(&mut request.operation, &mut missing);
    for name in missing {
        lane.load(name, None);
    }
    lane.begin(NOW, 0);
    let first = lane.apply(&request);
    let second = lane.apply(&request);
    if request.id.is_some() || request.operation.is_bulk() {
        let effect = |decision: Decision| decision.map(|answer| answer.done);
        assert_eq!(effect(first), effect(second));
    }
    let Some(commit) = lane.commit() else { return };
    for (_, change) in &commit.changes.sessions {
        let after = change.after.as_deref().expect("no session is forgotten");
        assert_eq!(Session::decode(&after.encode()).as_ref(), Ok(after));
    }
}
