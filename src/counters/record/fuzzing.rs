//! The messages of bulk sessions, from clients and from other nodes.

// A panic is how a target reports what it found.
#![allow(clippy::missing_panics_doc)]

use bytes::Bytes;
use prost::Message as _;
use prost_types::Timestamp;

use super::super::convert::limits;
use super::super::wire::RecordMessage;
use super::MAX_INCREMENTS;
use super::reassembly::{SessionReassembler, lanes_of};
use super::remote::{PartAnswer, RawIncrements, decode_parts, read_answers};
use crate::model::fuzzing::{NOW, decide, hasher};
use crate::model::{
    Increments, Invalid, Limits, LowerBound, MAX_ID_BYTES, Operation, Predecessor, SessionId,
    check_name, check_text,
};

const LANES: u32 = 4;

/// A `RecordIncrementsRequest` as prost decodes it. Names are bytes: one that is not UTF-8 fails its increment, not the
/// message.
#[derive(Clone, PartialEq, prost::Message)]
struct Reference {
    #[prost(string, tag = "1")]
    session_id: String,
    #[prost(message, optional, tag = "2")]
    session_time: Option<Timestamp>,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(uint64, tag = "4")]
    acknowledged: u64,
    #[prost(message, repeated, tag = "5")]
    increments: Vec<ReferenceIncrement>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReferenceIncrement {
    #[prost(bytes = "vec", tag = "1")]
    counter: Vec<u8>,
    #[prost(sint64, tag = "2")]
    delta: i64,
    #[prost(sint64, optional, tag = "3")]
    min: Option<i64>,
    #[prost(sint64, optional, tag = "4")]
    max: Option<i64>,
    #[prost(int32, tag = "5")]
    on_limit: i32,
}

/// An increment: its name, its delta and its limits.
type Plain = Result<(String, i64, Limits), Invalid>;

impl ReferenceIncrement {
    fn check(&self) -> Plain {
        let name = std::str::from_utf8(&self.counter).map_err(|_| Invalid::NotUtf8)?;
        check_name(name).map_err(Invalid::Name)?;
        let limits = limits(self.min, self.max, self.on_limit)?;
        Ok((name.to_owned(), self.delta, limits))
    }
}

fn plain(increments: &Increments) -> Vec<Plain> {
    let plain = increments.iter().map(|increment| {
        let increment = increment?;
        Ok((increment.name.to_owned(), increment.delta, increment.limits))
    });
    plain.collect()
}

/// A message of a client: it reads as prost decodes it, and each increment alone reads as in the message. Split by
/// lanes and sent to other nodes, it reads there as here.
pub fn bulk(bytes: &[u8]) {
    let message = RecordMessage::decode_with_fields(bytes);
    let (message, expected) = match (message, Reference::decode(bytes)) {
        (Ok(message), Ok(expected)) => (message, expected),
        (Err(_), Err(_)) => return,
        // Nothing is read of increments beyond the limit, and the message is refused.
        (Ok(message), Err(_)) if message.increments.len() > MAX_INCREMENTS => return,
        // prost takes an increment for a level of nesting, and there is a limit on these.
        (Ok(_), Err(error)) if error.to_string().contains("recursion") => return,
        (message, expected) => panic!("{message:?}, but prost: {expected:?}"),
    };
    assert_eq!(message.session_id, expected.session_id);
    assert_eq!(message.session_time, expected.session_time);
    assert_eq!(message.sequence, expected.sequence);
    assert_eq!(message.acknowledged, expected.acknowledged);
    let checked = expected.increments.iter().take(MAX_INCREMENTS + 1);
    let checked: Vec<_> = checked.map(ReferenceIncrement::check).collect();
    assert_eq!(plain(&message.increments), checked);

    assert_eq!(message.fields.len(), checked.len());
    for (field, increment) in message.fields.iter().zip(&checked) {
        let alone = RecordMessage::decode(&bytes[field.clone()]).expect("it was read before");
        assert_eq!(plain(&alone.increments), std::slice::from_ref(increment));
    }
    let is_named = check_text(&message.session_id, MAX_ID_BYTES).is_ok();
    if is_named && checked.len() <= MAX_INCREMENTS {
        forward(bytes, &message);
    }
}

fn forward(bytes: &[u8], message: &RecordMessage) {
    let session = SessionId::from(&*message.session_id);
    let mut reassembler = SessionReassembler::new(hasher(), LANES, &session, 0);
    let parts = reassembler.split(1, 0, 0, &message.increments);
    let raw = RawIncrements {
        message: bytes,
        fields: &message.fields,
    };
    let bound = LowerBound {
        above: 0,
        time: NOW,
    };
    let call = raw.encode((&session, bound), (1, 0), parts.clone());
    let read = decode_parts(call, hasher(), LANES).expect("what a node sends");
    assert_eq!(read.len(), parts.len());
    for ((lane, part), (read_lane, request)) in parts.into_iter().zip(&read) {
        let Operation::Record(record) = &request.operation else {
            panic!("{request:?} is no part of a message");
        };
        assert_eq!((*read_lane, record.time), (lane, NOW));
        let expected = match &part.indices[..] {
            [] => plain(&message.increments),
            some => {
                let some = some.iter().map(|index| *index as usize);
                plain(&message.increments.select(some))
            }
        };
        assert_eq!(plain(&record.increments), expected);
        assert_eq!(record.follows, Predecessor::InLane(part));
    }
}

/// The parts of a message that another node sends: all of their increments are of their lanes, and within the limit. A
/// lane decides each, and a repeat gets the same answer.
pub fn parts(bytes: &[u8]) {
    let Ok(requests) = decode_parts(Bytes::copy_from_slice(bytes), hasher(), LANES) else {
        return;
    };
    let mut count = 0;
    for (lane, request) in requests {
        assert!(lane < LANES);
        let Operation::Record(record) = &request.operation else {
            panic!("{request:?} is no part of a message");
        };
        let home = hasher().lane(&record.session, LANES);
        assert!(lanes_of(&record.increments, hasher(), LANES, home).all(|of| of == lane));
        count += record.increments.len();
        decide(request);
    }
    assert!(count <= MAX_INCREMENTS);
}

/// The answers of another node to a number of parts: one for each, or none. A part is durable only if the answer
/// acknowledges its message.
pub fn part_answers(payload: Bytes, parts: usize) {
    const SEQUENCE: u64 = 5;
    let Some(answers) = read_answers(payload, SEQUENCE, parts) else {
        return;
    };
    assert_eq!(answers.len(), parts);
    for answer in answers {
        if let PartAnswer::Durable(response) = answer {
            assert_eq!(response.acknowledged, SEQUENCE);
        }
    }
}
