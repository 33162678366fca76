//! Stored rows and their fields.

use prost::Message as _;

use super::{Seed, tagged};
use crate::model::{
    Applied, CounterChange, Effect, FailedIncrement, LimitError, Session, Stamp, pack_of,
};
use crate::proto::sumd::store::v1 as stored;

pub(super) fn batches() -> Vec<Seed> {
    let applied = |value| Applied { value, applied: 5 };
    let failed = FailedIncrement {
        index: 2,
        refusal: LimitError::Max {
            value: 7,
            delta: 8,
            max: 10,
        },
    };
    let ids = pack_of(&[
        (1, 1, Effect::Incremented(applied(i64::MAX))),
        (2, 2, Effect::Batch([applied(5), applied(10)].into())),
        (3, 3, Effect::Replaced(-1)),
        (4, 4, Effect::Failed(failed)),
    ]);
    let change = |name: &str, value, place| CounterChange {
        name: name.into(),
        value,
        place,
        is_new: place == 1,
    };
    let mut changes = Vec::new();
    let all = [
        change("acme/calls", Some(i64::MIN), 1),
        change("acme/cats", None, 300),
    ];
    CounterChange::put_all(&all, &mut changes);
    let stamp = Stamp {
        age: Some(86_400_000),
        newest: Some(1_795_000_000_000),
    };
    vec![
        ("batch", "ids", tagged(0, &ids)),
        ("batch", "changes", tagged(1, &changes)),
        ("batch", "stamp", tagged(2, &stamp.encode())),
    ]
}

pub(super) fn rows() -> Vec<Seed> {
    let [(_, _, ids), (_, _, changes), (_, _, stamp)] =
        <[Seed; 3]>::try_from(batches()).expect("three");
    let field = |tagged: &[u8]| tagged[1..].to_vec();
    let session = Session::decode(&plain_session()).expect("a session");
    let batch = stored::Batch {
        seq: 9,
        attempt: vec![7; 16].into(),
        time: 1_795_000_000_000,
        places: 300,
        ids: field(&ids).into(),
        counters: field(&changes).into(),
        sessions: vec![stored::SessionChange {
            id: "meter-7".to_owned(),
            state: session.encode().into(),
            ..stored::SessionChange::default()
        }],
        extras: field(&stamp).into(),
        ..stored::Batch::default()
    };
    let pack = stored::Pack {
        batches: vec![batch.clone()],
    };
    let head = stored::Head {
        seq: 9,
        folded: 8,
        open_from: 9,
        batches: vec![batch],
        ..stored::Head::default()
    };
    let meta = stored::Meta {
        format: 4,
        lanes: 8,
        key: vec![7; 16].into(),
        ..stored::Meta::default()
    };
    let counter = stored::Counter {
        value: -5,
        revision: 1 << 30,
    };
    let row = stored::Session {
        state: session.encode().into(),
    };
    let before = stored::Before {
        packs: vec![stored::BeforePack {
            time: 1_795_000_000_000,
            base: 7,
            places: 4,
            ids: field(&ids).into(),
            extras: field(&stamp).into(),
        }],
    };
    let log = [&9_u64.to_le_bytes()[..], &field(&changes)].concat();
    vec![
        ("row", "meta", tagged(0, &meta.encode_to_vec())),
        ("row", "head", tagged(1, &head.encode_to_vec())),
        ("row", "pack", tagged(2, &pack.encode_to_vec())),
        ("row", "counter", tagged(3, &counter.encode_to_vec())),
        ("row", "session", tagged(4, &row.encode_to_vec())),
        ("row", "before", tagged(5, &before.encode_to_vec())),
        ("row", "log", tagged(6, &log)),
    ]
}

/// The contents of a message, as sessions have them.
const CONTENTS: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// A session of format 2: messages 2 and 3 are applied, 1 is confirmed, and increment 1 of message 3 has failed.
fn plain_session() -> Vec<u8> {
    let messages = [&[2, 6, 3, 1, 2, 2, 1][..], &CONTENTS, &[1, 1], &CONTENTS];
    let failure = [3, 3, 1, 14, 16, 0];
    [&messages.concat()[..], &failure].concat()
}

pub(super) fn sessions() -> Vec<Seed> {
    let plain = Session::decode(&plain_session()).expect("a session");
    // A message that is applied in one of two lanes.
    let torn = [&[2, 6, 6, 1, 1, 6, 2][..], &CONTENTS].concat();
    let torn = Session::decode(&torn).expect("a session");
    let moved = Session::merge_shards(&[(0, plain.clone()), (1, torn)], 4, 100);
    let mut extended = plain.encode();
    // Its age, its lower bound, and a field of a later version.
    extended.extend([1, 1, 8, 3, 2, 4, 12, 5, 3, 7, 7, 7]);
    vec![
        (
            "session",
            "format_1",
            [&[1, 6, 2, 1][..], &CONTENTS].concat(),
        ),
        ("session", "format_2", plain_session()),
        ("session", "format_3", moved.encode_without_extras()),
        ("session", "format_4", moved.encode()),
        ("session", "extended", extended),
    ]
}
